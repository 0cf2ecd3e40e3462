"""
Show the progress, speed and remaining time of all runs under a results folder, and what to do next.

Failures come first. --watch repeats this: in a terminal it shows a table that keys sort and scroll,
until q; elsewhere it prints one line per change, until Ctrl-C. --html writes a page. With --watch
the page is written again each time, and it refreshes itself in the browser.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments import system
from mingpt.utils import BadInput

TAKES_SETTINGS = False
# Signals that end the view in a terminal, after the terminal has been restored.
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BLINK = 0.25     # seconds between two looks at the terminal's size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    parser.add_argument("study", nargs="?", metavar="STUDY", help="show only this study's runs")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds losses/ (default .)")
    parser.add_argument("--watch", action="store_true", help="keep updating, until q or Ctrl-C")
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
        show(rows, args.out)
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


def show(rows: list[dict[str, Any]], out: Path) -> None:
    """Print the table, the summary, and what to do next. In a pipe or a file nothing is cut."""
    from experiments.launch.live import summary
    from experiments.launch.next_steps import next_steps
    from experiments.launch.screen import table
    terminal = system.terminal()
    for block in table(rows, terminal.width if terminal.is_terminal else None):
        for line in block:
            terminal.print(line, soft_wrap=True)
    print(summary(rows))
    print("\n".join(line for step in next_steps(rows, out) for line in step.lines()))


def watch(args: argparse.Namespace) -> int:
    """Update until q or Ctrl-C, then return the exit code 0; 128 + n after the signal n."""
    terminal, seen = system.terminal(), {}
    try:
        if terminal.is_terminal and not terminal.is_dumb_terminal:
            return watch_terminal(args, terminal)
        while True:
            say_changes(look(args), seen)
            time.sleep(args.every)
    except KeyboardInterrupt:
        return 0


def watch_terminal(args: argparse.Namespace, terminal) -> int:
    """Show the runs on the whole terminal until q. The terminal is restored on every way out."""
    from rich.console import Group
    from rich.live import Live

    from experiments.launch.keyboard import keyboard
    from experiments.launch.live import summary
    from experiments.launch.screen import Screen
    from experiments.train.process import relayed

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)
    view, rows = Screen(), look(args)
    try:
        with (relayed(end, ENDING), keyboard() as read,
              Live(console=terminal, screen=True, auto_refresh=False) as live):
            key = "f"
            while view.press(key):
                until = time.monotonic() + args.every
                key, size = "", None
                while not key and (rest := until - time.monotonic()) > 0:
                    if size != (size := terminal.size):
                        live.update(Group(*view.lines(rows, *size)), refresh=True)
                    key = read(min(BLINK, rest))
                if not key:
                    rows = look(args)
    except KeyboardInterrupt:
        pass
    print(summary(rows))
    return 0


def say_changes(rows: list[dict[str, Any]], seen: dict[str, tuple]) -> None:
    """Print one line for every run that has changed since the last look, and update `seen`. The
    time left alone is no change."""
    from experiments.launch.live import cells
    for row in rows:
        shown = cells(row)
        parts = [shown["run"], *(shown[key] for key in ("status", "iteration", "curve", "where"))]
        parts += [f"{key} {shown[key]}" for key in ("val_loss", "tokens/s") if shown[key]]
        if row["status"] == "silent":      # its message counts the minutes
            parts.remove(shown["where"])
        if seen.get(row["record"]) != tuple(parts):
            seen[row["record"]] = tuple(parts)
            left = [f"left {shown['left']}"] if shown["left"] else []
            line = "  ".join(part for part in [*parts, *left] if part)
            print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)
