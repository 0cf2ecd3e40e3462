"""
What happens to a token by itself, between attentions: slot `mlp`. (B, T, C) → (B, T, C).
"""

import math

import torch
import torch.nn as nn
from torch.nn import functional as F

from mingpt.layers import Linear, dropout, residual_output
from mingpt.moe import balance_loss, choose, dispatch, within_capacity
from mingpt.utils import BadInput, CfgNode, did_you_mean


class NewGELU(nn.Module):
    """GELU by the tanh formula, as BERT and GPT-2 have it. Hendrycks & Gimpel 2016, arXiv
    1606.08415."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


class UnfusedGELU(nn.Module):
    """NewGELU in separate operations, as Hugging Face's GPT-2 computes it. The fused kernel differs
    in the last bit, and that is more than 1e-5 of a logit that is nearly zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


class SquaredReLU(nn.Module):
    """relu(x)². So et al. 2021 (Primer), arXiv 2109.08668."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x).square()


def hidden_size(config: CfgNode, default: str) -> int:
    """`mlp_hidden` in units: a number, '4d' or '8/3d' (to the nearest multiple of 8); None is the
    member's own."""
    wanted = default if config.mlp_hidden is None else config.mlp_hidden
    if isinstance(wanted, int) and wanted > 0:
        return wanted
    factors = {"4d": 4, "8/3d": 8 / 3}
    if wanted not in factors:
        raise BadInput(f"model.mlp_hidden={wanted!r}: give a positive number, '4d' or '8/3d'")
    exact = factors[wanted] * config.n_embd
    # in a narrower model 8 is over 1 % of the block's parameters
    step = 8 if config.n_embd >= 64 else 1
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
    """The same two matrices with relu(x)² between them: no exponential, and most activations
    exactly zero."""
    activation = SquaredReLU


class ExactGELU(MLP):
    """GELU by the error function, as Pythia has it; the tanh formula is within 5e-4 of it."""
    activation = nn.GELU


class SwiGLU(nn.Module):
    """Gated MLP: three matrices 8/3·C wide have the parameters of GELU's two 4·C wide ones.

    silu(x·W_gate) ⊙ (x·W_fc), then down. Shazeer 2020, arXiv 2002.05202. `mlp_hidden='4d'` and
    `mlp_scaled_init=False` are study 002's: half as many parameters again, and an output projection
    that missed the scaled residual initialisation.
    """
    options = {"mlp_hidden": None, "mlp_scaled_init": True}
    activation = nn.SiLU

    def __init__(self, config: CfgNode):
        super().__init__()
        hidden = hidden_size(config, "8/3d")
        self.c_gate = Linear(config.n_embd, hidden, bias=config.bias)
        self.c_fc = Linear(config.n_embd, hidden, bias=config.bias)
        self.c_proj = residual_output(hidden, config.n_embd, config.bias,
                                      scaled=config.mlp_scaled_init)
        self.act = self.activation()
        self.dropout = dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(self.act(self.c_gate(x)) * self.c_fc(x)))


class GeGLU(SwiGLU):
    """SwiGLU with GELU as the gate's nonlinearity."""
    activation = NewGELU


class MixtureOfExperts(nn.Module):
    """`n_experts` MLPs of the member `expert`, of which a router chooses `experts_per_token` for
    each token: their parameters, but only so many experts' FLOPs. See moe.py.

    `balance_loss` is the factor of what training adds for an even load. With a `capacity_factor` an
    expert takes so many times its even share of a row's tokens in training, and the rest, counted
    in `dropped`, pass by in the residual stream; None drops nothing, and neither does evaluation.
    On a GPU each layer waits for its router.
    """
    options = {**SwiGLU.options, "n_experts": 4, "experts_per_token": 2, "expert": "swiglu",
               "balance_loss": 0.01,
               "capacity_factor": None}

    @staticmethod
    def active_options(config: CfgNode) -> set[str]:
        """The options that these settings read: the experts have those of their own kind alone."""
        of_experts = {option for kind in DENSE.values() for option in kind.options}
        return (set(MixtureOfExperts.options) - of_experts) | set(DENSE[config.expert].options)

    def __init__(self, config: CfgNode):
        super().__init__()
        _check_experts(config)
        self.router = Linear(config.n_embd, config.n_experts, bias=False)
        self.experts = nn.ModuleList([DENSE[config.expert](config)
                                      for _ in range(config.n_experts)])
        self.k, self.balance, self.capacity = (
            config.experts_per_token,
            config.balance_loss,
            config.capacity_factor,
        )
        self.aux_loss: torch.Tensor | None = None
        # (n_experts,): choices of the last training step, dropped or not
        self.load: torch.Tensor | None = None
        self.dropped: torch.Tensor | None = None     # of them, how many met no room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.size()
        # in bf16 near ties fall otherwise: Switch, section 2.4
        with torch.autocast(x.device.type, enabled=False):
            logits = self.router(x.to(self.router.weight.dtype))
        probabilities, weights, chosen = choose(logits.view(B * T, -1), self.k)
        self.aux_loss = (
            self.balance * balance_loss(probabilities, chosen)
            if self.training and self.balance
            else None
        )
        if self.training:
            chosen = self._admitted(chosen.view(B, T, self.k)).view(B * T, self.k)
        return dispatch(x.view(B * T, C), weights, chosen, self.experts).view(B, T, C)

    def _admitted(self, chosen: torch.Tensor) -> torch.Tensor:
        """(B, T, k) → the same, where there is no room nobody's number, n_experts. Counts."""
        experts = len(self.experts)
        self.load = torch.bincount(chosen.flatten(), minlength=experts)
        if self.capacity is None:
            self.dropped = torch.zeros_like(self.load[0])
            return chosen
        room = within_capacity(chosen, experts, self.capacity)
        self.dropped = (~room).sum()
        return chosen.masked_fill(~room, experts)

    def statistics(self) -> dict[str, float]:
        """Of the last training step: the share of choices dropped, and the busiest expert's load
        over an even one."""
        if self.load is None:
            return {}
        load = self.load.cpu().double()
        return {"dropped": float(self.dropped / load.sum()),
                "busiest expert": float(load.max() / load.mean())}

    def product_flops(self) -> float:
        """FLOPs a token of a forward's matrix products: the router's, and those of the experts
        chosen."""
        expert = sum(2 * m.weight.numel() for m in self.experts[0].modules()
                     if isinstance(m, nn.Linear))
        return 2 * self.router.weight.numel() + self.k * expert

    def __getstate__(self) -> dict:
        return {**self.__dict__, "aux_loss": None}   # a model between two steps can be copied


def _check_experts(config: CfgNode) -> None:
    """BadInput for a number, a kind or a capacity that no router could use."""
    n, k, factor = config.n_experts, config.experts_per_token, config.capacity_factor
    if config.expert not in DENSE:
        raise BadInput(f"no expert {config.expert!r} "
                       f"(--model.expert){did_you_mean(config.expert, DENSE)}")
    if n < 1 or not 1 <= k <= n:
        raise BadInput(f"model.experts_per_token={k} of model.n_experts={n}: give 1 to n_experts")
    if factor is not None and not factor > 0:
        raise BadInput(f"model.capacity_factor={factor!r}: give a number above 0, or None to drop "
                       f"nothing")


DENSE = {"gelu": MLP, "swiglu": SwiGLU, "geglu": GeGLU, "relu2": ReLU2, "gelu_erf": ExactGELU}
MLPS = {**DENSE, "moe": MixtureOfExperts}
