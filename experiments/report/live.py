"""
The live view as a page. It is rewritten whole at every look, and the browser reloads it by itself.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.launch.live import GRAVE, cells, name_of, share, summary
from experiments.launch.next_steps import next_steps
from mingpt.utils import BadInput, write_atomic

LISTED = 8      # most failures above the table, which holds them all
TEMPLATES = Path(__file__).with_name("templates")
# The class of a status on the page; any other is as grave as a failure.
TONES = {"done": "better", "running": "equivalent", "killed": "undecided",
         "interrupted": "undecided", "missing": "undecided", "waiting": "waiting"}


def write(path: Path, rows: list[dict[str, Any]], out: Path, study: str | None,
          every: float | None) -> None:
    """Write the page, atomically. `every` is the number of seconds after which the browser reloads
    it; None means never. Raises BadInput where the page cannot be written."""
    try:
        write_atomic(path, render(rows, out, study, every))
    except OSError as error:
        raise BadInput(f"--html: cannot write {path}: {error.strerror}") from None


def render(rows: list[dict[str, Any]], out: Path, study: str | None, every: float | None) -> str:
    """Return the page as text, from one row per run."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    done = sum(row["status"] == "done" for row in rows)
    one_study = len({row["study"] for row in rows}) == 1
    shown = [cells(row) | {"share": share(row), "path": path_of(row.get("curve") or []),
                           "run": name_of(row | {"study": None} if one_study else row),
                           "listed": row["status"] in GRAVE and row["status"] != "missing",
                           "tone": TONES.get(row["status"], "worse")} for row in rows]
    failed = [row for row in shown if row["listed"]]
    for row in failed[LISTED:]:
        row["listed"] = False
    return environment.get_template("status.html.j2").render(
        rows=shown, done=done, count=len(rows), summary=summary(rows, headed=True),
        study=study or (rows[0]["study"] if one_study else None), source=str(out / "losses"),
        link=(out / "losses").resolve().as_uri(), failed=failed[:LISTED],
        failures=len(failed), unlisted=len(failed[LISTED:]), steps=next_steps(rows, out),
        now=f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}",
        every=every and max(1, round(every)),
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")))


def path_of(values: list[float]) -> str:
    """Return the SVG path of a small curve in a box of 100 by 24; empty for fewer than two
    values."""
    if len(values) < 2:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = 100 / (len(values) - 1)
    places = (f"{k * step:.1f},{22 - 20 * (value - low) / span:.1f}"
              for k, value in enumerate(values))
    return "M" + " ".join(places)
