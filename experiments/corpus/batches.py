"""
Training batches. The tokens of step t under seed s are a pure function of (s, t).
"""

from __future__ import annotations

import numpy as np

from experiments.corpus.packing import IGNORE_INDEX, Pack

ROUNDS = 6   # rounds of the Feistel network; four already look random


def split_rows(rows: np.ndarray, eot: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [B, T + 1], padded with IGNORE_INDEX → inputs x and targets y, int64 [B, T]. In x, eot
    replaces the padding."""
    x, y = rows[:, :-1], rows[:, 1:]
    return np.where(x == IGNORE_INDEX, eot, x), y.copy()


class TrainBatches:
    """Shuffled batches without end. Every epoch uses each block once, in its own order and from its
    own offset."""

    def __init__(self, pack: Pack, batch_size: int, seed: int, eot: int):
        self.pack, self.batch_size, self.seed, self.eot = pack, batch_size, seed, eot
        self.blocks_per_epoch = pack.count
        self.positions_per_batch = batch_size * pack.block_size   # padding included

    def batch(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of step t (from 0), int64 [batch_size, block_size] each. Every t costs
        the same."""
        sample = np.arange(t * self.batch_size, (t + 1) * self.batch_size)
        return split_rows(self.rows_at(sample), self.eot)

    def used(self, batches: int) -> dict[str, float]:
        """What the first `batches` batches take of the text: rows, and how often all of it is
        read."""
        rows = batches * self.batch_size
        return {"rows": rows, "epochs": rows / self.blocks_per_epoch}

    def rows_at(self, sample: np.ndarray) -> np.ndarray:
        """The rows with these numbers, counted from the start of training in rising order: int64
        [len(sample), T + 1]."""
        epochs, places = np.divmod(sample, self.blocks_per_epoch)
        rows = [self._rows(int(epoch), places[epochs == epoch]) for epoch in np.unique(epochs)]
        return np.concatenate(rows)

    def _rows(self, epoch: int, places: np.ndarray) -> np.ndarray:
        offset, *keys = np.random.SeedSequence([self.seed, epoch]).generate_state(1 + ROUNDS,
                                                                                  np.uint64)
        return self.pack.rows(shuffled(places, self.blocks_per_epoch, keys),
                              int(offset % np.uint64(2 ** 62)))


def shuffled(i: np.ndarray, n: int, keys: list[np.uint64]) -> np.ndarray:
    """The places to which a pseudo-random permutation of 0 … n − 1 sends i. The permutation itself
    is never stored.

    A Feistel network permutes the numbers below the next power of four. A result of n or more goes
    through the network again until it is below n; the whole is still a permutation.
    """
    half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
    out = _feistel(i.astype(np.uint64), half, keys)
    while (outside := out >= np.uint64(n)).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def _feistel(i: np.ndarray, half: np.uint64, keys: list[np.uint64]) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = i >> half, i & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(z: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output
    bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
