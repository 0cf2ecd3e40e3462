"""show all runs under a results folder: how far they are, how fast, how long they still take
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from mingpt.utils import BadInput

COLUMNS = ("study", "arm", "seed", "status", "iteration", "val_loss", "tokens/s", "left", "where")
NUMBERS = ("seed", "iteration", "val_loss", "tokens/s", "left")
STYLES = {"done": "green", "running": "cyan", "diverged": "red", "failed": "red", "unreadable": "red",
          "killed": "yellow", "interrupted": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", metavar="STUDY", help="only this study's runs")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="the folder that holds losses/ (.)")
    parser.add_argument("--watch", action="store_true", help="keep showing it until Ctrl-C")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two looks (2)")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def main(args: argparse.Namespace) -> int:
    if args.overrides:
        raise BadInput(f"status takes no settings: {args.overrides[0]}")
    if args.watch and args.json:
        raise BadInput("--watch shows a table: leave out --json, or call it again and again")
    if args.watch:
        return watch(args)
    rows = find(args.out, args.study)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        console().print(table(rows))
    else:
        print(f"no runs under {args.out / 'losses'}", file=sys.stderr)
    return 0


def watch(args: argparse.Namespace) -> int:
    """The table, redrawn until Ctrl-C, which is a fine way to end."""
    from rich.live import Live
    try:
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(table(find(args.out, args.study)), refresh=True)
                time.sleep(args.every)
    except KeyboardInterrupt:
        return 0


def console():
    """As wide as the terminal; in a pipe or a file as wide as the table."""
    from rich.console import Console
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def find(out: Path, study: str | None = None) -> list[dict[str, Any]]:
    """A row a run, from the records under OUT/losses; those of no study first."""
    losses = out / "losses"
    if not losses.is_dir():
        raise BadInput(f"no folder {losses}: give --out the folder that holds losses/")
    known = sorted(path.name for path in losses.iterdir() if path.is_dir())
    if study is not None and study not in known:
        from mingpt.utils import did_you_mean
        raise BadInput(f"no study {study!r} under {losses}{did_you_mean(study, known)}")
    pattern = [f"{study}/*.json"] if study else ["*.json", "*/*.json"]
    return [row(path, losses) for each in pattern for path in sorted(losses.glob(each))]


def row(path: Path, losses: Path) -> dict[str, Any]:
    """What one record says, in the table's columns; a file that is no record is a row as well."""
    from experiments.plan import status_of
    from experiments.record import read_record
    arm, _, seed = path.stem.rpartition(".s")
    base = {"study": path.parent.name if path.parent != losses else None, "arm": arm or path.stem,
            "seed": int(seed) if seed.isdecimal() else None, "record": str(path)}
    try:
        record = read_record(path)
    except BadInput as error:
        return {**base, "status": "unreadable", "message": str(error)}
    status, progress = status_of(record), record.get("progress") or {}
    result, process = record.get("result") or {}, record.get("process") or {}
    return {**base, "study": record["study"], "arm": record["arm"], "seed": record["seed"], "status": status,
            "message": record.get("message"), "iteration": progress.get("iteration"),
            "max_iters": progress.get("max_iters"), "val_loss": result.get("val_loss", progress.get("val_loss")),
            "tokens_per_second": result.get("tokens_per_second", progress.get("tokens_per_second")),
            "seconds_left": _seconds_left(progress) if status not in ("done", "diverged") else None,
            "host": process.get("host"), "pid": process.get("pid")}


def _seconds_left(progress: dict[str, Any]) -> float | None:
    """Seconds of training that remain at the run's own pace so far."""
    done, whole, seconds = (progress.get(key) for key in ("iteration", "max_iters", "seconds"))
    if not done or whole is None or seconds is None:
        return None
    return seconds / done * (whole - done)


def table(rows: list[dict[str, Any]]):
    """The rows as a rich table."""
    from rich.table import Table
    from rich.text import Text
    shown = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        shown.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != "where")
    for each in rows:
        style = STYLES.get(each["status"], "")
        shown.add_row(*(Text(cell, style=style if name == "status" else "")
                        for name, cell in zip(COLUMNS, _cells(each), strict=True)))
    return shown


def _cells(row: dict[str, Any]) -> list[str]:
    from experiments.plan import duration
    def text(value: Any, form: str = "{}") -> str:
        return "" if value is None else form.format(value)
    at = "" if row.get("iteration") is None else f"{row['iteration']}/{row['max_iters']}"
    where = f"{row['host']}:{row['pid']}" if row["status"] == "running" else row.get("message") or ""
    left = row.get("seconds_left")
    return [text(row["study"]), row["arm"], text(row["seed"]), row["status"], at, text(row.get("val_loss"), "{:.4f}"),
            text(row.get("tokens_per_second"), "{:,.0f}"), "" if left is None else duration(left), where]
