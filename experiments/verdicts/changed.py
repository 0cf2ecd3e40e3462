"""
Report what changed in a study's file after its runs began. A hypothesis written after seeing the
data predicts nothing, so such changes are shown beside the verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from experiments.declare.study import DECLARED, Study
from experiments.records.record import at, moment
from experiments.records.runs import RecordedRun


@dataclass(frozen=True)
class Change:
    """One key of the study file that had another value when `runs` began. `key` is the study
    file's key, or `arm NAME` for an arm's settings."""
    key: str
    was: Any
    now: Any
    runs: tuple[str, ...]
    first: datetime | None       # when the first of these runs began, in UTC

    def line(self) -> str:
        """Return the change as one readable line."""
        count = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        since = f", the first on {self.first:%Y-%m-%d at %H:%M}" if self.first else ""
        return (f"{self.key} changed after {count} ({self.runs[0]}{since}): {_text(self.was)} → "
                f"{_text(self.now)}")


def changes(study: Study, runs: Iterable[RecordedRun]) -> tuple[Change, ...]:
    """Return every difference between the study's file and the declarations in its runs' records,
    in the order of the file."""
    found: dict[tuple[str, str], tuple[Any, Any, list[RecordedRun]]] = {}
    for run in runs:
        for key, was, now in _differences(study, run):
            found.setdefault((key, repr(was)), (was, now, []))[2].append(run)
    return tuple(Change(key, was, now, tuple(run.path.stem for run in those), min(
        filter(None, (moment(at(run.record, "start")) for run in those)), default=None))
        for (key, _), (was, now, those) in found.items())


def _differences(study: Study, run: RecordedRun) -> list[tuple[str, Any, Any]]:
    record = run.record or {}
    if record.get("study_hash") in (None, study.hash):
        return []
    declared = record.get("declaration")
    if not isinstance(declared, dict):
        # an older record holds the hash but not the declaration
        return [("study file", record["study_hash"], study.hash)]
    if run.arm not in study.arms:
        return [(f"arm {run.arm}", declared.get("arm"), None)]
    now = study.declaration(run.arm)
    return [(f"arm {run.arm}" if key == "arm" else key, declared[key], now[key])
            for key in (*DECLARED, "arm") if key in declared and declared[key] != now[key]]


def _text(value: Any) -> str:
    return "not there" if value is None else repr(value) if isinstance(value, str) else str(value)
