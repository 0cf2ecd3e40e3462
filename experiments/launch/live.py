"""
Shows how far the runs under a results folder are. It reads what they write while they train, and
needs neither torch nor pandas.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.launch.plan import duration, status_of
from experiments.records.record import read_record
from mingpt.utils import BadInput, did_you_mean

# Statuses in the order in which the rows are sorted; any other comes after them.
URGENT = ("failed", "diverged", "unreadable", "killed", "interrupted", "running")
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 24            # points per small curve
GREATEST = 1e38       # a larger number, beyond float32, is no measurement
SETTLED = 0.1         # share of a run's rows that its small curve omits: the steep first drop


def find(out: Path, study: str | None = None) -> list[dict[str, Any]]:
    """One row per run, from the records under OUT/losses: failures first, then running ones, then
    the others by name. Raises BadInput where the folder or the study is missing."""
    losses = out / "losses"
    if not losses.is_dir():
        raise BadInput(f"no folder {losses}: give --out the folder that holds losses/")
    known = sorted(path.name for path in losses.iterdir() if path.is_dir())
    if study is not None and study not in known:
        raise BadInput(f"no study {study!r} under {losses}{did_you_mean(study, known)}")
    pattern = [f"{study}/*.json"] if study else ["*.json", "*/*.json"]
    rows = [row(path, losses) for each in pattern for path in sorted(losses.glob(each))
            if path.name[0] != "."]
    rank = {status: place for place, status in enumerate(URGENT)}
    return sorted(rows, key=lambda row: (
        rank.get(row["status"], len(URGENT)), row["study"] or "", row["arm"],
        row["seed"] if row["seed"] is not None else -1))


def row(path: Path, losses: Path) -> dict[str, Any]:
    """One record as a row of the table. A file that is no record gives a row with the status
    `unreadable`."""
    arm, _, seed = path.stem.rpartition(".s")
    base = {"study": path.parent.name if path.parent != losses else None, "arm": arm or path.stem,
            "seed": int(seed) if seed.isdecimal() else None, "record": str(path)}
    try:
        record = read_record(path)
        if not isinstance(status := status_of(record), str):
            raise BadInput(f"its status is not a text but {status!r}")
        progress, process = record.get("progress") or {}, record.get("process") or {}
        numbers = {key: finite(value)
                   for key, value in (progress | (record.get("result") or {})).items()}
        return {**base, "status": status, "message": _text(record.get("message")),
                "iteration": finite(progress.get("iteration")),
                "max_iters": finite(progress.get("max_iters")),
                "loss": finite(progress.get("loss")), "val_loss": numbers.get("val_loss"),
                "tokens_per_second": numbers.get("tokens_per_second"),
                "seconds_left": _seconds_left(progress) if status not in ("done", "diverged")
                else None,
                "host": _text(process.get("host")), "pid": finite(process.get("pid")),
                "curve": curve(path.with_suffix(".csv"))}
    # JSON of another shape is not a record either.
    except (BadInput, AttributeError, TypeError, ValueError) as error:
        return {**base, "status": "unreadable", "message": str(error)}


def _seconds_left(progress: dict[str, Any]) -> float | None:
    """Seconds of training that remain, at the run's pace so far; None where that is unknown."""
    done, whole, seconds = (finite(progress.get(key))
                            for key in ("iteration", "max_iters", "seconds"))
    if not done or whole is None or seconds is None:
        return None
    return finite(max(0.0, seconds / done * (whole - done)))


def finite(value: Any) -> int | float | None:
    """The value if it is a number that a table and JSON can show, else None. A record may come from
    anywhere."""
    plain = (isinstance(value, int | float) and not isinstance(value, bool)
             and abs(value) <= GREATEST)
    return value if plain else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def curve(path: Path, points: int = SPARK) -> list[float]:
    """The training loss so far as at most `points` means, without the first drop. Empty where
    there is no loss."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            cells = [each.get("loss")
                     for each in csv.DictReader(line.replace("\0", "") for line in file)]
    except (OSError, csv.Error):
        return []
    values = [value for cell in cells if (value := _number(cell)) is not None]
    values = values[int(SETTLED * len(values)):]
    edges = [round(k * len(values) / points) for k in range(points + 1)]
    return [fmean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "nan")
    except ValueError:
        return None   # the row is still being written
    return finite(value)


def sparkline(values: list[float], width: int = 12) -> str:
    """The values as a line of at most `width` block characters: ▇▅▃▂▁▁."""
    if not values:
        return ""
    edges = [round(k * len(values) / width) for k in range(width + 1)]
    means = [fmean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False) if b > a]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BLOCKS[min(7, int(8 * (value - low) / span))] for value in means)


def share(row: dict[str, Any]) -> float | None:
    """The share of a run that is done, 0 to 1; None where it is unknown."""
    done, whole = row.get("iteration"), row.get("max_iters")
    return (min(1.0, done / whole)
            if isinstance(done, int) and isinstance(whole, int) and whole > 0 else None)


def summary(rows: list[dict[str, Any]]) -> str:
    """One line over all runs: '21 runs: 1 failed, 2 running, 18 done; the last running one ends in
    about 3 min'."""
    counts = Counter(row["status"] for row in rows)
    order = {status: place for place, status in enumerate(URGENT)}
    parts = [f"{counts[status]} {status}"
             for status in sorted(counts, key=lambda s: (order.get(s, 99), s))]
    left = [row["seconds_left"] for row in rows
            if row["status"] == "running" and row.get("seconds_left") is not None]
    more = f"; the last running one ends in about {duration(max(left))}" if left else ""
    return f"{len(rows)} run{'s' * (len(rows) != 1)}: {', '.join(parts)}{more}"


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells as text, by column."""
    def shown(value: Any, form: str = "{}") -> str:
        return (form.format(value)
                if isinstance(value, int | float) and not isinstance(value, bool) else "")
    at = "" if row.get("iteration") is None else f"{row['iteration']}/{row.get('max_iters')}"
    where = (f"{row['host']}:{row['pid']}" if row["status"] == "running"
             else str(row.get("message") or ""))
    left = row.get("seconds_left")
    return {"study": row["study"] or "", "arm": row["arm"], "seed": shown(row["seed"]),
            "status": row["status"],
            "iteration": at, "loss": shown(row.get("loss"), "{:.4f}"),
            "curve": sparkline(row.get("curve") or []),
            "val_loss": shown(row.get("val_loss"), "{:.4f}"), "where": where,
            "tokens/s": shown(row.get("tokens_per_second"), "{:,.0f}"),
            "left": "" if left is None else duration(left)}
