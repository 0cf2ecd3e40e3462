"""
Which documents are trained on, and which are held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mingpt.utils import BadInput


@dataclass(frozen=True)
class Split:
    """`train`: one bool per document. `val`: numbers of held-out documents, in the order they are
    evaluated. `dropped`: training documents left out because a held-out one has the same text.
    `near_copies`: those left out because a held-out one differs from them only in white space."""
    train: np.ndarray
    val: np.ndarray
    dropped: int
    by: str
    near_copies: int = 0


def split(hashes: np.ndarray, val_fraction: float, val_docs: int | None,
          near: np.ndarray | None = None) -> Split:
    """Split documents (uint64 [n]) by hash, or hold out the last `val_docs`.

    `near` (uint64 [n], default: hashes) is equal for documents that differ only in white space. It
    never changes which documents are held out, so validation sets stay fixed; it takes near-copies
    of them out of training.

    Held-out documents are evaluated in the order of their hashes: a sample of all files and sets,
    however they are ordered, whose first tokens are a fixed validation set of any length.
    """
    if not len(hashes) or hashes.min() == hashes.max():
        found = "no document" if not len(hashes) else "only one document (or copies of it)"
        raise BadInput(f"--data holds {found}: training and validation need one each")
    train, val = _last(hashes, val_docs) if val_docs is not None else _by_hash(hashes, val_fraction)
    near_copy = train & np.isin(near, near[val]) if near is not None else np.zeros(len(hashes),
                                                                                   bool)
    if near_copy.sum() == train.sum():
        raise BadInput("--data: every training document differs from a held-out one only in white "
                       "space: "
                       "give more documents")
    held = np.flatnonzero(val)
    held = held[np.argsort(hashes[held], kind="stable")]
    by = (f"the last {val_docs:,} documents" if val_docs is not None
          else f"hash below {val_fraction:g}")
    dropped = int(len(hashes) - train.sum() - val.sum())
    return Split(train & ~near_copy, held, dropped, by, int(near_copy.sum()))


def _by_hash(hashes: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """A document's side follows from its text: copies fall on one side, and stay there when the
    file grows. A tiny corpus holds out at least its document of lowest hash."""
    if not 0 < fraction < 1:
        raise BadInput(f"data.val_fraction={fraction}: give a share between 0 and 1, such as 0.05")
    limit = max(int(fraction * 2.0 ** 64), int(hashes.min()) + 1)
    # and at least one document is trained on
    val = hashes < np.uint64(min(limit, int(hashes.max())))
    return ~val, val


def _last(hashes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The last documents of the corpus; copies of them elsewhere are not trained on."""
    if not 0 < count < len(hashes):
        raise BadInput(f"data.val_docs={count}: give 1 to {len(hashes) - 1}, since the corpus has "
                       f"{len(hashes):,} documents")
    val = np.arange(len(hashes)) >= len(hashes) - count
    train = ~val & ~np.isin(hashes, hashes[val])
    if not train.any():
        raise BadInput(f"data.val_docs={count}: every other document is a copy of a held-out one")
    return train, val
