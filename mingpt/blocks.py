"""
A layer: attention between tokens and an MLP on each, and where the norms stand: slot `block`. (B,
T, C) → (B, T, C).
"""

import torch
import torch.nn as nn

from mingpt.attention.heads import ATTENTIONS
from mingpt.config import filled
from mingpt.mlps import MLPS
from mingpt.norms import NORMS
from mingpt.positions import POSITIONS
from mingpt.utils import BadInput, CfgNode


class Block(nn.Module):
    """GPT-2's pre-norm: both parts read a normed and write the plain residual stream, which nothing
    ever rescales. Xiong et al. 2020, arXiv 2002.04745."""
    options: dict = {}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__()
        config = filled(config, {"block": BLOCKS, "attention": ATTENTIONS, "norm": NORMS,
                                 "mlp": MLPS,
                                 "position": POSITIONS})
        self.ln_1 = norm(config)
        self.attn = ATTENTIONS[config.attention](config, layer)
        self.ln_2 = norm(config)
        self.mlp = MLPS[config.mlp](config)

    @staticmethod
    def final_norm(config: CfgNode) -> nn.Module:
        """What stands between the last block and the head."""
        return norm(config)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), allowed, cache)
        return x + self.mlp(self.ln_2(x))


class PostNorm(Block):
    """The first Transformer's and GPT-1's: the sum is normed, so the stream keeps its scale and no
    gradient passes a layer unchanged; training asks for warm-up. The last block's norm is the final
    one, so there are two parameter vectors less. Vaswani et al. 2017, arXiv 1706.03762."""

    @staticmethod
    def final_norm(config: CfgNode) -> nn.Module:
        return nn.Identity()

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        x = self.ln_1(x + self.attn(x, allowed, cache))
        return self.ln_2(x + self.mlp(x))


class Parallel(Block):
    """Attention and MLP read the same stream and are added at once: the MLP does not see what this
    layer's attention found, and their products can run side by side. One norm for both as in GPT-J
    and PaLM (arXiv 2204.02311), or with `parallel_norms=2` one each as in GPT-NeoX (arXiv
    2204.06745)."""
    options = {"parallel_norms": 1}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        if config.parallel_norms not in (1, 2):
            raise BadInput(f"model.parallel_norms={config.parallel_norms}: 1, shared, or 2, one "
                           f"each")
        self.shared = config.parallel_norms == 1
        if self.shared:
            del self.ln_2

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        normed = self.ln_1(x)
        return x + self.attn(normed, allowed, cache) + self.mlp(normed if self.shared
                                                                else self.ln_2(x))


class Sandwich(Block):
    """Pre-norm, and what each part writes is normed as well: no layer can add much more than
    another. Two norms a layer more. Ding et al. 2021 (CogView), arXiv 2105.13290; Gemma 2, arXiv
    2408.00118."""

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        self.ln_1_out = norm(config)
        self.ln_2_out = norm(config)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        x = x + self.ln_1_out(self.attn(self.ln_1(x), allowed, cache))
        return x + self.ln_2_out(self.mlp(self.ln_2(x)))


def norm(config: CfgNode) -> nn.Module:
    """The model's kind of norm, over its width."""
    return NORMS[config.norm](config.n_embd, config)


BLOCKS = {"pre": Block, "post": PostNorm, "parallel": Parallel, "sandwich": Sandwich}
