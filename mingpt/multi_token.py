"""
Multi-token prediction: in training, a model also predicts the tokens after the next one. Gloeckle
et al. 2024, arXiv 2404.19737.

Each later token has a head of its own. It reads what the model's head (`lm_head`) reads, and turns
it into the input with which the same `lm_head` predicts the later token. Training these heads makes
the layers below them plan ahead. Sampling leaves the heads out, or lets them draft tokens
(sampling/speculate.py). They do not change how the next token is predicted, so val_loss is
comparable with a model without them. The paper's heads are whole layers. These have a layer's MLP
but no attention, so a draft needs no cache of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mingpt.mlps import MLPS
from mingpt.norms import NORMS
from mingpt.utils import IGNORE_INDEX, BadInput, CfgNode


class FutureHead(nn.Module):
    """(…, C) → (…, C): turns what `lm_head` reads for the next token into what it reads for a later
    token, as norm(x + mlp(x))."""

    def __init__(self, config: CfgNode):
        super().__init__()
        self.mlp = MLPS[config.mlp](config)
        self.ln = NORMS[config.norm](config.n_embd, config)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) → (…, C)."""
        return self.ln(x + self.mlp(x))


def future_heads(config: CfgNode) -> nn.ModuleList:
    """The n_future − 1 heads of the tokens after the next one; none by default. Raises BadInput
    unless n_future is from 1 to block_size − 1."""
    n = config.n_future
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= max(1, config.block_size - 1):
        raise BadInput(f"model.n_future={n!r}: give a number from 1 (only the next token) to "
                       f"model.block_size − 1")
    return nn.ModuleList([FutureHead(config) for _ in range(n - 1)])


def future_loss(heads: nn.ModuleList, x: Tensor, targets: Tensor,
                loss: Callable[[Tensor, Tensor], Tensor],
                document_end: int | None = None) -> Tensor | float:
    """x (B, T, C), targets (B, T) of the next token → the sum of the heads' losses, a scalar.

    `loss`(head's output (B, T, C), its targets (B, T)) gives one head's mean nats over the targets
    that count. A head adds 0 where none of its targets counts, such as when all lie beyond the ends
    of the rows.
    """
    total = 0.0
    for steps, head in enumerate(heads, start=1):
        head_targets = shifted_targets(targets, steps, document_end)        # (B, T)
        nats, any_counts = loss(head(x), head_targets), head_targets.ne(IGNORE_INDEX).any()
        total = total + torch.where(any_counts, nats, torch.zeros_like(nats))
    return total


def shifted_targets(targets: Tensor, steps: int, document_end: int | None = None) -> Tensor:
    """(B, T) targets → (B, T), the targets `steps` tokens later. A target is IGNORE_INDEX where the
    row ends before it, and with a document_end also where the document ends before it."""
    T = targets.size(1)
    steps = min(steps, T)
    shifted = torch.cat((targets[:, steps:],
                         targets.new_full((len(targets), steps), IGNORE_INDEX)), dim=1)
    if document_end is None:
        return shifted
    ended = (targets == document_end).long()
    ends = ended.cumsum(1)                      # (B, T): document ends up to each target, inclusive
    # (B, T): the number of document ends from a target on, up to just before the shifted target
    between = F.pad(ends, (0, steps - 1), mode="constant")[:, steps - 1:] - (ends - ended)
    return shifted.masked_fill(between > 0, IGNORE_INDEX)
