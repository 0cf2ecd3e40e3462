"""
Runs a study's plan on this machine, with one process per run, so that a run that crashes or is
killed harms no other.

The processes are forked from one server process that has imported torch and this project
(`preload.py`) and done nothing else. Every run so starts with clean memory and threads, within
milliseconds.
"""

from __future__ import annotations

import functools
import multiprocessing.forkserver
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from experiments.launch.plan import Job, Request, record_of
from experiments.records.record import cores, near
from experiments.train.process import relayed

ROOT = Path(__file__).resolve().parents[2]
LAB, PLOTTER = ROOT / "lab.py", ROOT / "plotter.py"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Only Linux can fork a process that has loaded torch. Elsewhere every run imports it again.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
ATTEMPTS = 2
INTERRUPTED = 3   # exit code of a program that was asked to end
POLL = 0.1        # seconds between two looks at the processes


@dataclass
class Child:
    """A run in progress: its job, its process and its slot, a number below `slots`."""
    job: Job
    process: multiprocessing.process.BaseProcess
    slot: int


class Launcher:
    """Runs jobs, at most `slots` at once, and continues when one fails.

    `report(event, job)` is called with "start", "again" and every outcome: done, diverged, failed,
    refused, interrupted. `tick(running)` is called ten times per second. `outcomes` maps each job
    that was started to its last outcome. `threads` is the number of threads of each run; by default
    the slots divide those of the machine.
    """

    def __init__(self, request: Request, slots: int = 1,
                 report: Callable[[str, Job], None] = lambda event, job: None,
                 tick: Callable[[list[Child]], None] = lambda running: None,
                 stdout: IO | None = None, threads: int | None = None):
        self.request, self.slots, self.report, self.tick, self.stdout, self.threads = (
            request, slots, report, tick, stdout, threads)
        self.running: list[Child] = []
        self.outcomes: dict[Job, str] = {}
        self.stopping = False

    def run(self, jobs: list[Job]) -> bool:
        """Run all jobs. False if a signal stopped them before the end."""
        queue, attempts = list(jobs), dict.fromkeys(jobs, 0)
        with relayed(self._stop, SIGNALS):
            while (queue and not self.stopping) or self.running:
                while queue and not self.stopping and len(self.running) < self.slots:
                    job = queue.pop(0)
                    attempts[job] += 1
                    self._start(job)
                for child in self._reap():
                    outcome = self._outcome(child)
                    if outcome == "crashed" and attempts[child.job] < ATTEMPTS:
                        queue.append(child.job)  # last, as the cause of the crash may be gone then
                        outcome = "again"
                    self._note(child.job, "failed" if outcome == "crashed" else outcome)
                self.tick(self.running)
                time.sleep(POLL)
        return not self.stopping

    def log_path(self, job: Job) -> Path | None:
        """The file for a run's output when several run at once; None when it goes to the
        terminal."""
        return self.request.logs / f"{job.name}.log" if self.slots > 1 else None

    def _note(self, job: Job, outcome: str) -> None:
        self.outcomes[job] = outcome
        self.report(outcome, job)

    def _start(self, job: Job) -> None:
        slot = min(set(range(self.slots)) - {child.slot for child in self.running})
        path = self.log_path(job)
        self.report("start", job)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        prepare()
        process = CONTEXT.Process(target=play, args=(
            [str(LAB), *self.request.arguments(job)],
            child_environment(slot, self.slots, self.threads),
            path, self.stdout and self.stdout.fileno()))
        try:
            process.start()
        except EOFError:     # the signal has ended the server process as well
            if not self.stopping:
                raise
            return self._note(job, "interrupted")
        self.running.append(Child(job, process, slot))
        if self.stopping:   # the signal came while the process was being started
            process.terminate()
        return None

    def _reap(self) -> list[Child]:
        """Remove the children that have ended from `running` and return them."""
        ended = [child for child in self.running if child.process.exitcode is not None]
        self.running = [child for child in self.running if child not in ended]
        return ended

    def _outcome(self, child: Child) -> str:
        code = child.process.exitcode
        if code == 0:
            return "done"
        if code == 2:
            return "refused"   # bad input; another attempt would be refused too
        if code == INTERRUPTED or self.stopping:
            return "interrupted"
        record = record_of(self.request, child.job) or {}
        return "diverged" if code == 1 and record.get("status") == "diverged" else "crashed"

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """On the first signal, ask the runs to save and end. On a second one, kill them."""
        for child in self.running:
            child.process.kill() if self.stopping else child.process.terminate()
        self.stopping = True


@functools.cache
def prepare() -> None:
    """Start the server process from which the runs are forked, unless it is running."""
    if CONTEXT.get_start_method() != "forkserver":
        return
    path = os.environ.get("PYTHONPATH")
    # The server must import this copy of the project, whatever folder it is started in.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
    CONTEXT.set_forkserver_preload(["experiments.launch.preload"])
    multiprocessing.forkserver.ensure_running()
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path


def play(arguments: list[str], environment: dict[str, str], log: Path | None,
         stdout: int | None) -> None:
    """Run a Python program in this process, as `python ARGUMENTS` would in one of its own. What it
    prints goes to the file `log`, or, without one, to this process's own output. `stdout` is the
    descriptor that replaces the standard output, if any."""
    os.setsid()   # Ctrl-C then reaches only the launcher, which passes it on to each run once
    os.environ.update(environment)
    if threads := environment.get(THREADS[0]):
        import torch
        torch.set_num_threads(int(threads))   # the environment was read when torch was imported
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if log:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    elif stdout is not None:
        os.dup2(stdout, 1)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def child_environment(slot: int, slots: int, threads: int | None = None) -> dict[str, str]:
    """The environment of a run. When several runs share the machine, the threads and the GPUs are
    divided among the slots. `threads` gives every run that many instead."""
    environment = dict(os.environ)
    if threads:
        environment |= dict.fromkeys(THREADS, str(threads))
    if slots == 1:
        return environment
    if not threads:
        for name in THREADS:
            environment[name] = str(max(1, int(environment.get(name) or cores()) // slots))
    devices = gpus()
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def gpus() -> list[str]:
    """The NVIDIA devices that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(i) for i in range(listed.stdout.count("GPU "))] if listed.returncode == 0 else []


def tokenize(request: Request, stdout: IO | None = None) -> int:
    """Put the study's corpora into the cache before runs need them. Returns 0, or the exit code of
    the program that failed."""
    for arguments in tokenize_arguments(request):
        code = _relay([str(LAB), *arguments], stdout)
        if code:
            return code
    return 0


def tokenize_arguments(request: Request) -> list[list[str]]:
    """lab.py's arguments that put the study's corpora into the cache: one list per corpus. Arms
    whose `data` settings are equal share one."""
    one_each = {}
    for arm, changes in request.study.arms.items():
        one_each.setdefault(repr({k: v for k, v in changes.items() if k.startswith("data.")}), arm)
    return [["tokenize", "--study", str(request.study.path), "--arm", arm, *request.shared()]
            for arm in one_each.values()]


def plot(request: Request, stdout: IO | None = None) -> int:
    """Draw the study's figures and its page, and print its verdicts. Returns plotter.py's exit
    code."""
    out = near(request.out)
    return _relay([str(PLOTTER), str(out / "losses" / request.study.name), "--study",
                   str(request.study.path), "--out", str(out / "visualizations"), "--html"], stdout)


def plot_ladder(request: Request, stdout: IO | None = None) -> int:
    """Draw a ladder's figures and its page, and print its words. Returns plotter.py's exit code."""
    out = near(request.out)
    return _relay([str(PLOTTER), str(out / "losses"), "--ladder", request.study.name, "--out",
                   str(out / "visualizations"), "--html"], stdout)


def _relay(arguments: list[str], stdout: IO | None) -> int:
    """Run a Python program to its end and return its exit code. Signals that come meanwhile
    terminate it; the code is 3 where a signal ended it."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=stdout, start_new_session=True)
    with relayed(lambda number, frame: process.terminate(), SIGNALS):
        code = process.wait()
    return INTERRUPTED if code < 0 else code
