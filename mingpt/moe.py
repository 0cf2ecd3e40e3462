"""
The functions of a mixture of experts: a router chooses a few of many MLPs for each token, so
parameters grow with the number of experts, but the work per token does not. mlps.py makes the
model's part from these functions.

Shazeer et al. 2017, arXiv 1701.06538; Switch, arXiv 2101.03961; Mixtral, arXiv 2401.04088.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, experts) router logits → all probabilities (N, experts) in float32, then the weights and
    the numbers of the k likeliest experts, (N, k) each.

    For k > 1, a token's weights sum to 1, as in Mixtral. For k = 1, the weight is the probability
    itself, as in Switch: a constant 1 would give the router no gradient.
    """
    probabilities = F.softmax(logits.float(), dim=-1)
    weights, chosen = probabilities.topk(k, dim=-1)
    return probabilities, weights / weights.sum(-1, keepdim=True) if k > 1 else weights, chosen


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """probabilities (N, experts), chosen (N, k) → experts · Σ (choices per token · mean
    probability), summed over the experts: a scalar.

    It is k where all experts are chosen equally often, and grows as the load gets uneven. Its
    gradient flows through the probabilities. Switch's equation 4, with k choices as in Mixtral.
    """
    experts = probabilities.size(-1)
    counts = torch.bincount(chosen.flatten(), minlength=experts) / len(chosen)      # (experts,)
    return experts * (counts * probabilities.mean(0)).sum()


def within_capacity(chosen: Tensor, experts: int, factor: float) -> Tensor:
    """(B, T, k) chosen experts → (B, T, k) bool: true where the expert still has room.

    In each row of the batch, an expert takes at most factor · T·k/experts choices, rounded up.
    Earlier tokens come first, and within a token the likelier expert. So a later token never takes
    an earlier one's place, and no token depends on the future. Each row has room of its own.
    """
    B, T, k = chosen.shape
    room = math.ceil(factor * T * k / experts)
    # (B, T·k, experts): each expert's choices so far, this one included
    taken = F.one_hot(chosen.view(B, T * k), experts).cumsum(1)
    return (taken.gather(2, chosen.view(B, T * k, 1)) <= room).view(B, T, k)


def dispatch(x: Tensor, weights: Tensor, chosen: Tensor,
             experts: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """x (N, C), weights and chosen (N, k) → (N, C): each token's weighted sum of its experts'
    outputs. Where `chosen` is len(experts), no expert is called, and the output is zero."""
    N, k = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # (N·k,): puts each expert's tokens side by side
    counts = torch.bincount(chosen.flatten(), minlength=len(experts) + 1).tolist()
    *parts, dropped = x[order // k].split(counts)
    # an expert without tokens is not called, so its gradient is None: with a gradient of zeros, an
    # optimizer would still change its weights
    outputs = [expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)]
    dtype = outputs[0].dtype if outputs else x.dtype
    outputs = torch.cat([*outputs, torch.zeros_like(dropped, dtype=dtype)])         # (N·k, C)
    # (N·k,): undoes `order`
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(N * k, device=order.device))
    weighted = outputs[inverse].view(N, k, -1) * weights.to(dtype).unsqueeze(-1)    # (N, k, C)
    return weighted.sum(1)                                                          # (N, C)
