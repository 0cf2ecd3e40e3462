"""
Slot `norm`: rescales each activation vector, (…, C) → (…, C), so that what a layer reads keeps one
scale.
"""

import torch
import torch.nn as nn
from torch.nn import functional as F

from mingpt.utils import CfgNode


class Norm(nn.Module):
    """A base class for your own norm. It has no options, and it begins with every weight at 1 and
    every bias at 0. A norm that begins otherwise overrides `reset_parameters`."""
    options: dict = {}

    def reset_parameters(self) -> None:
        """Set every weight to 1 and every bias to 0."""
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


class LayerNorm(nn.LayerNorm):
    """GPT-2's norm, (…, C) → (…, C): subtract the mean, divide by the standard deviation, multiply
    by a weight and, with model.bias, add a bias. Ba et al. 2016, arXiv 1607.06450."""
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__(dim, eps=config.norm_eps, bias=config.bias)


class RMSNorm(Norm):
    """x / rms(x) · weight, (…, C) → (…, C): LayerNorm without the mean and the bias. Zhang &
    Sennrich 2019, arXiv 1910.07467.

    Its eps is LayerNorm's, so that two arms which compare them differ in one thing only.
    """
    options = {"norm_eps": 1e-5}

    def __init__(self, dim: int, config: CfgNode):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = config.norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, C) → (…, C), in x's dtype."""
        # in float32 also under autocast: in bf16, the mean of the squares would lose small terms
        if x.is_cuda:   # there torch's own is one kernel; its speed is unmeasured
            return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
        return _RMS.apply(x.float(), self.weight, self.eps).to(x.dtype)


class _RMS(torch.autograd.Function):
    """x (…, C), weight (C,) → x / √(mean x² + eps) · weight, (…, C). It exists because on a CPU the
    backward of torch's own is five times as slow as LayerNorm's."""

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
        normed, weight_cast = x * scale, weight.to(x.dtype)
        dweight_of_row = grad * normed                                          # (…, C)
        dweight = dweight_of_row.reshape(-1, x.size(-1)).sum(0).to(weight.dtype)    # (C,)
        # (…, 1): the part of the gradient that points along x. It is subtracted, because the norm
        # undoes any scaling of x
        along_x = (dweight_of_row @ weight_cast).unsqueeze(-1).div_(x.size(-1))
        return (grad * weight_cast).addcmul_(normed, along_x, value=-1).mul_(scale), dweight, None


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
