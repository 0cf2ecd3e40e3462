"""
What keeps the residual stream's scale in hand: slot `norm`. (..., C) → (..., C).
"""

import torch
import torch.nn as nn
from torch.nn import functional as F

from mingpt.utils import CfgNode


class Norm(nn.Module):
    """What a norm of your own can derive from. It has no options, and it begins with every weight
    at 1 and every bias at 0. A norm that begins otherwise has a `reset_parameters` of its own."""
    options: dict = {}

    def reset_parameters(self) -> None:
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


class LayerNorm(nn.LayerNorm):
    """GPT-2's: subtract the mean, divide by the deviation, scale and shift. Ba et al. 2016, arXiv
    1607.06450."""
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__(dim, eps=config.norm_eps, bias=config.bias)


class RMSNorm(Norm):
    """LayerNorm without the mean and the shift: x / rms(x) · weight. Zhang & Sennrich 2019, arXiv
    1910.07467.

    Its eps is LayerNorm's, so that the two arms differ in one thing only.
    """
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = config.norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # in float32 also under autocast: the square of a bf16 activation loses its small terms in
        # the mean
        if x.is_cuda:   # where torch's own is one kernel; unmeasured
            return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
        return _RMS.apply(x.float(), self.weight, self.eps).to(x.dtype)


class _RMS(torch.autograd.Function):
    """x / √(mean x² + eps) · weight. On a CPU torch's own has a backward five times as slow as
    LayerNorm's."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.size(-1))
        scale = mean_square.add_(eps).rsqrt_()                                  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        x, weight, scale = ctx.saved_tensors
        unit, wide = x * scale, weight.to(x.dtype)
        aligned = grad * unit
        along = (aligned @ wide).unsqueeze(-1).div_(x.size(-1))  # what scaling x cannot change
        dweight = aligned.reshape(-1, x.size(-1)).sum(0).to(weight.dtype)
        return (grad * wide).addcmul_(unit, along, value=-1).mul_(scale), dweight, None


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
