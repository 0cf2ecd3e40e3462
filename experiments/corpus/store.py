"""
A tokenised corpus on disk. It has these files:

    tokens-00000.bin …    uint16 or uint32 tokens; every document is followed by its end
    documents.bin         one DOCUMENT entry per document
    checksums.bin         one CRC-32 per block of the files above
    meta.json             sizes, sets and the report; written last

A small store is verified as a whole when it is opened. In a large one each block is verified when
it is first read, so a process only checks what it uses.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np

from experiments.corpus.clean import DOCUMENT, Digest
from experiments.corpus.report import Report
from mingpt.utils import BadInput, write_atomic

SHARD = 1 << 27       # tokens per file (256 MB in uint16)
MAX_SETS = 1000       # most sets that are counted by name; further ones are counted as OTHER
OTHER = "other"
BLOCK = 1 << 16       # bytes per checksum


class DamagedStore(ValueError):
    """A file of a store differs from what was written."""


class Checksums:
    """Appends to a file and computes the CRC-32 of each of its blocks."""

    def __init__(self, path: Path):
        self.file = open(path, "wb")   # noqa: SIM115 (closed in close)
        self.blocks: list[int] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append data."""
        self.file.write(data)
        view = memoryview(data)
        while view:
            inside = self.size % BLOCK
            part, view = view[:BLOCK - inside], view[BLOCK - inside:]
            if inside:
                self.blocks[-1] = zlib.crc32(part, self.blocks[-1])
            else:
                self.blocks.append(zlib.crc32(part))
            self.size += len(part)

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Writer:
    """Appends digests to a folder. `close` turns the folder into a store."""

    def __init__(self, folder: Path, dtype: np.dtype):
        self.folder, self.dtype, self.sets = folder, dtype, {}
        self.shards: list[int] = []           # the number of tokens in each
        self.documents = 0
        self.hash = hashlib.blake2b(digest_size=16)
        self._files: list[Checksums] = []     # the shards' files; only the last one is open
        self._documents = Checksums(folder / "documents.bin")

    def add(self, digest: Digest) -> None:
        """Append a digest's documents, in order."""
        if not digest.ids:
            return
        rows = [(tokens, size, self._set(name), *hashes)
                for tokens, size, name, *hashes in digest.rows]
        entries = np.array(rows, DOCUMENT)
        self.hash.update(np.ascontiguousarray(entries["hash"]).tobytes())
        self._documents.write(entries.tobytes())
        self.documents += len(entries)
        if not self.shards or self.shards[-1] >= SHARD:   # no document is split between shards
            self._next_shard()
        tokens = np.concatenate(digest.ids).astype(self.dtype)
        self.shards[-1] += len(tokens)
        self._files[-1].write(tokens.tobytes())

    def _set(self, name: str) -> int:
        if name not in self.sets and len(self.sets) >= MAX_SETS:
            name = OTHER
        return self.sets.setdefault(name, len(self.sets))

    def _next_shard(self) -> None:
        if self._files:
            self._files[-1].close()
        self._files.append(Checksums(self.folder / f"tokens-{len(self.shards):05d}.bin"))
        self.shards.append(0)

    def close(self, report: Report) -> None:
        """Flush all files, and write checksums.bin and meta.json."""
        for file in (*self._files[-1:], self._documents):
            file.close()
        sums = np.array([crc for file in (self._documents, *self._files) for crc in file.blocks],
                        "<u4").tobytes()
        write_atomic(self.folder / "checksums.bin", sums)
        meta = {"shards": self.shards, "documents": self.documents, "sets": list(self.sets),
                "dtype": self.dtype.name,
                "hash": self.hash.hexdigest(), "checksums": zlib.crc32(sums),
                "report": report.to_json()}
        write_atomic(self.folder / "meta.json", json.dumps({**meta, "checksum": _checksum(meta)}))


def _checksum(meta: dict) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


class Store:
    """A finished store, mapped into memory, so that tokens are read only when they are used. Raises
    FileNotFoundError or ValueError where the store is not complete."""

    def __init__(self, folder: Path):
        meta = _read_meta(folder / "meta.json")
        self.folder, self.hash, self.sets = folder, meta["hash"], meta["sets"]
        self.report = Report.from_json(meta["report"])
        dtype = np.dtype(meta["dtype"])
        self.shards = [_mapped(folder / f"tokens-{n:05d}.bin", dtype, size)
                       for n, size in enumerate(meta["shards"])]
        self.documents = _mapped(folder / "documents.bin", DOCUMENT, meta["documents"])
        tokens = {f"tokens-{n:05d}.bin": shard for n, shard in enumerate(self.shards)}
        files = {"documents.bin": self.documents, **tokens}
        documents, *self._blocks = _blocks(folder, files, meta["checksums"])
        documents.verify_all()
        ends = np.cumsum(self.documents["tokens"], dtype=np.int64)
        # Each document's first token, counted over all shards.
        self.starts = ends - self.documents["tokens"]
        self.shard_starts = np.cumsum([0, *meta["shards"]])[:-1]

    @property
    def nbytes(self) -> int:
        """The bytes of all tokens."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def folders(self) -> list[Path]:
        """The folders of the token caches."""
        return [self.folder]

    def verify(self) -> None:
        """Read all tokens, and raise DamagedStore where they differ from what was written."""
        for blocks in self._blocks:
            blocks.verify_all()

    def shard_of(self, token: np.ndarray | int) -> np.ndarray:
        """The number of the shard that holds a token; tokens are counted over all shards."""
        return np.searchsorted(self.shard_starts, token, side="right") - 1

    def read(self, start: int, length: int) -> np.ndarray:
        """`length` tokens from `start`, counted over all shards. They must be in one shard. Raises
        BadInput where the file is damaged there."""
        shard = int(self.shard_of(start))
        local = start - int(self.shard_starts[shard])
        tokens = self.shards[shard]
        try:
            self._blocks[shard].verify(local * tokens.itemsize, (local + length) * tokens.itemsize)
        except DamagedStore as damage:
            # Without meta.json the next process finds no store and builds it again.
            (self.folder / "meta.json").unlink(missing_ok=True)
            raise BadInput(f"the token cache is damaged: {damage}: run the same command again to "
                           f"tokenise the text once more") from None
        return tokens[local:local + length]


class Blocks:
    """The blocks of one mapped file, their checksums, and which of them this process has already
    verified."""

    def __init__(self, path: Path, data: np.ndarray, sums: np.ndarray):
        self.path, self.sums = path, sums
        self.bytes = data.view(np.uint8) if data.size else np.zeros(0, np.uint8)
        self.verified = np.zeros(len(sums), bool)

    def verify(self, start: int, stop: int) -> None:
        """Raise Damaged where a block of bytes[start:stop] differs from what was written."""
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            if not self.verified[block]:
                if zlib.crc32(self.bytes[block * BLOCK:(block + 1) * BLOCK]) != self.sums[block]:
                    raise DamagedStore(f"{self.path}: the checksum of the block at byte "
                                  f"{block * BLOCK:,} differs")
                self.verified[block] = True

    def verify_all(self) -> None:
        """Verify the whole file."""
        self.verify(0, self.bytes.size)


def _blocks(folder: Path, files: dict[str, np.ndarray], checksum: int) -> list[Blocks]:
    """The Blocks of each file, with its part of checksums.bin."""
    raw = (folder / "checksums.bin").read_bytes()
    counts = [-(-data.nbytes // BLOCK) for data in files.values()]
    if zlib.crc32(raw) != checksum or len(raw) != 4 * sum(counts):
        raise DamagedStore(f"{folder / 'checksums.bin'}: differs from what was written")
    parts = np.split(np.frombuffer(raw, "<u4"), np.cumsum(counts)[:-1])
    return [Blocks(folder / name, data, sums)
            for (name, data), sums in zip(files.items(), parts, strict=True)]


def _read_meta(path: Path) -> dict:
    meta = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or meta.pop("checksum", None) != _checksum(meta):
        raise DamagedStore(f"{path}: differs from what was written")
    return meta


def _mapped(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    if path.stat().st_size != size * dtype.itemsize:
        raise DamagedStore(f"{path} has {path.stat().st_size} bytes, not {size * dtype.itemsize}")
    return np.memmap(path, dtype, "r", shape=(size,)) if size else np.zeros(0, dtype)
