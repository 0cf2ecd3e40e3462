"""
CSV and JSONL with one row per log point: litgpt's and Lightning's CSVLogger, the CSVs of this
program, and any other file whose columns are named.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.records.foreign.log import MAX_LINE, Log, lines, number, printable, rows_to_log
from mingpt.utils import BadInput, did_you_mean

NAME = "table"
# The names that a column may have when --columns does not name it, the preferred one first.
KNOWN = {
    "iteration": ("step", "iteration", "iter", "global_step", "_step", "trainer/global_step"),
    "val_loss": ("val_loss", "valid_loss", "validation_loss", "eval_loss", "val/loss", "eval/loss",
                 "valid/loss", "validation/loss", "loss/val", "val_loss_epoch"),
    "loss": ("loss", "train_loss", "train/loss", "training_loss", "loss/train", "train_loss_step"),
    "learning_rate": ("learning_rate", "lr"), "grad_norm": ("grad_norm",),
    "tokens": ("total_tokens", "tokens"), "seconds": ("seconds", "total_time", "_runtime"),
}
WORDS = {"step": "iteration"}       # what --columns may call a column


def named(text: str) -> dict[str, str]:
    """Return {column: the file's name of it} from "step=…,val_loss=…". Raises BadInput."""
    chosen = {}
    for part in text.split(","):
        key, equals, name = part.strip().partition("=")
        key = WORDS.get(key, key)
        if not equals or not name:
            raise BadInput(f"--columns {text}: write step=NAME,val_loss=NAME")
        if key not in KNOWN:
            raise BadInput(f"--columns: no column {key!r}{did_you_mean(key, ['step', *KNOWN])}")
        if key == "val_loss" and "train" in name.lower():
            raise BadInput(f"--columns: {name!r} is a training loss by its name, which is never "
                           "judged as a validation loss")
        chosen[key] = name
    if not {"iteration", "val_loss"} <= set(chosen):
        raise BadInput(f"--columns {text}: name both step and val_loss")
    return chosen


def claims(head: str) -> bool:
    """Return whether a file that begins like this has columns with known names."""
    columns = header(head)
    return bool(columns) and "iteration" in (found := known(columns)) and bool(
        {"loss", "val_loss"} & set(found))


def header(head: str) -> list[str]:
    """Return the names in the first line of a CSV, or in the first objects of a JSONL."""
    first = head.lstrip().split("\n", 1)[0][:MAX_LINE]
    if first.startswith("{"):
        rows = [_object(text) for text in head.lstrip().split("\n")[:1000]]
        return list(dict.fromkeys(key for row in rows for key in row))
    if "," not in first and "\t" not in first:
        return []
    return [cell.strip() for cell in next(csv.reader([first], delimiter=separator(first)), [])]


def separator(first: str) -> str:
    """Return what separates the cells of a line."""
    return "\t" if first.count("\t") > first.count(",") else ","


def known(columns: Iterable[str]) -> dict[str, str]:
    """Return {column: the file's name of it} for the columns whose names are known."""
    lowered = {name.lower(): name for name in reversed(list(columns))}
    return {column: next(lowered[name] for name in names if name in lowered)
            for column, names in KNOWN.items() if any(name in lowered for name in names)}


def read(path: Path, columns: Mapping[str, str] | None = None) -> list[Log]:
    """Return the run of a table. Raises BadInput where a named column does not exist."""
    first = next(lines(path), "")
    rows = objects(path) if first.lstrip().startswith("{") else cells(path)
    if columns:
        has = header("\n".join(lines(path, 1 << 20)))
        for name in columns.values():
            if name not in has:
                near = did_you_mean(name, map(printable, has))
                raise BadInput(f"--columns: {path} has no column {name!r}{near}")
    names = columns or known(header("\n".join(lines(path, 1 << 20))))
    log = rows_to_log(path, NAME, ({column: number(row.get(name)) for column, name in names.items()
                                    if row.get(name) not in (None, "")}
                                   for row in rows if row.get(names["iteration"])
                                   not in (None, "")))
    return [log] if log else []


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL. Lines that are none, such as a half-written last one, are
    skipped."""
    for text in lines(path):
        if row := _object(text):
            yield row


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def cells(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV by the names in its first line."""
    rows = csv.reader(lines(path), delimiter=separator(next(lines(path), "")))
    try:
        head = [cell.strip() for cell in next(rows, [])]
        for row in rows:
            yield dict(zip(head, row, strict=False))
    except csv.Error as error:
        raise BadInput(f"{path}: not a readable CSV ({error})") from None
