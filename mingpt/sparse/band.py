"""
A band of keys before every query, in dense tiles: where the work of a window or of blocks lies in
memory. Links that reach further are in staircases.py; the arithmetic on a tile is in tiles.py.

A pattern is taken apart into parts that share no (query, key) pair. A part lays the queries and
keys of some heads out in scratch memory so that strided views cover its pairs with little waste. x
(…, T, hs) is what the model gives; H is the product of its leading sizes. A tile is n blocks of b
queries, each meeting L keys: its scores are (n, b, L).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# added to an unseen key's score: its weight is exactly 0, and unlike −inf it never makes a nan
HIDDEN = -1e30

# scratch(name, *shape): memory that is used again and again, under each name its own
Scratch = Callable[..., Tensor]


@dataclass(frozen=True)
class Band:
    """Blocks of `block` queries; each meets its own keys and the `reach` before them, a multiple of
    the block, and of these a query sees the last `window`, or all up to itself where that is None.

    Heads lie end to end, padded to whole blocks, so that one batched product runs over the blocks
    of several heads: queries (H·rows + reach, hs), keys (reach + H·rows, hs). Neighbouring blocks
    share keys: views that overlap.
    """
    T: int
    block: int
    reach: int
    window: int | None
    classes = 1    # a head is one sequence: see Staircase

    @property
    def rows(self) -> int:
        """The queries of a head, in whole blocks."""
        return math.ceil(self.T / self.block) * self.block

    @property
    def keys_met(self) -> int:
        """The keys that a query's scores are computed with."""
        return self.reach + self.block

    def lay_queries(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (H·rows + reach, hs). The zeros behind stand where the last keys' later
        queries would."""
        return self._lay(x, memory, name, before=0, after=self.reach)

    def lay_keys(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (reach + H·rows, hs). The zeros in front stand before the first head's first
        key."""
        return self._lay(x, memory, name, before=self.reach, after=0)

    def _lay(self, x: Tensor, memory: Scratch, name: str, before: int, after: int) -> Tensor:
        body = math.prod(x.shape[:-2]) * self.rows
        laid = memory(name, before + body + after, x.size(-1))
        laid[:before] = 0
        laid[before + body:] = 0
        body = laid[before:before + body].view(*x.shape[:-2], self.rows, x.size(-1))
        body[..., :self.T, :] = x
        body[..., self.T:, :] = 0
        return laid

    def query_rows(self, laid: Tensor, like: Tensor) -> Tensor:
        """What is laid out as queries → (…, T, hs) as `like` is, a view."""
        heads = like.shape[:-2]
        return laid[:math.prod(heads) * self.rows].view(*heads, self.rows, -1)[..., :self.T, :]

    def key_rows(self, laid: Tensor, like: Tensor) -> Tensor:
        """What is laid out as keys, without the zeros in front → (…, T, hs) as `like` is, a
        view."""
        return self.query_rows(laid, like)

    def keys_alone(self, laid: Tensor) -> Tensor:
        """Laid-out keys without the zeros in front: what their gradients are like."""
        return laid[self.reach:]

    def tiles(self, heads: int, budget: int) -> Iterator[BandTile]:
        """Tiles of about `budget` scores: all of several heads, or some blocks of one."""
        blocks = self.rows // self.block
        fit = max(1, budget // (self.block * self.keys_met))
        if 2 * fit >= blocks:
            step = max(1, fit // blocks)
            for head in range(0, heads, step):
                yield BandTile(self, head, min(step, heads - head), 0, blocks)
            return
        # both ends of a tile cost `reach` rows of zeros in the backward
        step = max(fit, 4 * self.reach // self.block)
        for head in range(heads):
            for first in range(0, blocks, step):
                yield BandTile(self, head, 1, first, min(step, blocks - first))


class BandTile:
    """`blocks` blocks of one head, from the first-th on; or all blocks of several heads."""

    def __init__(self, part: Band, head: int, heads: int, first: int, blocks: int):
        self.part, self.head, self.heads, self.first, self.blocks = part, head, heads, first, blocks
        self.n, self.b, self.L = heads * blocks, part.block, part.reach + part.block
        self.row = head * part.rows + first * part.block     # the first query, in rows of all heads
        # the blocks of keys that these queries meet: those before a head's first key are not there
        self.before = 0 if first == 0 else part.reach // part.block
        self.alone = blocks * part.block == part.rows        # no other tile meets these keys

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the scores: blocks, queries, keys."""
        return self.n, self.b, self.L

    def queries(self, laid: Tensor) -> Tensor:
        """→ (n, b, hs)"""
        return laid[self.row:self.row + self.n * self.b].view(self.n, self.b, -1)

    def keys(self, laid: Tensor) -> Tensor:
        """→ (n, L, hs). The zeros in front are `reach` rows: block n's keys begin where its queries
        do."""
        return self._overlapping(laid, self.row, self.n)

    def _overlapping(self, laid: Tensor, row: int, n: int) -> Tensor:
        return laid[row:].as_strided((n, self.L, laid.size(1)),
                                     (self.b * laid.size(1), laid.size(1), 1))

    def mask(self, like: Tensor) -> Tensor:
        """(b, L), to be added to every block's scores: the two slanted edges of the band."""
        return _edges(self.b, self.part.reach, self.part.window, like.dtype, like.device)

    def adjust(self, scores: Tensor, slopes: Tensor | None) -> None:
        """Hide the keys before a head's first, and subtract slope · (i − j) of slopes (H,)."""
        scores = scores.view(self.heads, self.blocks, self.b, self.L)
        early = _before_start(self.b, self.part.reach, scores.dtype,
                              scores.device)[self.first:][:self.blocks]
        if len(early):
            scores[:, :len(early)].add_(early)
        if slopes is not None:
            distance = _distance(self.b, self.part.reach, scores.device)
            scores.sub_(slopes[self.head:self.head + self.heads, None, None, None] * distance)

    def two_views(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Memory for weights, seen by query (n, b, L), and by key (before + n, b, L) with *queries*
        last.

        Block n's rows are written n·b places late. Then element (query i, key j) lies at i·L + j
        for every block, so that the L queries which see a block of keys are a matrix as well, and
        dK and dV need no overlapping sums.
        """
        n, b, L, reach = self.n, self.b, self.L, self.part.reach
        start = reach * L  # before and behind: queries of other tiles, weight 0
        end = start + n * (b * L + b)
        memory = scratch("skewed", end + start + reach)
        memory[:start] = 0
        memory[end:] = 0
        by_query = memory[start:].as_strided((n, b, L), (b * L + b, L, 1))
        first_key = start + reach - self.before * (b * L + b)
        return by_query, memory[first_key:].as_strided((self.before + n, b, L), (b * L + b, 1, L))

    def queries_by_key(self, laid: Tensor) -> Tensor:
        """→ (before + n, L, hs): the queries that may see each block of keys."""
        return self._overlapping(laid, self.row - self.before * self.b, self.before + self.n)

    def key_target(self, gradient: Tensor) -> Tensor:
        """The rows of a key gradient that this tile adds to: (before + n, b, hs)."""
        first = self.row - self.before * self.b
        return gradient[first:self.row + self.n * self.b].view(self.before + self.n, self.b, -1)


@lru_cache(maxsize=256)
def _distance(b: int, reach: int, device: torch.device) -> Tensor:
    """(b, L): i − j of a block's rows and keys."""
    return torch.arange(b, device=device)[:, None] + reach - torch.arange(b + reach, device=device)


@lru_cache(maxsize=256)
def _edges(b: int, reach: int, window: int | None, dtype: torch.dtype,
           device: torch.device) -> Tensor:
    """(b, L): 0 where 0 ≤ i − j < window, else HIDDEN."""
    distance = _distance(b, reach, device)
    hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(distance.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


@lru_cache(maxsize=256)
def _before_start(b: int, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(reach / b, 1, L): HIDDEN for the keys of a head's first blocks that lie before the head."""
    position = (
        torch.arange(reach // b, device=device)[:, None] * b
        + torch.arange(b + reach, device=device)
        - reach
    )
    return torch.zeros(position.shape, dtype=dtype, device=device).masked_fill_(position < 0,
                                                                                HIDDEN)[:, None]
