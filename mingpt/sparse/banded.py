"""
Exact attention over a sparse pattern that computes little more than the pairs seen, forward and
backward, in PyTorch.

A dense mask makes attention sparse in meaning but not in work. Here blocks of queries meet just the
keys that they can see, as overlapping strided views (bands.py, staircases.py), a tile at a time in
scratch memory that stays in the cache (tiles.py). Far links are attended to on their own and merged
with the near ones by their log Σ exp(score). Nothing of size T×T is ever there, and what is kept
for the backward is what flash attention keeps: q, k, v and the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mingpt.losses import wide_dtype
from mingpt.patterns.kinds import Block, Dilated, Full, LocalGlobal, Pattern, Strided, Window
from mingpt.sparse.band import Band
from mingpt.sparse.staircase import Staircase
from mingpt.sparse.threads import for_each
from mingpt.sparse.tiles import Job, Laid, Part, attend, gradients, tile_size
from mingpt.utils import BadInput

LARGEST_BLOCK = 512    # of the pattern block: a tile holds at least one whole block's scores


def banded_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *, dropout_p: float = 0.0,
                     bias_slopes: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√hs)V over the pairs of the pattern: values and gradients are the dense mask's.

    q (B, nh, T, hs), k and v (B, nkv, T, hs), where nkv divides nh → (B, nh, T, hs) in q's dtype;
    half precision is computed in float32. dropout_p drops attention weights, drawn by a seed from
    torch's generator. bias_slopes (nh,), not trained, subtracts slope · (i − j) from the scores
    (ALiBi). BadInput for a pattern that supports() refuses.
    """
    if not supports(pattern):
        raise BadInput(f"pattern {str(pattern)!r} has no banded form: use the dense backend")
    heads, kv_heads = q.size(1), k.size(1)
    if heads % kv_heads:
        raise BadInput(f"{heads} query heads cannot share {kv_heads} key and value heads: these "
                       f"must divide them")
    if kv_heads < heads:
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    slopes = None if bias_slopes is None else bias_slopes.detach()
    return _Attention.apply(q, k, v, parts_of(pattern, q.size(-2)), dropout_p, slopes)


def supports(pattern: Pattern) -> bool:
    """Whether the pattern is made of bands and staircases."""
    return bool(parts_of(pattern, 1))


@singledispatch
def parts_of(pattern: Pattern, T: int) -> list[Part]:
    """The parts that hold each pair of the pattern once, among T positions; none if the pattern has
    no such form. The first part has every query."""
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


def _window(w: int, T: int) -> Part:
    """A window as a band; it is a staircase where it hides nothing."""
    if w >= T:
        return Staircase(T)
    # a block more than the window is computed, but small products are slower
    block = 16 if w <= 128 else 32
    return Band(T, block, math.ceil((w - 1) / block) * block, w)


def _with_links(w: int, T: int, shift: int, **links: int) -> list[Part]:
    """A window, and links for the queries that have any."""
    return [_window(w, T)] + ([Staircase(T, shift, **links)] if shift < T else [])


class _Attention(torch.autograd.Function):
    """q, k, v (B, nh, T, hs), a few heads at a time."""

    @staticmethod
    def forward(ctx, q, k, v, parts, dropout_p, slopes):
        B, nh, T, _ = q.shape
        ctx.parts, ctx.dropout_p, ctx.slopes = parts, dropout_p, slopes
        ctx.seed = int(torch.randint(2**62, ())) if dropout_p else 0
        # memory in the order (B, T, nh, hs), as SDPA's: side by side again, the heads need no copy
        out = q.new_empty(B, T, nh, v.size(-1)).transpose(1, 2)
        shares = q.new_empty(len(parts), B, nh, T, 1,
                             dtype=wide_dtype(q.dtype)) if len(parts) > 1 else None
        for_each(_forward, [(parts, job, (q[heads], k[heads], v[heads]), out[heads],
                             None if shares is None else shares[:, *heads]) for heads,
                             job in _jobs(ctx, q)], q.device)
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
                              [g if g is None else g[heads] for g in grads]) for heads,
                              job in _jobs(ctx, q)], q.device)
        return *grads, None, None, None


def _jobs(ctx, q: Tensor) -> Iterator[tuple[tuple[slice, slice], Job]]:
    """Slices of the batch and of the heads, all heads of several samples or some of one, about a
    tile's work each."""
    B, nh, T, hs = q.shape
    like = q.new_empty(0, dtype=wide_dtype(q.dtype))
    fit = max(1, tile_size(like) // (T * ctx.parts[0].keys_met))
    if not q.is_cuda:
        fit = min(fit, max(1, B * nh // torch.get_num_threads()))            # some for every thread
    samples, some = max(1, fit // nh), min(fit, nh)
    for n, (b, h) in enumerate((b, h) for b in range(0, B, samples) for h in range(0, nh, some)):
        here = slice(b, min(b + samples, B)), slice(h, min(h + some, nh))
        count = here[0].stop - b, here[1].stop - h
        slopes = None if ctx.slopes is None else ctx.slopes[here[1]].to(like).repeat(count[0])
        yield here, Job(count[0] * count[1], like, 1 / math.sqrt(hs), ctx.dropout_p, ctx.seed + n,
                        slopes)


def _lay_out(part: Part, job: Job, q: Tensor, k: Tensor, v: Tensor) -> Laid:
    return part.lay_queries(q, job.scratch, "q"), part.lay_keys(k, job.scratch,
                                                                "k"), part.lay_keys(v, job.scratch,
                                                                                    "v")


def _forward(parts: list[Part], job: Job, qkv: Laid, out: Tensor, shares: Tensor | None) -> None:
    """Write the output (…, T, hs), and each part's share (parts, …, T, 1) of the weights if they
    are several."""
    near, *far = parts
    if not far:
        out.copy_(near.query_rows(attend(near, job, _lay_out(near, job, *qkv))[0], out))
        return
    results = [attend(part, job, _lay_out(part, job, *qkv), str(n), with_lse=True) for n,
               part in enumerate(parts)]
    shares[0] = near.query_rows(results[0][1], out)
    for part, (_, lse), into in zip(far, results[1:], shares[1:], strict=True):
        part.add_queries(into.zero_(), lse)
        into[..., :part.shift, :] = -math.inf              # no keys, no share
    shares.copy_(shares.softmax(0))
    rows = near.query_rows(results[0][0], out).mul_(shares[0])
    for part, (more, _), share in zip(far, results[1:], shares[1:], strict=True):
        part.add_queries(rows, more.mul_(part.lay_queries(share, job.scratch, "share")))
    out.copy_(rows)


def _backward(parts: list[Part], job: Job, qkv: Laid, dout: Tensor, out: Tensor,
              shares: Tensor | None, grads: list[Tensor | None]) -> None:
    """Write dQ, dK, dV (…, T, hs) where there are any, from dO and the output. The weights of all
    parts together are each part's own times its share: so a part gets its share of dO and of δ = Σ
    dO·O."""
    needs = tuple(g is not None for g in grads)
    product = torch.mul(dout, out, out=job.scratch("product of outputs", *out.shape))
    delta = torch.sum(product, -1, keepdim=True, out=job.scratch("delta", *out.shape[:-1], 1))
    whole = None
    for n, part in enumerate(parts):
        upstream = [part.lay_queries(x, job.scratch, f"upstream {i}") for i,
                    x in enumerate((dout, delta))]
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
