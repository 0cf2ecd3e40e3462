"""
What all kinds of attention share: the number and size of the heads, the layer's positions and
pattern, and dropout.
"""

from __future__ import annotations

import torch.nn as nn

from mingpt.layers import dropout
from mingpt.patterns.schedule import pattern_of
from mingpt.positions import head_size, position_of
from mingpt.utils import CfgNode


class Mixer(nn.Module):
    """The base class of attention: forward(x, allowed=None, cache=None), (B, T, C) → (B, T, C).

    `allowed` (B, 1, T, T) is false where it hides a key that the pattern has, as a document mask
    does. `cache` is what `new_cache` returned: x then continues the cached tokens, and allowed is
    (B, 1, T, all tokens).

    A member of the slot declares its `options`. Its `score_flops(T, pattern)` says what it costs
    besides its projections. Its constructor refuses settings that have no meaning for it.
    """
    no_cache: str | None = None      # why sampling must recompute all tokens, where it must
    options: dict = {"head_dim": None, "qkv_bias": None, "attn_out_bias": None, "attn_scale": None}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__()
        self.n_embd, self.n_head, self.head_dim = config.n_embd, config.n_head, head_size(config)
        self.attn_dropout = dropout(config.attn_pdrop)
        self.resid_dropout = dropout(config.resid_pdrop)
        self.position = position_of(config, layer)
        self.pattern = pattern_of(config, layer)

    @property
    def dropout_p(self) -> float:
        """The share of attention weights that dropout drops: 0 in evaluation."""
        return getattr(self.attn_dropout, "p", 0.0) if self.training else 0.0

    def constant_flops(self, T: int) -> float:
        """The part of `score_flops`, in FLOPs per token, that comes from products with a constant
        factor. For those the backward computes one product, not two."""
        return 0.0


def with_bias(config: CfgNode, option: str) -> bool:
    """Whether a projection has a bias: the value of its option, or model.bias where that is
    None."""
    wanted = getattr(config, option)
    return config.bias if wanted is None else wanted
