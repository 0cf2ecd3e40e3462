"""
Finding runs and reading what they wrote: a CSV of log points and a JSON record beside it.

A results folder is read while runs still write to it and after machines died, so a fault in a file is a line in
`Run.problems`, never an exception. Two-column `iteration,loss` files without seed or record are runs too.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mingpt.utils import BadInput

COLUMNS = ("iteration", "loss", "val_loss", "learning_rate", "grad_norm", "tokens", "flops", "seconds",
           "tokens_per_second", "peak_memory_mb")
LOSSES = ("loss", "val_loss")
STEM = re.compile(r"(?P<arm>.+?)(?:\.s(?P<seed>\d+))?")


@dataclass(frozen=True)
class Run:
    """One run on disk. `table` has every column of COLUMNS (NaN: not measured), rows in order of iteration."""
    path: Path                # of the CSV, also when only its record exists
    study: str | None
    arm: str
    seed: int | None          # None: the file does not say
    table: pd.DataFrame
    record: dict | None
    problems: list[str] = field(default_factory=list)
    blown_up: bool = False    # a NaN or infinite loss was logged

    @property
    def name(self) -> str:
        return f"{self.study}/{self.path.stem}" if self.study else self.path.stem

    @property
    def status(self) -> str:
        """done, running, diverged, failed, interrupted; `unrecorded` is a CSV without a record."""
        status = (self.record or {}).get("status")
        if self.blown_up and status in (None, "done"):
            return "diverged"
        return status if isinstance(status, str) else "unrecorded"

    @property
    def complete(self) -> bool:
        """Whether its last value counts: done as far as anyone knows."""
        return self.status in ("done", "unrecorded")

    def final(self, metric: str = "val_loss") -> float | None:
        """The record's result, or else the last value in the CSV. None: there is neither."""
        result = (self.record or {}).get("result")
        value = result.get(metric) if isinstance(result, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        column = self.table[metric].dropna() if metric in self.table else ()
        return float(column.iloc[-1]) if len(column) else None


def find_runs(losses_dir: str | Path) -> list[Run]:
    """Every run under a folder: at its top (no study) and one level down (the study is the folder's name).

    The folder may also be one study's: `losses/NAME`, or NAME where the records name that study. Runs come in order of
    study, arm and seed; which arm comes first is the study's matter (results.py). Raises BadInput when there is no such
    folder.
    """
    root = Path(losses_dir)
    if not root.is_dir():
        raise BadInput(_no_folder(root))
    below = [d for d in sorted(root.iterdir()) if d.is_dir() and d.name[0] != "."]
    folders = [(root, _own_study(root.resolve())), *((d, d.name) for d in below)]
    return [run for folder, study in folders for run in runs_in(folder, study)]


def _own_study(root: Path) -> str | None:
    """The study that the runs at the top of a folder are of."""
    first = next(iter(sorted(root.glob("*.s*.json"))), None)
    record = _read_record(first, []) if first else None
    return root.name if root.parent.name == "losses" or (record or {}).get("study") == root.name else None


def runs_in(folder: Path, study: str | None) -> list[Run]:
    """The runs of one folder, which are a study's, or of none."""
    return [read_run(path, study) for path in _csv_paths(folder)]


def read_run(path: Path, study: str | None = None) -> Run:
    """One run from its CSV (or its record alone, when it ended before the first log point)."""
    stem = STEM.fullmatch(path.stem)
    problems: list[str] = []
    record = _read_record(path.with_suffix(".json"), problems)
    table, blown_up = _read_table(path, problems)
    seed = stem["seed"]
    return Run(path, study, stem["arm"], int(seed) if seed is not None else None, table, record, problems, blown_up)


def _no_folder(root: Path) -> str:
    if root.is_file():
        return f"{root} is a file; give the folder that holds it: {root.parent}"
    near = next((p for p in (root.parent / "losses", Path("losses")) if p.is_dir()), None)
    return f"no folder {root}" + (f"; did you mean {near}?" if near else "; runs write to ./losses")


def _csv_paths(folder: Path) -> list[Path]:
    """The CSVs of a folder, and the place of one where only ARM.s<SEED>.json is. Hidden files are being written."""
    paths = {p for p in folder.glob("*.csv") if p.name[0] != "."}
    paths |= {p.with_suffix(".csv") for p in folder.glob("*.s*.json")
              if p.name[0] != "." and STEM.fullmatch(p.stem)["seed"]}
    return sorted(paths, key=_order)


def _order(path: Path) -> tuple[str, int]:
    stem = STEM.fullmatch(path.stem)
    return stem["arm"], int(stem["seed"] or -1)


def _read_record(path: Path, problems: list[str]) -> dict | None:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:   # ValueError: not JSON, or not UTF-8
        problems.append(f"{path.name}: not a readable record ({error})")
        return None
    if not isinstance(record, dict):
        problems.append(f"{path.name}: not a record: {type(record).__name__} instead of an object")
        return None
    return record


def _read_table(path: Path, problems: list[str]) -> tuple[pd.DataFrame, bool]:
    """The CSV as numbers, and whether a loss in it blew up."""
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace").replace("\0", "")
    except FileNotFoundError:
        problems.append(f"{path.name}: not there; its record is: the run logged nothing")
        return _empty(), False
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
        return _empty(), False
    lines = text.splitlines()
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    fault = _header_fault(header)
    if fault:
        problems.append(f"{path.name}: {fault}")
        return _empty(), False
    rows, numbers = _rows(text, len(header), path.name, problems)
    table = _numbers(rows, numbers, header, path.name, problems)
    table = _in_order(table, path.name, problems)
    if table.empty and not problems:
        problems.append(f"{path.name}: no rows yet, only the header")
    return _without_infinities(table, path.name, problems)


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})


def _header_fault(header: list[str]) -> str | None:
    if not any(header):
        return "empty file"
    if "iteration" not in header or not set(LOSSES) & set(header):
        shown = ",".join(header)
        return f"the header must name iteration and loss, not {shown[:60]!r}"
    if len(set(header)) < len(header):
        return f"a column stands twice in the header {','.join(header)!r}"
    return None


def _rows(text: str, width: int, name: str, problems: list[str]) -> tuple[list[list[str]], list[int]]:
    """The rows of the right width, and their line numbers. A short last line was being written, or cut by a kill."""
    rows, numbers, misfits = [], [], []
    lines = text.splitlines()
    for number, line in enumerate(lines[1:], 2):
        cells = next(csv.reader(io.StringIO(line)), [])
        if len(cells) == width:
            rows.append(cells)
            numbers.append(number)
        elif any(cell.strip() for cell in cells):
            misfits.append(number)
    whole = text.endswith(("\n", "\r"))
    if misfits and misfits[-1] == len(lines) and not whole:
        problems.append(f"{name}: line {misfits.pop()} is half written, left out")
    elif not whole and numbers and numbers[-1] == len(lines):
        problems.append(f"{name}: line {len(lines)} has no newline: its last cell may be cut")
    if misfits:
        problems.append(f"{name}: {_lines(misfits)} not of {width} columns, left out")
    return rows, numbers


def _numbers(rows: list, numbers: list[int], header: list[str], name: str, problems: list[str]) -> pd.DataFrame:
    """Cells to floats. An empty cell was not measured; other text that is no number is reported and dropped."""
    text = pd.DataFrame(rows, columns=header, index=numbers, dtype=str)
    table = _empty().reindex(text.index)
    for column in (c for c in COLUMNS if c in header):
        cells = text[column].str.strip()
        table[column] = pd.to_numeric(cells.where(cells != "", "nan"), errors="coerce").astype(float)
        garbage = table[column].isna() & ~cells.str.lower().isin(["", "nan", "+nan", "-nan"])
        if garbage.any():
            problems.append(f"{name}: {column} is no number in {_lines(text.index[garbage])}"
                            f" ({cells[garbage].iloc[0][:20]!r})")
        # Kept apart from "not measured": _without_infinities turns both into gaps, and says so.
        table.loc[cells.str.lower().isin(["nan", "+nan", "-nan"]), column] = np.inf
    placed = np.isfinite(table["iteration"])
    if not placed.all() and not any("iteration is no number" in p for p in problems):
        problems.append(f"{name}: no iteration in {_lines(table.index[~placed])}, left out")
    return table[placed]


def _in_order(table: pd.DataFrame, name: str, problems: list[str]) -> pd.DataFrame:
    """Rows of the last run in the file, each iteration once.

    Where the iteration falls, a run was appended to an older one. If it started over, the older rows go; if it went on
    from a checkpoint, only those that it wrote again.
    """
    while (falls := np.flatnonzero(np.diff(steps := table["iteration"].to_numpy()) < 0)).size:
        cut = falls[-1] + 1
        start = steps[cut]
        spacing = steps[cut + 1] - start if cut + 1 < len(steps) else 0
        again = start <= max(steps[0], spacing)
        keep = (np.arange(len(steps)) >= cut) | ((steps < start) & (not again))
        problems.append(f"{name}: the run {'started over' if again else 'was continued'} at line {table.index[cut]}"
                        f" (iteration {start:g}); {int((~keep).sum())} older rows left out")
        table = table[keep]
    table = table.sort_values("iteration", kind="stable")
    twice = table["iteration"].duplicated(keep="last")
    if twice.any():
        problems.append(f"{name}: an iteration stands twice, {_lines(table.index[twice])}; the last of each counts")
    return table[~twice]


def _without_infinities(table: pd.DataFrame, name: str, problems: list[str]) -> tuple[pd.DataFrame, bool]:
    bad = np.isinf(table[[c for c in LOSSES if c in table]]).any(axis=1)
    if bad.any():
        problems.append(f"{name}: the loss is NaN or infinite in {_lines(table.index[bad])}")
    return table.replace([np.inf, -np.inf], np.nan).reset_index(drop=True), bool(bad.any())


def _lines(numbers) -> str:
    numbers = list(numbers)
    return f"line {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} lines, first {numbers[0]}"
