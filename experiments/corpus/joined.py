"""
A corpus of many files. It is tokenised in pieces, each of which is a store of its own. A build that
is killed loses the piece it was at, and several processes can build several pieces at once. The
pieces are then read as one corpus, in the order of the files.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.corpus.build import SURE, built
from experiments.corpus.report import Report
from experiments.corpus.store import MAX_SETS, OTHER, Store
from experiments.corpus.tokenizers import Tokenizer

PIECE = 64 << 20      # bytes of files in one piece, at least, where there are more


def pieces(config, sources: list) -> list[list]:
    """The sources in groups of at least PIECE bytes, in their order. With data.max_docs, which
    counts over all files, they are one group."""
    if config.max_docs is not None or len(sources) == 1:
        return [sources]
    groups, size = [[]], 0
    for source in sources:
        if size >= PIECE:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return groups


def open_store(config, sources: list, tokenizer: Tokenizer) -> Store | JoinedStore:
    """The store of these sources, of which those pieces are built now that the cache lacks. Raises
    BadInput where the corpus cannot be used or the cache cannot be written."""
    groups, names = pieces(config, sources), [source.name for source in sources]
    if len(groups) == 1:
        store = built(config, groups[0], tokenizer)
    else:
        store = JoinedStore(list(_stores(config, groups, tokenizer, names)), list(map(len, groups)))
    store.report.check(names, config.max_bad, config.allow_truncated)
    return store


def _stores(config, groups: list[list], tokenizer: Tokenizer, names: list[str]) -> Iterator[Store]:
    """Yield the store of each piece. Gives up where there are already twice as many bad lines as
    the whole corpus may have."""
    _allow_open_files(2 * len(groups))
    report, before, done = Report(), 0, 0
    total = max(1, sum(source.size for group in groups for source in group))
    for group in groups:
        store = built(config, group, tokenizer, alone=False)
        report.merge(store.report, before)
        before, done = before + len(group), done + sum(source.size for source in group)
        if report.lines >= SURE and report.bad > 2 * config.max_bad * report.lines * total / done:
            report.refuse(names, report.lines, config.max_bad)
        yield store


def _allow_open_files(count: int) -> None:
    """Allow this process to hold `count` files open beside its own, as far as the system does:
    every piece stays mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class JoinedStore:
    """Several stores read as one, in order: what a Store of all their sources would be. `counts`
    are the numbers of their sources."""

    def __init__(self, parts: list[Store], counts: list[int]):
        self.parts, self.report, self.sets = parts, Report(), []
        for part, before in zip(parts, np.cumsum([0, *counts]), strict=False):
            self.report.merge(part.report, int(before))
        self.documents = np.concatenate([self._renumbered(part) for part in parts])
        self.hash = hashlib.blake2b(np.ascontiguousarray(self.documents["hash"]).tobytes(),
                                    digest_size=16).hexdigest()
        ends = np.cumsum(self.documents["tokens"], dtype=np.int64)
        self.starts = ends - self.documents["tokens"]
        self.shards = [shard for part in parts for shard in part.shards]
        self.shard_starts = np.cumsum([0, *map(len, self.shards)])[:-1]
        # each part's first token
        self.begins = np.cumsum([0, *(sum(map(len, part.shards)) for part in parts)])[:-1]

    def _renumbered(self, part: Store) -> np.ndarray:
        """A part's documents, whose sets have the numbers of `self.sets`. New sets are added to
        these."""
        documents = np.array(part.documents)
        numbers = np.array([self._number(name) for name in part.sets], documents["set"].dtype)
        if len(numbers):
            documents["set"] = numbers[documents["set"]]
        return documents

    def _number(self, name: str) -> int:
        if name not in self.sets and len(self.sets) >= MAX_SETS:
            name = OTHER
        if name not in self.sets:
            self.sets.append(name)
        return self.sets.index(name)

    @property
    def folders(self) -> list[Path]:
        """The folders of the token caches."""
        return [part.folder for part in self.parts]

    def shard_of(self, token: np.ndarray | int) -> np.ndarray:
        """The number of the shard that holds a token; tokens are counted over all shards."""
        return np.searchsorted(self.shard_starts, token, side="right") - 1

    def read(self, start: int, length: int) -> np.ndarray:
        """`length` tokens from `start`, counted over all parts. They must be in one shard. Raises
        BadInput where the file is damaged there."""
        part = int(np.searchsorted(self.begins, start, side="right")) - 1
        return self.parts[part].read(start - int(self.begins[part]), length)
