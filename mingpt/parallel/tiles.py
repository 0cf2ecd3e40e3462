"""
Attention between a stretch of queries and a stretch of keys that may begin elsewhere in the same
text. `attend` computes attention over these keys alone, with its log Σ exp(score) (lse). `merge`
combines two such results. `gradients` computes the backward. Half precision is computed in float32.
The work goes one tile of queries at a time, with only the keys that the pattern can reach.

q (B, nh, n, hs), k and v (B, nkv, m, hs), where nkv divides nh; slopes (nh,) or None;
lse (B, nh, n, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.losses import wide_dtype
from mingpt.patterns.kinds import Pattern

TILE = 256      # queries per tile: the scores of one tile exist at a time


@dataclass(frozen=True)
class Place:
    """Where the stretches of queries and of keys begin in the whole text of T tokens, and which
    keys a query sees."""
    query: int
    key: int
    T: int
    pattern: Pattern
    slopes: Tensor | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """Attention over these keys alone, (B, nh, n, hs), and its lse, (B, nh, n, 1). For a query that
    sees none of the keys they are 0 and −∞."""
    q, k, v = q.to(wide_dtype(q.dtype)), *_for_heads(q, k, v)            # k and v: (B, nh, m, hs)
    out, lse = torch.zeros_like(q), q.new_full((*q.shape[:3], 1), -math.inf)
    for rows, columns in _tiles(q.size(2), k.size(2), place):
        scores = _scores(q, k, rows, columns, place)    # (B, nh, rows, columns)
        # clamped because the largest score is −∞ in a row that sees no key
        largest = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
        weights = scores.sub_(largest).exp_()
        total = weights.sum(-1, keepdim=True)
        out[:, :, rows] = weights @ v[:, :, columns] / total.clamp(min=1e-30)
        lse[:, :, rows] = largest + total.log()
    return out, lse


def merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The result over all keys, from two results (output, lse) over different keys. Every query
    must see some key of `a`."""
    lse = torch.logaddexp(a[1], b[1])
    return a[0] * (a[1] - lse).exp() + b[0] * (b[1] - lse).exp(), lse


def gradients(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse: Tensor, delta: Tensor,
              place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """What these pairs of queries and keys contribute to dQ, dK and dV. `dout` is dO, `lse` is over
    all keys of the text, and `delta` is δ = Σ dO·O, (B, nh, n, 1)."""
    kv_shape, scale = k.shape, 1 / math.sqrt(q.size(-1))
    q, dout, k, v = q.to(wide_dtype(q.dtype)), dout.to(wide_dtype(dout.dtype)), *_for_heads(q, k, v)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows, columns in _tiles(q.size(2), k.size(2), place):
        weights = _scores(q, k, rows, columns, place).sub_(lse[:, :, rows]).exp_()
        dv[:, :, columns] += weights.mT @ dout[:, :, rows]
        dscores = weights.mul_(
            dout[:, :, rows] @ v[:, :, columns].mT - delta[:, :, rows]).mul_(scale)
        dq[:, :, rows] = dscores @ k[:, :, columns]
        dk[:, :, columns] += dscores.mT @ q[:, :, rows]
    B, kv_heads, m, hs = kv_shape
    # heads that share keys add up: (B, nh, m, hs) → (B, nkv, m, hs)
    return dq, *(x.view(B, kv_heads, -1, m, hs).sum(2) for x in (dk, dv))


def _scores(q: Tensor, k: Tensor, rows: slice, columns: slice, place: Place) -> Tensor:
    i = torch.arange(rows.start, rows.stop, device=q.device)[:, None] + place.query
    j = torch.arange(columns.start, columns.stop, device=q.device) + place.key
    scores = (q[:, :, rows] @ k[:, :, columns].mT).div_(math.sqrt(q.size(-1)))
    if place.slopes is not None:
        scores -= place.slopes[:, None, None].to(scores) * (i - j)
    return scores.masked_fill_(~place.pattern(i, j), -math.inf)


def _tiles(n: int, m: int, place: Place) -> Iterator[tuple[slice, slice]]:
    """Slices of the queries, each with the slice of the keys that it can see. Slices of queries
    that can see no key are left out."""
    reach, ahead = place.pattern.reach(place.T), place.query - place.key
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        first, last = max(0, start + ahead - reach), min(m, stop + ahead)
        if first < last:
            yield slice(start, stop), slice(first, last)


def _for_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for every query head, (B, nh, m, hs), in the dtype to compute
    in."""
    return tuple(x.to(wide_dtype(x.dtype)).repeat_interleave(q.size(1) // x.size(1), dim=1)
                 for x in (k, v))
