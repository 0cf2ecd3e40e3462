"""
Several sources mixed by weight: data as an arm. All arms of a study open the same sources and are
scored on the same validation tokens; an arm decides from which source each training row comes.

    data.sources = ["code=src/*.py.jsonl", "web=wiki.jsonl"]     # names and paths
    data.mixture = ["code=0.3", "web=0.7"]                       # shares of rows, which sum to 1

Row i of a run comes from a source that (seed, mixture, i) decides. The j-th row of a source is the
same for every mixture of one seed, so two arms that mix differently still read each source alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from experiments.corpus.batches import ROUNDS, TrainBatches, shuffled, split_rows
from mingpt.utils import BadInput, did_you_mean

CYCLE = 10_000    # the longest cycle of rows in which each source has exactly its share


def read_sources(entries: Sequence[str]) -> dict[str, list[str]]:
    """The paths by source, of entries such as 'web=wiki.jsonl'; a name may stand several times.
    Raises BadInput for any other form."""
    sources: dict[str, list[str]] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or not name.isidentifier() or not path.strip():
            raise BadInput(f"data.sources: {entry!r} is no NAME=PATH, where NAME is letters, "
                           f"digits and _")
        sources.setdefault(name, []).append(path)
    return sources


def read_mixture(entries: Sequence[str] | None, sources: Sequence[str]) -> dict[str, float] | None:
    """The weights by source, of entries such as 'web=0.7'; None where there are none. A source
    without a weight has 0. Raises BadInput for unknown sources, and for weights that are no shares
    or do not sum to 1."""
    if not entries:
        return None
    weights = dict.fromkeys(sources, 0.0)
    names = [entry.partition("=")[0] for entry in entries]
    if twice := [name for name in weights if names.count(name) > 1]:
        raise BadInput(f"data.mixture: {twice[0]} has several shares: give one")
    for entry in entries:
        name, _, text = entry.partition("=")
        if name not in weights:
            raise BadInput(f"data.mixture: no source {name!r}{did_you_mean(name, sources)}")
        try:
            weights[name] = float(text)
        except ValueError:
            raise BadInput(f"data.mixture: {entry!r} is no NAME=SHARE, such as {name}=0.5"
                           ) from None
        if not 0 <= weights[name] <= 1:
            raise BadInput(f"data.mixture: {entry}: a share is a number from 0 to 1")
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-6:
        raise BadInput(f"data.mixture: the shares sum to {total:g}, not to 1: "
                       + ", ".join(f"{name} {share:g}" for name, share in weights.items()))
    if lost := unread(weights):
        raise BadInput(f"data.mixture: the share {weights[lost[0]]:g} of {lost[0]} is less than "
                       f"one row in {CYCLE:,}, so nothing of it would be read")
    return weights


def unread(weights: Mapping[str, float]) -> list[str]:
    """The sources with a share that is too small for one row per cycle."""
    return [name for (name, weight), rows in zip(weights.items(), quotas(weights), strict=True)
            if weight and not rows]


def quotas(weights: Mapping[str, float]) -> np.ndarray:
    """The rows of each source in one cycle, int64 [sources]. The cycle is the shortest that holds
    the shares exactly, or CYCLE rows, which holds them to within 1 in 10,000."""
    shares = [Fraction(weight).limit_denominator(CYCLE) for weight in weights.values()]
    length = math.lcm(*(share.denominator for share in shares))
    if length > CYCLE or sum(shares) != 1:
        length = CYCLE
    exact = np.array([weight * length for weight in weights.values()])
    rows = np.floor(exact + 1e-9).astype(np.int64)
    # The largest remainders get the rows that are left over.
    rows[np.argsort(rows - exact, kind="stable")[:length - int(rows.sum())]] += 1
    return rows


class MixedBatches:
    """Batches whose rows come from several sources in fixed shares. `sources` maps a name to the
    source's own batches, of which only the rows are used; one without a share may be missing."""

    def __init__(self, sources: Mapping[str, TrainBatches], weights: Mapping[str, float],
                 batch_size: int, seed: int, eot: int):
        self.names = [name for name, weight in weights.items() if weight]
        self.sources, self.batch_size, self.seed, self.eot = sources, batch_size, seed, eot
        self.rows = quotas({name: weights[name] for name in self.names})
        self.length = int(self.rows.sum())
        self.block_size = sources[self.names[0]].pack.block_size
        self.positions_per_batch = batch_size * self.block_size   # padding included

    def batch(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of step t (from 0), int64 [batch_size, block_size] each."""
        of, within = self._owners(np.arange(t * self.batch_size, (t + 1) * self.batch_size))
        rows = np.empty((self.batch_size, self.block_size + 1), np.int64)
        for number, name in enumerate(self.names):
            if (mine := of == number).any():
                rows[mine] = self.sources[name].rows_at(within[mine])
        return split_rows(rows, self.eot)

    def _owners(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each row, the number of its source and its place in that source, int64 each.
        `sample` must be consecutive. In each cycle a shuffle decides the order of the sources."""
        cycles, places = np.divmod(sample, self.length)
        of, within = np.empty(len(sample), np.int64), np.empty(len(sample), np.int64)
        for cycle in np.unique(cycles):
            order = self._order(int(cycle))
            for number, rows in enumerate(self.rows):
                mine = (cycles == cycle) & (order[places] == number)
                before = np.cumsum(order == number) - 1       # rows of this source in the cycle
                of[mine] = number
                within[mine] = cycle * rows + before[places[mine]]
        return of, within

    def _order(self, cycle: int) -> np.ndarray:
        """The source of each place of a cycle, int64 [length]."""
        keys = np.random.SeedSequence([self.seed, cycle, 0x313]).generate_state(ROUNDS, np.uint64)
        owners = np.repeat(np.arange(len(self.rows)), self.rows)
        return owners[shuffled(np.arange(self.length), self.length, list(keys))]

    def used(self, batches: int) -> dict[str, dict[str, float]]:
        """What the first `batches` batches take of each source: rows, their share of all rows, and
        how often the source is read from end to end."""
        total = batches * self.batch_size
        whole, rest = divmod(total, self.length)
        rows = whole * self.rows
        if rest:
            rows = rows + np.bincount(self._order(whole)[:rest], minlength=len(self.rows))
        return {name: {"rows": int(n), "share": int(n) / total if total else 0.0,
                       "epochs": int(n) / self.sources[name].blocks_per_epoch}
                for name, n in zip(self.names, rows, strict=True)}


def source_seed(seed: int, name: str) -> int:
    """The seed of a source's own order, which no other source shares."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
