"""
Find runs and read what they wrote: a CSV of log points and a JSON record beside it.

A results folder may be read while runs still write to it, or after a machine crashed. So a fault in
a file becomes a line in `Run.problems`, never an exception. A CSV with only the columns `iteration`
and `loss`, without a seed or a record, is a run too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.records.record import MAX_SEED, at, misshapen
from experiments.records.table import GREATEST, empty, read_table
from mingpt.utils import BadInput, read_json

STEM = re.compile(r"(?P<arm>.+?)(?:\.s(?P<seed>\d+))?", re.DOTALL)


@dataclass(frozen=True)
class RecordedRun:
    """One run on disk. `table` has all columns of record.COLUMNS and its rows in order of
    iteration. NaN means not measured."""
    path: Path                # of the CSV, even where only its record exists
    study: str | None
    arm: str
    seed: int | None          # None: the file's name has no seed
    table: pd.DataFrame
    record: dict | None
    problems: list[str] = field(default_factory=list)
    blown_up: bool = False    # a NaN or infinite loss was logged

    @property
    def name(self) -> str:
        """The file's name without its ending, after STUDY/ where there is a study."""
        return f"{self.study}/{self.path.stem}" if self.study else self.path.stem

    @property
    def status(self) -> str:
        """done, running, diverged, failed or interrupted; unrecorded for a CSV without a record."""
        status = (self.record or {}).get("status")
        if self.blown_up and status in (None, "done"):
            return "diverged"
        return status if isinstance(status, str) else "unrecorded"

    @property
    def complete(self) -> bool:
        """Whether the run's last value counts: its record says done, or it has no record."""
        return self.status in ("done", "unrecorded")

    def measured(self, *columns: str) -> np.ndarray:
        """Return (rows, columns): the rows of the table in which all of these columns were
        measured."""
        values = np.column_stack([self.table[column].to_numpy() for column in columns])
        return values[~np.isnan(values).any(axis=1)]

    def final(self, metric: str = "val_loss") -> float | None:
        """The record's result, else the last value in the CSV, else None. A value that no float32
        holds is infinite."""
        value = at(self.record, "result", metric)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) > GREATEST:
                return math.inf if value > 0 else -math.inf
            return float(value)
        column = self.table[metric].dropna() if metric in self.table else ()
        return float(column.iloc[-1]) if len(column) else None


def by_arm(runs: Iterable[RecordedRun]) -> dict[str, list[RecordedRun]]:
    """Return arm → its runs, in their order."""
    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    return groups


def find_runs(losses_dir: str | Path) -> list[RecordedRun]:
    """Every run under a folder: at its top (no study) and one level down (the study is the folder's
    name).

    The folder may also belong to one study: `losses/NAME`, or NAME where the records name that
    study. Runs come in order of study, arm and seed; verdicts/study_runs.py decides which arm of
    a study comes first. BadInput where there is no such folder.
    """
    root = Path(losses_dir)
    if not root.is_dir():
        raise BadInput(_no_folder(root))
    below = [d for d in sorted(root.iterdir()) if d.is_dir() and d.name[0] != "."]
    folders = [(root, _own_study(root.resolve())), *((d, d.name) for d in below)]
    return [run for folder, study in folders for run in runs_in(folder, study)]


def _own_study(root: Path) -> str | None:
    """The study of the runs at the top of a folder, or None."""
    first = next(iter(sorted(root.glob("*.s*.json"))), None)
    record = _read_record(first, []) if first else None
    return (root.name if root.parent.name == "losses"
            or (record or {}).get("study") == root.name else None)


def runs_in(folder: Path, study: str | None) -> list[RecordedRun]:
    """The runs of one folder, all of `study`. Each seed of an arm counts once, although its number
    can be written in several ways (s1, s01)."""
    same: dict[tuple[str, int], list[Path]] = {}
    for path in _csv_paths(folder):
        same.setdefault(_order(path), []).append(path)
    runs = []
    for plain, *others in same.values():
        runs.append(read_run(plain, study))
        runs[-1].problems.extend(f"{other.name}: left out, the same seed as {plain.name}"
                                 for other in others)
    return runs


def read_run(path: Path, study: str | None = None) -> RecordedRun:
    """Read one run from its CSV and record. The CSV may be missing: the run then ended before the
    first log point."""
    arm, seed = STEM.fullmatch(path.stem).group("arm", "seed")
    problems: list[str] = []
    if seed is not None and int(seed) > MAX_SEED:
        problems.append(f"{path.name}: left out, no run has a seed above {MAX_SEED}")
        return RecordedRun(path, study, arm, None, empty(), None, problems)
    record = _read_record(path.with_suffix(".json"), problems)
    table, blown_up = read_table(path, problems)
    return RecordedRun(path, study, arm, int(seed) if seed is not None else None, table, record,
                       problems,
               blown_up)


def _no_folder(root: Path) -> str:
    if root.is_file():
        return f"{root} is a file; give the folder that holds it: {root.parent}"
    near = next((p for p in (root.parent / "losses", Path("losses")) if p.is_dir()), None)
    return (f"there is no folder {root}"
            + (f"; did you mean {near}?" if near else "; runs write to ./losses"))


def _csv_paths(folder: Path) -> list[Path]:
    """The paths of the CSVs in a folder, and the path that the CSV would have where there is only
    ARM.s<SEED>.json. Hidden files are still being written, so they are left out."""
    paths = {p for p in folder.glob("*.csv") if p.name[0] != "."}
    paths |= {p.with_suffix(".csv") for p in folder.glob("*.s*.json")
              if p.name[0] != "." and STEM.fullmatch(p.stem)["seed"]}
    # The shortest name of a seed comes first: s0 before s00.
    return sorted(paths, key=lambda path: (_order(path), len(path.name), path.name))


def _order(path: Path) -> tuple[str, int]:
    stem = STEM.fullmatch(path.stem)
    return stem["arm"], int(stem["seed"] or -1)


def _read_record(path: Path, problems: list[str]) -> dict | None:
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadInput) as error:
        problems.append(f"{path.name}: not a readable record ({error})")
        return None
    if not isinstance(record, dict):
        problems.append(f"{path.name}: not a record: {type(record).__name__} instead of an object")
        return None
    if fault := misshapen(record):
        problems.append(f"{path.name}: not a readable record ({fault})")
        return None
    return record
