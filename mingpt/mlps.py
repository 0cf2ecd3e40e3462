"""
What happens to a token by itself, between attentions: slot `mlp`. (B, T, C) → (B, T, C).
"""

import torch
import torch.nn as nn
from torch.nn import functional as F

from mingpt.linear import Linear
from mingpt.utils import BadInput, CfgNode


class NewGELU(nn.Module):
    """GELU by the tanh formula, as BERT and GPT-2 have it. Hendrycks & Gimpel 2016, arXiv 1606.08415."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


class SquaredReLU(nn.Module):
    """relu(x)². So et al. 2021 (Primer), arXiv 2109.08668."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x).square()


def dropout(p: float) -> nn.Module:
    """nn.Dropout, or nothing at all at p = 0 (nn.Dropout(0) still draws and multiplies in training)."""
    return nn.Dropout(p) if p > 0 else nn.Identity()


def residual_output(features_in: int, features_out: int, bias: bool, scaled: bool = True) -> nn.Linear:
    """A projection that writes into the residual stream: GPT draws its weight 1/√(2·layers) smaller."""
    linear = Linear(features_in, features_out, bias=bias)
    linear.scaled_init = scaled
    return linear


def hidden_size(config: CfgNode, default: str) -> int:
    """`mlp_hidden` in units: a number, '4d' or '8/3d' (to the nearest multiple of 8); None is the member's own."""
    wanted = default if config.mlp_hidden is None else config.mlp_hidden
    if isinstance(wanted, int) and wanted > 0:
        return wanted
    factors = {"4d": 4, "8/3d": 8 / 3}
    if wanted not in factors:
        raise BadInput(f"model.mlp_hidden={wanted!r}: give a positive number, '4d' or '8/3d'")
    exact = factors[wanted] * config.n_embd
    step = 8 if config.n_embd >= 64 else 1   # in a narrower model 8 is over 1 % of the block's parameters
    return int(exact) if exact == int(exact) else step * round(exact / step)


class MLP(nn.Module):
    """GPT-2's: up to 4·C, a nonlinearity, down again."""
    options = {"mlp_hidden": None}
    activation = NewGELU

    def __init__(self, config: CfgNode):
        super().__init__()
        hidden = hidden_size(config, "4d")
        self.c_fc = Linear(config.n_embd, hidden, bias=config.bias)
        self.c_proj = residual_output(hidden, config.n_embd, config.bias)
        self.act = self.activation()
        self.dropout = dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class ReLU2(MLP):
    """The same two matrices with relu(x)² between them: no exponential, and most activations exactly zero."""
    activation = SquaredReLU


class ExactGELU(MLP):
    """GELU by the error function, as Pythia has it; the tanh formula is within 5e-4 of it."""
    activation = nn.GELU


class SwiGLU(nn.Module):
    """Gated MLP: three matrices 8/3·C wide have the parameters of GELU's two 4·C wide ones.

    silu(x·W_gate) ⊙ (x·W_fc), then down. Shazeer 2020, arXiv 2002.05202.
    `mlp_hidden='4d'` and `mlp_scaled_init=False` are study 002's: half as many parameters again, and an
    output projection that missed the scaled residual initialisation.
    """
    options = {"mlp_hidden": None, "mlp_scaled_init": True}
    activation = nn.SiLU

    def __init__(self, config: CfgNode):
        super().__init__()
        hidden = hidden_size(config, "8/3d")
        self.c_gate = Linear(config.n_embd, hidden, bias=config.bias)
        self.c_fc = Linear(config.n_embd, hidden, bias=config.bias)
        self.c_proj = residual_output(hidden, config.n_embd, config.bias, scaled=config.mlp_scaled_init)
        self.act = self.activation()
        self.dropout = dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(self.act(self.c_gate(x)) * self.c_fc(x)))


class GeGLU(SwiGLU):
    """SwiGLU with GELU as the gate's nonlinearity."""
    activation = NewGELU


MLPS = {"gelu": MLP, "swiglu": SwiGLU, "geglu": GeGLU, "relu2": ReLU2, "gelu_erf": ExactGELU}
