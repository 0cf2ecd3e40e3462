"""
Show the progress, speed and remaining time of all runs under a results folder.

Failures come first. --watch repeats this until Ctrl-C: in a terminal it updates a table, elsewhere
it prints one line per change. --html writes a page. With --watch the page is written again each
time, and it refreshes itself in the browser.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from mingpt.utils import BadInput

TAKES_SETTINGS = False
COLUMNS = ("study", "arm", "seed", "status", "iteration", "loss", "curve", "val_loss", "tokens/s",
           "left", "where")
NUMBERS = ("seed", "iteration", "loss", "val_loss", "tokens/s", "left")
STYLES = {"done": "green", "running": "cyan", "diverged": "red", "failed": "red",
          "unreadable": "red",
          "killed": "yellow", "interrupted": "yellow"}
BAR = 10         # width of a run's progress bar in a terminal, in characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.add_argument("study", nargs="?", metavar="STUDY", help="show only this study's runs")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds losses/ (default .)")
    parser.add_argument("--watch", action="store_true", help="keep updating until Ctrl-C")
    parser.add_argument("--every", type=float, default=2.0, metavar="S",
                        help="with --watch: seconds between two updates (default 2)")
    parser.add_argument("--html", type=Path, metavar="FILE",
                        help="write an HTML page; with --watch, write it at every update")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")


def main(args: argparse.Namespace) -> int:
    """Show the runs and return the exit code 0. Raises BadInput."""
    if args.json and (args.watch or args.html):
        raise BadInput("--json prints the runs once: leave out --watch and --html, or repeat the "
                       "command")
    if not 0.1 <= args.every <= 3600:
        raise BadInput(f"--every {args.every:g}: give seconds from 0.1 to 3600")
    if args.watch:
        return watch(args)
    rows = look(args)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        from experiments.launch.live import summary
        console().print(table(rows))
        print(summary(rows))
    else:
        print(f"no runs under {args.out / 'losses'}", file=sys.stderr)
    return 0


def look(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows as they are now. With --html they are also written to the page."""
    from experiments.launch.live import find
    rows = find(args.out, args.study)
    if args.html:
        from experiments.report.live import write
        write(args.html, rows, args.out, args.study, args.every if args.watch else None)
    return rows


def watch(args: argparse.Namespace) -> int:
    """Update until Ctrl-C, then return the exit code 0."""
    from rich.live import Live
    terminal = console()
    seen: dict[str, str] = {}
    try:
        if not terminal.is_terminal:
            while True:
                say_changes(look(args), seen)
                time.sleep(args.every)
        with Live(console=terminal, auto_refresh=False) as live:
            while True:
                live.update(screen(look(args), terminal.height), refresh=True)
                time.sleep(args.every)
    except KeyboardInterrupt:
        return 0


def say_changes(rows: list[dict[str, Any]], seen: dict[str, str]) -> None:
    """Print one line for every run that has changed since the last look, and update `seen`."""
    from experiments.launch.live import cells
    for row in rows:
        shown = cells(row)
        name = "/".join(filter(None, (shown["study"], row["arm"]))) + (f".s{row['seed']}"
                                                                       if shown["seed"] else "")
        parts = [name, *(shown[key] for key in ("status", "iteration", "curve", "where"))]
        parts += [f"{key} {shown[key]}" for key in ("val_loss", "tokens/s", "left") if shown[key]]
        line = "  ".join(part for part in parts if part)
        if seen.get(row["record"]) != line:
            seen[row["record"]] = line
            print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)


def screen(rows: list[dict[str, Any]], height: int):
    """What fits a terminal of this height: the summary, then as many rows as there is room for.

    `rows` has failures first, so they are shown even where not all rows fit.
    """
    from rich.console import Group
    from rich.text import Text

    from experiments.launch.live import summary
    room = max(3, height - 4)
    more = [Text(f"… and {len(rows) - room} more")] if len(rows) > room else []
    return Group(Text(summary(rows), style="bold"), table(rows[:room]), *more)


def console():
    """A console as wide as the terminal, or 200 characters wide in a pipe or a file."""
    from rich.console import Console
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def table(rows: list[dict[str, Any]]):
    """The rows as a rich table, with the columns of COLUMNS."""
    from rich.table import Table
    from rich.text import Text

    from experiments.launch.live import cells, share
    shown = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        shown.add_column(name, justify="right" if name in NUMBERS else "left",
                         no_wrap=name != "where")
    for each in rows:
        style, texts, done = STYLES.get(each["status"], ""), cells(each), share(each)
        if each["status"] == "running" and done is not None:
            texts["iteration"] = (
                "━" * round(BAR * done) + "╌" * (BAR - round(BAR * done)) + " " + texts["iteration"]
            )
        shown.add_row(*(Text(texts[name], style=style if name in ("status", "curve") else "")
                        for name in COLUMNS))
    return shown
