"""
Results for a page: copies of the records without what is only this machine's, and the tables that a page shows.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.curves import Run
from experiments.record import write_record
from experiments.results import Results
from experiments.summary import between_markers, bullets, table
from mingpt.utils import BadInput, did_you_mean, write_atomic

MARKER = re.compile(r"<!-- (table|notes): (.+?) -->")
PARTS = {"table": table, "notes": bullets}


def keep(runs: Iterable[Run], folder: Path) -> int:
    """Copy every finished run's CSV and record to FOLDER/STUDY, small and without hosts and paths; how many."""
    count = 0
    for run in runs:
        if run.record is None or run.status not in ("done", "diverged"):
            continue
        place = folder / run.study if run.study else folder
        write_record(place / f"{run.path.stem}.json", public(run.record))
        write_atomic(place / run.path.name, run.path.read_bytes())
        count += 1
    return count


def public(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it may be shown: who and where are left out, and a path is its last part."""
    shown = copy.deepcopy(record)
    shown["process"] = {"host": None, "pid": None}
    for section in (shown.get("data") or {}, (shown.get("config") or {}).get("data") or {}):
        if section.get("paths"):
            section["paths"] = [Path(path).name for path in section["paths"]]
        if section.get("cache"):
            section["cache"] = None
    sources = (shown.get("data") or {}).get("sources") or {}
    if sources.get("first"):
        sources["first"] = Path(sources["first"]).name
    shown["command"] = _command(shown)
    return shown


def _command(record: dict[str, Any]) -> str:
    """What trains this run again, in any clone: the recorded one without its folders."""
    words, kept = iter(shlex.split(record.get("command") or "")), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif word == "--study":
            kept += [word, record["study"] or ""]
            next(words, None)
        else:
            kept.append(Path(word).name if "/" in word and not word.startswith("--") else word)
    return shlex.join(kept)


def fill(page: Path, studies: Iterable[Results]) -> list[str]:
    """Write the tables and notes that a page has markers for, `<!-- table: STUDY -->`; their names."""
    text = page.read_text(encoding="utf-8")
    new = filled(text, studies, str(page))
    if new != text:
        write_atomic(page, new)
    return [" ".join(found) for found in MARKER.findall(text)]


def filled(text: str, studies: Iterable[Results], where: str) -> str:
    """The page's text with every table as the records have it now."""
    known = {results.name: results for results in studies}
    for part, name in MARKER.findall(text):
        if name not in known:
            raise BadInput(f"{where}: no runs of the study {name!r}{did_you_mean(name, filter(None, known))}")
        text = between_markers(text, f"{part}: {name}", PARTS[part](known[name]), where)
    return text
