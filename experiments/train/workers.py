"""
Measures the sides of a comparison in turns, each in its own process.

In each round every side takes one sample, in an order that changes from round to round. A
disturbance of the machine then affects all sides alike, and ratios are taken within a round. Each
peak memory is a side's own, because each side has its own process.
"""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import quantiles
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What a side's process measures. `seconds` takes a number of steps and returns their mean
    seconds. `about` is what is known beforehand."""
    about: dict[str, Any]
    seconds: Callable[[int], float]
    peak_mb: Callable[[], float]


def serve(connection: Connection, build: Callable[[Any], Measured | dict[str, str]],
          side: Any) -> None:
    """Run in a side's process: build the side and send what is known about it, then answer requests
    for a number of steps. 0 ends the process, which sends its peak memory last. `build` returns a
    dict in place of a Measured where there is nothing to measure; it says why."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # the parent handles Ctrl-C
    built = build(side)
    if isinstance(built, dict):
        connection.send(built)
        return
    connection.send(built.about)
    while steps := connection.recv():
        connection.send(built.seconds(steps))
    connection.send(built.peak_mb())


class Worker:
    """The process of a side, seen from its parent. `about` is the first thing that it sent."""

    def __init__(self, side: Any, build: Callable[[Any], Measured | dict[str, str]]):
        context = get_context("spawn")
        self.side, (self.connection, theirs) = side, context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, build, side), daemon=True)
        self.process.start()
        theirs.close()
        self.about = self.answer()

    def answer(self) -> Any:
        """Return what the process sends next. Raises RuntimeError where it has ended."""
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(
                f"the process of {self.side.name!r} ended with exit code {code}"
                f"{': killed, most likely out of memory' if code == -signal.SIGKILL else ''}"
            ) from None

    def ask(self, steps: int) -> float:
        """Ask for `steps` steps and return their mean seconds. With 0 steps, return the peak memory
        in MB; the process then ends."""
        self.connection.send(steps)
        return self.answer()


@contextmanager
def workers(sides: list[Any], build: Callable[[Any], Measured | dict[str, str]],
            say: Callable[[str], None]) -> Iterator[list[Worker]]:
    """Start one process per side. All are ended when the `with` block ends."""
    started: list[Worker] = []
    try:
        for side in sides:
            say(f"starting {side.name}")
            started.append(Worker(side, build))
        yield started
    finally:
        for worker in started:
            worker.process.terminate()
            worker.process.join()


def sample(running: Mapping[Worker, int], rounds: int,
           say: Callable[[str], None]) -> dict[str, list[float]]:
    """Ask each worker for its number of steps once per round: {name: [mean seconds per step]}.
    Seconds at the same index of two lists are from the same round."""
    seconds: dict[str, list[float]] = {worker.side.name: [] for worker in running}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for worker in order(list(running), number):
            seconds[worker.side.name].append(worker.ask(running[worker]))
    return seconds


def steps_for(sample_seconds: float, step_seconds: float) -> int:
    """The number of steps that a sample of about this length has; at least 1."""
    return max(1, math.ceil(sample_seconds / step_seconds))


def order(sides: list, number: int) -> list:
    """The sides in the order of round `number`. Each round has its own order, equal in all runs."""
    return random.Random(number).sample(sides, len(sides))


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Their seconds over ours, round by round, as median and quartiles."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles of some values, as {"median", "low", "high"}."""
    if len(values) == 1:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}
