"""
Exact attention over a sparse pattern that computes little more than the pairs seen, forward and backward, in plain PyTorch.

A dense mask makes attention sparse in meaning but not in work. Here blocks of queries meet just the keys that they can see,
as overlapping strided views of one copy (bands.py, staircases.py), a tile at a time in scratch memory that stays in the
cache. As in flash attention (Dao et al. 2022, arXiv 2205.14135) no weights are kept: the backward computes them again. Far
links are attended to on their own and merged with the near ones by their log-sum-exp. Nothing of size T×T is ever there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import singledispatch

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mingpt.bands import Band
from mingpt.patterns import Block, Dilated, Full, LocalGlobal, Pattern, Strided, Window
from mingpt.staircases import Staircase
from mingpt.utils import BadInput

LARGEST_BLOCK = 512    # of the pattern block: a tile holds at least one whole block's scores
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


class _Scratch:
    """Memory by name, as large as the largest tile needs: fresh pages would cost more than the arithmetic on them."""

    def __init__(self, like: Tensor):
        self.like, self.memory = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = self.like.new_empty(size)
        return self.memory[name][:size].view(shape)


@dataclass
class _Job:
    """What all tiles of one pass have in common. The backward makes its own, with the forward's seed."""
    heads: int                      # H
    like: Tensor                    # dtype and device
    scale: float
    dropout_p: float
    seed: int
    slopes: Tensor | None           # (H,)
    scratch: _Scratch = field(init=False)

    def __post_init__(self):
        self.scratch = _Scratch(self.like)
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


def _product(target: Tensor, a: Tensor, b: Tensor, job: _Job) -> None:
    """target = ab, batched. A product into memory with gaps is slow: it goes by the scratch."""
    if target.is_contiguous():
        torch.bmm(a, b, out=target)
    else:
        target.copy_(torch.bmm(a, b, out=job.scratch("product", *target.shape)))


def _gradients(part, job: _Job, laid: Laid, dout: Tensor, delta: Tensor,
               needs: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Laid-out q, k, v, dO and δ = Σ dO·O (…, 1) → laid-out dQ, dK, dV, None where not needed."""
    q, k, v = laid
    dq, dk, dv = (torch.empty_like(q) if needs[0] else None, part.key_gradient(k) if needs[1] else None,
                  part.key_gradient(v) if needs[2] else None)
    for tile in job.tiles(part):
        weights = job.scores(part, tile, q, k)
        torch.softmax(weights, -1, out=weights)
        by_query, by_key = tile.two_views(job.scratch)
        kept = job.kept(tile) if job.dropout_p else None
        if dv is not None:                                                            # dV = Pᵀ dO
            torch.mul(weights, kept, out=by_query) if job.dropout_p else by_query.copy_(weights)
            _add_product(tile.key_target(dv), by_key, tile.queries_by_key(dout), job)
        if dq is None and dk is None:
            continue
        _score_gradient(tile, job, weights, kept, v, dout, delta, by_query)           # dS = P∘(dP − δ)
        if dq is not None:                                                            # dQ = dS K/√hs
            _product(tile.queries(dq), by_query, tile.keys(k), job)
        if dk is not None:                                                            # dK = dSᵀ Q/√hs
            _add_product(tile.key_target(dk), by_key, tile.queries_by_key(q), job)
    return [dq if dq is None else dq.mul_(job.scale), dk if dk is None else dk.mul_(job.scale), dv]


def _score_gradient(tile, job: _Job, weights: Tensor, kept: Tensor | None, v: Tensor, dout: Tensor, delta: Tensor,
                    into: Tensor) -> None:
    """into = P∘(dP − δ), with dP = dO Vᵀ, times 1/(1 − p) or 0 under dropout."""
    dP = job.scratch("weight gradient", *tile.shape)
    if kept is None:
        torch.baddbmm(tile.queries(delta), tile.queries(dout), tile.keys(v).transpose(1, 2), beta=-1, out=dP)
    else:
        torch.bmm(tile.queries(dout), tile.keys(v).transpose(1, 2), out=dP).mul_(kept).sub_(tile.queries(delta))
    torch.mul(weights, dP, out=into)


def _add_product(target: Tensor, a: Tensor, b: Tensor, job: _Job) -> None:
    """target += ab, batched."""
    target.add_(torch.bmm(a, b, out=job.scratch("product", *target.shape)))


def _merged(parts, job: _Job, laid: Laid) -> tuple[Tensor, list[Tensor]]:
    """The output (H, T, hs) over all parts, and the share (H, T, 1) of each part in a query's weights if they are several."""
    near, *far = parts
    out, lse = _attend(near, job, laid, with_lse=bool(far))
    out = near.query_rows(out, job.heads)
    if not far:
        return out, []
    outs, lses = [out], [near.query_rows(lse, job.heads)]
    for part in far:
        out, lse = _attend(part, job, _lay_out(part, *_plain(near, job, laid)), with_lse=True)
        outs.append(part.query_rows(out, job.heads))
        lses.append(torch.full_like(lses[0], -math.inf))
        part.queries_of(lses[-1]).copy_(part.query_rows(lse, job.heads))
    shares = torch.softmax(torch.stack(lses), 0).unbind()
    out = outs[0] * shares[0]
    for part, more, share in zip(far, outs[1:], shares[1:], strict=True):
        part.queries_of(out).addcmul_(more, part.queries_of(share))
    return out, shares


def _merged_gradients(parts, job: _Job, laid: Laid, dout: Tensor, delta: Tensor, shares, needs) -> list[Tensor | None]:
    """dQ, dK, dV (H, T, hs). A part's own weights times its share are the whole's: so dO and δ are shared out."""
    total = [None] * 3
    for part, share in zip(parts, shares or [None], strict=True):
        if part is not parts[0]:
            laid_part = _lay_out(part, *_plain(parts[0], job, laid))
        else:
            laid_part = laid
        its = (part.lay_queries(x if share is None else x * share, dout.dtype) for x in (dout, delta))
        gradients = _gradients(part, job, laid_part, *its, needs)
        rows = part.query_rows, part.key_rows, part.key_rows
        gradients = [g if g is None else r(g, job.heads) for g, r in zip(gradients, rows, strict=True)]
        if part is parts[0]:
            total = gradients
            continue
        for whole, more, of in zip(total, gradients, (part.queries_of, part.keys_of, part.keys_of), strict=True):
            if whole is not None:
                of(whole).add_(more)
    return total


def _lay_out(part, q: Tensor, k: Tensor, v: Tensor) -> Laid:
    return part.lay_queries(q, q.dtype), part.lay_keys(k, q.dtype), part.lay_keys(v, q.dtype)


def _plain(near, job: _Job, laid: Laid) -> Laid:
    """(H, T, hs) views of what the first part, which has every position, has laid out."""
    q, k, v = laid
    return near.query_rows(q, job.heads), near.key_rows(k, job.heads), near.key_rows(v, job.heads)


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
        out, shares = _merged(parts, _Job(*ctx.settings), laid)
        ctx.save_for_backward(*laid, out, *shares)
        return out.view(*q.shape[:-1], v.size(-1)).to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        *laid, out = ctx.saved_tensors[:4]
        dout = dout.reshape(out.shape).to(out.dtype)
        delta = (dout * out).sum(-1, keepdim=True)                                        # (H, T, 1)
        gradients = _merged_gradients(ctx.parts, _Job(*ctx.settings), laid, dout, delta, ctx.saved_tensors[4:],
                                      ctx.needs_input_grad[:3])
        shaped = (g if g is None else g.view(shape).to(ctx.dtype) for g, shape in zip(gradients, ctx.shapes, strict=True))
        return *shaped, None, None, None
