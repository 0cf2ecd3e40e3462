"""
The arithmetic of attention on tiles, forward and backward: scores, softmax, and the products with
values and gradients. It works on one part of a pattern (band.py, staircase.py), for the heads whose
queries and keys that part has laid out.

As in flash attention (Dao et al. 2022, arXiv 2205.14135), no weights are kept. The backward
computes them again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mingpt.sparse.band import Band, BandTile
from mingpt.sparse.staircase import Staircase, StairTile

Part = Band | Staircase
Tile = BandTile | StairTile
Laid = tuple[Tensor, Tensor, Tensor]    # q, k and v as a part lays them out

# Scores per tile, at most. Of 2^17 … 2^23, this was the fastest with AVX2 on two cores with 32 MB
# of shared cache.
TILE_CPU = 2**20
# Bytes of a tile's scores and weights, and of the rows of q, k, v, dO and the gradients that it
# meets: {(instructions, threads): bytes}, where 2 threads stand for more. Under a narrow window the
# rows are most of them. Elsewhere only TILE_CPU counts. `python -m benchmarks.attention --tune`
# measures and prints this table.
WORKING_SET = {("AVX512", 1): 12 << 20, ("AVX512", 2): 12 << 20}
TILE_CUDA = 2**26      # larger, because on CUDA launches cost more than memory; not measured
KEPT = 2**23  # the largest scratch memory kept from call to call, in numbers per name


class Scratch(threading.local):
    """Scratch memory by name; each thread has its own. Under each name it is as large as the
    largest request so far. On a CPU it is kept from call to call, because fresh pages cost more
    than the arithmetic on them."""

    def __init__(self):
        self.memory: dict = {}

    def take(self, like: Tensor, name: str, *shape: int) -> Tensor:
        """A tensor of this shape, with the dtype and device of `like`. Its contents are
        undefined."""
        size, key = math.prod(shape), (name, like.dtype)
        if size > KEPT or like.device.type != "cpu":
            return like.new_empty(shape)
        if key not in self.memory or self.memory[key].numel() < size:
            self.memory[key] = like.new_empty(size)
        return self.memory[key][:size].view(shape)


_SCRATCH = Scratch()


@dataclass
class TileJob:
    """What all tiles of some heads have in common. The backward makes its own Job with the same
    seed as the forward's, so that it drops the same weights."""
    heads: int                      # H
    budget: int                     # scores per tile
    like: Tensor                    # has the dtype and the device to compute with
    scale: float
    dropout_p: float
    seed: int
    slopes: Tensor | None           # (H,)

    def __post_init__(self):
        self.scratch = partial(_SCRATCH.take, self.like)
        self.generator = (torch.Generator(self.like.device).manual_seed(self.seed)
                          if self.dropout_p else None)

    def tiles(self, part: Part) -> Iterator[Tile]:
        """The part's tiles, in the same order on every call."""
        return part.tiles(self.heads, self.budget)

    def weights(self, part: Part, tile: Tile, q: Tensor, k: Tensor,
                lse: Tensor | None = None) -> Tensor:
        """The attention weights of a tile, (n, b, L), in scratch memory: the softmax of QKᵀ/√hs
        plus mask and bias. If lse is given, each query's log Σ exp(score) is written into it."""
        scores = self.scratch("scores", *tile.shape)                        # (n, b, L)
        torch.baddbmm(tile.mask(q), tile.queries(q), tile.keys(k).transpose(1, 2),
                      alpha=self.scale, out=scores)
        tile.adjust(scores, None if self.slopes is None
                    else self.slopes.repeat_interleave(part.classes))
        if lse is None:
            return torch.softmax(scores, -1, out=scores)
        top = scores.amax(-1, keepdim=True)                                 # (n, b, 1)
        weights = torch.softmax(scores, -1, out=scores)
        # the largest weight is exp(top − lse) ≥ 1/L, so its logarithm is finite
        tile.queries(lse).copy_(top - weights.amax(-1, keepdim=True).log_())
        return weights

    def kept(self, tile: Tile) -> Tensor | None:
        """The dropout factors of a tile, (n, b, L), in scratch memory: 0 for a dropped weight,
        1/(1 − p) for a kept one. None if there is no dropout."""
        if not self.dropout_p:
            return None
        kept = self.scratch("kept", *tile.shape)
        if self.dropout_p == 1:
            return kept.zero_()
        return kept.bernoulli_(1 - self.dropout_p,
                               generator=self.generator).div_(1 - self.dropout_p)

    def product(self, target: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> None:
        """target = alpha · ab, batched. If target has gaps in memory, the product goes through
        scratch memory, because writing it there directly is slow."""
        if target.is_contiguous():
            torch.baddbmm(target, a, b, beta=0, alpha=alpha, out=target)
        else:
            product = self.scratch("product", *target.shape)
            target.copy_(torch.baddbmm(product, a, b, beta=0, alpha=alpha, out=product))

    def add_product(self, target: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> None:
        """target += alpha · ab, batched."""
        target.add_(torch.bmm(a, b, out=self.scratch("product", *target.shape)), alpha=alpha)


def attend(part: Part, job: TileJob, laid: Laid, name: str = "",
           with_lse: bool = False) -> tuple[Tensor, Tensor | None]:
    """The part's output, laid out as q is, and each query's log Σ exp(score), (…, 1), or None
    unless with_lse. Both lie in scratch memory under `name`."""
    q, k, v = laid
    out = job.scratch("out" + name, *q.shape[:-1], v.size(-1))
    lse = job.scratch("lse" + name, *q.shape[:-1], 1) if with_lse else None
    for tile in job.tiles(part):
        weights, kept = job.weights(part, tile, q, k, lse), job.kept(tile)
        if kept is not None:
            weights.mul_(kept)
        job.product(tile.queries(out), weights, tile.keys(v))
    return out, lse


def gradients(part: Part, job: TileJob, laid: Laid, dout: Tensor, delta: Tensor,
              needs: tuple[bool, bool, bool], name: str = "") -> list[Tensor | None]:
    """dQ, dK and dV of one part, from its laid-out q, k, v, dO and δ = Σ dO·O (…, 1). They are laid
    out in scratch memory under `name`; a gradient that is not needed is None."""
    q, k, v = laid
    tiles = list(job.tiles(part))
    dq = job.scratch("dq" + name, *q.shape) if needs[0] else None
    dk = job.scratch("dk" + name, *part.keys_alone(k).shape) if needs[1] else None
    dv = job.scratch("dv" + name, *part.keys_alone(v).shape) if needs[2] else None
    into_keys = job.product
    if not all(tile.alone for tile in tiles):            # then a key's gradient sums over tiles
        into_keys = job.add_product
        for x in (dk, dv):
            x is None or x.zero_()
    for tile in tiles:
        weights, kept = job.weights(part, tile, q, k), job.kept(tile)
        by_query, by_key = tile.two_views(job.scratch)
        by_query.copy_(weights) if kept is None else torch.mul(weights, kept, out=by_query)
        if dv is not None:  # dV = Pᵀ dO
            into_keys(tile.key_target(dv), by_key, tile.queries_by_key(dout))
        if dq is None and dk is None:
            continue
        _score_gradient(tile, job, weights, kept, v, dout, delta, by_query)
        if dq is not None:  # dQ = dS K/√hs
            job.product(tile.queries(dq), by_query, tile.keys(k), job.scale)
        if dk is not None:  # dK = dSᵀ Q/√hs
            into_keys(tile.key_target(dk), by_key, tile.queries_by_key(q), job.scale)
    return [dq, dk, dv]


def _score_gradient(tile: Tile, job: TileJob, weights: Tensor, kept: Tensor | None, v: Tensor,
                    dout: Tensor, delta: Tensor, into: Tensor) -> None:
    """Write the gradient of the scores into `into`: dS = P∘(dP − δ), where dP = dO Vᵀ, or 0 for
    dropped weights. Before the call, `into` holds P. `weights` is overwritten."""
    dout, values, delta = tile.queries(dout), tile.keys(v).transpose(1, 2), tile.queries(delta)
    if kept is None:
        into.mul_(torch.baddbmm(delta, dout, values, beta=-1, out=weights))
    else:
        dP = torch.bmm(dout, values, out=job.scratch("weight gradient", *tile.shape))
        torch.mul(weights, dP.mul_(kept).sub_(delta), out=into)


def tile_size(like: Tensor, part: Part, head_size: int) -> int:
    """How many scores a tile of this part should have on like's device, with this many threads."""
    if like.is_cuda:
        return TILE_CUDA
    most = WORKING_SET.get(processor())
    if most is None:
        return TILE_CPU
    row = (2 * part.keys_met + 7 * head_size) * like.element_size()
    return max(1, min(TILE_CPU, most // row * part.keys_met))


def processor() -> tuple[str, int]:
    """(the widest instructions that torch uses here, the threads), where 2 threads stand for
    more. Tables of measured choices have these keys."""
    return torch.backends.cpu.get_cpu_capability(), min(torch.get_num_threads(), 2)
