"""
Configuration, seeding, atomic writes and the error that the user sees.

`CfgNode`, `set_seed` and `setup_logging` keep minGPT's interface. torch is imported only where it
is used, so that `lab.py --help` and the plotter start fast.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import stat
import sys
import tempfile
from ast import literal_eval
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

IGNORE_INDEX = -1   # a target that does not count in the loss, as in minGPT
MOST_BYTES = 256 << 20   # a settings, record or table file is far smaller
NONBLOCK = getattr(os, "O_NONBLOCK", 0)   # a pipe without a writer then opens at once


class BadInput(Exception):
    """The user gave something wrong. The message is one line: what is wrong, where, and the nearest
    valid value. Programs print it and exit with code 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the known name nearest to `word`, or all known names if none
    is near. Upper and lower case count as the same."""
    lowered = {str(k).lower(): str(k) for k in known}
    near = difflib.get_close_matches(str(word).lower(), lowered, n=1, cutoff=0.6)
    return (f": did you mean {lowered[near[0]]!r}?" if near
            else f"; known: {', '.join(lowered.values())}")


def write_atomic(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file so that a kill at any moment leaves either the whole old file or the whole new
    one. Makes its folder if need be. Text is written as UTF-8. A byte of a file's name that is not
    UTF-8 is written as an escape, which JSON reads back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file for reading. Raises BadInput for anything else, because a pipe would wait
    for a writer and a device may never end; OSError as `open` does."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | NONBLOCK))  # noqa: SIM115
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise BadInput(f"{path} is {kind}, not a file")
    return file


def read_file(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises BadInput as `open_file` does, and for a file of more
    than `most` bytes."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadInput(f"{path} is larger than {most >> 20} MB, the most that is read")
    return data


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file. Raises ValueError where it is not JSON in UTF-8, and BadInput and
    OSError as `read_file` does."""
    try:
        return json.loads(read_file(path).decode("utf-8"), parse_int=_integer)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _integer(digits: str) -> int | float:
    """A whole number of JSON. One that no float holds becomes infinite, so it can be compared and
    written like any other."""
    return int(digits) if len(digits) <= 300 else float(digits)


def _umask() -> int:
    """The process's file mode mask."""
    mask = os.umask(0)   # it can be read only by setting it
    os.umask(mask)
    return mask


def set_seed(seed: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    import torch
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)   # seeds every device's generator


def setup_logging(config: CfgNode) -> None:
    """Make the folder `config.system.work_dir`, and write the command line (args.txt) and the
    configuration (config.json) into it."""
    work_dir = Path(config.system.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(work_dir / "args.txt", " ".join(sys.argv))
    write_atomic(work_dir / "config.json", json.dumps(config.to_dict(), indent=4))


def parse_value(text: str) -> Any:
    """'3' → 3, 'None' → None, '[1, 2]' → [1, 2], 'true' → True. Text that is not a Python literal,
    such as a name or a path, stays a string."""
    if text in ("true", "false"):   # as TOML and the shell write them
        return text == "true"
    try:
        return literal_eval(text)
    # everything that literal_eval can raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


class CfgNode:
    """A small tree of settings: a setting is an attribute, a section is a CfgNode. It prints as an
    indented list, and `--a.b=value` arguments can override it."""

    def __init__(self, **kwargs: Any):
        self.__dict__.update(kwargs)

    def __str__(self) -> str:
        return self._str_helper(0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CfgNode) and self.to_dict() == other.to_dict()

    __hash__ = None   # not hashable, because it is mutable

    def _str_helper(self, indent: int) -> str:
        pad, parts = " " * (indent * 4), []
        for k, v in self.__dict__.items():
            if isinstance(v, CfgNode):
                parts.append(f"{pad}{k}:\n" + pad + v._str_helper(indent + 1))
            else:
                parts.append(f"{pad}{k}: {v}\n")
        return "".join(parts)

    def to_dict(self) -> dict:
        """Return the same tree as nested dicts."""
        return {k: v.to_dict() if isinstance(v, CfgNode) else v for k, v in self.__dict__.items()}

    def merge_from_dict(self, d: dict) -> None:
        """Set this node's attributes from a dict, without checks, as minGPT does."""
        self.__dict__.update(d)

    def merge_from_args(self, args: list[str]) -> None:
        """Override settings from `--section.key=value` arguments. The value may contain `=` or be a
        path. Raises AssertionError for an unknown setting and AttributeError for an unknown
        section."""
        for arg in args:
            key, equals, text = arg.partition("=")
            assert equals, f"expecting each override arg to be of form --arg=value, got {arg}"
            assert key[:2] == "--"
            key, val = key[2:], parse_value(text)
            *sections, leaf = key.split(".")
            node = self
            for name in sections:
                node = getattr(node, name)
            assert hasattr(node, leaf), f"{key} is not an attribute that exists in the config"
            print(f"command line overwriting config attribute {key} with {val}")
            setattr(node, leaf, val)
