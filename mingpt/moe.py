"""
A mixture of experts: each token is computed by the few of many MLPs that a router chooses for it,
so that parameters grow and work does not. These are the parts that know nothing of a model; mlps.py
puts them together.

Shazeer et al. 2017, arXiv 1701.06538; Switch, arXiv 2101.03961; Mixtral, arXiv 2401.04088.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, experts) router logits → all probabilities, float32; the weights and the numbers of the k
    likeliest, (N, k). Several weights sum to 1, as Mixtral's; a single one is its probability, as
    Switch's, or no gradient would reach the router."""
    probabilities = F.softmax(logits.float(), dim=-1)
    weights, chosen = probabilities.topk(k, dim=-1)
    return probabilities, weights / weights.sum(-1, keepdim=True) if k > 1 else weights, chosen


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """experts · Σ share of choices · mean probability: k where all experts are chosen alike, the
    more the less they are. The gradient passes by the probabilities. Switch's equation 4, with k
    choices as Mixtral has it."""
    experts = probabilities.size(-1)
    counts = torch.bincount(chosen.flatten(), minlength=experts) / len(chosen)
    return experts * (counts * probabilities.mean(0)).sum()


def within_capacity(chosen: Tensor, experts: int, factor: float) -> Tensor:
    """(B, T, k) chosen experts → (B, T, k) bool: true where the expert still has room. In each row
    an expert takes factor · T·k/experts choices, in the order of the text and of a token's own
    choices: who comes later, in whichever rank, takes nobody's place, so nothing is learned about
    the future. Rows do not compete."""
    B, T, k = chosen.shape
    room = math.ceil(factor * T * k / experts)
    # by this choice and those before it
    taken = F.one_hot(chosen.view(B, T * k), experts).cumsum(1)
    return (taken.gather(2, chosen.view(B, T * k, 1)) <= room).view(B, T, k)


def dispatch(x: Tensor, weights: Tensor, chosen: Tensor,
             experts: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """x (N, C), weights and chosen (N, k) → (N, C): each token's weighted sum over its experts. A
    choice numbered len(experts) is nobody's, and gives zero."""
    N, k = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # each expert's tokens side by side
    counts = torch.bincount(chosen.flatten(), minlength=len(experts) + 1).tolist()
    *parts, dropped = x[order // k].split(counts)
    # an expert without tokens has no gradient, rather than zeros that an optimizer would go on
    # stepping from
    made = [expert(part) for expert, part in zip(experts, parts, strict=True) if len(part)]
    made = torch.cat([*made, torch.zeros_like(dropped, dtype=made[0].dtype if made else x.dtype)])
    back = torch.empty_like(order).scatter_(0, order, torch.arange(N * k, device=order.device))
    return (made[back].view(N, k, -1) * weights.to(made.dtype).unsqueeze(-1)).sum(1)
