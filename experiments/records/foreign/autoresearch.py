"""
autoresearch's results.tsv: one line per experiment, with its commit, `val_bpb`, memory, status and
a description. There are no curves, and every experiment trains for the same time, so each is a run
with one value. Crashed experiments have the value 0.
"""

from __future__ import annotations

from pathlib import Path

from experiments.records.foreign.log import Log, number, rows_to_log
from experiments.records.foreign.tables import cells, header

NAME = "autoresearch"
COLUMNS = ["commit", "val_bpb", "memory_gb", "status", "description"]


def claims(head: str) -> bool:
    """Return whether a file that begins like this is such a file."""
    return header(head)[:5] == COLUMNS


def read(path: Path) -> list[Log]:
    """Return the experiments that ended with a value. Experiments of one description are runs of
    one arm."""
    logs = []
    for row in cells(path):
        value = number(row.get("val_bpb"))
        if row.get("status", "").strip() == "crash" or not value > 0:
            continue
        log = rows_to_log(path, NAME, [{"iteration": 0.0, "val_loss": value}],
                          inner=" ".join(row.get("description", "").split())[:80]
                          or row["commit"], unit="bits per byte")
        logs += [log] if log else []
    return logs
