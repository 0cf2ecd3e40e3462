"""
Packs documents into rows of T + 1 tokens. The inputs are all tokens but the last, the targets all
but the first.

`PACKS`, at the end of this file, lists the values of `data.pack`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from experiments.corpus.store import Store
from mingpt.utils import IGNORE_INDEX, BadInput


class Pack(ABC):
    """Rows made from some of a store's documents. `count` is the number of rows per epoch."""

    count: int

    def __init__(self, store: Store, block_size: int):
        self.store, self.block_size = store, block_size

    @abstractmethod
    def rows(self, i: np.ndarray, offset: int) -> np.ndarray:
        """The rows with numbers i, int64 [len(i), T + 1], padded with IGNORE_INDEX. `offset` shifts
        the beginnings of the blocks."""

    @staticmethod
    @abstractmethod
    def held_out(store: Store, documents: np.ndarray, block_size: int, max_tokens: int,
                 eot: int) -> tuple:
        """The rows of a validation set: (rows [n, T + 1], the document of each target [n, T] or
        −1). They hold the first `max_tokens` targets of the documents."""


class Stream(Pack):
    """Documents end to end, each followed by its end-of-document token, which the model learns like
    any other. The stream is a ring. An offset shifts all blocks along it, so the edges of the
    blocks differ between epochs."""

    def __init__(self, store: Store, train: np.ndarray, block_size: int):
        super().__init__(store, block_size)
        numbers = np.flatnonzero(train)
        shard = store.shard_of(store.starts[numbers])
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shard) != 0)) + 1
        firsts, lasts = numbers[np.r_[0, breaks]], numbers[np.r_[breaks - 1, len(numbers) - 1]]
        self.starts = store.starts[firsts]           # each run of adjacent documents in the store
        ends = np.cumsum(store.starts[lasts] + store.documents["tokens"][lasts] - self.starts)
        # Each run's first position in the stream.
        self.begins, self.tokens = np.r_[0, ends[:-1]], int(ends[-1])
        self.count = self.tokens // block_size if self.tokens > block_size else 0
        if not self.count:
            raise BadInput(f"--data holds {self.tokens:,} training tokens: one block needs "
                           f"{block_size + 1:,} (give more text, or a smaller "
                           f"--model.block_size=…)")

    def rows(self, i: np.ndarray, offset: int) -> np.ndarray:
        return np.stack([self._read((offset + int(n) * self.block_size) % self.tokens) for n in i])

    def _read(self, place: int) -> np.ndarray:
        """T + 1 tokens of the ring, starting at `place`."""
        out, filled = np.empty(self.block_size + 1, np.int64), 0
        run = int(np.searchsorted(self.begins, place, side="right")) - 1
        skip = place - int(self.begins[run])
        while filled < len(out):
            end = int(self.begins[run + 1]) if run + 1 < len(self.begins) else self.tokens
            take = min(len(out) - filled, end - int(self.begins[run]) - skip)
            out[filled:filled + take] = self.store.read(int(self.starts[run]) + skip, take)
            filled, run, skip = filled + take, (run + 1) % len(self.begins), 0
        return out

    @staticmethod
    def held_out(store: Store, documents: np.ndarray, block_size: int, max_tokens: int,
                 eot: int) -> tuple:
        """Every token is predicted once. An end-of-document token comes before the first, to
        predict it from."""
        lengths = store.documents["tokens"][documents].astype(np.int64)
        used = documents[:int(np.searchsorted(np.cumsum(lengths), max_tokens)) + 1]
        targets = np.concatenate([
            store.read(int(store.starts[d]), int(store.documents["tokens"][d])) for d in used])
        owner = np.repeat(used, store.documents["tokens"][used])[:max_tokens]
        targets = targets[:max_tokens].astype(np.int64)
        n = -(-len(targets) // block_size)
        stream = np.full(n * block_size + 1, IGNORE_INDEX)
        stream[:len(targets) + 1] = np.r_[eot, targets]
        owners = np.full(n * block_size, -1)
        owners[:len(owner)] = owner
        rows = np.lib.stride_tricks.sliding_window_view(stream, block_size + 1)[::block_size]
        return rows, owners.reshape(n, block_size)


class Truncate(Pack):
    """One row per document, as in study 002: its first T + 1 tokens, padded. The end-of-document
    token is not learned."""

    def __init__(self, store: Store, train: np.ndarray, block_size: int):
        super().__init__(store, block_size)
        self.numbers = _two_tokens(store, np.flatnonzero(train))
        self.count = len(self.numbers)
        if not self.count:
            raise BadInput("--data holds no training document of two tokens or more")

    def rows(self, i: np.ndarray, offset: int) -> np.ndarray:
        return _truncated(self.store, self.numbers[i], self.block_size)

    @staticmethod
    def held_out(store: Store, documents: np.ndarray, block_size: int, max_tokens: int,
                 eot: int) -> tuple:
        """One row per document, for as many documents as fit into `max_tokens` targets, and at
        least one."""
        documents = _two_tokens(store, documents)
        if not len(documents):
            raise BadInput("--data holds no validation document of two tokens or more: give a "
                           "larger --data.val_fraction=…")
        targets = np.minimum(store.documents["tokens"][documents].astype(np.int64) - 2, block_size)
        fits = max(1, int(np.searchsorted(np.cumsum(targets), max_tokens, side="right")))
        rows = _truncated(store, documents[:fits], block_size)
        return rows, np.where(rows[:, 1:] == IGNORE_INDEX, -1, documents[:fits, None])


def _two_tokens(store: Store, documents: np.ndarray) -> np.ndarray:
    """The documents of at least two tokens, which predict at least one. A stored document has one
    token more, its end."""
    return documents[store.documents["tokens"][documents] > 2]


def _truncated(store: Store, documents: np.ndarray, block_size: int) -> np.ndarray:
    out = np.full((len(documents), block_size + 1), IGNORE_INDEX)
    for row, d in zip(out, documents, strict=True):
        length = min(int(store.documents["tokens"][d]) - 1, block_size + 1)
        row[:length] = store.read(int(store.starts[d]), length)
    return out


PACKS: dict[str, type[Pack]] = {"stream": Stream, "truncate": Truncate}
