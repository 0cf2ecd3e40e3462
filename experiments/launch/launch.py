"""
Runs a study's plan on this machine, with one process per run, so that every run starts with clean
memory and threads.
"""

from __future__ import annotations

import contextlib
import os
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
from experiments.train.process import relayed

ROOT = Path(__file__).resolve().parents[2]
LAB, PLOTTER = ROOT / "lab.py", ROOT / "plotter.py"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
ATTEMPTS = 2
INTERRUPTED = 3   # exit code of a program that was asked to end
POLL = 0.1        # seconds between two looks at the processes


@dataclass
class Child:
    """A run in progress: its job, its process and its slot, a number below `slots`."""
    job: Job
    process: subprocess.Popen
    slot: int


class Launcher:
    """Runs jobs, at most `slots` at once, and continues when one fails.

    `report(event, job)` is called with "start", "again" and every outcome: done, diverged, failed,
    refused, interrupted. `tick(running)` is called ten times per second. `outcomes` maps each job
    that was started to its last outcome.
    """

    def __init__(self, request: Request, slots: int = 1,
                 report: Callable[[str, Job], None] = lambda event, job: None,
                 tick: Callable[[list[Child]], None] = lambda running: None,
                 stdout: IO | None = None):
        self.request, self.slots, self.report, self.tick, self.stdout = (
            request, slots, report, tick, stdout)
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
        with contextlib.ExitStack() as files:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            log = files.enter_context(open(path, "a")) if path else None
            process = subprocess.Popen(
                [sys.executable, str(LAB), *self.request.arguments(job)], stdin=subprocess.DEVNULL,
                stdout=log or self.stdout, stderr=log, env=child_environment(slot, self.slots),
                # Ctrl-C then reaches only this process, which passes it on to each run once.
                start_new_session=True)
        self.running.append(Child(job, process, slot))
        if self.stopping:   # the signal came while the process was being started
            process.terminate()

    def _reap(self) -> list[Child]:
        """Remove the children that have ended from `running` and return them."""
        ended = [child for child in self.running if child.process.poll() is not None]
        self.running = [child for child in self.running if child not in ended]
        return ended

    def _outcome(self, child: Child) -> str:
        code = child.process.returncode
        if code == 0:
            return "done"
        if code == 2:
            return "refused"   # bad input; another attempt would be refused too
        if code == INTERRUPTED or self.stopping:
            return "interrupted"
        record = record_of(self.request, child.job)
        return "diverged" if code == 1 and record and record["status"] == "diverged" else "crashed"

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """On the first signal, ask the runs to save and end. On a second one, kill them."""
        for child in self.running:
            child.process.kill() if self.stopping else child.process.terminate()
        self.stopping = True


def child_environment(slot: int, slots: int) -> dict[str, str]:
    """The environment of a run. When several runs share the machine, the threads and the GPUs are
    divided among the slots."""
    environment = dict(os.environ)
    if slots == 1:
        return environment
    for name in THREADS:
        whole = int(environment.get(name) or cores())
        environment[name] = str(max(1, whole // slots))
    devices = gpus()
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    return _relay([str(PLOTTER), str(request.out / "losses" / request.study.name),
                   "--study", str(request.study.path),
                   "--out", str(request.out / "visualizations"), "--html"], stdout)


def _relay(arguments: list[str], stdout: IO | None) -> int:
    """Run a Python program to its end and return its exit code. Signals that come meanwhile
    terminate it; the code is 3 where a signal ended it."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=stdout, start_new_session=True)
    with relayed(lambda number, frame: process.terminate(), SIGNALS):
        code = process.wait()
    return INTERRUPTED if code < 0 else code
