"""
Run the sides of a comparison in turns (experiments/train/workers.py), each in its own process.

A side is given as "module:function" with arguments; the function is called in the side's process
and returns what is timed.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from experiments.train.process import peak_memory_mb
from experiments.train.workers import Measured, sample, steps_for, workers

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
    device: str = "cpu"   # the peak memory is the device's
    timed: bool = False


# -- runs in the process of a side -----------------------------------------------------------------

def build(side: Side) -> Measured | dict[str, str]:
    """Build and warm up the side, or return the traceback of a failure."""
    try:
        with contextlib.redirect_stdout(None):     # some models print their size
            built, about = _build(side)
    except Exception:   # the parent reports whatever a peer's code raises
        return {"failed": traceback.format_exc()}
    return Measured(about, lambda steps: _seconds(built, steps),
                    lambda: peak_memory_mb(built.device))


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

def take_turns(
    sides: list[Side], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, dict]:
    """Run the sides in turns: {name: {"seconds": [one per round], "peak_mb", …}}.

    The further keys are those of the builder's `about`. A side whose builder raised has only
    {"failed": traceback}. Seconds at the same index of two lists are from the same round.
    """
    with workers(sides, build, say) as started:
        running = [w for w in started if "failed" not in w.about]
        steps = {w: steps_for(w.side.sample_seconds, w.about["run_seconds"]) for w in running}
        seconds = sample(steps, rounds, say)
        return {w.side.name: w.about | {"seconds": seconds[w.side.name], "peak_mb": w.ask(0)}
                for w in running} | {w.side.name: w.about for w in started if w not in running}
