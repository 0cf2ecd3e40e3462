"""
An opened corpus: its training batches, its fixed validation set, and its description for records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.corpus.batches import TrainBatches, split_rows
from experiments.corpus.joined import JoinedStore
from experiments.corpus.packing import IGNORE_INDEX, PACKS
from experiments.corpus.split import Split
from experiments.corpus.store import Store
from experiments.corpus.tokenizers import Tokenizer


@dataclass(frozen=True)
class Validation:
    """A fixed set of tokens, each predicted once. All arrays are [n, T]; where y is −1 there is
    nothing to predict.

    x and y are int64. set_id is int32: the index in `set_names` of the target's document, or −1.
    nbytes is int32: the bytes of text that the target stands for, 0 for the end of a document. Bits
    per byte are nats / ln 2 / nbytes.sum().
    """
    x: np.ndarray
    y: np.ndarray
    set_id: np.ndarray
    nbytes: np.ndarray
    set_names: list[str]
    by_source: bool = False     # whether the sets are the sources of a mixed corpus

    @property
    def tokens(self) -> int:
        """The number of predicted tokens."""
        return int((self.y != IGNORE_INDEX).sum())

    @property
    def source_columns(self) -> list[str]:
        """The keys of the losses by source, val_loss_SOURCE; none for a corpus without sources."""
        return [f"val_loss_{name}" for name in self.set_names] if self.by_source else []

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (x, y, set_id, nbytes) of up to `size` rows at a time."""
        for start in range(0, len(self.x), size):
            part = slice(start, start + size)
            yield self.x[part], self.y[part], self.set_id[part], self.nbytes[part]


class Corpus:
    """An opened corpus, as `open_corpus` returns it."""

    def __init__(self, config, names: list[str], store: Store | JoinedStore, split: Split,
                 tokenizer: Tokenizer):
        self.config, self.names, self.store, self.split, self.tokenizer = (
            config, names, store, split, tokenizer)
        self.vocab_size, self.eot = tokenizer.vocab_size, tokenizer.eot

    @property
    def folders(self) -> list:
        """The folders of the token caches."""
        return self.store.folders

    def train(self, block_size: int, batch_size: int, seed: int) -> TrainBatches:
        """The training batches; `.batch(t)` is the same for every arm. Raises BadInput where there
        is not enough text for one block."""
        pack = PACKS[self.config.pack](self.store, self.split.train, block_size)
        return TrainBatches(pack, batch_size, seed, self.eot)

    def validation(self, block_size: int, max_tokens: int | None = None) -> Validation:
        """The fixed validation set, the same every time. It has `max_tokens` tokens (default:
        data.val_tokens), or all held-out ones if there are fewer."""
        limit = self.config.val_tokens if max_tokens is None else max_tokens
        pack = PACKS[self.config.val_pack or self.config.pack]
        rows, owner = pack.held_out(self.store, self.split.val, block_size, limit, self.eot)
        x, y = split_rows(rows, self.eot)
        used = y != IGNORE_INDEX
        set_id = np.where(used,
                          self.store.documents["set"].astype(np.int32)[owner], -1).astype(np.int32)
        nbytes = np.where(used, self.tokenizer.token_bytes[y], 0).astype(np.int32)
        return Validation(x, y, set_id, nbytes, self.store.sets)

    def describe(self) -> dict:
        """The corpus's description for a record, ready for JSON: its sources, size, split, sets and
        bad lines."""
        documents = self.store.documents
        everything = np.ones(len(documents), bool)
        held = np.zeros(len(documents), bool)
        held[self.split.val] = True
        sets = {name: totals(documents, documents["set"] == n)
                for n, name in enumerate(self.store.sets)}
        given = self.config.paths or []
        return {"paths": [given] if isinstance(given, str) else list(given),
                "sources": {"count": len(self.names), "first": self.names[0]},
                "hash": self.store.hash,
                "tokenizer": self.tokenizer.name, "vocab_size": self.vocab_size,
                **totals(documents, everything),
                "split": {"by": self.split.by, "train": totals(documents, self.split.train),
                          "val": totals(documents, held), "dropped": self.split.dropped,
                          "near_copies": self.split.near_copies,
                          "filtered": self.split.filtered},
                "pack": self.config.pack, "sets": sets,
                "bad_lines": self.store.report.describe(self.names),
                "markers": self.store.report.markers}

    def identify(self, validation: Validation) -> dict:
        """Identify the tokens and the text that a validation set scores, by hashes with which
        records are compared.

        `hash` covers the predicted tokens, in order, and the tokenizer's name. It is the same for
        rows of any length over one stream. `text_hash` covers the held-out documents and the number
        of scored bytes. It is the same for two tokenizers only where both score the same text,
        which is so when all held-out text fits into data.val_tokens.
        """
        used = validation.y != IGNORE_INDEX
        scored, bytes_ = hashlib.sha256(self.tokenizer.name.encode()), int(validation.nbytes.sum())
        scored.update(validation.y[used].astype("<i8").tobytes())
        text = hashlib.sha256(self.store.documents["hash"][self.split.val].astype("<u8").tobytes())
        text.update(str(bytes_).encode())
        return {"hash": scored.hexdigest()[:32], "text_hash": text.hexdigest()[:32],
                "tokens": validation.tokens,
                "bytes": bytes_, "held_out_documents": len(self.split.val)}


def totals(documents: np.ndarray, chosen: np.ndarray) -> dict[str, int]:
    """The numbers of documents, tokens (with end-of-document tokens) and bytes of text."""
    return {"documents": int(chosen.sum()),
            "tokens": int(documents["tokens"][chosen].sum(dtype=np.int64)),
            "bytes": int(documents["bytes"][chosen].sum(dtype=np.int64))}
