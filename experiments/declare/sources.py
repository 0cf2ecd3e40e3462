"""
Sources of text in a study's file and on the command line: the table [sources.NAME], and settings
that name one entry of a table, such as --data.sources.web=wiki.jsonl.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.declare.entries import TABLES, entries
from experiments.declare.ranges import shown
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN


def source_settings(table: Any, study: Path) -> dict[str, list[str]]:
    """A study's [sources.NAME] tables as the setting data.sources, or nothing. A path that exists
    beside the study's file means that file. Raises BadInput for a malformed table."""
    if not isinstance(table, Mapping):
        raise BadInput(f"{study}: sources are tables, each [sources.NAME] with paths = [...]")
    listed = []
    for name, source in table.items():
        where = f"{study}: [sources.{name}]"
        if not isinstance(source, Mapping) or set(source) != {"paths"}:
            keys = ", ".join(source) if isinstance(source, Mapping) else repr(source)
            raise BadInput(f"{where}: give paths = [...] and nothing else, not {keys or 'nothing'}")
        paths = source["paths"]
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, list) or not paths or not all(
                isinstance(path, str) and path for path in paths):
            raise BadInput(f"{where}: paths is a list of files, folders, globs or names")
        listed += [f"{name}={_beside(path, study)}" for path in paths]
    return {"data.sources": listed} if listed else {}


def _beside(path: str, study: Path) -> str:
    """The path of a file or glob beside the study's file, where there is one; else as given."""
    there = study.absolute().parent / Path(path).expanduser()
    return str(there) if there.exists() or glob.glob(str(there), recursive=True) else path


def fold(given: Mapping[str, Any], study: Any) -> dict[str, Any]:
    """The settings of the command line, with those that name one entry of a table folded into the
    table of the study: data.sources.web replaces the study's source web. Raises BadInput for an
    entry that the study does not have, and where an arm declares a setting of its own data that the
    command line would replace."""
    folded: dict[str, Any] = {}
    for key, value in given.items():
        table = next((t for t in TABLES if key.startswith(f"{t}.")), None)
        if table is None:
            folded[key] = value
            continue
        name = key.removeprefix(f"{table}.")
        present = folded.get(table) or (study.base.get(table) if study else None) or []
        known = {entry.partition("=")[0] for entry in entries(table, present) or ()}
        if study and study.base.get(table) and name not in known:
            raise BadInput(f"--{key}: study {study.name} has no {name!r} in {table}"
                           f"{did_you_mean(name, known)}")
        kept = [each for each in entries(table, present) or () if each.partition("=")[0] != name]
        folded[table] = [*kept, *(entries(table, {name: value}) or ())]
    return folded


def refuse_replaced(keys: Iterable[str], study: Any) -> None:
    """Raise BadInput where a key of the command line would replace what an arm declares of its own
    data, so that arms would no longer differ as the study says."""
    for key in keys:
        if not key.startswith("data."):
            continue
        arms = [arm for arm, changes in study.arms.items() if key in changes]
        if arms:
            option = "--data" if key == "data.paths" else f"--{key}"
            raise BadInput(f"{option} would replace what the arms {', '.join(arms)} of study "
                           f"{study.name} declare as their own data: change the study's file")


def check_sources(data: CN) -> None:
    """Raise BadInput for sources, a mixture or a filter that no corpus can be opened with."""
    from experiments.corpus.mixture import read_mixture, read_sources
    from experiments.corpus.training import read_filter
    read_filter(data.filter)
    if not data.sources:
        for key in ("mixture", "repeat_max", "val_sources", "val_paths"):
            if getattr(data, key) is not None:
                raise BadInput(f"data.{key} needs data.sources: [sources.NAME] in a study, or "
                               f"--data.sources.NAME=PATH")
        return
    if data.paths is not None:
        raise BadInput(f"--data {shown(data.paths)} would replace the sources of this study "
                       f"({', '.join(read_sources(data.sources))}): name the one that it replaces "
                       f"with --data.sources.NAME=PATH")
    names = list(read_sources(data.sources))
    read_mixture(data.mixture, names)
    for name in data.val_sources or ():
        if name not in names:
            raise BadInput(f"data.val_sources: no source {name!r}{did_you_mean(name, names)}")
    if data.val_sources and data.val_paths:
        raise BadInput("data.val_sources and data.val_paths exclude each other: the validation set "
                       "is held out of sources, or is files of its own")
