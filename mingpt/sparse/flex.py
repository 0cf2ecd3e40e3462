"""
Attention over a pattern by torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496). torch
compiles the pattern into the kernel, which skips blocks of 128×128 without a seen pair.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils._triton import has_triton

from mingpt.patterns.kinds import Pattern
from mingpt.utils import BadInput

BLOCK = 128          # queries and keys per block: FlexAttention's default
SMALLEST_HEAD = 16   # the smallest head size that its Triton kernel supports


def flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, slopes: Tensor | None = None) -> Tensor:
    """Attention over the pattern: q (B, nh, T, hs), k and v (B, nkv, T, hs) → (B, nh, T, hs). On a
    CPU it is neither compiled nor differentiable, so it raises BadInput there if a gradient is
    needed."""
    if not q.is_cuda and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise BadInput(f"--model.backend=flex has no backward on {q.device.type}: use auto or "
                       f"banded, or a CUDA device")
    kernel = _compiled() if q.is_cuda else flex_attention
    with warnings.catch_warnings():
        # the CPU path runs without torch.compile on purpose
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return kernel(q, k, v, score_mod=_minus_slopes(slopes), enable_gqa=q.size(1) != k.size(1),
                      block_mask=block_mask(pattern, q.size(-2), q.device))


def flex_fits(q: Tensor) -> bool:
    """Whether the compiled kernel supports q (B, nh, T, hs). It needs CUDA and whole blocks of
    queries. Sampling, where T grows by one per token, would compile it again and again."""
    return q.is_cuda and q.size(-2) % BLOCK == 0 and q.size(-1) >= SMALLEST_HEAD and has_triton()


def _minus_slopes(slopes: Tensor | None) -> Callable | None:
    if slopes is None:
        return None

    def score_mod(score, batch, head, i, j):
        return score - slopes[head] * (i - j)
    return score_mod


@lru_cache(maxsize=64)
def block_mask(pattern: Pattern, T: int, device: torch.device) -> BlockMask:
    """FlexAttention's block mask of the pattern: which blocks of queries and keys have a seen pair,
    and in which all pairs are seen."""
    def mask_mod(batch, head, i, j):
        return pattern(i, j)
    with torch.inference_mode(False):
        return create_block_mask(mask_mod, B=None, H=None, Q_LEN=T, KV_LEN=T, device=device)


@lru_cache(maxsize=1)
def _compiled() -> Callable:
    return torch.compile(flex_attention)
