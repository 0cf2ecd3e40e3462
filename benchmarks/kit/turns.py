"""
Sides of a comparison, each in a process of its own, that take turns: what disturbs the machine
disturbs all alike.

A side is named by "module:function" and its arguments; the function builds it there and returns
what is timed. In a round every side takes one sample, in another order every time, and ratios are
taken within a round.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import quantiles
from typing import Any

from benchmarks.kit.machine import peak_mb

SAMPLE_SECONDS = 0.4    # a sample is at least about so long
SLOW = 5.0              # seconds of a run that is not repeated before it counts


@dataclass(frozen=True)
class Side:
    """One of those that take turns: `builder` is "module:function", called with `arguments` in the
    side's process."""
    name: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    sample_seconds: float = SAMPLE_SECONDS


@dataclass
class Built:
    """What a builder returns: `run` is timed, or returns the seconds itself where only a part of it
    counts (`timed`); `wait` returns when the device is done; `about` goes to the parent."""
    run: Callable[[], Any]
    about: dict[str, Any] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    peak_mb: Callable[[], float] | None = None   # the device's, where that is not the process
    timed: bool = False


# -- in a side's own process -----------------------------------------------------------------------

def serve(connection: Connection, side: Side) -> None:
    """Build the side and say what it is; then take as many steps as asked for, until asked for
    none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C is the parent's affair
    try:
        with contextlib.redirect_stdout(None):     # models announce their sizes
            built, about = _build(side)
    except Exception:   # whatever a peer's code raises is the parent's to report
        connection.send({"failed": traceback.format_exc()})
        return
    connection.send(about)
    while steps := connection.recv():
        connection.send(_seconds(built, steps))
    connection.send(built.peak_mb() if built.peak_mb else peak_mb())


def _build(side: Side) -> tuple[Built, dict[str, Any]]:
    """The side, warm, and what is known of it before it is measured."""
    module, function = side.builder.split(":")
    if side.threads:
        importlib.import_module("torch").set_num_threads(side.threads)
    built = getattr(importlib.import_module(module), function)(**side.arguments)
    first = _wall(built, 1)    # allocates, and compiles where something does
    enough = built.timed and first > SLOW    # nothing is compiled there
    return built, {"first_seconds": first, "run_seconds": first if enough else _wall(built, 1),
                   **built.about}


def _seconds(built: Built, steps: int) -> float:
    """Mean seconds of so many runs, one after the other."""
    return sum(built.run() for _ in range(steps)) / steps if built.timed else _wall(built, steps)


def _wall(built: Built, steps: int) -> float:
    built.wait()
    begun = time.perf_counter()
    for _ in range(steps):
        built.run()
    built.wait()
    return (time.perf_counter() - begun) / steps


# -- side by side ----------------------------------------------------------------------------------

class Worker:
    """A side's process, as its parent sees it."""

    def __init__(self, side: Side):
        context = get_context("spawn")
        self.side, (self.connection, theirs) = side, context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, side), daemon=True)
        self.process.start()
        theirs.close()
        self.about = self.answer()

    def answer(self) -> Any:
        """What the process sends; RuntimeError if it ended instead."""
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(
                f"the process of {self.side.name!r} ended with exit code {code}"
                f"{': killed, most likely out of memory' if code == -9 else ''}"
            ) from None

    def ask(self, steps: int) -> Any:
        """Mean seconds of a run of so many; for none, the peak memory in MB, and the process
        ends."""
        self.connection.send(steps)
        return self.answer()


@contextlib.contextmanager
def workers(sides: list[Side], say: Callable[[str], None]) -> Iterator[list[Worker]]:
    """A process for every side, ended with the block."""
    started: list[Worker] = []
    try:
        for side in sides:
            say(f"building {side.name}")
            started.append(Worker(side))
        yield started
    finally:
        for worker in started:
            worker.process.terminate()
            worker.process.join()


def take_turns(
    sides: list[Side], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, dict]:
    """Name → {"seconds": [one a round], "peak_mb", and what its builder says}; or {"failed": why}
    for one whose code raised when it was built. Seconds at the same place in two lists are of the
    same round."""
    with workers(sides, say) as started:
        results = {w.side.name: w.about | {"seconds": []}
                   for w in started if "failed" not in w.about}
        running = [w for w in started if w.side.name in results]
        steps = {w.side.name: max(1, math.ceil(w.side.sample_seconds / w.about["run_seconds"]))
                 for w in running}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for worker in order(running, number):
                results[worker.side.name]["seconds"].append(worker.ask(steps[worker.side.name]))
        for worker in running:
            results[worker.side.name]["peak_mb"] = worker.ask(0)
        return results | {w.side.name: w.about for w in started if "failed" in w.about}


def order(sides: list, number: int) -> list:
    """All of them, in the order of round `number`: another one each time, the same in every run."""
    return random.Random(number).sample(sides, len(sides))


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times as long they take, round by round, as median and quartiles."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """The median, and the quartiles around it."""
    if len(values) == 1:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}
