"""
What was unusual about a run, for its record: that it was resumed, a GPU that was not found, a clock
that went backwards, and losses that jumped.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from experiments.records.record import RunFiles, at, now, process, read_record
from experiments.system import SLACK

# where SLURM says which GPUs a job was given
GPUS = ("SLURM_JOB_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE")


def beginning(files: RunFiles, record: Mapping[str, Any],
              state: Mapping[str, Any] | None) -> dict[str, Any]:
    """What this start adds to the run's record: notes, and where it resumes from a checkpoint with
    this `state`, when and where it was resumed each time, this time included."""
    earlier = read_record(files.json) if state and files.json.exists() else None
    notes = [*record["notes"], *_without_gpu(record)]
    if not state:
        return {"notes": notes}
    before = at(earlier, "resumed") or []
    this = {"at": now(), "host": process()["host"], "iteration": state["iteration"]}
    if earlier and (behind := files.json.stat().st_mtime - time.time()) > SLACK:
        notes.append(f"the clock is {behind:.0f} s behind the last write of "
                     f"{at(earlier, 'process', 'host')}")
    return {"notes": notes, "resumed": [*before, this]}


def _without_gpu(record: Mapping[str, Any]) -> list[str]:
    asked = next((f"{name}={value}" for name in GPUS if (value := os.environ.get(name))), None)
    if not asked or at(record, "environment", "device") != "cpu":
        return []
    return [f"a GPU was asked for ({asked}), and this run trains on the CPU"]


class Spikes:
    """Finds losses that are finite and far above the running median of the losses before them."""

    FACTOR, WINDOW, LEAST = 10.0, 51, 5

    def __init__(self, csv: bytes | None = None):
        """Continue from the CSV so far, if there is one."""
        self.losses: deque[float] = deque(maxlen=self.WINDOW)
        self.found: list[dict[str, Any]] = []
        for line in (csv or b"").decode().splitlines()[1:]:
            iteration, loss = line.split(",")[:2]
            self.add(int(iteration), float(loss) if loss else None)

    def add(self, iteration: int, loss: float | None) -> None:
        """Look at the loss of a row."""
        if loss is None or not math.isfinite(loss):
            return
        usual = median(self.losses) if len(self.losses) >= self.LEAST else math.inf
        if loss > self.FACTOR * usual:
            self.found.append({"iteration": iteration, "loss": loss, "median": usual})
        self.losses.append(loss)
