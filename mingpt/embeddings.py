"""
Tokens to vectors: (B, T) → (B, T, C).
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from mingpt.utils import BadInput, CfgNode


class ScaledEmbedding(nn.Embedding):
    """The table's rows times a constant. A tied head reads the table as it is, and the stream begins larger than it:
    √C as in the first Transformer (arXiv 1706.03762) and Gemma."""

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
    return ScaledEmbedding(config.vocab_size, config.n_embd, math.sqrt(config.n_embd) if scale == "sqrt" else scale)
