"""
Turns the arguments of `--data` into sources. A source has a name, a size in bytes, a fingerprint,
and chunks of documents to read.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.corpus.chunks import Chunk
from experiments.corpus.hub import NAMED, HubSource
from experiments.corpus.readers import READERS
from experiments.corpus.stdlib import NAMES, StdlibSource
from mingpt.utils import BadInput, did_you_mean, open_file

WHOLE = 64 << 20    # bytes; the fingerprint of a file up to this size covers all of it
SAMPLE = 1 << 20    # bytes from the head, the middle and the tail of a larger file


@dataclass(frozen=True)
class FileSource:
    """One file. Its suffix chooses the reader."""
    path: Path

    @property
    def name(self) -> str:
        """The file's path, as messages and records show it."""
        return str(self.path)

    @property
    def size(self) -> int:
        """The file's bytes."""
        return self.path.stat().st_size

    def fingerprint(self) -> str:
        """A hash that changes when the content changes. It covers all bytes; for a large file it
        covers the size, the time of the last change and three samples. The path is not part of
        it."""
        digest = hashlib.blake2b(suffix_of(self.path).encode(), digest_size=16)
        with open(self.path, "rb") as f:
            if self.size <= WHOLE:
                digest.update(f.read())
                return digest.hexdigest()
            digest.update(f"{self.size} {self.path.stat().st_mtime_ns}".encode())
            for start in (0, self.size // 2, self.size - SAMPLE):
                f.seek(start)
                digest.update(f.read(SAMPLE))
        return digest.hexdigest()

    def chunks(self, **reading) -> Iterator[Chunk]:
        """Yield the file's content, in order, in chunks of bounded size. `reading` holds the
        options of the readers. Raises BadInput where the file cannot be read."""
        try:
            yield from READERS[suffix_of(self.path)](self.path, **reading)
        except OSError as error:
            raise BadInput(f"--data {self.path} cannot be read: "
                           f"{error.strerror or error}") from None


def suffix_of(path: Path) -> str | None:
    """The known suffix of a file's name, or None: 'a.jsonl.zst' → '.jsonl.zst'."""
    return next((s for s in sorted(READERS, key=len, reverse=True)
                 if path.name.lower().endswith(s)), None)


def resolve(
    paths: list[str] | None, max_docs: int | None
) -> list[FileSource | HubSource | StdlibSource]:
    """The sources for files, folders, globs and names of data sets, in the order given. Without
    paths it is Python's standard library. Raises BadInput where a path names nothing readable."""
    if not paths:
        return [StdlibSource()]
    return [source for path in paths for source in _resolve_one(str(path), max_docs)]


def _resolve_one(given: str, max_docs: int | None) -> list:
    path = Path(os.path.expanduser(given))
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [_file(path)]
    if given.lower() in NAMES:
        return [StdlibSource(sets=NAMES[given.lower()])]
    if given.lower() in NAMED:
        return [HubSource(given.lower(), max_docs)]
    if glob.has_magic(given):
        found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        if not found:
            raise BadInput(f"--data {given}: no file matches this pattern")
        return [s for p in found for s in (_folder(p) if p.is_dir() else [_file(p)])]
    raise BadInput(f"--data {given}: no such file{_nearest(path)}")


def _nearest(path: Path) -> str:
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    near = did_you_mean(path.name, siblings)
    if near.startswith(": did you mean"):
        return near
    return f", and no data set's name{did_you_mean(str(path), [*NAMED, *NAMES])}"


def _folder(folder: Path) -> list[FileSource]:
    inside = sorted(p for p in folder.rglob("*") if p.is_file())
    visible = (p for p in inside if not any(part.startswith(".")
                                            for part in p.relative_to(folder).parts))
    found = [FileSource(p) for p in visible if suffix_of(p)]
    if not found:
        raise BadInput(f"--data {folder}: this folder holds no file that can be read; known: "
                       f"{', '.join(READERS)}")
    return found


def _file(path: Path) -> FileSource:
    if suffix_of(path) is None:
        raise BadInput(f"--data {path}: cannot read this kind of "
                       f"file{did_you_mean(path.suffix, READERS)}")
    if not os.access(path, os.R_OK):
        raise BadInput(f"--data {path}: no permission to read it")
    open_file(path).close()     # refuses pipes and devices, which may never end
    return FileSource(path)
