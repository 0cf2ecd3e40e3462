"""
Finds the declaration of a study from its runs: among the shipped studies, beside the losses, or in
the records of the runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from experiments.declare.study import DECLARED, Study, load_study, read_study, shipped
from experiments.records.record import at, moment
from experiments.records.runs import RecordedRun
from mingpt.utils import BadInput

BEFORE = datetime.min.replace(tzinfo=UTC)    # before any run


def declaration(name: str | None, runs: list[RecordedRun]) -> Study | None:
    """Return the study of these runs: the shipped one of that name, or the one that `lab.py
    compare` wrote beside their losses, or else what their records declare. None where there is
    none of these, as a folder of runs may have any name."""
    if name in shipped():
        return load_study(name)
    beside = runs[0].path.absolute().parent.parent.parent / "studies" / f"{name}.toml"
    if name and beside.is_file():
        return load_study(beside)
    return recorded(name, runs) if name else None


def recorded(name: str, runs: list[RecordedRun]) -> Study | None:
    """Return the study as the record of its latest run declares it; None where no record does."""
    told = [run for run in runs if isinstance(at(run.record, "declaration"), dict)]
    if not told:
        return None
    latest = max(told, key=lambda run: moment(at(run.record, "start")) or BEFORE)
    try:
        table = at(latest.record, "declaration", "file") or _table(latest, told)
        # verdicts need no code file, which may be elsewhere by now
        table = {key: value for key, value in table.items() if key != "code"}
        return read_study(table | {"name": name}, latest.path.with_suffix(".json"),
                          str(at(latest.record, "study_hash")))
    except (BadInput, TypeError, LookupError, ValueError, AttributeError):
        return None    # no declaration that can be used; the page then says that it found none


def _table(latest: RecordedRun, told: list[RecordedRun]) -> dict[str, Any]:
    """Return the table of a study whose records are older than the key `file`. They do not say how
    its arms were made, so a factorial or a grid is then no more than its arms."""
    declared = latest.record["declaration"]
    arms = dict.fromkeys(declared.get("expect", ()), {}) | {
        run.arm: run.record["declaration"]["arm"] for run in told}
    keys = [key for key in DECLARED if declared.get(key) and key != "selection_seeds"]
    # `include` allows a table that changes nothing, such as that of a baseline of another name
    return {key: declared[key] for key in keys} | {
        "arms": {arm: {"include": []} | settings for arm, settings in arms.items()}}
