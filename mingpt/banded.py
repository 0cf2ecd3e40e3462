"""
Exact attention over a sparse pattern that computes little more than the pairs seen, forward and backward, in plain PyTorch.

A dense mask makes attention sparse in meaning but not in work. Here blocks of queries meet just the keys that they can see,
as overlapping strided views of one copy (bands.py, staircases.py), a tile at a time in scratch memory that stays in the
cache. As in flash attention (Dao et al. 2022, arXiv 2205.14135) no weights are kept: the backward computes them again. Far
links are attended to on their own and merged with the near ones by their log-sum-exp. Nothing of size T×T is ever there.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import partial, singledispatch

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mingpt.bands import Band
from mingpt.patterns import Block, Dilated, Full, LocalGlobal, Pattern, Strided, Window
from mingpt.staircases import Staircase
from mingpt.utils import BadInput

LARGEST_BLOCK = 512    # of the pattern block: a tile holds at least one whole block's scores
Part = Band | Staircase
Laid = tuple[Tensor, Tensor, Tensor]    # q, k, v as a part lays them out
TILE_CPU = 2**18       # scores a tile: two such buffers stay in a core's cache
TILE_CUDA = 2**26      # where launches cost more than memory; not measured


def banded_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, dropout_p: float = 0.0,
                     bias_slopes: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√hs)V over the pairs of the pattern: values and gradients are the dense mask's.

    q (B, nh, T, hs), k and v (B, nkv, T, hs), where nkv divides nh → (B, nh, T, hs) in q's dtype; half precision is
    computed in float32. dropout_p drops attention weights, drawn by a seed from torch's generator. bias_slopes (nh,),
    not trained, subtracts slope · (i − j) from the scores (ALiBi). BadInput for a pattern that supports() refuses.
    """
    if not supports(pattern):
        raise BadInput(f"pattern {str(pattern)!r} has no banded form: use the dense backend")
    heads, kv_heads = q.size(1), k.size(1)
    if heads % kv_heads:
        raise BadInput(f"{heads} query heads cannot share {kv_heads} key and value heads: it must divide {heads}")
    q = q.unflatten(1, (kv_heads, heads // kv_heads))                        # (B, nkv, nh/nkv, T, hs)
    k, v = (x.unsqueeze(2).expand(*q.shape[:-1], x.size(-1)) for x in (k, v))
    slopes = None if bias_slopes is None else bias_slopes.detach()
    return _Attention.apply(q, k, v, parts_of(pattern, q.size(-2)), dropout_p, slopes).flatten(1, 2)


def supports(pattern: Pattern) -> bool:
    """Whether the pattern is made of bands and staircases."""
    return bool(parts_of(pattern, 1))


@singledispatch
def parts_of(pattern: Pattern, T: int) -> list[Band | Staircase]:
    """The parts that hold each pair of the pattern once, among T positions; none if the pattern has no such form. The
    first part has every query."""
    return []


@parts_of.register
def _(pattern: Full, T: int):
    return [Staircase(T)]


@parts_of.register
def _(pattern: Window, T: int):
    return [_window(pattern.width, T)]


@parts_of.register
def _(pattern: Dilated, T: int):
    return _with_links(pattern.w, T, shift=pattern.w + pattern.d, classes=pattern.d)


@parts_of.register
def _(pattern: LocalGlobal, T: int):
    return _with_links(pattern.w, T, shift=pattern.w, group=pattern.every)


@parts_of.register
def _(pattern: Strided, T: int):
    return _with_links(1, T, shift=1, group=pattern.s)


@parts_of.register
def _(pattern: Block, T: int):
    if pattern.size > LARGEST_BLOCK:
        return []
    size = min(pattern.size, T)
    return [Band(T, size, min(pattern.previous, (T - 1) // size) * size, None)]


def _window(w: int, T: int) -> Band | Staircase:
    """A window as a band; it is a staircase where it hides nothing."""
    if w >= T:
        return Staircase(T)
    block = 16 if w <= 64 else 32      # half a block more than the window is computed; small products are slower
    return Band(T, block, math.ceil((w - 1) / block) * block, w)


def _with_links(w: int, T: int, shift: int, **links: int) -> list[Band | Staircase]:
    """A window, and links for the queries that have any."""
    return [_window(w, T)] + ([Staircase(T, shift, **links)] if shift < T else [])


class _Scratch(threading.local):
    """Memory by name, as large as the largest tile so far and kept from call to call, a thread its own: fresh pages cost
    more than the arithmetic on them. A few times TILE_CPU numbers."""

    def __init__(self):
        self.memory = {}

    def take(self, like: Tensor, name: str, *shape: int) -> Tensor:
        size, key = math.prod(shape), (name, like.dtype, like.device)
        if key not in self.memory or self.memory[key].numel() < size:
            self.memory[key] = like.new_empty(size)
        return self.memory[key][:size].view(shape)


_SCRATCH = _Scratch()


@dataclass
class _Job:
    """What all tiles of one pass have in common. The backward makes its own, with the forward's seed."""
    heads: int                      # H
    like: Tensor                    # dtype and device
    scale: float
    dropout_p: float
    seed: int
    slopes: Tensor | None           # (H,)

    def __post_init__(self):
        self.scratch = partial(_SCRATCH.take, self.like)
        self.generator = torch.Generator(self.like.device).manual_seed(self.seed) if self.dropout_p else None
        self.budget = TILE_CUDA if self.like.is_cuda else TILE_CPU

    def tiles(self, part: Band | Staircase):
        return part.tiles(self.heads, self.budget)

    def scores(self, part, tile, q: Tensor, k: Tensor) -> Tensor:
        """(n, b, L) in scratch: QKᵀ/√hs, the bias, and HIDDEN where a key is not seen."""
        scores = self.scratch("scores", *tile.shape)
        torch.baddbmm(tile.mask(q), tile.queries(q), tile.keys(k).transpose(1, 2), alpha=self.scale, out=scores)
        slopes = self.slopes
        tile.adjust(scores, slopes if slopes is None else slopes.repeat_interleave(part.classes))
        return scores

    def kept(self, tile) -> Tensor:
        """(n, b, L) in scratch: 0 for a dropped weight, 1/(1 − p) for a kept one. Tiles must come in the same order."""
        kept = self.scratch("kept", *tile.shape)
        if self.dropout_p == 1:
            return kept.zero_()
        return kept.bernoulli_(1 - self.dropout_p, generator=self.generator).div_(1 - self.dropout_p)


def _attend(part, job: _Job, laid: Laid, with_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Laid-out q, k, v → the output laid out as q, and each query's log Σ exp(score), (…, 1), if asked for."""
    q, k, v = laid
    out = q.new_empty(*q.shape[:-1], v.size(-1))
    lse = q.new_zeros(*q.shape[:-1], 1) if with_lse else None
    for tile in job.tiles(part):
        scores = job.scores(part, tile, q, k)
        top = scores.amax(-1, keepdim=True) if with_lse else None
        weights = torch.softmax(scores, -1, out=scores)
        if with_lse:     # the largest weight is exp(top − lse), and at least 1/L
            tile.queries(lse).copy_(top - weights.amax(-1, keepdim=True).log_())
        if job.dropout_p:
            weights.mul_(job.kept(tile))
        _product(tile.queries(out), weights, tile.keys(v), job)
    return out, lse


def _product(target: Tensor, a: Tensor, b: Tensor, job: _Job, alpha: float = 1.0) -> None:
    """target = alpha · ab, batched. A product into memory with gaps is slow: it goes by the scratch."""
    if target.is_contiguous():
        target.baddbmm_(a, b, beta=0, alpha=alpha)
    else:
        target.copy_(job.scratch("product", *target.shape).baddbmm_(a, b, beta=0, alpha=alpha))


def _add_product(target: Tensor, a: Tensor, b: Tensor, job: _Job, alpha: float = 1.0) -> None:
    """target += alpha · ab, batched."""
    target.add_(torch.bmm(a, b, out=job.scratch("product", *target.shape)), alpha=alpha)


def _gradients(part, job: _Job, laid: Laid, dout: Tensor, delta: Tensor,
               needs: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Laid-out q, k, v, dO and δ = Σ dO·O (…, 1) → laid-out dQ, dK, dV, None where not needed."""
    q, k, v = laid
    tiles = list(job.tiles(part))
    alone = all(tile.alone for tile in tiles)            # then no key's gradient is a sum over tiles
    new, into_keys = (torch.empty_like, _product) if alone else (torch.zeros_like, _add_product)
    dq = torch.empty_like(q) if needs[0] else None
    dk, dv = (new(part.keys_alone(x)) if need else None for x, need in zip((k, v), needs[1:], strict=True))
    for tile in tiles:
        weights = job.scores(part, tile, q, k)
        torch.softmax(weights, -1, out=weights)
        by_query, by_key = tile.two_views(job.scratch)
        kept = job.kept(tile) if job.dropout_p else None
        by_query.copy_(weights) if kept is None else torch.mul(weights, kept, out=by_query)
        if dv is not None:                                                                        # dV = Pᵀ dO
            into_keys(tile.key_target(dv), by_key, tile.queries_by_key(dout), job)
        if dq is None and dk is None:
            continue
        _score_gradient(tile, job, weights, kept, v, dout, delta, by_query)
        if dq is not None:                                                                        # dQ = dS K/√hs
            _product(tile.queries(dq), by_query, tile.keys(k), job, job.scale)
        if dk is not None:                                                                        # dK = dSᵀ Q/√hs
            into_keys(tile.key_target(dk), by_key, tile.queries_by_key(q), job, job.scale)
    return [dq, dk, dv]


def _score_gradient(tile, job: _Job, weights: Tensor, kept: Tensor | None, v: Tensor, dout: Tensor, delta: Tensor,
                    into: Tensor) -> None:
    """into = P∘(dP − δ), dP = dO Vᵀ, where dropped weights have none. `into` holds P already; `weights` is used up."""
    dout, values, delta = tile.queries(dout), tile.keys(v).transpose(1, 2), tile.queries(delta)
    if kept is None:
        into.mul_(torch.baddbmm(delta, dout, values, beta=-1, out=weights))
    else:
        dP = torch.bmm(dout, values, out=job.scratch("weight gradient", *tile.shape))
        torch.mul(weights, dP.mul_(kept).sub_(delta), out=into)


def _forward(parts: list[Part], job: _Job, laid: Laid) -> tuple[Tensor, list[Tensor]]:
    """The output laid out as the first part's queries, and each part's share (H, T, 1) of the weights if they are several."""
    near, *far = parts
    out, lse = _attend(near, job, laid, with_lse=bool(far))
    if not far:
        return out, []
    results = [(part, *_attend(part, job, _laid_anew(part, near, job, laid), with_lse=True)) for part in far]
    shares = _shares(near.query_rows(lse, job.heads), [(part, lse) for part, _, lse in results])
    rows = near.query_rows(out, job.heads)
    rows.mul_(shares[0])
    for (part, more, _), share in zip(results, shares[1:], strict=True):
        part.add_queries(rows, more.mul_(part.lay_queries(share, share.dtype)))
    return out, shares


def _shares(near: Tensor, far: list[tuple[Part, Tensor]]) -> list[Tensor]:
    """Every part's log Σ exp(score) → its share of Σ exp(score) over all parts: (H, T, 1), 0 where it has no queries."""
    lses = [near]
    for part, laid in far:
        lse = torch.zeros_like(near)
        part.add_queries(lse, laid)
        lse[:, :part.shift] = -math.inf
        lses.append(lse)
    return list(torch.softmax(torch.stack(lses), 0))


def _backward(parts: list[Part], job: _Job, laid: Laid, dout: Tensor, delta: Tensor, shares: list[Tensor],
              needs: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """dQ, dK, dV (H, T, hs), from dO and δ = Σ dO·O. The weights of all parts together are each part's own times its
    share: so a part gets its share of dO and δ."""
    near, *far = parts
    upstream = [near.lay_queries(x, x.dtype) for x in (dout, delta)]
    if far:
        for x in upstream:
            near.query_rows(x, job.heads).mul_(shares[0])
    gradients = _gradients(near, job, laid, *upstream, needs)
    rows = near.query_rows, near.key_rows, near.key_rows
    gradients = [g if g is None else of(g, job.heads) for g, of in zip(gradients, rows, strict=True)]
    for part, share in zip(far, shares[1:], strict=True):
        share = part.lay_queries(share, share.dtype)
        upstream = [part.lay_queries(x, x.dtype).mul_(share) for x in (dout, delta)]
        more = _gradients(part, job, _laid_anew(part, near, job, laid), *upstream, needs)
        add = part.add_queries, part.add_keys, part.add_keys
        for whole, its, add_to in zip(gradients, more, add, strict=True):
            if whole is not None:
                add_to(whole, its)
    return gradients


def _laid_anew(part: Part, near: Part, job: _Job, laid: Laid) -> Laid:
    """What the first part, which has every position, has laid out → the same for another part."""
    q, k, v = near.query_rows(laid[0], job.heads), *(near.key_rows(x, job.heads) for x in laid[1:])
    return part.lay_queries(q, q.dtype), part.lay_keys(k, k.dtype), part.lay_keys(v, v.dtype)


class _Attention(torch.autograd.Function):
    """q, k, v (…, T, hs) with equal leading sizes. What is saved is linear in T: a copy of q, k and v, and the output."""

    @staticmethod
    def forward(ctx, q, k, v, parts, dropout_p, slopes):
        dtype = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
        laid = parts[0].lay_queries(q, dtype), parts[0].lay_keys(k, dtype), parts[0].lay_keys(v, dtype)
        heads = math.prod(q.shape[:-2])
        if slopes is not None:
            slopes = slopes.to(q.device, dtype).repeat(heads // len(slopes))
        seed = int(torch.randint(2**62, ())) if dropout_p else 0
        ctx.settings = heads, laid[0].new_empty(0), 1 / math.sqrt(q.size(-1)), dropout_p, seed, slopes
        ctx.parts, ctx.shapes, ctx.dtype = parts, (q.shape, k.shape, v.shape), q.dtype
        out, shares = _forward(parts, _Job(*ctx.settings), laid)
        ctx.save_for_backward(*laid, out, *shares)
        return parts[0].query_rows(out, heads).view(*q.shape[:-1], v.size(-1)).to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        *laid, out = ctx.saved_tensors[:4]
        job = _Job(*ctx.settings)
        out = ctx.parts[0].query_rows(out, job.heads)
        dout = dout.reshape(out.shape).to(out.dtype)
        delta = torch.stack([(a * b).sum(-1, keepdim=True) for a, b in zip(dout, out, strict=True)])         # (H, T, 1)
        gradients = _backward(ctx.parts, job, laid, dout, delta, list(ctx.saved_tensors[4:]), ctx.needs_input_grad[:3])
        shaped = (g if g is None else g.view(shape).to(ctx.dtype) for g, shape in zip(gradients, ctx.shapes, strict=True))
        return *shaped, None, None, None
