"""
Shows how far the runs under a results folder are. It reads what they write while they train, and
needs neither torch nor pandas.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.launch.alive import FIRST, quiet_for, status_of, written_at
from experiments.launch.curves import curve, finite, sparkline
from experiments.launch.plan import duration, makespan
from experiments.launch.queue import Queue, queue_of
from experiments.records.record import read_record
from experiments.train.forecast import busy_text
from mingpt.utils import BadInput, did_you_mean

# Statuses in the order in which the rows are sorted; any other comes after them. Those of GRAVE
# need somebody to act.
GRAVE = ("failed", "diverged", "unreadable", "killed", "silent", "interrupted", "missing")
URGENT = (*GRAVE, "running", "waiting")


def find(out: Path, study: str | None = None) -> list[dict[str, Any]]:
    """One row per run, from the records under OUT/losses and the queues under OUT/logs: failures
    first, then running ones, then the others by name. Raises BadInput where the folder or the study
    is missing."""
    losses = out / "losses"
    if not losses.is_dir():
        raise BadInput(f"no folder {losses}: give --out the folder that holds losses/")
    known = sorted(path.name for path in losses.iterdir() if path.is_dir())
    if study is not None and study not in known:
        raise BadInput(f"no study {study!r} under {losses}{_elsewhere(study, known)}")
    pattern = [f"{study}/*.json"] if study else ["*.json", "*/*.json"]
    rows = [row(path, losses) for each in pattern for path in sorted(losses.glob(each))
            if path.name[0] != "."]
    for name in [study] if study else known:
        rows += waiting(queue_of(out / "logs" / name), name, rows, losses)
    return sorted(rows, key=rank)


def _elsewhere(study: str, known: list[str]) -> str:
    """Return what to type instead of a study that is not there."""
    if (Path(study) / "losses").is_dir():
        return f": for the runs of a folder, give --out {study}"
    return did_you_mean(study, known) if known else ", and no other"


def rank(row: dict[str, Any]) -> tuple:
    """The place of a row: its status by URGENT, then its study, arm and seed."""
    places = {status: place for place, status in enumerate(URGENT)}
    return (places.get(row["status"], len(URGENT)), row["study"] or "", row["arm"],
            row["seed"] if row["seed"] is not None else -1)


def name_of(row: dict[str, Any]) -> str:
    """STUDY/ARM.s<SEED>, as far as the run has these."""
    seed = "" if row["seed"] is None else f".s{row['seed']}"
    return "/".join(filter(None, (row["study"], row["arm"] + seed)))


def _base(path: Path, losses: Path) -> dict[str, Any]:
    arm, _, seed = path.stem.rpartition(".s")
    return {"study": path.parent.name if path.parent != losses else None, "arm": arm or path.stem,
            "seed": int(seed) if seed.isdecimal() else None, "record": str(path)}


def row(path: Path, losses: Path) -> dict[str, Any]:
    """One record as a row of the table. A file that is no record gives a row with the status
    `unreadable`."""
    base = _base(path, losses)
    try:
        record, written = read_record(path), written_at(path)
        if not isinstance(status := status_of(record, written), str):
            raise BadInput(f"its status is not a text but {status!r}")
        progress, process = record.get("progress") or {}, record.get("process") or {}
        numbers = {key: finite(value)
                   for key, value in (progress | (record.get("result") or {})).items()}
        return {**base, "status": status,
                "message": _text(record.get("message")) or _absence(status, record, written),
                "iteration": finite(progress.get("iteration")),
                "max_iters": finite(progress.get("max_iters")),
                "loss": finite(progress.get("loss")), "val_loss": numbers.get("val_loss"),
                "tokens_per_second": numbers.get("tokens_per_second"),
                "seconds_left": _seconds_left(progress, status, written),
                "slowdown": finite(progress.get("slowdown")) if status == "running" else None,
                "start": _text(record.get("start")), "end": _text(record.get("end")),
                "command": _text(record.get("command")),
                "host": _text(process.get("host")), "pid": finite(process.get("pid")),
                "curve": curve(path.with_suffix(".csv"))}
    # JSON of another shape is not a record either.
    except (BadInput, AttributeError, TypeError, ValueError) as error:
        return {**base, "status": "unreadable", "message": str(error)}


def _absence(status: str, record: dict[str, Any], written: float | None) -> str | None:
    """Why a run that says running does not count as running."""
    process = record.get("process") or {}
    if status == "silent":
        return (f"no sign of life for {duration(quiet_for(record, written))}, on "
                f"{process.get('host')}:{process.get('pid')}")
    if status == "killed":
        return f"process {process.get('pid')} is gone; started again, the run continues"
    return None


def waiting(queue: Queue, study: str, rows: list[dict[str, Any]],
            losses: Path) -> list[dict[str, Any]]:
    """Rows for the runs of a study that have no record: `waiting` for their turn, or `missing`
    where nothing will start them. `seconds_left` is what such a run takes, and `slots` how many
    run at once."""
    there = {name_of(row): row for row in rows}
    paths = {name: losses / study / f"{name}.json" for name in queue.names}
    absent = {name: base for name, path in paths.items()
              if name_of(base := _base(path, losses)) not in there}
    slower = _slower(queue, {name: there.get(f"{study}/{name}") for name in queue.names})
    active = queue.active
    if active is None:      # a launcher elsewhere: its runs show whether it is still there
        mine = [row for row in there.values() if row["study"] == study]
        writes = [written_at(Path(row["record"])) or 0.0 for row in mine]
        active = (any(row["status"] == "running" for row in mine)
                  or time.time() - max([queue.written, *writes]) < FIRST)
    status = "waiting" if active else "missing"
    return [base | {"status": status, "message": None, "slots": queue.slots,
                    "seconds_left": finite(queue.expected.get(name, 0) * slower) or None}
            for name, base in absent.items()]


def _slower(queue: Queue, rows: dict[str, dict[str, Any] | None]) -> float:
    """What the runs of the newest launch take relative to their predictions; 1 before the first
    has begun."""
    taken = predicted = 0.0
    for name, row in rows.items():
        if (not row or not queue.expected.get(name) or (row.get("start") or "") < queue.since
                or not (row.get("end") or row["status"] == "running")):
            continue
        end = datetime.fromisoformat(row["end"]).timestamp() if row.get("end") else time.time()
        begun = datetime.fromisoformat(row["start"]).timestamp()
        taken += end - begun + (row.get("seconds_left") or 0.0)
        predicted += queue.expected[name]
    return taken / predicted if predicted else 1.0


def _seconds_left(progress: dict[str, Any], status: str, written: float | None) -> float | None:
    """Seconds that remain: as the run itself expected at its last write, less the time since; else
    at the pace of its training so far. None where that is unknown or nothing is left."""
    if status in ("done", "diverged"):
        return None
    own = finite(progress.get("seconds_left"))
    if own is not None:
        since = max(0.0, time.time() - written) if status == "running" and written else 0.0
        return max(0.0, own - since)
    done, whole, seconds = (finite(progress.get(key))
                            for key in ("iteration", "max_iters", "seconds"))
    if not done or whole is None or seconds is None:
        return None
    return finite(max(0.0, seconds / done * (whole - done)))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def share(row: dict[str, Any]) -> float | None:
    """The share of a run that is done, 0 to 1; None where it is unknown."""
    done, whole = row.get("iteration"), row.get("max_iters")
    return (min(1.0, done / whole)
            if isinstance(done, int) and isinstance(whole, int) and whole > 0 else None)


def summary(rows: list[dict[str, Any]], headed: bool = False) -> str:
    """One line over all runs: 'seven: 21 runs: 1 failed, 2 running, 18 done; about 3 min left', and
    whether the machine is busy. `headed`: a heading has the study and how many are done already, so
    the line is '1 failed, 2 running; about 3 min left'."""
    counts = Counter(row["status"] for row in rows)
    order = {status: place for place, status in enumerate(URGENT)}
    parts = [f"{counts[status]} {status}"
             for status in sorted(counts, key=lambda s: (order.get(s, 99), s))
             if not (headed and status == "done")]
    left, studies = time_left(rows), {row["study"] for row in rows}
    slow = max((row["slowdown"] for row in rows if row.get("slowdown")), default=None)
    name = f"{studies.pop()}: " if len(studies) == 1 and None not in studies else ""
    total = "" if headed else f"{name}{len(rows)} run{'s' * (len(rows) != 1)}: "
    return "".join((f"{total}{', '.join(parts)}",
                    f"; about {duration(left)} left" if left is not None else "",
                    busy_text(slow, "; ")))


def time_left(rows: list[dict[str, Any]]) -> float | None:
    """Seconds until the running and the waiting runs have ended; None where no run is on its way,
    or where nothing is known about one that waits."""
    found = []
    for study in {row["study"] for row in rows}:
        mine = [row for row in rows if row["study"] == study]
        running = [row.get("seconds_left") for row in mine if row["status"] == "running"]
        queued = [row for row in mine if row["status"] == "waiting"]
        expected = [row.get("seconds_left") for row in queued]
        if None in expected:
            return None
        if queued or any(left is not None for left in running):
            found.append(makespan([left or 0.0 for left in running], expected,
                                  max((row["slots"] for row in queued), default=1)))
    return max(found, default=None)


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells as text, by column."""
    def shown(value: Any, form: str = "{}") -> str:
        return (form.format(value)
                if isinstance(value, int | float) and not isinstance(value, bool) else "")
    at = "" if row.get("iteration") is None else f"{row['iteration']}/{row.get('max_iters')}"
    where = (f"{row['host']}:{row['pid']}{busy_text(row.get('slowdown'), '; ')}"
             if row["status"] == "running" else str(row.get("message") or ""))
    left = row.get("seconds_left") if row["status"] not in ("waiting", "missing") else None
    return {"run": name_of(row), "study": row["study"] or "", "arm": row["arm"],
            "seed": shown(row["seed"]), "status": row["status"],
            "iteration": at, "loss": shown(row.get("loss"), "{:.4f}"),
            "curve": sparkline(row.get("curve") or []),
            "val_loss": shown(row.get("val_loss"), "{:.4f}"), "where": where,
            "tokens/s": shown(row.get("tokens_per_second"), "{:,.0f}"),
            "left": "" if left is None else duration(left)}
