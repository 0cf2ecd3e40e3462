"""
The progress of a study that this machine trains: which runs have ended, and the time left.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from experiments.launch.launch import Child, gpus
from experiments.launch.plan import Job, Request, duration, makespan, record_of
from experiments.system import terminal
from experiments.train.forecast import BUSY

WORDS = {"start": "starts", "again": "crashed; it is tried once more at the end",
         "refused": "was refused: bad input",
         "interrupted": "was interrupted, checkpoint saved"}


def speed_up(slots: int) -> int:
    """The factor by which several runs at once shorten a study. Runs that share a processor count
    as no gain, so it is at most the number of GPUs."""
    return min(slots, max(1, len(gpus()))) if slots > 1 else 1


class Progress:
    """The progress over all runs. It prints a line when a run starts or ends. On a terminal with
    several runs at once it also shows a bar below the lines."""

    LOOK = 2.0   # seconds between two looks at what the running runs say of their time left

    def __init__(self, todo: list[Job], request: Request, slots: int,
                 slowdown: float | None = None):
        self.todo, self.request, self.slots = todo, request, slots
        # a run's time beside the others, over its time alone
        self.slowdown = slowdown or slots / speed_up(slots)
        self.console = terminal(stderr=True)
        self.began: dict[Job, float] = {}
        self.ended: dict[Job, float] = {}     # job → seconds that it took
        self.outcomes: Counter[str] = Counter()
        self.said: dict[Job, tuple[float, float]] = {}   # running job → (time, seconds left then)
        self.looked = -self.LOOK
        self.bar = Bar(TextColumn("{task.description}", markup=False), BarColumn(),
                       MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
                       console=self.console, transient=True,
                       disable=slots == 1 or not self.console.is_terminal)
        self.task = self.bar.add_task("", total=len(todo), left="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def report(self, event: str, job: Job) -> None:
        """Print that a run started, ended, or will be tried again (the Launcher's `report`)."""
        if event == "start":
            self.began[job] = time.monotonic()
        elif event == "again":
            self.began.pop(job)
        else:
            self.ended[job] = time.monotonic() - self.began[job]
            self.outcomes[event] += 1
        self.said.pop(job, None)
        rest = "" if event == "interrupted" else f"; {self.line()}"     # the whole study ends
        self.console.print(f"[{len(self.ended)}/{len(self.todo)}] {job.name} "
                           f"{WORDS.get(event, event)}{rest}", markup=False, soft_wrap=True)

    def line(self) -> str:
        """'3 done, 1 failed, 2 running; about 12 min left', and whether the machine is busy."""
        running = len(self.began) - len(self.ended)
        counts = [f"{n} {event}" for event, n in [*self.outcomes.items(), ("running", running)]
                  if n]
        slower = self.slower() / self.slowdown
        busy = (f"; runs take {slower:.1f} × the predicted time: the machine is busy"
                if slower >= BUSY else "")
        left = f"; about {duration(self.left())} left{busy}"
        return ", ".join(counts) + (left if len(self.ended) < len(self.todo) else "")

    def tick(self, running: list[Child]) -> None:
        """Read what the running runs expect, and update the bar (the Launcher's `tick`)."""
        if (now := time.monotonic()) - self.looked < self.LOOK:
            return
        self.looked = now
        for child in running:
            path = self.request.files(child.job).json
            progress = (record_of(self.request, child.job) or {}).get("progress") or {}
            if (left := progress.get("seconds_left")) is not None and self._is_own(child.job, path):
                self.said[child.job] = (now - (time.time() - path.stat().st_mtime), left)
        names = " ".join(child.job.name for child in running)
        self.bar.update(self.task, description=names, completed=len(self.ended), left=self.line())

    def _is_own(self, job: Job, path: Path) -> bool:
        """Whether the run in progress wrote this record, not an earlier attempt."""
        return path.stat().st_mtime > time.time() - (time.monotonic() - self.began[job])

    def _needs(self, job: Job) -> float | None:
        """The seconds that a running job still needs, by its own word; None before it has said."""
        if job not in self.said:
            return None
        then, left = self.said[job]
        return max(0.0, left - (time.monotonic() - then))

    def slower(self) -> float:
        """What runs take relative to their predictions: those that ended, and those in progress
        that know their time left. Before that, runs that share a processor slow each other."""
        now, taken, predicted = time.monotonic(), 0.0, 0.0
        for job, begun in self.began.items():
            needs = 0.0 if job in self.ended else self._needs(job)
            if needs is not None:
                taken += self.ended.get(job, now - begun) + needs
                predicted += job.seconds
        return taken / predicted if predicted else self.slowdown

    def left(self) -> float:
        """Expected seconds until all runs have ended."""
        now, slower, running, waiting = time.monotonic(), self.slower(), [], []
        for job in self.todo:
            if job in self.ended:
                continue
            if job not in self.began:
                waiting.append(job.seconds * slower)
                continue
            needs = self._needs(job)
            running.append(max(0.0, job.seconds * slower - (now - self.began[job]))
                           if needs is None else needs)
        return makespan(running, waiting, self.slots)
