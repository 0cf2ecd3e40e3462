"""
nanochat's standard output: `Step 00250 | Validation bpb: 0.838000` at evaluations, and
`step 00250/05000 (5.00%) | loss: 3.1 | … | dt: 441.20ms | tok/sec: 1,188,000 | …` at every step.
Its validation metric is bits per byte.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.records.foreign.log import NUMBER, Log, Row, number, runs_of_lines

NAME = "nanochat"
EVALUATION = re.compile(rf"Step (\d{{1,12}}) \| Validation bpb: ({NUMBER})\s*$")
STEP = re.compile(r"step (\d{1,12})/(\d{1,12}) \([\d.]{1,9}%\) \| (loss: .{1,400})$")


def line(text: str) -> Row | None:
    """Return what one line logs."""
    if found := EVALUATION.match(text):
        return {"iteration": float(found[1]), "val_loss": float(found[2])}
    if not (found := STEP.match(text)):
        return None
    fields = dict(part.partition(": ")[::2] for part in found[3].split(" | "))
    return {"iteration": float(found[1]), "total": float(found[2]), "loss": number(fields["loss"]),
           "step_seconds": number(fields.get("dt", "").removesuffix("ms")) / 1000,
           "tokens_per_second": number(fields.get("tok/sec", "").replace(",", ""))}


def read(path: Path) -> list[Log]:
    """Return the runs of a log."""
    return runs_of_lines(path, NAME, line, unit="bits per byte")
