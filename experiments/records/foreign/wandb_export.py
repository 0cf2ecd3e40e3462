"""
A chart that W&B exported as CSV: the column `Step`, and per run `NAME - METRIC`, with `…__MIN` and
`…__MAX` beside it. A file holds the curves of many runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.records.foreign.log import Log, Rows, number, printable
from experiments.records.foreign.tables import KNOWN, cells, header
from mingpt.utils import BadInput

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
        curves = _one_each(path, _curves(list(row))) if curves is None else curves
        step = number(next(iter(row.values())))
        for key, run, column in curves:
            if row.get(key):
                runs[run].add({"iteration": step, column: number(row[key])})
    return [rows.log(path, NAME, inner=run) for run, rows in runs.items() if rows.at]


def _one_each(path: Path, curves: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return the curves. Raises BadInput where a run has two that could be its validation loss."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for curve in curves:
        if curve[1:] in found and curve[2] == "val_loss":
            raise BadInput(f"{path}: {printable(found[curve[1:]][0])!r} and {printable(curve[0])!r}"
                           " could both be the validation loss: export one of them")
        found[curve[1:]] = curve
    return list(found.values())


def _curves(columns: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (the column's name, the run's name, the column of ours) for every curve."""
    for key in columns:
        run, dash, metric = key.rpartition(" - ")
        ours = next((name for name in ("val_loss", "loss") if metric.lower() in KNOWN[name]), None)
        if dash and ours and not key.endswith(("__MIN", "__MAX")):
            yield key, run, ours
