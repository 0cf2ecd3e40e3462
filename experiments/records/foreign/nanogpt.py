"""
nanoGPT's standard output: `step 250: train loss 1.9512, val loss 2.0173` at evaluations, and
`iter 250: loss 1.9702, time 31.20ms, mfu 17.31%` between them.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.records.foreign.log import NUMBER, Log, Row, runs_of_lines

NAME = "nanoGPT"
EVALUATION = re.compile(rf"step (\d{{1,12}}): train loss ({NUMBER}), val loss ({NUMBER})")
STEP = re.compile(rf"iter (\d{{1,12}}): loss ({NUMBER}), time ({NUMBER})ms")


def line(text: str) -> Row | None:
    """Return what one line logs. The training loss of an evaluation is left out: it is a mean over
    other batches than those of the steps."""
    if found := EVALUATION.match(text):
        return {"iteration": float(found[1]), "val_loss": float(found[3])}
    if found := STEP.match(text):
        return {"iteration": float(found[1]), "loss": float(found[2]),
                "step_seconds": float(found[3]) / 1000}
    return None


def read(path: Path) -> list[Log]:
    """Return the runs of a log."""
    return runs_of_lines(path, NAME, line)
