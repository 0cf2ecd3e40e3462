"""
Layers that every part uses: Linear, dropout, the projection into the residual stream, a constant
factor, and the token embedding.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from mingpt.utils import BadInput, CfgNode

MAX_FEW_ROWS = 32   # few_rows is used for at most this many rows
MIN_PARTS = 16      # few_rows cuts the weight into at least this many parts


class Linear(nn.Linear):
    """nn.Linear, (…, in) → (…, out), but faster for few rows on a CPU without gradients. Only
    rounding differs.

    MKL, torch's library for matrix products, uses one thread to multiply one row by a matrix, and
    is hardly faster for a few rows. A batch of products, each with one part of the matrix, runs on
    all threads. On two cores that is 1.9 times as fast for one row (31 GB of weights read per
    second, not 16), 2.2 times for eight rows and 1.3 times for 32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in_features) → (…, out_features)."""
        if not x.is_cpu or torch.is_grad_enabled() or x.numel() > MAX_FEW_ROWS * x.size(-1):
            return F.linear(x, self.weight, self.bias)
        return few_rows(x, self.weight, self.bias)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, K), weight (N, K), bias (N,) or None → (…, N): x @ weight.T + bias as a batch of
    products, each with one part of the weight's rows."""
    (N, K), parts = weight.shape, divisor(weight.size(0), max(MIN_PARTS, torch.get_num_threads()))
    if parts == 1:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, K).expand(parts, -1, K)                  # (parts, rows, K)
    columns = weight.view(parts, N // parts, K).mT                   # (parts, K, N/parts)
    y = (torch.bmm(rows, columns) if bias is None                    # (parts, rows, N/parts)
         else torch.baddbmm(bias.view(parts, 1, -1), rows, columns))
    return y.transpose(0, 1).reshape(*x.shape[:-1], N)               # (…, N)


@lru_cache(maxsize=256)
def divisor(n: int, least: int) -> int:
    """The smallest divisor of n between `least` and eight times `least`; 1 if there is none."""
    return next((d for d in range(least, min(n, 8 * least) + 1) if n % d == 0), 1)


def dropout(p: float) -> nn.Module:
    """nn.Dropout, or nn.Identity at p = 0: nn.Dropout(0) still draws and multiplies in training."""
    return nn.Dropout(p) if p > 0 else nn.Identity()


def residual_output(features_in: int, features_out: int, bias: bool,
                    scaled: bool = True) -> nn.Linear:
    """A Linear that writes into the residual stream, (…, features_in) → (…, features_out). With
    `scaled`, GPT.init_weights draws its weight with a std divided by √(2·n_layer)."""
    linear = Linear(features_in, features_out, bias=bias)
    linear.scaled_init = scaled
    return linear


class Scale(nn.Module):
    """Multiplies by a constant: (…) → (…)."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape → the same shape."""
        return x * self.factor


def scale(factor: float) -> nn.Module:
    """A Scale, or nn.Identity for the factor 1, which costs nothing."""
    return nn.Identity() if factor == 1.0 else Scale(factor)


class Embedding(nn.Embedding):
    """nn.Embedding, idx (…) → (…, C), without a draw on the meta device. That device has no numbers
    to draw, and torch imports its compiler to find this out, which takes 1.3 s."""

    def reset_parameters(self) -> None:
        """Draw the table, unless it has no numbers."""
        if not self.weight.is_meta:
            super().reset_parameters()


class ScaledEmbedding(Embedding):
    """An embedding whose output is multiplied by a constant: idx (B, T) → (B, T, C).

    A tied head uses the table unscaled, so only the residual stream begins larger. The first
    Transformer (arXiv 1706.03762) and Gemma multiply by √C.
    """

    def __init__(self, words: int, dim: int, scale: float):
        super().__init__(words, dim)
        self.scale = scale

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """idx (B, T) tokens → (B, T, C)."""
        return super().forward(idx) * self.scale


def token_embedding(config: CfgNode) -> nn.Embedding:
    """The embedding of tokens, a table (vocab, C) as in GPT-2. Its output is scaled where
    `embd_scale` is a number, or 'sqrt' for √C. Raises BadInput for any other scale."""
    scale = config.embd_scale
    if scale is None:
        return Embedding(config.vocab_size, config.n_embd)
    if scale != "sqrt" and (isinstance(scale, str | bool) or not scale > 0):
        raise BadInput(f"model.embd_scale={scale!r}: give a number above 0, or sqrt")
    return ScaledEmbedding(config.vocab_size, config.n_embd,
                           math.sqrt(config.n_embd) if scale == "sqrt" else scale)
