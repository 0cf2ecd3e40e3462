"""
The code files of the user that this process has run (`--code`), and what a run's record says of
them. declare/members.py runs such a file; nothing here does. Does not need torch.

A record keeps a file's name, hash and text, but only of a file from which the run uses a member.
The text is there to be read. This program never runs it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records.record import at
from mingpt.utils import BadInput

DIGITS = 12     # of a hash, as messages show it
NOT_USED = "not used"


@dataclass(frozen=True)
class CodeFile:
    """A code file that was run. `members` are the names that it adds to each slot, such as
    {"model.norm": ("dyt",)}. `options` are the settings that only its members have, with their
    defaults, such as {"model.dyt_alpha": 0.5}."""
    path: Path
    sha256: str
    text: str
    members: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any]

    def used(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration, {section: {key: value}}, names one of the file's members."""
        return any(at(config, *slot.split(".")) in names for slot, names in self.members.items())


LOADED: list[CodeFile] = []    # in the order in which they were run


def loaded(path: Path, sha256: str) -> bool:
    """Whether this file, with this content, was run already."""
    return any(file.path == path and file.sha256 == sha256 for file in LOADED)


# -- what a record says ----------------------------------------------------------------------------

def describe(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that a configuration uses, for a record: name, path, sha256, members and text."""
    return [{"name": file.path.name, "path": str(file.path), "sha256": file.sha256,
             "members": {slot: list(names) for slot, names in file.members.items()},
             "text": file.text} for file in LOADED if file.used(config)]


def identify(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The same for a checkpoint: only name and sha256."""
    return named({"code_files": describe(config)})


def named(record: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Name and sha256 of every code file that a record or a checkpoint's state mentions."""
    files = at(record, "code_files")
    return [{"name": str(at(file, "name")), "sha256": str(at(file, "sha256"))}
            for file in (files if isinstance(files, list) else [])]


def without_unused(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, {section: {key: value}}, without the options of files that it does not use.
    The record of such a run is then the same as without the file."""
    kept = {key for file in LOADED if file.used(config) for key in file.options}
    idle = {key for file in LOADED for key in file.options} - kept
    return {section: {key: value for key, value in values.items()
                      if f"{section}.{key}" not in idle} for section, values in config.items()}


# -- comparing -------------------------------------------------------------------------------------

def changed(was: list[dict[str, str]], now: list[dict[str, str]]) -> dict[str, list[str]]:
    """The code files of two runs that differ: {"code NAME": [its hash then, its hash now]}. A file
    is the same if its content is, whatever its name."""
    same = {file["sha256"] for file in was} & {file["sha256"] for file in now}
    old, new = ({file["name"]: file["sha256"][:DIGITS] for file in files
                 if file["sha256"] not in same} for files in (was, now))
    return {f"code {name}": [old.get(name, NOT_USED), new.get(name, NOT_USED)]
            for name in dict.fromkeys([*old, *new])}


def revised(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[str]]:
    """The code files that two records both mention, with other content: {"code NAME": [a's hash,
    b's hash]}."""
    return {key: pair for key, pair in changed(named(a), named(b)).items() if NOT_USED not in pair}


def require(files: list[dict[str, str]], name: str) -> None:
    """Raise BadInput unless every one of these files was run by this process. `name` is the run
    that needs them."""
    mine = {file.sha256: file for file in LOADED}
    for file in files:
        if file["sha256"] in mine:
            continue
        other = next((each for each in LOADED if each.path.name == file["name"]), None)
        if other is None:
            raise BadInput(f"{name} was trained with the code file {file['name']} (sha256 "
                           f"{file['sha256'][:DIGITS]}): give --code {file['name']}; the copy in "
                           f"the record is never run")
        raise BadInput(f"--code {other.path}: {name} was trained with another {file['name']}: "
                       f"sha256 {file['sha256'][:DIGITS]}, not {other.sha256[:DIGITS]}; its record "
                       f"holds the text as `code_files`")


# -- whose error it is -----------------------------------------------------------------------------

def place(error: BaseException, *more: Path) -> str | None:
    """'FILE:LINE' of the innermost line of a code file in an error's traceback; `more` are files
    that are being run. None where no line of a code file took part."""
    names = {str(path): path for path in (*(file.path for file in LOADED), *more)}
    lines = [(names[frame.filename], frame.lineno)
             for frame in traceback.extract_tb(error.__traceback__) if frame.filename in names]
    return f"{lines[-1][0]}:{lines[-1][1]}" if lines else None


def told(error: BaseException) -> str:
    """An error on one line: its type and its message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def blaming() -> Iterator[None]:
    """Re-raise an error of the user's own code as BadInput, with file and line in front. Others
    pass unchanged."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        if (where := place(error)) is None:
            raise
        raise BadInput(f"{where}: {told(error)}") from error
