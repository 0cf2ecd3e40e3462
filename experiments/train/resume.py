"""
Resuming a run: what a checkpoint must hold for the run to continue exactly, and the check that a
checkpoint is the run's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.declare.settings import completed, differences
from experiments.records import codefiles
from experiments.records.record import FREE, RunFiles, at, read_record, slurm_job
from experiments.weights import checkpoint
from mingpt.utils import BadInput, read_file
from mingpt.utils import CfgNode as CN

NAMES_RUN = {"id", "config", "data", "seed"}     # what a state says of its run
RESTART = "--resume restart begins again"


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What ties a checkpoint to the run that wrote it: the run's id, settings, data, seed, and the
    user's code files."""
    return {"id": record["id"], "config": record["config"], "data": at(record, "data", "hash"),
            "seed": record["seed"], "code_files": codefiles.named(record)}


def changed_settings(was: Mapping[str, Any], now: CN | Mapping) -> dict[str, list]:
    """The settings that changed and that decide a run's numbers: {setting: [value then, value
    now]}."""
    return {k: v for k, v in differences(completed(was), now).items() if k not in FREE}


def changed_data(was: Mapping[str, Any], now: Mapping[str, Any],
                 settings: Mapping[str, list]) -> dict[str, list[str]]:
    """{"data": [where the data came from, where it comes from]} for two configs whose data differ.
    Empty where the changed `settings` tell the difference, such as another tokenizer."""
    old, new = (_origin(config) for config in (was, now))
    if old == new:
        told = any(key.startswith("data.") for key in settings)
        return {} if told else {"data": [old, "the same name, with other content"]}
    return {"data": [old, new]}


def _origin(config: Mapping[str, Any]) -> str:
    """Where a config's data comes from: its paths, or Python's library."""
    paths = (at(config, "data", "sources") or at(config, "data", "paths")
             or "Python's own library")
    return paths if isinstance(paths, str) else " ".join(paths)


def under(changed: Mapping[str, list]) -> str:
    """'other settings', or 'other code' where that is all that changed."""
    return "other code" if all(key.startswith("code ") for key in changed) else "other settings"


def listed(changed: Mapping[str, list]) -> str:
    """The changes as text: 'trainer.learning_rate 0.5 → 0.003, data changed: a.txt → b.txt'."""
    return ", ".join(f"{key} changed: {was} → {is_}" if key == "data" or key.startswith("code ")
                     else f"{key} {was!r} → {is_!r}" for key, (was, is_) in changed.items())


def earlier_record(files: RunFiles, record: Mapping[str, Any], settings: CN) -> dict | None:
    """The record of an earlier attempt at the run that `record` describes, or None. Raises BadInput
    where its settings or data differ, and where the CSV has rows that no record explains."""
    if not files.json.exists():
        if holds_rows(files.csv) and checkpoint.read_state(files.checkpoint) is None:
            raise BadInput(f"{files.csv} holds rows, but neither a record nor a checkpoint says of "
                           f"which run: move it away, or use --resume restart")
        return None
    earlier = read_record(files.json, needs=("status", "config", "data"))
    changed = (codefiles.changed(codefiles.named(earlier), codefiles.named(record))
               | changed_settings(earlier["config"], settings))
    if earlier["data"].get("hash") != record["data"].get("hash"):
        changed |= changed_data(earlier["config"], record["config"], changed)
    if changed:
        raise BadInput(f"{files.json}: {earlier['status']} under {under(changed)}: "
                       f"{listed(changed)}; give another --out or --arm, or use --resume restart")
    return earlier


def own_checkpoint(files: RunFiles, record: Mapping[str, Any],
                   settings: CN) -> tuple[dict[str, Any] | None, str | None]:
    """(the state to resume from, a sentence for the user); each is None where there is none.

    A checkpoint belongs to this run if its settings, data and seed are the same and, where there is
    a record, its id as well. Raises BadInput for any other checkpoint: it is never loaded, and only
    overwritten when the user says `restart`.
    """
    state, told = checkpoint.find(files.checkpoint)
    if state is None:
        return None, None
    earlier = read_record(files.json) if files.json.exists() else None
    if why := _not_own(state, earlier, record, settings):
        raise BadInput(f"{files.checkpoint} holds the checkpoint of another run ({why}): give "
                       f"another --out or --arm; {RESTART}")
    if not state.get("result") and "optimizer" not in state["files"]:
        raise BadInput(f"{files.checkpoint} holds the weights of a finished run, without the "
                       f"optimizer that continuing needs: give another --out or --arm; {RESTART}")
    for key in ("perplexity", "val_loss", "seconds"):
        if state.get("result") and type(at(state, "result", key)) not in (int, float):
            raise BadInput(f"{files.checkpoint} holds a result without a {key}: {RESTART}")
    return state, told


def _not_own(state: Mapping[str, Any], earlier: Mapping[str, Any] | None, record: Mapping[str, Any],
             settings: CN) -> str | None:
    """The evidence that another run wrote this checkpoint, or None where there is no such
    evidence."""
    run = state.get("run")
    if run is not None and not (isinstance(run, dict) and set(run) >= NAMES_RUN):
        return "its state does not say which"
    if run is None:                              # an older checkpoint, which does not name its run
        same = earlier is not None and earlier.get("start") == state.get("start")
        return None if same else "its record is not here"
    mine = identity(record)
    changed = (codefiles.changed(codefiles.named(run), mine["code_files"])
               | changed_settings(run["config"], settings))
    if run["data"] != mine["data"]:
        changed |= changed_data(run["config"], mine["config"], changed)
    if run["seed"] != mine["seed"]:
        changed["seed"] = [run["seed"], mine["seed"]]
    if changed:
        return listed(changed)
    return "another start of it" if earlier is not None and earlier.get("id") != run["id"] else None


def log_so_far(files: RunFiles, state: Mapping[str, Any], say: Callable[[str], None]) -> bytes:
    """The bytes of the CSV up to a checkpoint, from the checkpoint's own copy. Tells the user, with
    `say`, where the file on disk differs. Raises BadInput where an older checkpoint has no copy and
    the file is damaged."""
    kept = checkpoint.load_log(files.checkpoint, state)
    there = read_file(files.csv) if files.csv.exists() else None
    if kept is None:                             # an older checkpoint, which has no copy of the CSV
        size = state["csv_bytes"]
        if (there is None or len(there) < size or b"\0" in there[:size]
                or not there[:size].endswith(b"\n")):
            raise BadInput(f"{files.csv} is missing, cut or changed, and its checkpoint has no "
                           f"copy of it: {RESTART}")
        return there[:size]
    if there is None or not there.startswith(kept):
        say(f"{files.csv} {'is missing' if there is None else 'was changed'}: it is written again "
            f"from the checkpoint")
    return kept


def holds_rows(csv: Path) -> bool:
    """Whether a CSV has more than its header. A run that was killed before its first row leaves
    only the header."""
    return csv.exists() and read_file(csv).count(b"\n") > 1


def requeued(resume: str, files: RunFiles) -> str:
    """The value of `resume` for this start. It is `auto` in place of `restart` where SLURM starts a
    job again that began this run already, because `restart` means once per job."""
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if resume != "restart" or not again or not files.json.exists():
        return resume
    return "auto" if at(read_record(files.json), "process", "slurm") == slurm_job() else resume


def clear_leftovers(files: RunFiles) -> None:
    """Remove the temporary files that a killed process of this run left behind (the caller holds
    the run's lock)."""
    for path in (files.csv, files.json, files.checkpoint / checkpoint.STATE,
                 files.checkpoint / checkpoint.PREVIOUS):
        _clear(path.parent, re.escape(path.name))
    _clear(files.checkpoint, r"log-\d+\.csv")


def _clear(folder: Path, name: str) -> None:
    ours = re.compile(rf"\.{name}\.[a-z0-9_]{{8}}")   # the names that write_atomic gives
    if folder.is_dir():
        for path in folder.iterdir():
            if ours.fullmatch(path.name):
                path.unlink(missing_ok=True)
