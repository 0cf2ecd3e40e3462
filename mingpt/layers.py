"""
Layers that every part uses: Linear, dropout, the projection into the residual stream, and the token
embedding.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from mingpt.utils import BadInput, CfgNode

FEW = 32        # rows
PARTS = 16      # of the outputs, at the least


class Linear(nn.Linear):
    """nn.Linear. MKL multiplies one row by a matrix on one thread, and a few not much faster than
    that; as a batch of products, each with a part of the matrix, they run on all threads: on two
    cores 1.9 times the rate for one row (31 against 16 GB/s of weights), 2.2 for eight, 1.3 for 32.
    The numbers are the same but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or torch.is_grad_enabled() or x.numel() > FEW * x.size(-1):
            return F.linear(x, self.weight, self.bias)
        return few_rows(x, self.weight, self.bias)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) or None → (…, N)."""
    (N, K), parts = weight.shape, divisor(weight.size(0), max(PARTS, torch.get_num_threads()))
    if parts == 1:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, K).expand(parts, -1, K)
    columns = weight.view(parts, N // parts, K).mT
    y = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.view(parts, 1, -1), rows,
                                                                    columns)
    return y.transpose(0, 1).reshape(*x.shape[:-1], N)               # from (parts, rows, N/parts)


@lru_cache(maxsize=256)
def divisor(n: int, least: int) -> int:
    """The least divisor of n from `least` on, up to eight times that; 1 if there is none."""
    return next((d for d in range(least, min(n, 8 * least) + 1) if n % d == 0), 1)


def dropout(p: float) -> nn.Module:
    """nn.Dropout, or nothing at all at p = 0 (nn.Dropout(0) still draws and multiplies in
    training)."""
    return nn.Dropout(p) if p > 0 else nn.Identity()


def residual_output(features_in: int, features_out: int, bias: bool,
                    scaled: bool = True) -> nn.Linear:
    """A projection that writes into the residual stream: GPT draws its weight 1/√(2·layers)
    smaller."""
    linear = Linear(features_in, features_out, bias=bias)
    linear.scaled_init = scaled
    return linear


class ScaledEmbedding(nn.Embedding):
    """The table's rows times a constant. A tied head reads the table as it is, and the stream
    begins larger than it: √C as in the first Transformer (arXiv 1706.03762) and Gemma."""

    def __init__(self, words: int, dim: int, scale: float):
        super().__init__(words, dim)
        self.scale = scale

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return super().forward(idx) * self.scale


def token_embedding(config: CfgNode) -> nn.Embedding:
    """GPT-2's table; scaled where `embd_scale` is a number, or 'sqrt' for √C."""
    scale = config.embd_scale
    if scale is None:
        return nn.Embedding(config.vocab_size, config.n_embd)
    if scale != "sqrt" and (isinstance(scale, str | bool) or not scale > 0):
        raise BadInput(f"model.embd_scale={scale!r}: give a number above 0, or sqrt")
    return ScaledEmbedding(config.vocab_size, config.n_embd,
                           math.sqrt(config.n_embd) if scale == "sqrt" else scale)
