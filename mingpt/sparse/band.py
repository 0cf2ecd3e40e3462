"""
A band of keys before every query, as dense tiles: the memory layout for windows and for blocks.
staircase.py holds the layout for links that reach further. tiles.py does the arithmetic on a tile.

A pattern is split into parts that share no (query, key) pair. A part copies the queries and keys of
some heads into scratch memory, laid out so that strided views cover its pairs with little waste.

Throughout, x (…, T, hs) is a tensor of the model, and H is the product of its leading sizes. A tile
is n blocks of b queries. Each block meets L keys, so the tile's scores are (n, b, L).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Added to the score of a key that is not seen. Its weight becomes exactly 0. Unlike −inf, it never
# makes a nan.
HIDDEN = -1e30

# scratch(name, *shape) gives memory that is reused on every call with the same name
Scratch = Callable[..., Tensor]


@dataclass(frozen=True)
class Band:
    """A part made of blocks of `block` queries. A block meets its own keys and the `reach` keys
    before them, where `reach` is a multiple of `block`. Of these, a query sees the last `window`,
    or all keys up to itself if `window` is None.

    Heads lie end to end, each padded to whole blocks, so that one batched product runs over the
    blocks of several heads: queries (H·rows + reach, hs), keys (reach + H·rows, hs). Neighbouring
    blocks share keys, so the views of their keys overlap.
    """
    T: int
    block: int
    reach: int
    window: int | None
    classes = 1    # a head is one sequence; compare Staircase.classes

    @property
    def rows(self) -> int:
        """The number of queries of a head, rounded up to whole blocks."""
        return math.ceil(self.T / self.block) * self.block

    @property
    def keys_met(self) -> int:
        """The number of keys for which a query's scores are computed."""
        return self.reach + self.block

    def lay_queries(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (H·rows + reach, hs). The last `reach` rows are zeros, in place of the
        queries that would follow the last keys."""
        return self._lay(x, memory, name, before=0, after=self.reach)

    def lay_keys(self, x: Tensor, memory: Scratch, name: str) -> Tensor:
        """(…, T, hs) → (reach + H·rows, hs). The first `reach` rows are zeros, in place of the keys
        that would precede the first head's first key."""
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
        """A view of memory laid out as queries, with the leading sizes of `like` (…, T, hs)."""
        heads = like.shape[:-2]
        return laid[:math.prod(heads) * self.rows].view(*heads, self.rows, -1)[..., :self.T, :]

    def key_rows(self, laid: Tensor, like: Tensor) -> Tensor:
        """A view of memory laid out as keys, without the zeros in front, with the leading sizes of
        `like` (…, T, hs)."""
        return self.query_rows(laid, like)

    def keys_alone(self, laid: Tensor) -> Tensor:
        """The laid-out keys without the zeros in front. Their gradients have this shape."""
        return laid[self.reach:]

    def tiles(self, heads: int, budget: int) -> Iterator[BandTile]:
        """Tiles of about `budget` scores. A tile holds all blocks of several heads, or some blocks
        of one head."""
        blocks = self.rows // self.block
        fit = max(1, budget // (self.block * self.keys_met))
        if 2 * fit >= blocks:
            step = max(1, fit // blocks)
            for head in range(0, heads, step):
                yield BandTile(self, head, min(step, heads - head), 0, blocks)
            return
        # Each tile costs `reach` rows of zeros at both ends in the backward, so tiles are long.
        step = max(fit, 4 * self.reach // self.block)
        for head in range(heads):
            for first in range(0, blocks, step):
                yield BandTile(self, head, 1, first, min(step, blocks - first))


class BandTile:
    """A tile of a band: `blocks` blocks of one head, starting with block `first`, or all blocks of
    several heads."""

    def __init__(self, part: Band, head: int, heads: int, first: int, blocks: int):
        self.part, self.head, self.heads, self.first, self.blocks = part, head, heads, first, blocks
        self.n, self.b, self.L = heads * blocks, part.block, part.reach + part.block
        self.row = head * part.rows + first * part.block     # the first query, in rows of all heads
        # How many blocks of keys before their own these queries meet. There are none before a
        # head's first key.
        self.before = 0 if first == 0 else part.reach // part.block
        self.alone = blocks * part.block == part.rows        # whether no other tile meets its keys

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, b, L): the shape of the scores, as blocks, queries and keys."""
        return self.n, self.b, self.L

    def queries(self, laid: Tensor) -> Tensor:
        """This tile's rows of the laid-out queries: (n, b, hs)."""
        return laid[self.row:self.row + self.n * self.b].view(self.n, self.b, -1)

    def keys(self, laid: Tensor) -> Tensor:
        """The laid-out keys that each block meets: (n, L, hs). They begin at the same row as the
        block's queries, because `reach` rows of zeros precede the keys."""
        return self._overlapping(laid, self.row, self.n)

    def _overlapping(self, laid: Tensor, row: int, n: int) -> Tensor:
        return laid[row:].as_strided((n, self.L, laid.size(1)),
                                     (self.b * laid.size(1), laid.size(1), 1))

    def mask(self, like: Tensor) -> Tensor:
        """(b, L), to be added to every block's scores. It hides what lies beyond the two slanted
        edges of the band."""
        return _edges(self.b, self.part.reach, self.part.window, like.dtype, like.device)

    def adjust(self, scores: Tensor, slopes: Tensor | None) -> None:
        """Hide the keys before each head's first key, and subtract slope · (i − j), with slopes
        (H,)."""
        scores = scores.view(self.heads, self.blocks, self.b, self.L)  # (heads, blocks, b, L)
        early = _before_start(self.b, self.part.reach, scores.dtype,
                              scores.device)[self.first:][:self.blocks]
        if len(early):
            scores[:, :len(early)].add_(early)
        if slopes is not None:
            distance = _distance(self.b, self.part.reach, scores.device)
            scores.sub_(slopes[self.head:self.head + self.heads, None, None, None] * distance)

    def two_views(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Memory for weights, as two views: by query (n, b, L), and by key (before + n, b, L),
        whose last dimension runs over *queries*.

        Block n's rows are written n·b places late. Then element (query i, key j) lies at i·L + j
        for every block. So the L queries that see a block of keys form a matrix too, and dK and dV
        need no overlapping sums.
        """
        n, b, L, reach = self.n, self.b, self.L, self.part.reach
        start = reach * L  # queries of other tiles, before and after these, get weight 0
        end = start + n * (b * L + b)
        memory = scratch("skewed", end + start + reach)
        memory[:start] = 0
        memory[end:] = 0
        by_query = memory[start:].as_strided((n, b, L), (b * L + b, L, 1))
        first_key = start + reach - self.before * (b * L + b)
        return by_query, memory[first_key:].as_strided((self.before + n, b, L), (b * L + b, 1, L))

    def queries_by_key(self, laid: Tensor) -> Tensor:
        """The laid-out queries that may see each block of keys: (before + n, L, hs)."""
        return self._overlapping(laid, self.row - self.before * self.b, self.before + self.n)

    def key_target(self, gradient: Tensor) -> Tensor:
        """The rows of a key gradient that this tile adds to: (before + n, b, hs)."""
        first = self.row - self.before * self.b
        return gradient[first:self.row + self.n * self.b].view(self.before + self.n, self.b, -1)


@lru_cache(maxsize=256)
def _distance(b: int, reach: int, device: torch.device) -> Tensor:
    """(b, L): i − j for each query and key of a block."""
    return torch.arange(b, device=device)[:, None] + reach - torch.arange(b + reach, device=device)


@lru_cache(maxsize=256)
def _edges(b: int, reach: int, window: int | None, dtype: torch.dtype,
           device: torch.device) -> Tensor:
    """(b, L): 0 where 0 ≤ i − j < window, HIDDEN elsewhere. Without a window, 0 where 0 ≤ i − j."""
    distance = _distance(b, reach, device)
    hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(distance.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


@lru_cache(maxsize=256)
def _before_start(b: int, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(reach / b, 1, L), for a head's first blocks: HIDDEN for keys before the head's first key, 0
    for the others."""
    position = (torch.arange(reach // b, device=device)[:, None] * b
                + torch.arange(b + reach, device=device) - reach)
    return torch.zeros(position.shape, dtype=dtype, device=device).masked_fill_(
        position < 0, HIDDEN)[:, None]
