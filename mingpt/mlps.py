"""
Slot `mlp`: what a layer does to each token by itself, (B, T, C) → (B, T, C).
"""

import math

import torch
import torch.nn as nn
from torch.nn import functional as F

from mingpt.layers import Linear, dropout, residual_output
from mingpt.moe import balance_loss, choose, dispatch, within_capacity
from mingpt.utils import BadInput, CfgNode, did_you_mean


class NewGELU(nn.Module):
    """GELU by the tanh formula, as BERT and GPT-2 have it; any shape. Hendrycks & Gimpel 2016,
    arXiv 1606.08415."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape → the same shape."""
        return F.gelu(x, approximate="tanh")


class UnfusedGELU(nn.Module):
    """NewGELU in separate operations, as Hugging Face's GPT-2 computes it. The fused kernel rounds
    differently in the last bit. A logit near zero then differs by more than 1e-5 of its value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape → the same shape."""
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


class SquaredReLU(nn.Module):
    """relu(x)². So et al. 2021 (Primer), arXiv 2109.08668."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape → the same shape."""
        return F.relu(x).square()


def hidden_size(config: CfgNode, default: str) -> int:
    """The number of hidden units that `mlp_hidden` asks for: a number, '4d' (4·C) or '8/3d' (8/3·C,
    rounded to a multiple of 8). None is the member's `default`. Raises BadInput for any other
    value."""
    wanted = default if config.mlp_hidden is None else config.mlp_hidden
    if isinstance(wanted, int) and wanted > 0:
        return wanted
    factors = {"4d": 4, "8/3d": 8 / 3}
    if wanted not in factors:
        raise BadInput(f"model.mlp_hidden={wanted!r}: give a positive number, '4d' or '8/3d'")
    exact = factors[wanted] * config.n_embd
    # below a width of 64, rounding to 8 would change the block's parameters by over 1 %
    step = 8 if config.n_embd >= 64 else 1
    return int(exact) if exact == int(exact) else step * round(exact / step)


class MLP(nn.Module):
    """GPT-2's MLP: a matrix from C to 4·C, GELU, and a matrix back to C."""
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
        """x (B, T, C) → (B, T, C)."""
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))    # (B, T, hidden) in between


class ReLU2(MLP):
    """GPT-2's two matrices with relu(x)² between them: it needs no exponential, and most
    activations are exactly zero."""
    activation = SquaredReLU


class ExactGELU(MLP):
    """GPT-2's MLP with GELU by the error function, as Pythia has it. The tanh formula is within
    5e-4 of it."""
    activation = nn.GELU


class SwiGLU(nn.Module):
    """Gated MLP: (silu(x·W_gate) ⊙ (x·W_fc))·W_proj. Its three matrices, 8/3·C wide, have as many
    parameters as GELU's two that are 4·C wide. Shazeer 2020, arXiv 2002.05202.

    Study 002 (docs/README.md) used `mlp_hidden='4d'` and `mlp_scaled_init=False`. So its MLP had
    1.5 times as many parameters, and its output projection was not initialised like others that
    write into the residual stream.
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
        """x (B, T, C) → (B, T, C)."""
        return self.dropout(self.c_proj(                            # (B, T, C)
            self.act(self.c_gate(x)) * self.c_fc(x)))               # (B, T, hidden)


class GeGLU(SwiGLU):
    """SwiGLU with GELU in place of SiLU on the gate."""
    activation = NewGELU


class MixtureOfExperts(nn.Module):
    """`n_experts` MLPs of the kind `expert`; a router chooses `experts_per_token` of them for each
    token. The layer has the parameters of all experts, but the FLOPs of the chosen ones only. See
    moe.py.

    Training adds a loss that rewards an even load; `balance_loss` is its factor. If all experts
    were chosen equally often, each would get T · experts_per_token / n_experts choices per row. In
    training, each expert takes at most `capacity_factor` times that many. Choices beyond that are
    dropped: the token gets nothing from that expert, and `dropped` counts them. With None, nothing
    is dropped, and evaluation never drops. On a GPU, the CPU waits in every such layer for the
    router's choices, because it needs the number of tokens per expert.
    """
    options = {**SwiGLU.options, "n_experts": 4, "experts_per_token": 2, "expert": "swiglu",
               "balance_loss": 0.01, "capacity_factor": None}

    @staticmethod
    def active_options(config: CfgNode) -> set[str]:
        """The names of the options that these settings use: the mixture's own, and those of the
        chosen kind of expert."""
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
        # (n_experts,): choices per expert in the last training step, dropped ones included
        self.load: torch.Tensor | None = None
        self.dropped: torch.Tensor | None = None     # the number of choices that were dropped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) → (B, T, C). In training, also sets `aux_loss`, `load` and `dropped`."""
        B, T, C = x.size()
        # bf16 would decide near ties differently: Switch, section 2.4
        with torch.autocast(x.device.type, enabled=False):
            logits = self.router(x.to(self.router.weight.dtype))               # (B, T, experts)
        # (B·T, experts), (B·T, k), (B·T, k)
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
        """(B, T, k) chosen experts → the same, but a choice beyond the expert's capacity becomes
        n_experts, which stands for no expert. Sets `load` and `dropped`."""
        experts = len(self.experts)
        self.load = torch.bincount(chosen.flatten(), minlength=experts)
        if self.capacity is None:
            self.dropped = torch.zeros_like(self.load[0])
            return chosen
        room = within_capacity(chosen, experts, self.capacity)
        self.dropped = (~room).sum()
        return chosen.masked_fill(~room, experts)

    def statistics(self) -> dict[str, float]:
        """Of the last training step: the share of choices that were dropped, and the busiest
        expert's load as a multiple of an even load. Empty before the first step."""
        if self.load is None:
            return {}
        load = self.load.cpu().double()
        return {"dropped": float(self.dropped / load.sum()),
                "busiest expert": float(load.max() / load.mean())}

    def product_flops(self) -> float:
        """FLOPs per token of a forward's matrix products: those of the router and of the chosen
        experts."""
        expert = sum(2 * m.weight.numel() for m in self.experts[0].modules()
                     if isinstance(m, nn.Linear))
        return 2 * self.router.weight.numel() + self.k * expert

    def __getstate__(self) -> dict:
        # without aux_loss, a model can be copied between two steps: aux_loss belongs to an autograd
        # graph, and such a tensor cannot be copied
        return {**self.__dict__, "aux_loss": None}


def _check_experts(config: CfgNode) -> None:
    """Raise BadInput for a number or a kind of experts, or a capacity, that cannot work."""
    n, k, factor = config.n_experts, config.experts_per_token, config.capacity_factor
    if config.expert not in DENSE:
        raise BadInput(f"no expert {config.expert!r} "
                       f"(--model.expert){did_you_mean(config.expert, DENSE)}")
    if n < 1 or not 1 <= k <= n:
        raise BadInput(f"model.experts_per_token={k} of model.n_experts={n}: give 1 or more "
                       f"experts, and 1 to n_experts of them per token")
    if factor is not None and not factor > 0:
        raise BadInput(f"model.capacity_factor={factor!r}: give a number above 0, or None to drop "
                       f"nothing")


DENSE = {"gelu": MLP, "swiglu": SwiGLU, "geglu": GeGLU, "relu2": ReLU2, "gelu_erf": ExactGELU}
MLPS = {**DENSE, "moe": MixtureOfExperts}
