"""
A tokenised corpus on disk: `tokens-00000.bin`… (uint16 or uint32, every document followed by its end),
`documents.bin` (one DOCUMENT entry each) and `meta.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from experiments.corpus.clean import DOCUMENT, Digest
from experiments.corpus.report import Report
from mingpt.utils import write_atomic

SHARD = 1 << 27       # tokens a file (256 MB in uint16)
MAX_SETS = 1000       # more set names than this are no sets: the rest are counted together
OTHER = "other"


class Writer:
    """Appends digests to a folder; `close` makes it a store."""

    def __init__(self, folder: Path, dtype: np.dtype):
        self.folder, self.dtype, self.sets = folder, dtype, {}
        self.shards: list[int] = []           # tokens in each
        self.documents = 0
        self.hash = hashlib.blake2b(digest_size=16)
        self._tokens = None
        self._documents = open(folder / "documents.bin", "wb")   # noqa: SIM115 (closed in close)

    def add(self, digest: Digest) -> None:
        """Append a digest's documents, in order."""
        if not digest.ids:
            return
        rows = [(tokens, size, self._set(name), *hashes) for tokens, size, name, *hashes in digest.rows]
        entries = np.array(rows, DOCUMENT)
        self.hash.update(np.ascontiguousarray(entries["hash"]).tobytes())
        self._documents.write(entries.tobytes())
        self.documents += len(entries)
        if self._tokens is None or self.shards[-1] >= SHARD:   # a document lies in one shard
            self._next_shard()
        tokens = np.concatenate(digest.ids).astype(self.dtype)
        self.shards[-1] += len(tokens)
        self._tokens.write(tokens.tobytes())

    def _set(self, name: str) -> int:
        if name not in self.sets and len(self.sets) >= MAX_SETS:
            name = OTHER
        return self.sets.setdefault(name, len(self.sets))

    def _next_shard(self) -> None:
        if self._tokens is not None:
            _sync(self._tokens)
        self._tokens = open(self.folder / f"tokens-{len(self.shards):05d}.bin", "wb")   # noqa: SIM115
        self.shards.append(0)

    def close(self, report: Report) -> None:
        """Flush all, and write what the folder holds."""
        for file in filter(None, (self._tokens, self._documents)):
            _sync(file)
        meta = {"shards": self.shards, "documents": self.documents, "sets": list(self.sets), "dtype": self.dtype.name,
                "hash": self.hash.hexdigest(), "report": report.to_json()}
        write_atomic(self.folder / "meta.json", json.dumps(meta))


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


class Store:
    """A finished store, mapped into memory: nothing is read before it is used."""

    def __init__(self, folder: Path):
        meta = json.loads((folder / "meta.json").read_text())
        self.folder, self.hash, self.sets = folder, meta["hash"], meta["sets"]
        self.report = Report.from_json(meta["report"])
        dtype = np.dtype(meta["dtype"])
        self.shards = [_mapped(folder / f"tokens-{n:05d}.bin", dtype, size) for n, size in enumerate(meta["shards"])]
        self.documents = _mapped(folder / "documents.bin", DOCUMENT, meta["documents"])
        ends = np.cumsum(self.documents["tokens"], dtype=np.int64)
        self.starts = ends - self.documents["tokens"]     # of each document among all tokens, end to end
        self.shard_starts = np.cumsum([0, *meta["shards"]])[:-1]

    def shard_of(self, token: np.ndarray | int) -> np.ndarray:
        """In which shard a token lies, counted over all shards."""
        return np.searchsorted(self.shard_starts, token, side="right") - 1

    def read(self, start: int, length: int) -> np.ndarray:
        """`length` tokens from `start`, counted over all shards; they must lie in one shard."""
        shard = int(self.shard_of(start))
        local = start - int(self.shard_starts[shard])
        return self.shards[shard][local:local + length]


def _mapped(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, not {size * dtype.itemsize}")
    return np.memmap(path, dtype, "r", shape=(size,)) if size else np.zeros(0, dtype)
