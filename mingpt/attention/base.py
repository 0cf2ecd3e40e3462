"""
What all kinds of attention share: how many heads there are, which positions and pattern the layer
has, what is dropped.
"""

from __future__ import annotations

import torch.nn as nn

from mingpt.layers import dropout
from mingpt.patterns.schedule import pattern_of
from mingpt.positions import head_size, position_of
from mingpt.utils import CfgNode


class Mixer(nn.Module):
    """A kind of attention: forward(x, allowed=None, cache=None), (B, T, C) → (B, T, C). `allowed`
    (B, 1, T, T) narrows the keys that a query may see, as a document mask does. With a cache, what
    `new_cache` made, x stands behind the tokens that it holds, and allowed is (B, 1, T, all
    tokens).

    A kind declares its `options`, with `score_flops(T, pattern)` what it costs beside its
    projections, and refuses at construction what has no meaning for it.
    """
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
        """The share of attention weights dropped now: none when evaluating."""
        return getattr(self.attn_dropout, "p", 0.0) if self.training else 0.0

    def constant_flops(self, T: int) -> float:
        """Of `score_flops`, FLOPs per token of products with a constant factor: the backward
        computes one product for them, not two."""
        return 0.0


def with_bias(config: CfgNode, option: str) -> bool:
    """Whether a projection has a bias: as its option says, or model.bias where that is None."""
    wanted = getattr(config, option)
    return config.bias if wanted is None else wanted
