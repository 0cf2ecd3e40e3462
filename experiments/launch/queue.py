"""
What launchers and SLURM plans still have to run, read from OUT/logs/STUDY/. A file that is not
readable counts as absent, because a view of other runs must not fail for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.launch.alive import is_alive, written_at
from mingpt.utils import BadInput, read_json


@dataclass(frozen=True)
class Queue:
    """The runs that a study was started with. `names` are ARM.s<SEED>, and `expected` has their
    predicted seconds. The rest is of the newest launch: `slots` runs at once, `since` when, as in
    records, the `words` after run_all.sh, and the `folder` that they were given in. `active` says
    whether something will still start runs; it is None where the launcher is on another machine.
    `written` is the time of the newest launch, in seconds since 1970."""
    names: tuple[str, ...] = ()
    expected: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1
    since: str = ""
    words: tuple[str, ...] | None = None
    folder: str = ""
    active: bool | None = False
    written: float = 0.0


def queue_of(logs: Path) -> Queue:
    """The queue of one study from its folder of logs; empty where nothing was launched."""
    try:
        return _queue(logs)
    except (TypeError, ValueError, KeyError, AttributeError):    # JSON of another shape
        return Queue()


def _queue(logs: Path) -> Queue:
    order = logs / "order.json"
    launches = list(_read(order) or ())
    planned = [f"{run['arm']}.s{run['seed']}" for path in sorted(logs.glob("plan-*.json"))
               for run in (_read(path) or {}).get("runs", ())]
    names = [name for each in launches for name in each["runs"]]
    expected = {name: float(seconds) for each in launches
                for name, seconds in zip(each["runs"], each.get("seconds", ()), strict=False)}
    last = launches[-1] if launches else {}
    # A SLURM job's runs start by themselves; only squeue knows whether it was cancelled.
    active = True if planned else (bool(last.get("process"))
                                   and is_alive(last, written_at(order)))
    return Queue(tuple(dict.fromkeys([*names, *planned])), expected, int(last.get("at_once", 1)),
                 str(last.get("launched", "")), tuple(last["words"]) if last.get("words") else None,
                 str(last.get("folder", "")), active, written_at(order) or 0.0)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError, BadInput):
        return None
