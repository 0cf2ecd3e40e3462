"""
Exact attention over a sparse pattern, forward and backward, in plain PyTorch. It computes little
more than the pairs seen.

With a dense mask, attention to a sparse pattern costs as much as full attention. Here, blocks of
queries meet only the keys that they can see, through overlapping strided views (band.py,
staircase.py). The work goes tile by tile, in scratch memory that stays in the cache (tiles.py). Far
links are attended to separately, then merged with the near ones by their log Σ exp(score). Nothing
of size T×T is ever allocated. The backward keeps what flash attention keeps: q, k, v and the
output. If there are several parts, it also keeps each part's share, one number per query and head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mingpt.losses import wide_dtype
from mingpt.patterns.kinds import BlockPattern, Dilated, Full, LocalGlobal, Pattern, Strided, Window
from mingpt.sparse.band import Band
from mingpt.sparse.staircase import Staircase
from mingpt.sparse.threads import for_each
from mingpt.sparse.tiles import Laid, Part, TileJob, attend, gradients, tile_size
from mingpt.utils import BadInput

# The largest size of the pattern `block` that is supported. A tile holds at least the scores of one
# whole block.
LARGEST_BLOCK = 512


def banded_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, dropout_p: float = 0.0,
                     bias_slopes: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√hs)V over the pairs of the pattern. Values and gradients equal those of the
    dense mask, up to rounding.

    q (B, nh, T, hs), k and v (B, nkv, T, hs), where nkv divides nh → (B, nh, T, hs) in q's dtype.
    Half precision is computed in float32. dropout_p is the share of attention weights that is
    dropped; torch's generator gives the seed. bias_slopes (nh,) are subtracted from the scores as
    slope · (i − j) (ALiBi); they are not trained. Raises BadInput for a pattern without a banded
    form (see `supports`).
    """
    if not supports(pattern):
        raise BadInput(f"pattern {str(pattern)!r} has no banded form: use the dense backend")
    heads, kv_heads = q.size(1), k.size(1)
    if heads % kv_heads:
        raise BadInput(f"{heads} query heads cannot share {kv_heads} key and value heads: the "
                       f"number of key and value heads must divide the number of query heads")
    if kv_heads < heads:                                                # both (B, nh, T, hs)
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    slopes = None if bias_slopes is None else bias_slopes.detach()
    return _Attention.apply(q, k, v, parts_of(pattern, q.size(-2)), dropout_p, slopes)


def supports(pattern: Pattern) -> bool:
    """Whether the pattern has a banded form: it can be split into bands and staircases."""
    return bool(parts_of(pattern, 1))


@singledispatch
def parts_of(pattern: Pattern, T: int) -> list[Part]:
    """The parts that together hold each pair of the pattern exactly once, among T positions. Every
    query is in the first part. The list is empty if the pattern has no banded form."""
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
def _(pattern: BlockPattern, T: int):
    if pattern.size > LARGEST_BLOCK:
        return []
    size = min(pattern.size, T)
    return [Band(T, size, min(pattern.previous, (T - 1) // size) * size, None)]


def _window(w: int, T: int) -> Part:
    """A window of w keys as a band, or as a staircase if it hides no key."""
    if w >= T:
        return Staircase(T)
    # Each query meets about one block of keys more than its window. Smaller blocks would compute
    # fewer pairs, but small products are slower.
    block = 16 if w <= 128 else 32
    return Band(T, block, math.ceil((w - 1) / block) * block, w)


def _with_links(w: int, T: int, shift: int, **links: int) -> list[Part]:
    """A window of w keys, plus a staircase of far links if any query has them."""
    return [_window(w, T)] + ([Staircase(T, shift, **links)] if shift < T else [])


class _Attention(torch.autograd.Function):
    """Attention with q, k and v (B, nh, T, hs), a few heads at a time."""

    @staticmethod
    def forward(ctx, q, k, v, parts, dropout_p, slopes):
        B, nh, T, _ = q.shape
        ctx.parts, ctx.dropout_p, ctx.slopes = parts, dropout_p, slopes
        ctx.seed = int(torch.randint(2**62, ())) if dropout_p else 0
        # The memory is in the order (B, T, nh, hs), as SDPA's is, so that the caller can put the
        # heads side by side without a copy.
        out = q.new_empty(B, T, nh, v.size(-1)).transpose(1, 2)                 # (B, nh, T, hs)
        shares = q.new_empty(len(parts), B, nh, T, 1,
                             dtype=wide_dtype(q.dtype)) if len(parts) > 1 else None
        for_each(_forward, [(parts, job, (q[heads], k[heads], v[heads]), out[heads],
                             None if shares is None else shares[:, *heads])
                            for heads, job in _jobs(ctx, q)], q.device)
        ctx.save_for_backward(q, k, v, out, shares)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, out, shares = ctx.saved_tensors
        grads = [torch.empty_like(x) if need else None
                 for x, need in zip((q, k, v), ctx.needs_input_grad[:3], strict=True)]
        for_each(_backward, [(ctx.parts, job, (q[heads], k[heads], v[heads]), dout[heads],
                              out[heads], None if shares is None else shares[:, *heads],
                              [g if g is None else g[heads] for g in grads])
                             for heads, job in _jobs(ctx, q)], q.device)
        return *grads, None, None, None


def _jobs(ctx, q: Tensor) -> Iterator[tuple[tuple[slice, slice], TileJob]]:
    """Jobs of about one tile's work, each with the slices of the batch and of the heads that it
    covers: all heads of several samples, or some heads of one sample."""
    B, nh, T, hs = q.shape
    like = q.new_empty(0, dtype=wide_dtype(q.dtype))
    budget = tile_size(like, ctx.parts[0], hs)
    fit = max(1, budget // (T * ctx.parts[0].keys_met))
    if not q.is_cuda:
        fit = min(fit, max(1, B * nh // torch.get_num_threads()))     # a job for every thread
    samples, some = max(1, fit // nh), min(fit, nh)
    for n, (b, h) in enumerate((b, h) for b in range(0, B, samples) for h in range(0, nh, some)):
        here = slice(b, min(b + samples, B)), slice(h, min(h + some, nh))
        count = here[0].stop - b, here[1].stop - h
        slopes = None if ctx.slopes is None else ctx.slopes[here[1]].to(like).repeat(count[0])
        yield here, TileJob(count[0] * count[1], budget, like, 1 / math.sqrt(hs), ctx.dropout_p,
                            ctx.seed + n, slopes)


def _lay_out(part: Part, job: TileJob, q: Tensor, k: Tensor, v: Tensor) -> Laid:
    return (part.lay_queries(q, job.scratch, "q"), part.lay_keys(k, job.scratch, "k"),
            part.lay_keys(v, job.scratch, "v"))


def _forward(parts: list[Part], job: TileJob, qkv: Laid, out: Tensor,
             shares: Tensor | None) -> None:
    """Write the output (…, T, hs) into `out`. If there are several parts, also write each part's
    share of a query's weights into `shares` (parts, …, T, 1)."""
    near, *far = parts
    if not far:
        out.copy_(near.query_rows(attend(near, job, _lay_out(near, job, *qkv))[0], out))
        return
    results = [attend(part, job, _lay_out(part, job, *qkv), str(n), with_lse=True)
               for n, part in enumerate(parts)]
    shares[0] = near.query_rows(results[0][1], out)
    for part, (_, lse), into in zip(far, results[1:], shares[1:], strict=True):
        part.add_queries(into.zero_(), lse)
        into[..., :part.shift, :] = -math.inf              # these queries have no keys in the part
    shares.copy_(shares.softmax(0))
    rows = near.query_rows(results[0][0], out).mul_(shares[0])
    for part, (more, _), share in zip(far, results[1:], shares[1:], strict=True):
        part.add_queries(rows, more.mul_(part.lay_queries(share, job.scratch, "share")))
    out.copy_(rows)


def _backward(parts: list[Part], job: TileJob, qkv: Laid, dout: Tensor, out: Tensor,
              shares: Tensor | None, grads: list[Tensor | None]) -> None:
    """Write dQ, dK and dV (…, T, hs) into `grads`, from dO and the output. Entries that are None
    are not needed. In the softmax over all parts, a part's weights are its own weights times its
    share. So each part is given its share of dO and of δ = Σ dO·O."""
    needs = tuple(g is not None for g in grads)
    product = torch.mul(dout, out, out=job.scratch("product of outputs", *out.shape))
    delta = torch.sum(product, -1, keepdim=True, out=job.scratch("delta", *out.shape[:-1], 1))
    whole = None
    for n, part in enumerate(parts):
        upstream = [part.lay_queries(x, job.scratch, f"upstream {i}")
                    for i, x in enumerate((dout, delta))]
        if shares is not None:
            share = part.lay_queries(shares[n], job.scratch, "share")
            upstream = [x.mul_(share) for x in upstream]
        laid = gradients(part, job, _lay_out(part, job, *qkv), *upstream, needs, name=str(n))
        if whole is None:
            rows = part.query_rows, part.key_rows, part.key_rows
            whole = [g if g is None else of(g, out) for g, of in zip(laid, rows, strict=True)]
            continue
        for total, more, add in zip(whole, laid, (part.add_queries, part.add_keys, part.add_keys),
                                    strict=True):
            if total is not None:
                add(total, more)
    for grad, total in zip(grads, whole, strict=True):
        if grad is not None:
            grad.copy_(total)
