"""
What every reader of a foreign format shares: the run that it returns, and reading text safely.

Log files are hostile input. Every pattern here matches in linear time, and lines, rows, files and
file sizes have limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.records.record import COLUMNS, MAX_SEED
from experiments.records.table import GREATEST, MAX_ITERATION
from mingpt.utils import BadInput

HEAD = 4 << 20              # bytes that decide which format a file has; four times that for logs
MAX_BYTES = 1 << 30         # of one text file
MAX_JSON = 256 << 20        # of one file that is parsed as a whole
MAX_LINE = 1 << 16          # characters; the rest of a longer line is skipped
MAX_ROWS = 2_000_000
NUMBER = r"[-+]?(?:\d{1,20}(?:\.\d{0,20})?(?:[eE][-+]?\d{1,3})?|nan|inf)"
SEED = re.compile(r"Overriding: seed = (\d{1,19})\s*$")

Row = Mapping[str, float]       # a column of COLUMNS → its value; "iteration" is always there


@dataclass(frozen=True, eq=False)     # a run is itself: tables have no one equality
class Log:
    """One run as another program logged it. `table` has all columns of record.COLUMNS and its rows
    in order of iteration. NaN means not measured."""
    path: Path
    format: str
    table: pd.DataFrame
    inner: str = ""             # the run's name within its file, where a file holds several
    unit: str = "nats"          # of val_loss
    seed: int | None = None     # where the log itself says it
    total: int | None = None    # the step at which the run was to end, where the log says it
    problems: tuple[str, ...] = ()
    blown_up: bool = False      # a NaN or infinite loss was logged


@dataclass
class Rows:
    """Rows as a reader collects them. A later row of an iteration completes or replaces an earlier
    one."""
    at: dict[int, dict[str, float]] = field(default_factory=dict)
    seed: int | None = None
    total: int | None = None
    blown_up: bool = False

    def add(self, row: Row) -> None:
        """Add one row. Raises BadInput where there are too many."""
        step = row["iteration"]
        if not (math.isfinite(step) and 0 <= step <= MAX_ITERATION):
            return
        cells = {}
        for name, value in row.items():
            if name in ("loss", "val_loss") and not abs(value) <= GREATEST:
                self.blown_up = True
            elif math.isfinite(value):
                cells[name] = float(value)
        self.at.setdefault(int(step), {}).update(cells)
        if len(self.at) > MAX_ROWS:
            raise BadInput(f"more than {MAX_ROWS:,} rows in one log")

    def restart(self, step: float) -> None:
        """Drop the rows after `step`: the run goes on from a checkpoint and logs them again."""
        self.at = {at: cells for at, cells in self.at.items() if at <= step}

    def log(self, path: Path, name: str, **more) -> Log:
        """Return the rows as a Log."""
        table = pd.DataFrame.from_dict(self.at, orient="index", dtype=float).sort_index()
        table = table.reindex(columns=[*COLUMNS, "step_seconds"])
        table["iteration"] = table.index.to_numpy(dtype=float)
        table = table.reset_index(drop=True)
        paces = table.pop("step_seconds")
        if table["seconds"].isna().all() and paces.notna().any():
            table["seconds"] = _integrated(table["iteration"], paces)
        seed = self.seed if self.seed is not None and self.seed <= MAX_SEED else None
        return Log(path, name, table.astype(float), **{"seed": seed, "total": self.total,
                                                       "blown_up": self.blown_up} | more)


def _integrated(steps: pd.Series, paces: pd.Series) -> pd.Series:
    """Return the seconds since the start, where a log names only the seconds of single steps."""
    known = paces.notna()
    spent = (paces[known] * np.diff(steps[known], prepend=0.0)).cumsum()
    return spent.reindex(steps.index)


def lines(path: Path, limit: int = MAX_BYTES) -> Iterator[str]:
    """Yield the lines of a text file, without their ends. The rest of an overlong line is skipped.
    Raises BadInput where the file cannot be read or is too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is not read")
        with open(path, encoding="utf-8-sig", errors="replace", newline=None) as file:
            read, whole = 0, True
            while read < limit and (text := file.readline(MAX_LINE)):
                read += len(text)
                if whole:
                    yield text.rstrip("\n")
                whole = text.endswith("\n")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def printable(text: str) -> str:
    """Return a text from a log with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def number(text: object) -> float:
    """Return a cell as a number; NaN where it is none."""
    if isinstance(text, bool) or text is None:
        return math.nan
    try:
        return float(text)      # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def unfinished(path: Path) -> bool:
    """Return whether the last line of a file has no end, so that its last number may be cut off."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) not in (b"\n", b"\r", b"")


def decimals(text: str) -> int:
    """Return how many digits stand at the end of a text, after a dot; 0 after anything else."""
    found = re.search(r"\.(\d{1,20})$", text)
    return len(found[1]) if found else 0


def runs_of_lines(path: Path, name: str, parse: Callable[[str], Row | None],
                  begin: Callable[[str], bool] | None = None, **more) -> list[Log]:
    """Return the runs of a text log, from a parser of one line.

    A new run begins where the log comes back to iteration 0. Where it falls back to a later one,
    the run goes on from a checkpoint. With `begin`, nothing counts before the first line for which
    it is true, if there is one: logs may start with source code that contains log lines.
    """
    runs, last, seed = [Rows()], -1.0, None
    skip = begin is not None and any(begin(text) for text in lines(path))
    digits: dict[frozenset[str], int] = {}      # of the last number of a line, by what it logs
    cut = _cut_off(path)
    for text in lines(path):
        if skip:
            skip = not begin(text)
            continue
        if found := SEED.match(text):
            seed = int(found[1])
        row = parse(text)
        if row is None:
            continue
        kind = frozenset(row)
        if text == cut and decimals(text) < digits.get(kind, 0):
            more["problems"] = (f"{path.name}: its last line is cut off, left out",)
            continue
        digits[kind] = decimals(text)
        row = dict(row)
        total, step = row.pop("total", None), row["iteration"]
        if step == 0 and last > 0:
            runs.append(Rows())
        elif step < last:
            runs[-1].restart(step)
        last = step
        now = runs[-1]
        now.total = now.total if total is None else int(total)
        now.seed = seed
        now.add(row)
    kept = [run for run in runs if len(run.at) > 1 or len(runs) == 1 and run.at]
    told = more.pop("problems", ())
    told += (f"{path.name}: {len(runs) - len(kept)} runs ended at their first row, left out",) \
        if kept and len(kept) < len(runs) else ()
    return [run.log(path, name, inner=f"#{place}" if len(kept) > 1 else "",
                    problems=told if place == 1 else (), **more)
            for place, run in enumerate(kept, 1)]


def _cut_off(path: Path) -> str | None:
    """Return the last line of a file that does not end with a whole one; None for any other."""
    if not unfinished(path):
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LINE))
        text = file.read().decode("utf-8", errors="replace").splitlines()[-1]
    return None if text.lower().endswith(("nan", "inf")) else text


def rows_to_log(path: Path, name: str, rows: Iterable[Row], **more) -> Log | None:
    """Return one run from its rows; None where there are none."""
    found = Rows()
    for row in rows:
        found.add(row)
    return found.log(path, name, **more) if found.at else None
