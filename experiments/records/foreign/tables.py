"""
CSV and JSONL with one row per log point: litgpt's and Lightning's CSVLogger, the CSVs of this
program, and any other file whose columns are named.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.records.foreign.log import (
    MAX_LINE,
    Log,
    Rows,
    decimals,
    lines,
    number,
    printable,
    unfinished,
)
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
EMPTY = ("", "none", "null", "n/a", "na", "-", "--")      # how tables write: not measured
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3}){1,4}")
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
    runs = _Runs(path, names)
    for row in rows:
        runs.add(row)
    if not first.lstrip().startswith("{") and unfinished(path):
        runs.drop_cut_off()
    return runs.logs()


class _Runs:
    """The runs in a table. A new one begins where the steps of a loss fall back to the first; where
    they fall back to a later step, the run goes on from a checkpoint."""

    def __init__(self, path: Path, names: Mapping[str, str]):
        self.path, self.names, self.runs = path, names, [Rows()]
        self.begin, self.last = math.inf, {}        # the first step; the last by loss
        self.values: dict[str, float] = {}          # the last value by loss
        self.twice: set[float] = set()              # steps with two validation losses
        self.digits: list[int] = []                 # decimals of each validation loss
        self.row: Mapping[str, Any] = {}            # the last one
        self.problems: tuple[str, ...] = ()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row of the file. Raises BadInput where a cell is neither empty nor a number."""
        step = self._cell(row, "iteration")
        if step is None or not math.isfinite(step):
            return                                  # the header again, or a row without a step
        if step != math.floor(step):
            raise BadInput(f"{self.path}: the step {step:g} is no whole number; name a column of "
                           "steps with --columns step=NAME")
        cells = {column: value for column in self.names
                 if (value := self._cell(row, column)) is not None}
        losses = {"loss", "val_loss"} & set(cells)
        if any(step < self.last.get(column, -1) for column in losses):
            if step <= self.begin:
                self.runs.append(Rows())
                self.begin, self.last = math.inf, {}
            else:
                self.runs[-1].restart(step)
        if self.last.get("val_loss") == step and cells.get("val_loss") not in (
                None, self.values["val_loss"]):
            self.twice.add(step)
        self.begin = min(self.begin, step)
        self.last |= dict.fromkeys(losses, step)
        self.values |= cells
        if "val_loss" in cells:
            self.digits.append(decimals(str(row[self.names["val_loss"]]).strip()))
        self.row = row
        self.runs[-1].add(cells)

    def drop_cut_off(self) -> None:
        """Drop the validation loss at the end of the file where it has fewer decimals than all
        before it: its line has no end."""
        if (len(self.digits) > 1 and list(self.row)[-1] == self.names.get("val_loss")
                and self.digits[-1] < min(self.digits[:-1])):
            self.runs[-1].at[int(self.last["val_loss"])].pop("val_loss", None)
            self.problems = (f"{self.path.name}: its last line is cut off, left out",)

    def logs(self) -> list[Log]:
        """Return the runs. Raises BadInput where the rows of several stand between each other."""
        kept = [run for run in self.runs if len(run.at) > 1 or len(self.runs) == 1 and run.at]
        if len(self.twice) > 2 or len(kept) < len(self.runs) - 1:
            raise BadInput(f"{self.path}: several validation losses per step, or falling steps: "
                           "give one file per run, with its rows in order")
        return [run.log(self.path, NAME, inner=f"#{place}" if len(kept) > 1 else "",
                        problems=self.problems if place == len(kept) else ())
                for place, run in enumerate(kept, 1)]

    def _cell(self, row: Mapping[str, Any], column: str) -> float | None:
        """Return a cell as a number; None where it is empty."""
        value = row.get(self.names[column])
        text = str(value).strip()
        if value is None or text.lower() in EMPTY:
            return None
        if column == "iteration" and THOUSANDS.fullmatch(text):
            value = text.replace(",", "")
        found = number(value)
        if (math.isnan(found) and text.lower().lstrip("+-") != "nan"
                and column in ("iteration", "loss", "val_loss") and text != self.names[column]):
            raise BadInput(f"{self.path}: {printable(self.names[column])} has the cell "
                           f"{printable(text)[:20]!r}, which is no number")
        return found


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
