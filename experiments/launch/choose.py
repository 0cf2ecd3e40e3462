"""
Chooses how many runs of a study train at once, and with how many threads each, by timing training
steps of the study's own arms.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from experiments.launch.launch import CONTEXT, gpus, prepare
from experiments.launch.plan import Job, Request, read_order, seconds_left, settings_of
from experiments.records import codefiles
from experiments.records.codefiles import CodeFile
from experiments.records.record import cores
from mingpt.utils import CfgNode

ROUNDS = 3
WINDOW = 0.6           # seconds of training steps per measurement
WORTH = 1.05           # more runs at once must be this much faster
SHARE_OF_STUDY = 0.05  # measuring may take this share of the study's expected time
START = 3.0            # seconds to build the models and warm up
KEPT = ", as at the study's first launch"
FREE_MEMORY = 0.8      # the share of the free memory that all runs together may use


@dataclass(frozen=True)
class Choice:
    """How a study trains: `jobs` runs at once with `threads` threads each; None leaves the threads
    to torch. A run then takes `slowdown` times as long as alone on the machine; None: not measured.
    `why` is a clause."""
    jobs: int
    threads: int | None
    slowdown: float | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The choice for the study's order.json, with the machine that it holds for."""
        return {**asdict(self), **machine()}

    def line(self) -> str:
        """The choice as one line for the user."""
        runs = "one run at a time" if self.jobs == 1 else f"{self.jobs} runs at once"
        threads = f", {self.threads} thread{'s' * (self.threads > 1)} each" if self.threads else ""
        return f"{runs}{threads}: {self.why}"


def choice_for(request: Request, jobs: list[Job], forced: int | None = None) -> Choice:
    """The choice for the runs that a study has left: `forced` runs at once; or what an earlier
    launch of this study chose on this machine; or what a measurement says."""
    todo = [job for job in jobs if not job.ended]
    if forced or not todo:
        return Choice(forced or 1, None, None, "as --jobs says" if forced else "nothing is left")
    if (request.processes or 1) > 1:
        return Choice(1, None, None, f"each run uses {request.processes} processes")
    if kept := earlier(request):
        return kept
    # The baseline and the most expensive other arm stand for all.
    costs = {job.arm: job.seconds for job in jobs}
    baseline = request.study.baseline
    others = sorted((arm for arm in costs if arm != baseline), key=costs.get)
    arms = [settings_of(request, arm) for arm in [baseline, *others[-1:]]]
    return choose(arms, len(todo), seconds_left(todo), max(job.memory_mb for job in todo))


def earlier(request: Request) -> Choice | None:
    """The choice of the study's last launch, if that was measured on this machine."""
    launches = read_order(request)
    chosen = launches[-1].get("chosen") if launches else None
    if not chosen or any(chosen[key] != value for key, value in machine().items()):
        return None
    return Choice(**{key: chosen[key] for key in ("jobs", "threads", "slowdown")},
                  why=chosen["why"].removesuffix(KEPT) + KEPT)


def machine() -> dict[str, Any]:
    """The machine for which a choice holds."""
    return {"host": socket.gethostname(), "cores": cores()}


def choose(arms: list[CfgNode], runs: int, seconds: float, memory_mb: float) -> Choice:
    """Choose for a study with `runs` runs to do, which would take `seconds` one after the other and
    need `memory_mb` each. `arms` are the settings of one or two of its arms."""
    if gpus() and any(settings.trainer.device in ("auto", "cuda") for settings in arms):
        return Choice(max(1, min(len(gpus()), runs)), None, None, "one run per GPU")
    fixed = arms[0].run.threads
    counts = candidates(cores() // (fixed or 1), runs, memory_mb)
    cost = START + ROUNDS * WINDOW * (len(arms) + len(counts) - 1)
    if len(counts) == 1:
        return Choice(1, fixed, 1.0, "nothing else fits")
    if cost > SHARE_OF_STUDY * seconds:
        return Choice(1, fixed, 1.0, "the study is too short to measure anything else")
    return best({jobs: fixed or max(1, cores() // jobs) for jobs in counts}, speeds(arms, counts,
                                                                                    fixed), fixed)


def candidates(most: int, runs: int, memory_mb: float) -> list[int]:
    """The numbers of runs at once to compare: 1, 2, 4, … up to the number of cores, as far as
    there are runs and memory for them."""
    fits = int(FREE_MEMORY * free_memory_mb() / memory_mb) if memory_mb else most
    limit = max(1, min(most, runs, fits))
    powers = [1]
    while powers[-1] * 2 <= limit:
        powers.append(powers[-1] * 2)
    return powers


def free_memory_mb() -> float:
    """Memory in MB (10⁶ bytes) that new processes may use."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def best(threads: dict[int, int], speed: dict[int, float], fixed: int | None) -> Choice:
    """The choice with the most steps per second; fewer runs at once where the gain is small.
    `threads` and `speed` are keyed by the number of runs at once; `speed` is relative to one."""
    chosen = max((jobs for jobs in speed if jobs > 1), key=speed.get)
    alone = f"one run with {fixed or cores()} threads"
    if speed[chosen] < WORTH:
        return Choice(1, fixed, 1.0, f"{alone} does as many steps per second as several at once "
                                     f"({chosen} at once: {speed[chosen]:.2f} times)")
    return Choice(chosen, threads[chosen], chosen / speed[chosen],
                  f"{speed[chosen]:.2f} times as many steps per second as {alone}")


def speeds(arms: list[CfgNode], counts: list[int], fixed: int | None) -> dict[int, float]:
    """{runs at once: their steps per second together, relative to one run at a time}, the median
    over ROUNDS. The workers take the arms in turn."""
    found: dict[int, list[float]] = {jobs: [] for jobs in counts if jobs > 1}
    with _workers([arms[i % len(arms)] for i in range(counts[-1])]) as workers:
        for _ in range(ROUNDS):
            alone = [_seconds([worker], fixed or cores())[0] for worker in workers[:len(arms)]]
            for jobs in found:
                together = _seconds(workers[:jobs], fixed or max(1, cores() // jobs))
                found[jobs].append(sum(alone[i % len(arms)] / seconds
                                       for i, seconds in enumerate(together)))
    return {1: 1.0, **{jobs: median(values) for jobs, values in found.items()}}


def _seconds(workers: list[Connection], threads: int) -> list[float]:
    """Seconds per step of each worker, while all of them train at once."""
    for worker in workers:
        worker.send(threads)
    return [worker.recv() for worker in workers]


@contextlib.contextmanager
def _workers(settings: list[CfgNode]) -> Iterator[list[Connection]]:
    """One process per item of `settings`, ready to train steps of that arm on random tokens."""
    prepare()
    pipes, processes = [], []
    try:
        for each in settings:
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=serve, args=(theirs, each.to_dict(), codefiles.LOADED),
                                      daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()   # it has built its model
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def serve(pipe: Connection, tree: dict[str, Any], code: Sequence[CodeFile] = ()) -> None:
    """In a worker: run the user's code files and build the arm. Then, for every number of threads
    received, train for WINDOW seconds with that many, and send the mean seconds per step."""
    import torch

    from experiments.declare.members import load_same
    from experiments.train.predict import RandomTokens, stepper
    from experiments.train.seeded import build_model
    load_same(code)
    settings = CfgNode(**{name: CfgNode(**section) for name, section in tree.items()})
    tokens = RandomTokens(settings)
    step = stepper(build_model(settings, tokens, seed=0, fetch=False), tokens, settings)
    step()
    pipe.send("ready")
    while threads := pipe.recv():
        torch.set_num_threads(threads)
        step()   # the first step with other threads starts them
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < WINDOW or steps < 2:
            step()
            steps += 1
        pipe.send((time.perf_counter() - begun) / steps)
