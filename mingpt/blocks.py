"""
Slot `block`: one layer, (B, T, C) → (B, T, C). Attention mixes tokens, an MLP acts on each token,
and the members differ in where they put the norms.
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
    """GPT-2's pre-norm: x + attn(norm(x)), then x + mlp(norm(x)).

    Both parts read a normed copy of the residual stream and add to the stream itself, which is
    never rescaled. Xiong et al. 2020, arXiv 2002.04745.
    """
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
        """The norm between the last block and the head."""
        return norm(config)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        """x (B, T, C) → (B, T, C). `allowed` and `cache` go to the attention: see Mixer."""
        x = x + self.attn(self.ln_1(x), allowed, cache)
        return x + self.mlp(self.ln_2(x))


class PostNorm(Block):
    """Post-norm, as in the first Transformer and GPT-1: norm(x + attn(x)), then norm(x + mlp(x)).

    The sum is normed, so the stream keeps its scale, but no gradient passes through a layer
    unchanged: training needs warm-up. The last block's own norm is the final norm, so the model has
    one norm fewer. Vaswani et al. 2017, arXiv 1706.03762.
    """

    @staticmethod
    def final_norm(config: CfgNode) -> nn.Module:
        """Nothing: the last block ends with a norm."""
        return nn.Identity()

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        """x (B, T, C) → (B, T, C)."""
        x = self.ln_1(x + self.attn(x, allowed, cache))
        return self.ln_2(x + self.mlp(x))


class Parallel(Block):
    """Attention and MLP side by side: x + attn(norm(x)) + mlp(norm(x)).

    The MLP does not see what this layer's attention found, and their matrix products can run at the
    same time. Both share one norm, as in GPT-J and PaLM (arXiv 2204.02311); with `parallel_norms=2`
    each has its own, as in GPT-NeoX (arXiv 2204.06745).
    """
    options = {"parallel_norms": 1}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        if config.parallel_norms not in (1, 2):
            raise BadInput(f"model.parallel_norms={config.parallel_norms}: give 1 (attention and "
                           f"MLP share a norm) or 2 (each has its own)")
        self.shared = config.parallel_norms == 1
        if self.shared:
            del self.ln_2

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        """x (B, T, C) → (B, T, C)."""
        normed = self.ln_1(x)
        return (x + self.attn(normed, allowed, cache)
                + self.mlp(normed if self.shared else self.ln_2(x)))


class Sandwich(Block):
    """Pre-norm with a second norm on each part's output: x + norm(attn(norm(x))), and so for the
    MLP.

    No layer can add much more to the stream than another. This costs two more norms per layer.
    Ding et al. 2021 (CogView), arXiv 2105.13290; Gemma 2, arXiv 2408.00118.
    """

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        self.ln_1_out = norm(config)
        self.ln_2_out = norm(config)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache=None) -> torch.Tensor:
        """x (B, T, C) → (B, T, C)."""
        x = x + self.ln_1_out(self.attn(self.ln_1(x), allowed, cache))
        return x + self.ln_2_out(self.mlp(self.ln_2(x)))


def norm(config: CfgNode) -> nn.Module:
    """A new norm of the kind that `config.norm` names, over the model's width C."""
    return NORMS[config.norm](config.n_embd, config)


BLOCKS = {"pre": Block, "post": PostNorm, "parallel": Parallel, "sandwich": Sandwich}
