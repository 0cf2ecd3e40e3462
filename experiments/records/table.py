"""
Read the CSV of a run, which has one row per log point. A file without any fault is parsed by
pyarrow at once. Any other file is read line by line, as far as possible, and each fault becomes one
line in `problems`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow

from experiments.records.record import COLUMNS
from mingpt.utils import BadInput, read_file

LOSSES = ("loss", "val_loss")
# A run computes in float32, so no loss is larger than this, and plots need no axis far beyond it.
GREATEST = float(np.finfo(np.float32).max)
MAX_ITERATION = 2**53                        # a float64 skips whole numbers beyond this
ALL = pd.Index(COLUMNS)                      # made once: this takes longer than a table's numbers
CLEAN = b"0123456789+-.eE,\n"                # the bytes of a file without faults, after its header


def read_table(path: Path, problems: list[str]) -> tuple[pd.DataFrame, bool]:
    """(the CSV as numbers, whether one of its losses is NaN or infinite). Appends the faults of the
    file to `problems`."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        problems.append(f"{path.name}: missing although its .json exists: the run wrote no rows")
        return empty(), False
    except (OSError, BadInput) as error:
        problems.append(f"{path.name}: {getattr(error, 'strerror', None) or error}")
        return empty(), False
    table = _clean(content)
    if table is None:
        return _with_faults(content, path, problems)
    steps = table["iteration"].to_numpy()
    if not (np.diff(steps) > 0).all():
        table.index += 2        # the lines of the file
        table = _in_order(table, path.name, problems).reset_index(drop=True)
    return table, False


def _clean(content: bytes) -> pd.DataFrame | None:
    """The table of a file whose cells need no care: numbers within their limits, one per cell. None
    for any other file. `_with_faults` gives the same table, slowly."""
    head, _, body = content.partition(b"\n")
    header = head.decode("latin-1").split(",")
    if (not body.endswith(b"\n") or b"\n\n" in body or body.translate(None, CLEAN)
            or not set(header) <= set(COLUMNS) or _header_fault(header)):
        return None
    try:
        read = arrow.read_csv(
            pa.BufferReader(body), arrow.ReadOptions(use_threads=False, column_names=header),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(header, pa.float64()),
                                                 null_values=[""]))
    except pa.ArrowInvalid:
        return None
    values = np.full((len(COLUMNS), read.num_rows), np.nan)
    for column in header:
        values[COLUMNS.index(column)] = read[column].to_numpy()
    steps = values[COLUMNS.index("iteration")]
    if (np.abs(values) > GREATEST).any() or not (np.abs(steps) <= MAX_ITERATION).all():
        return None
    return pd.DataFrame(values.T, columns=ALL)


def _with_faults(content: bytes, path: Path, problems: list[str]) -> tuple[pd.DataFrame, bool]:
    """What `read_table` returns, from a file of any content."""
    text = content.decode("utf-8-sig", errors="replace").replace("\0", "")
    lines = text.splitlines()
    header = [cell.strip().lower() for cell in _cells(lines[0])] if lines else []
    fault = _header_fault(header)
    if fault:
        problems.append(f"{path.name}: {fault}")
        return empty(), False
    rows, numbers = _rows(text, len(header), path.name, problems)
    table = _numbers(rows, numbers, header, path.name, problems)
    table = _in_order(table, path.name, problems)
    if table.empty and not problems:
        problems.append(f"{path.name}: no rows yet, only the header")
    return _without_infinities(table, path.name, problems)


def _cells(line: str) -> list[str]:
    """The cells of one line. The whole line counts as one cell where a cell is longer than the csv
    module reads."""
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error:
        return [line]


def empty() -> pd.DataFrame:
    """A table with all columns and no rows."""
    return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})


def _header_fault(header: list[str]) -> str | None:
    if not any(header):
        return "empty file"
    if "iteration" not in header or not set(LOSSES) & set(header):
        shown = ",".join(header)
        return f"the header must name iteration and loss, but it is {shown[:60]!r}"
    if len(set(header)) < len(header):
        return f"a column appears twice in the header {','.join(header)!r}"
    return None


def _rows(text: str, width: int, name: str,
          problems: list[str]) -> tuple[list[list[str]], list[int]]:
    """(the rows of the right width, their line numbers). A last line that is too short is still
    being written, or was cut off by a kill."""
    rows, numbers, misfits = [], [], []
    lines = text.splitlines()
    for number, line in enumerate(lines[1:], 2):
        cells = _cells(line)
        if len(cells) == width:
            rows.append(cells)
            numbers.append(number)
        elif any(cell.strip() for cell in cells):
            misfits.append(number)
    whole = text.endswith(("\n", "\r"))
    if misfits and misfits[-1] == len(lines) and not whole:
        problems.append(f"{name}: line {misfits.pop()} is half written, left out")
    elif not whole and numbers and numbers[-1] == len(lines):
        problems.append(f"{name}: line {len(lines)} has no newline: its last cell may be cut off")
    if misfits:
        problems.append(f"{name}: wrong number of columns (not {width}) in {_lines(misfits)}, "
                        f"left out")
    return rows, numbers


def _numbers(rows: list, numbers: list[int], header: list[str], name: str,
             problems: list[str]) -> pd.DataFrame:
    """Convert cells to floats. An empty cell means not measured. Other text that is not a number is
    reported and dropped, and a number that no float32 holds becomes infinite."""
    text = pd.DataFrame(rows, columns=header, index=numbers, dtype=str)
    faulty = set()     # the columns whose text is reported
    table = empty().reindex(text.index)
    for column in (c for c in COLUMNS if c in header):
        cells = text[column].str.strip()
        table[column] = pd.to_numeric(cells.where(cells != "", "nan"),
                                      errors="coerce").astype(float)
        garbage = table[column].isna() & ~cells.str.lower().isin(["", "nan", "+nan", "-nan"])
        if garbage.any():
            faulty.add(column)
            problems.append(f"{name}: {column} is not a number in {_lines(text.index[garbage])}"
                            f" ({cells[garbage].iloc[0][:20]!r})")
        # A logged NaN becomes infinite here, to tell it from "not measured". _without_infinities
        # reports infinite losses and then turns them into NaN.
        table.loc[cells.str.lower().isin(["nan", "+nan", "-nan"]), column] = np.inf
        table.loc[table[column].abs() > (MAX_ITERATION if column == "iteration" else GREATEST),
                  column] = np.inf
    placed = np.isfinite(table["iteration"])
    if not placed.all() and "iteration" not in faulty:
        problems.append(f"{name}: no iteration in {_lines(table.index[~placed])}, left out")
    return table[placed]


def _in_order(table: pd.DataFrame, name: str, problems: list[str]) -> pd.DataFrame:
    """The rows of the last run in the file, each iteration once.

    Where the iteration number falls, a run was appended to an older one. If that run started over,
    all older rows are dropped. If it continued from a checkpoint, only the rows that it wrote again
    are dropped.
    """
    steps = table["iteration"].to_numpy()
    keep, continued, over = _last_run(steps)
    for cuts, what, older in ((continued, "was continued", ~keep[over or 0:]),
                              ([over] if over else [], "started over", ~keep[:over or 0])):
        if cuts:
            where = (f"line {table.index[cuts[0]]} (iteration {steps[cuts[0]]:g})"
                     if len(cuts) == 1 else _lines(table.index[cuts]))
            problems.append(f"{name}: the run {what} at {where}; {int(older.sum())} older rows "
                            f"left out")
    table = table[keep].sort_values("iteration", kind="stable")
    twice = table["iteration"].duplicated(keep="last")
    if twice.any():
        problems.append(f"{name}: an iteration appears twice, {_lines(table.index[twice])}; the "
                        f"last row of each counts")
    return table[~twice]


def _last_run(steps: np.ndarray) -> tuple[np.ndarray, list[int], int | None]:
    """(which rows belong to the last run, the rows at which it was continued, the row at which it
    started over or None). The parts between two falls are looked at from the last one on, once
    each, since a file may have as many falls as rows."""
    keep, continued = np.zeros(len(steps), bool), []
    end, below = len(steps), np.inf     # a later part begins at iteration `below`
    head = after = None                 # the first two rows that are kept so far
    for begin in reversed([0, *np.flatnonzero(np.diff(steps) < 0) + 1]):
        stop = begin + np.searchsorted(steps[begin:end], below)
        if head is not None and stop > begin and steps[stop - 1] > steps[head]:
            start, spacing = steps[head], 0 if after is None else steps[after] - steps[head]
            if start <= max(steps[0], spacing):
                return keep, continued[::-1], head
            continued.append(int(head))
            below = start
            stop = begin + np.searchsorted(steps[begin:stop], below)
        if stop > begin:
            keep[begin:stop] = True
            head, after = begin, begin + 1 if stop > begin + 1 else head
        end = begin
    return keep, continued[::-1], None


def _without_infinities(table: pd.DataFrame, name: str,
                        problems: list[str]) -> tuple[pd.DataFrame, bool]:
    """(the table with NaN for every infinite value, whether a loss was infinite)."""
    bad = np.isinf(table[[c for c in LOSSES if c in table]]).any(axis=1)
    if bad.any():
        problems.append(f"{name}: the loss is NaN or infinite in {_lines(table.index[bad])}")
    return table.replace([np.inf, -np.inf], np.nan).reset_index(drop=True), bool(bad.any())


def _lines(numbers) -> str:
    numbers = list(numbers)
    return (f"line {numbers[0]}" if len(numbers) == 1
            else f"{len(numbers)} lines, first {numbers[0]}")
