"""
Every key so far, of few: where the work of far links lies in memory. A staircase is causal
attention whose step is one key along and `group` queries down. See bands.py for what a part is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mingpt.sparse.band import HIDDEN, Scratch

STEPS = 4          # blocks of queries a sequence: one block more computes 1/STEPS more than is seen
LEAST_ROWS = 32    # of a block: below, the products' overhead costs more than the waste


@dataclass(frozen=True)
class Staircase:
    """Query i, from `shift` on, sees keys j ≤ i − shift: those with j ≡ i − shift modulo `classes`
    (dilated links), or those with j ≡ 0 modulo `group` (every group-th of the text); with both 1,
    all: causal attention.

    Residue classes are laid out as sequences of their own: queries (H·classes, rows, hs), keys
    (H·classes, columns, hs).
    """
    T: int
    shift: int = 0
    classes: int = 1
    group: int = 1

    @property
    def n(self) -> int:
        """The queries that have keys."""
        return self.T - self.shift

    @property
    def columns(self) -> int:
        """The keys of a sequence."""
        return math.ceil(self.n / (self.classes * self.group))

    @property
    def rows(self) -> int:
        """The queries of a sequence."""
        return self.columns * self.group

    @property
    def keys_met(self) -> int:
        """The most keys that a query's scores are computed with."""
        return self.columns

    def lay_queries(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (H·classes, rows, hs)"""
        return self._lay(self._queries(x), self.rows, memory, name)

    def lay_keys(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (H·classes, columns, hs)"""
        return self._lay(self._keys(x), self.columns, memory, name)

    def _queries(self, x: Tensor) -> Tensor:
        return x[..., self.shift:, :]

    def _keys(self, x: Tensor) -> Tensor:
        return x[..., :self.n:self.group, :]

    def _lay(self, x: Tensor, length: int, memory: Scratch, name: str) -> Tensor:
        laid = memory(name, math.prod(x.shape[:-2]) * self.classes, length, x.size(-1))
        laid[:, x.size(-2) // self.classes:] = 0           # behind the last position
        for rows, laid_rows in self._pairs(x, laid):
            laid_rows.copy_(rows)
        return laid

    def _pairs(self, x: Tensor, laid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of x (…, positions, hs) and of the same positions laid out: rounds of all classes,
        then the rest."""
        # (…, length, classes, hs)
        laid = laid.view(*x.shape[:-2], self.classes, -1, x.size(-1)).transpose(-3, -2)
        rounds, rest = divmod(x.size(-2), self.classes)
        yield (
            x[..., : rounds * self.classes, :].unflatten(-2, (rounds, self.classes)),
            laid[..., :rounds, :, :],
        )
        if rest:
            yield x[..., rounds * self.classes:, :], laid[..., rounds, :rest, :]

    def query_rows(self, laid: Tensor, like: Tensor) -> Tensor:
        """Of a part with every position in one class: what is laid out → (…, T, hs) as `like` is, a
        view."""
        return laid.view(*like.shape[:-2], self.T, -1)

    key_rows = query_rows

    def add_queries(self, whole: Tensor, laid: Tensor) -> None:
        """Add what is laid out as queries to whole (…, T, hs), each row where it belongs."""
        for rows, laid_rows in self._pairs(self._queries(whole), laid):
            rows.add_(laid_rows)

    def add_keys(self, whole: Tensor, laid: Tensor) -> None:
        """Add what is laid out as keys to whole (…, T, hs), each row where it belongs."""
        for rows, laid_rows in self._pairs(self._keys(whole), laid):
            rows.add_(laid_rows)

    def keys_alone(self, laid: Tensor) -> Tensor:
        """Laid-out keys without the zeros in front: there are none."""
        return laid

    def tiles(self, heads: int, budget: int) -> Iterator[StairTile]:
        """Tiles of about `budget` scores: the same block of queries of several sequences, with all
        keys it sees."""
        step = max(math.ceil(self.columns / STEPS), math.ceil(LEAST_ROWS / self.group))
        step = max(1, min(step, math.isqrt(budget // self.group),
                          budget // (self.group * self.columns)))
        for column in range(0, self.columns, step):
            stop = min(column + step, self.columns)
            many = max(1, budget // ((stop - column) * self.group * stop))
            for head in range(0, heads * self.classes, many):
                yield StairTile(self, head, min(head + many, heads * self.classes), column, stop)


class StairTile:
    """Sequences head … last − 1; the queries on the steps column … stop − 1, which see keys 0 …
    stop − 1 at most."""

    def __init__(self, part: Staircase, head: int, last: int, column: int, stop: int):
        self.part, self.heads, self.column, self.stop = part, slice(head, last), column, stop
        self.alone = column == 0 and stop == part.columns      # no other tile meets these keys
        self.shape = last - head, (stop - column) * part.group, stop

    def queries(self, laid: Tensor) -> Tensor:
        """→ (n, b, hs)"""
        return laid[self.heads, self.column * self.part.group:self.stop * self.part.group]

    def keys(self, laid: Tensor) -> Tensor:
        """→ (n, L, hs)"""
        return laid[self.heads, :self.stop]

    def mask(self, like: Tensor) -> Tensor:
        """Nothing to add to most scores."""
        return like.new_zeros(())

    def adjust(self, scores: Tensor, slopes: Tensor | None) -> None:
        """Hide the stairs' edge, and subtract slope · (i − j) of slopes (H·classes,)."""
        scores[:, :, self.column:].add_(_stairs(self.stop - self.column, self.part.group,
                                                scores.dtype, scores.device))
        if slopes is not None:
            p, (_, b, L) = self.part, self.shape
            row = torch.arange(b, device=scores.device)[:, None] + self.column * p.group
            distance = p.shift + p.classes * (row - p.group * torch.arange(L, device=scores.device))
            scores.sub_(slopes[self.heads, None, None] * distance)

    def two_views(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Memory for weights, seen by query (n, b, L) and by key (n, L, b)."""
        by_query = scratch("weights by query", *self.shape)
        return by_query, by_query.transpose(1, 2)

    def queries_by_key(self, laid: Tensor) -> Tensor:
        """→ (n, b, hs): all queries of the tile may see its keys."""
        return self.queries(laid)

    def key_target(self, gradient: Tensor) -> Tensor:
        """The rows of a key gradient that this tile adds to: (n, L, hs)."""
        return gradient[self.heads, :self.stop]


@lru_cache(maxsize=256)
def _stairs(steps: int, group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(steps·group, steps): HIDDEN where the key's step is beyond the query's."""
    step = torch.arange(steps, device=device)
    hidden = step.repeat_interleave(group)[:, None] < step
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)
