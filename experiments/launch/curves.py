"""
Small curves of the training loss, for tables: read from a run's CSV and drawn as block characters.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from mingpt.utils import BadInput, read_file

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 24            # points per small curve
GREATEST = 1e38       # a larger number, beyond float32, is no measurement
SETTLED = 0.1         # share of a run's rows that its small curve omits: the steep first drop


def curve(path: Path, points: int = SPARK) -> list[float]:
    """The training loss so far as at most `points` means, without the first drop. Empty where
    there is no loss."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return list(_curve(path, points, stat.st_mtime_ns, stat.st_size))


# A live view looks again every few seconds, and most runs have ended. The cache must hold all runs:
# one that is too small by a single run would drop each before it is asked for again.
@lru_cache(maxsize=65_536)
def _curve(path: Path, points: int, written: int, size: int) -> tuple[float, ...]:
    try:
        lines = read_file(path).decode("utf-8", "replace").replace("\0", "").splitlines()
        rows = csv.reader(lines)
        at = next(rows, []).index("loss")
        cells = [row[at] for row in rows if len(row) > at]
    except (OSError, csv.Error, ValueError, BadInput):   # ValueError: no column of that name
        return ()
    values = [value for cell in cells if (value := _number(cell)) is not None]
    return tuple(means(values[int(SETTLED * len(values)):], points))


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "nan")
    except ValueError:
        return None   # the row is still being written
    return finite(value)


def means(values: list[float], points: int) -> list[float]:
    """The values as at most `points` means of neighbours."""
    edges = [round(k * len(values) / points) for k in range(points + 1)]
    return [fmean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def sparkline(values: list[float], width: int = 12) -> str:
    """The values as a line of at most `width` block characters: ▇▅▃▂▁▁."""
    if not values:
        return ""
    heights = means(values, width)
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    return "".join(BLOCKS[min(7, int(8 * (value - low) / span))] for value in heights)


def finite(value: Any) -> int | float | None:
    """The value if it is a number that a table and JSON can show, else None. A record may come from
    anywhere."""
    plain = (isinstance(value, int | float) and not isinstance(value, bool)
             and abs(value) <= GREATEST)
    return value if plain else None
