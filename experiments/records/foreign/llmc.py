"""
llm.c's main.log: `s:250 tel:4.1532` for the validation loss (test loss), and
`s:250 trl:4.2201 lr:0.000300 norm:0.91` for the training loss; older logs have no lr and norm.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.records.foreign.log import NUMBER, Log, Row, runs_of_lines

NAME = "llm.c"
LINE = re.compile(rf"s:(\d{{1,12}}) (tel|trl|eval):({NUMBER})(?: lr:({NUMBER}))?"
                  rf"(?: norm:({NUMBER}))?\s*$")
COLUMN = {"tel": "val_loss", "trl": "loss"}


def line(text: str) -> Row | None:
    """Return what one line logs. `eval` is an accuracy (HellaSwag), so it is left out."""
    found = LINE.match(text)
    if not found or found[2] not in COLUMN:
        return None
    row = {"iteration": float(found[1]), COLUMN[found[2]]: float(found[3])}
    return row | {name: float(value) for name, value in (("learning_rate", found[4]),
                                                         ("grad_norm", found[5])) if value}


def read(path: Path) -> list[Log]:
    """Return the runs of a log."""
    return runs_of_lines(path, NAME, line)
