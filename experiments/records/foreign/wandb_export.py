"""
A chart that W&B exported as CSV: the column `Step`, and per run `NAME - METRIC`, with `…__MIN` and
`…__MAX` beside it. A file holds the curves of many runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from experiments.records.foreign.log import Log, Rows, number
from experiments.records.foreign.tables import KNOWN, cells, header

NAME = "W&B chart export"
STEPS = ("step", "global_step", "trainer/global_step", "iter")


def claims(head: str) -> bool:
    """Return whether a file that begins like this is such a file."""
    columns = header(head) if not head.lstrip().startswith("{") else []
    return bool(columns) and columns[0].lower() in STEPS and any(True for _ in _curves(columns))


def read(path: Path) -> list[Log]:
    """Return the runs of an export, by their names in it."""
    runs: dict[str, Rows] = defaultdict(Rows)
    curves: list[tuple[str, str, str]] | None = None
    for row in cells(path):
        curves = list(_curves(list(row))) if curves is None else curves
        step = number(next(iter(row.values())))
        for key, run, column in curves:
            if row.get(key):
                runs[run].add({"iteration": step, column: number(row[key])})
    return [rows.log(path, NAME, inner=run) for run, rows in runs.items() if rows.at]


def _curves(columns: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (the column's name, the run's name, the column of ours) for every curve."""
    for key in columns:
        run, dash, metric = key.rpartition(" - ")
        ours = next((name for name in ("val_loss", "loss") if metric.lower() in KNOWN[name]), None)
        if dash and ours and not key.endswith(("__MIN", "__MAX")):
            yield key, run, ours
