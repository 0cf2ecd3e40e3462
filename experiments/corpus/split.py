"""
Splits the documents into those to train on and those held out for validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mingpt.utils import BadInput


@dataclass(frozen=True)
class Split:
    """A split. `train` has one bool per document. `val` holds the numbers of the held-out
    documents, in the order of evaluation. `dropped` counts the documents that are left out of
    training because a held-out one has the same text. `near_copies` counts those left out because a
    held-out one differs only in white space. `filtered` counts those that data.filter or data.dedup
    leaves out."""
    train: np.ndarray
    val: np.ndarray
    dropped: int
    by: str
    near_copies: int = 0
    filtered: int = 0


def split(hashes: np.ndarray, val_fraction: float, val_docs: int | None,
          near: np.ndarray | None = None) -> Split:
    """Split documents, given by their hashes (uint64 [n]), or hold out the last `val_docs`. Raises
    BadInput where one side would be empty.

    `near` (uint64 [n], default: hashes) is equal for documents that differ only in white space. It
    takes near-copies of held-out documents out of training. It never changes which documents are
    held out, so validation sets stay fixed.

    Held-out documents are evaluated in the order of their hashes. They are thus a sample of all
    files and sets, in whatever order those come, and any number of their first tokens is a fixed
    validation set.
    """
    if not len(hashes) or hashes.min() == hashes.max():
        found = "no document" if not len(hashes) else "only one document (or copies of it)"
        raise BadInput(f"--data holds {found}: training and validation need one each")
    train, val = _last(hashes, val_docs) if val_docs is not None else _by_hash(hashes, val_fraction)
    near_copy = (train & np.isin(near, near[val]) if near is not None
                 else np.zeros(len(hashes), bool))
    if near_copy.sum() == train.sum():
        raise BadInput("--data: every training document differs from a held-out one only in white "
                       "space: give more documents")
    held = np.flatnonzero(val)
    held = held[np.argsort(hashes[held], kind="stable")]
    by = (f"the last {val_docs:,} documents" if val_docs is not None
          else f"hash below {val_fraction:g}")
    dropped = int(len(hashes) - train.sum() - val.sum())
    return Split(train & ~near_copy, held, dropped, by, int(near_copy.sum()))


def hold_out(which: str, count: int) -> Split:
    """The split of `count` documents that holds out "none" or "all" of them."""
    everything = np.full(count, which == "none")
    held = np.arange(count) if which == "all" else np.arange(0)
    return Split(everything, held, 0, f"{which} of the documents")


def _by_hash(hashes: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split by hash. A document's text decides its side, so copies are on one side and stay there
    when the file grows. A tiny corpus holds out at least the document with the lowest hash."""
    if not 0 < fraction < 1:
        raise BadInput(f"data.val_fraction={fraction}: give a share between 0 and 1, such as 0.05")
    limit = max(int(fraction * 2.0 ** 64), int(hashes.min()) + 1)
    # At least one document remains to train on.
    val = hashes < np.uint64(min(limit, int(hashes.max())))
    return ~val, val


def _last(hashes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the last documents of the corpus. Copies of them elsewhere are left out of
    training."""
    if not 0 < count < len(hashes):
        raise BadInput(f"data.val_docs={count}: give 1 to {len(hashes) - 1}, since the corpus has "
                       f"{len(hashes):,} documents")
    val = np.arange(len(hashes)) >= len(hashes) - count
    train = ~val & ~np.isin(hashes, hashes[val])
    if not train.any():
        raise BadInput(f"data.val_docs={count}: every other document is a copy of a held-out one")
    return train, val
