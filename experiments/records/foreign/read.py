"""
Read runs that other programs logged. Each format has one file beside this one, and the content of a
log decides which it is, not its name.

    logs = read_logs(["runs/"])
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from experiments.records.foreign import (
    autoresearch,
    huggingface,
    lingua,
    llmc,
    modded_nanogpt,
    nanochat,
    nanogpt,
    tables,
    tensorboard,
    wandb_export,
    wandb_offline,
)
from experiments.records.foreign.log import HEAD, Log, lines, printable
from mingpt.utils import BadInput

BINARY = (tensorboard, wandb_offline)
# The first that claims a file reads it: `tables` claims every table with known column names.
TABLES = (autoresearch, huggingface, lingua, wandb_export, tables)
LINES = (nanogpt, modded_nanogpt, llmc, nanochat)
MAX_FILES = 20_000

__all__ = ["Log", "read_logs", "reader"]


def read_logs(paths: Iterable[str | Path], columns: Mapping[str, str] | None = None) -> list[Log]:
    """Return every run in some files and folders, in order of name. `columns` names the columns of
    CSV and JSONL files (tables.named).

    Files of a folder that are no logs are skipped. Raises BadInput where a path does not exist, a
    file that was named is no log, or a folder holds none.
    """
    found: list[Log] = []
    for path in map(Path, paths):
        if not path.exists():
            raise BadInput(f"there is no {path}")
        logs = [log for file in _files(path) for log in _read(file, columns, path.is_dir())]
        if not logs:
            raise BadInput(f"{path}: {_why_none(path)}")
        found += logs
    return found


def holds_logs(path: Path) -> bool:
    """Return whether a file or folder holds a log of a known program, with at least one row.
    Nothing is refused here."""
    try:
        return any(_read(file, None, True) for file in _files(path))
    except (BadInput, OSError):
        return False


def reader(path: Path):
    """Return the module that reads a file; None where no format fits."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    for module in BINARY:
        if module.claims_bytes(head[:300]):
            return module
    if b"\0" in head[:4096]:
        return None
    # lines may end in "\r", as those of progress bars do
    text = head.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    for module in TABLES:
        if module.claims(text):
            return module
    counts = dict.fromkeys(LINES, 0)
    for line in lines(path, 4 * HEAD):
        for module in LINES:
            counts[module] += module.line(line) is not None
    best = max(counts, key=counts.get)
    return best if counts[best] else None


def _files(path: Path) -> Iterator[Path]:
    """Yield the files of a folder and the folders in it, in order, except hidden ones and links to
    folders."""
    if path.is_file():
        yield path
        return
    count = 0
    for root, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            if name[0] != "." and (Path(root) / name).is_file():
                count += 1
                if count > MAX_FILES:
                    raise BadInput(f"{path} holds more than {MAX_FILES:,} files; name a folder "
                                   "with fewer")
                yield Path(root) / name


def _read(path: Path, columns: Mapping[str, str] | None, in_folder: bool) -> list[Log]:
    try:
        module = reader(path)
        if columns and module not in BINARY + LINES:
            head = next(lines(path), "")
            table = head.lstrip().startswith("{") or tables.header(head)
            module = tables if table else None
        if module is tables:
            return tables.read(path, columns)
        return module.read(path) if module else []
    except OSError as error:
        if in_folder:
            return []
        raise BadInput(f"{path}: {error.strerror}") from None


def _why_none(path: Path) -> str:
    """Return why nothing was found, and what would help."""
    if path.is_dir():
        return ("no training log in this folder; the formats are listed in docs/judge.md, and "
                "--columns step=NAME,val_loss=NAME reads any CSV or JSONL")
    if path.stat().st_size == 0:
        return "an empty file"
    columns = tables.header("\n".join(lines(path, 1 << 16)))
    if columns:
        shown = printable(", ".join(columns[:12]))
        return (f"no log of a known program; name its columns: --columns "
                f"step=NAME,val_loss=NAME (it has {shown})"[:400])
    return "no log of a known program; docs/judge.md lists the formats"
