"""
What keeps the residual stream's scale in hand: slot `norm`. (..., C) → (..., C).
"""

import torch
import torch.nn as nn

from mingpt.utils import CfgNode


class LayerNorm(nn.LayerNorm):
    """GPT-2's: subtract the mean, divide by the deviation, scale and shift. Ba et al. 2016, arXiv 1607.06450."""
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__(dim, eps=config.norm_eps, bias=config.bias)


class RMSNorm(nn.Module):
    """LayerNorm without the mean and the shift: x / rms(x) · weight. Zhang & Sennrich 2019, arXiv 1910.07467.

    Its eps is LayerNorm's, so that the two arms differ in one thing only.
    """
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = config.norm_eps

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # in float32 also under autocast: the square of a bf16 activation loses its small terms in the mean
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
