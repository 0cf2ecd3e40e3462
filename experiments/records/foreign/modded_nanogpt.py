"""
modded-nanogpt's logs: `step:1390/1390 val_loss:3.2785 train_time:204345ms step_avg:148.08ms`.

Such a file begins with the source code of the run, up to a line of equals signs. The code contains
print statements and comments that look like log lines. A file may hold many runs; each begins at
`step:0/`.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.records.foreign.log import NUMBER, Log, Row, number, runs_of_lines

NAME = "modded-nanogpt"
LINE = re.compile(r"step:(\d{1,12})/(\d{1,12})((?: [a-z_]{1,30}:[^\s:]{1,40}){1,12})\s*$")
TIME = re.compile(rf"({NUMBER})(ms|s)$")
LOSSES = {"val_loss": "val_loss", "loss": "train_loss"}
RULE = re.compile(r"={40,}\s*$")


def line(text: str) -> Row | None:
    """Return what one line logs."""
    if not (found := LINE.match(text)):
        return None
    fields = dict(part.split(":") for part in found[3].split())
    row = {"iteration": float(found[1]), "total": float(found[2])}
    row |= {name: number(fields[key]) for name, key in LOSSES.items() if key in fields}
    if time := TIME.match(fields.get("train_time", "")):
        row["seconds"] = float(time[1]) * (0.001 if time[2] == "ms" else 1)
    return row if len(row) > 2 else None


def read(path: Path) -> list[Log]:
    """Return the runs of a log."""
    return runs_of_lines(path, NAME, line, lambda text: RULE.match(text) is not None)
