"""
lingua's `metrics.jsonl`: one object per log point, with `global_step` and the training loss
`loss/out`. The validation losses are in `metrics.validation.jsonl` beside it, one object per
evaluation with the metrics of each source.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.records.foreign.log import Log, Row, number, rows_to_log
from experiments.records.foreign.tables import header, objects

NAME = "lingua"
VALIDATION = "metrics.validation.jsonl"
NAMES = {"loss/out": "loss", "optim/lr": "learning_rate", "optim/grad_norm": "grad_norm",
         "optim/total_tokens": "tokens", "speed/wps": "tokens_per_second"}
LOSS = "nll_per_token"


def claims(head: str) -> bool:
    """Return whether a file that begins like this is such a file."""
    columns = header(head) if head.lstrip().startswith("{") else []
    return "global_step" in columns and ("loss/out" in columns or f'"{LOSS}"' in head)


def read(path: Path) -> list[Log]:
    """Return the run of a metrics.jsonl with the evaluations beside it. The file of evaluations
    gives a run of its own only where there is no metrics.jsonl."""
    beside = path.with_name(VALIDATION)
    if path.name == VALIDATION and path.with_name("metrics.jsonl").is_file():
        return []
    files = [path, *([beside] if beside.is_file() and beside != path else [])]
    log = rows_to_log(path, NAME, (row for each in files for entry in objects(each)
                                   if (row := _row(entry))))
    return [log] if log else []


def _row(entry: dict[str, Any]) -> Row | None:
    if "global_step" not in entry:
        return None
    row = {"iteration": number(entry["global_step"])}
    row |= {name: number(entry[key]) for key, name in NAMES.items() if key in entry}
    # Several sources count alike, as no log says how large they are.
    losses = [number(each[LOSS]) for each in entry.values()
              if isinstance(each, dict) and LOSS in each]
    return row | ({"val_loss": fmean(losses)} if losses else {})
