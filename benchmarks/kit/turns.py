"""
Run the sides of a comparison in turns, each in its own process.

The turns make a disturbance of the machine affect all sides alike. A side is given as
"module:function" with arguments; the function is called in the side's process and returns what is
timed. In each round every side takes one sample. The order changes from round to round, and ratios
are taken within a round.
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

SAMPLE_SECONDS = 0.4    # the least length of a sample, approximately
SLOW = 5.0              # a `timed` run longer than this many seconds is warmed up only once


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    `builder` is "module:function". It is called with `arguments` in the side's process.
    """
    name: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    sample_seconds: float = SAMPLE_SECONDS


@dataclass
class Built:
    """What a builder returns.

    `run` is what is timed. With `timed`, it returns the seconds itself, because only a part of it
    counts. `wait` returns when the device is done. `about` is sent to the parent.
    """
    run: Callable[[], Any]
    about: dict[str, Any] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    peak_mb: Callable[[], float] | None = None   # peak memory of the device, if not of the process
    timed: bool = False


# -- runs in the process of a side -----------------------------------------------------------------

def serve(connection: Connection, side: Side) -> None:
    """Build the side and send what is known about it; then answer requests for a number of steps.

    A request for 0 steps ends the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # the parent handles Ctrl-C
    try:
        with contextlib.redirect_stdout(None):     # some models print their size
            built, about = _build(side)
    except Exception:   # the parent reports whatever a peer's code raises
        connection.send({"failed": traceback.format_exc()})
        return
    connection.send(about)
    while steps := connection.recv():
        connection.send(_seconds(built, steps))
    connection.send(built.peak_mb() if built.peak_mb else peak_mb())


def _build(side: Side) -> tuple[Built, dict[str, Any]]:
    """Build the side and warm it up. Returns it, and what is known before it is measured."""
    module, function = side.builder.split(":")
    if side.threads:
        importlib.import_module("torch").set_num_threads(side.threads)
    built = getattr(importlib.import_module(module), function)(**side.arguments)
    first = _wall(built, 1)    # this run allocates, and compiles if anything does
    enough = built.timed and first > SLOW    # a `timed` side compiles nothing
    return built, {"first_seconds": first, "run_seconds": first if enough else _wall(built, 1),
                   **built.about}


def _seconds(built: Built, steps: int) -> float:
    """Mean seconds per run, over `steps` runs one after the other."""
    return sum(built.run() for _ in range(steps)) / steps if built.timed else _wall(built, steps)


def _wall(built: Built, steps: int) -> float:
    built.wait()
    begun = time.perf_counter()
    for _ in range(steps):
        built.run()
    built.wait()
    return (time.perf_counter() - begun) / steps


# -- runs in the parent process --------------------------------------------------------------------

class Worker:
    """The process of a side, seen from the parent."""

    def __init__(self, side: Side):
        context = get_context("spawn")
        self.side, (self.connection, theirs) = side, context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, side), daemon=True)
        self.process.start()
        theirs.close()
        self.about = self.answer()

    def answer(self) -> Any:
        """Return what the process sends next. RuntimeError if it has ended."""
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
        """Ask for `steps` runs and return the mean seconds per run.

        With 0 steps, return the peak memory in MB; the process then ends.
        """
        self.connection.send(steps)
        return self.answer()


@contextlib.contextmanager
def workers(sides: list[Side], say: Callable[[str], None]) -> Iterator[list[Worker]]:
    """Start one process per side. All are ended when the `with` block ends."""
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
    """Run the sides in turns: {name: {"seconds": [one per round], "peak_mb", …}}.

    The further keys are those of the builder's `about`. A side whose builder raised has only
    {"failed": traceback}. Seconds at the same index of two lists are from the same round.
    """
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
