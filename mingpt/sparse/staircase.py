"""
The memory layout for far links: queries that see every earlier key of a few. A staircase is causal
attention to those keys; its mask has steps one key wide and `group` queries high. band.py explains
what a part is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mingpt.sparse.band import HIDDEN, Scratch

STEPS = 4          # blocks of queries per sequence; about 1/STEPS more is computed than is seen
LEAST_ROWS = 32    # queries per block: with fewer, overhead costs more than the waste it saves


@dataclass(frozen=True)
class Staircase:
    """A part in which each query i ≥ shift sees some of the keys j ≤ i − shift: those with
    j ≡ i − shift modulo `classes` (dilated links), or those with j ≡ 0 modulo `group` (every
    group-th key of the text). If both are 1, it sees all of them; with shift 0 this is causal
    attention.

    Each residue class is laid out as a sequence of its own: queries (H·classes, rows, hs), keys
    (H·classes, columns, hs).
    """
    T: int
    shift: int = 0
    classes: int = 1
    group: int = 1

    @property
    def n(self) -> int:
        """The number of queries that see any key of this part."""
        return self.T - self.shift

    @property
    def columns(self) -> int:
        """The number of keys of a sequence."""
        return math.ceil(self.n / (self.classes * self.group))

    @property
    def rows(self) -> int:
        """The number of queries of a sequence."""
        return self.columns * self.group

    @property
    def keys_met(self) -> int:
        """The largest number of keys for which a query's scores are computed."""
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
        laid[:, x.size(-2) // self.classes:] = 0           # zeros after the last position
        for rows, laid_rows in self._pairs(x, laid):
            laid_rows.copy_(rows)
        return laid

    def _pairs(self, x: Tensor, laid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of views of the same positions, in x (…, positions, hs) and laid out. The first
        pair holds the whole rounds through all classes, the second the positions that remain."""
        # (…, length, classes, hs)
        laid = laid.view(*x.shape[:-2], self.classes, -1, x.size(-1)).transpose(-3, -2)
        rounds, rest = divmod(x.size(-2), self.classes)
        yield (x[..., :rounds * self.classes, :].unflatten(-2, (rounds, self.classes)),
               laid[..., :rounds, :, :])                    # (…, rounds, classes, hs)
        if rest:
            yield x[..., rounds * self.classes:, :], laid[..., rounds, :rest, :]

    def query_rows(self, laid: Tensor, like: Tensor) -> Tensor:
        """A view of laid-out memory, with the leading sizes of `like` (…, T, hs). Only for a part
        with every position in one class."""
        return laid.view(*like.shape[:-2], self.T, -1)

    key_rows = query_rows

    def add_queries(self, whole: Tensor, laid: Tensor) -> None:
        """Add laid-out query rows to `whole` (…, T, hs), each row at its position."""
        for rows, laid_rows in self._pairs(self._queries(whole), laid):
            rows.add_(laid_rows)

    def add_keys(self, whole: Tensor, laid: Tensor) -> None:
        """Add laid-out key rows to `whole` (…, T, hs), each row at its position."""
        for rows, laid_rows in self._pairs(self._keys(whole), laid):
            rows.add_(laid_rows)

    def keys_alone(self, laid: Tensor) -> Tensor:
        """The laid-out keys without zeros in front. A staircase has none there."""
        return laid

    def tiles(self, heads: int, budget: int) -> Iterator[StairTile]:
        """Tiles of about `budget` scores. A tile holds the same block of queries of several
        sequences, with all keys that the block sees."""
        step = max(math.ceil(self.columns / STEPS), math.ceil(LEAST_ROWS / self.group))
        step = max(1, min(step, math.isqrt(budget // self.group),
                          budget // (self.group * self.columns)))
        for column in range(0, self.columns, step):
            stop = min(column + step, self.columns)
            many = max(1, budget // ((stop - column) * self.group * stop))
            for head in range(0, heads * self.classes, many):
                yield StairTile(self, head, min(head + many, heads * self.classes), column, stop)


class StairTile:
    """A tile of a staircase: in the sequences head … last − 1, the queries on the steps column …
    stop − 1. They see at most the keys 0 … stop − 1."""

    def __init__(self, part: Staircase, head: int, last: int, column: int, stop: int):
        self.part, self.heads, self.column, self.stop = part, slice(head, last), column, stop
        self.alone = column == 0 and stop == part.columns    # whether no other tile meets its keys
        self.shape = last - head, (stop - column) * part.group, stop        # (n, b, L)

    def queries(self, laid: Tensor) -> Tensor:
        """This tile's rows of the laid-out queries: (n, b, hs)."""
        return laid[self.heads, self.column * self.part.group:self.stop * self.part.group]

    def keys(self, laid: Tensor) -> Tensor:
        """The laid-out keys that this tile meets: (n, L, hs)."""
        return laid[self.heads, :self.stop]

    def mask(self, like: Tensor) -> Tensor:
        """Zero, which is added to every score. Most scores need no mask; `adjust` hides the
        others."""
        return like.new_zeros(())

    def adjust(self, scores: Tensor, slopes: Tensor | None) -> None:
        """Hide the keys beyond the edge of the stairs, and subtract slope · (i − j), with slopes
        (H·classes,)."""
        scores[:, :, self.column:].add_(_stairs(self.stop - self.column, self.part.group,
                                                scores.dtype, scores.device))
        if slopes is not None:
            p, (_, b, L) = self.part, self.shape
            row = torch.arange(b, device=scores.device)[:, None] + self.column * p.group
            # (b, L)
            distance = p.shift + p.classes * (row - p.group * torch.arange(L, device=scores.device))
            scores.sub_(slopes[self.heads, None, None] * distance)

    def two_views(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Memory for weights, as two views: by query (n, b, L) and by key (n, L, b)."""
        by_query = scratch("weights by query", *self.shape)
        return by_query, by_query.transpose(1, 2)

    def queries_by_key(self, laid: Tensor) -> Tensor:
        """The laid-out queries that may see this tile's keys: all of its own, (n, b, hs)."""
        return self.queries(laid)

    def key_target(self, gradient: Tensor) -> Tensor:
        """The rows of a key gradient that this tile adds to: (n, L, hs)."""
        return gradient[self.heads, :self.stop]


@lru_cache(maxsize=256)
def _stairs(steps: int, group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(steps·group, steps): HIDDEN where the key's step is beyond the query's step, 0 elsewhere."""
    step = torch.arange(steps, device=device)
    hidden = step.repeat_interleave(group)[:, None] < step
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)
