"""
Multi-token prediction: while it trains, a model also predicts the tokens after the next one, each
by a head of its own on what the next token's head reads, and all with its unembedding. Gloeckle et
al. 2024, arXiv 2404.19737.

The heads ask the trunk to plan ahead; at sampling they are left out, or draft tokens
(speculate.py). The next token's path is the model's without them, so val_loss is comparable. The
paper's heads are whole layers; these have a layer's MLP without its attention, so that a draft
needs no cache of its own.
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
    """(…, C), what the head of the next token reads → (…, C), what it reads to predict a later
    one."""

    def __init__(self, config: CfgNode):
        super().__init__()
        self.mlp = MLPS[config.mlp](config)
        self.ln = NORMS[config.norm](config.n_embd, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(x + self.mlp(x))


def future_heads(config: CfgNode) -> nn.ModuleList:
    """One head for each of `n_future` tokens but the next; none by default."""
    n = config.n_future
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= max(1, config.block_size - 1):
        raise BadInput(f"model.n_future={n!r}: give a number from 1, the next token alone, to "
                       f"model.block_size − 1")
    return nn.ModuleList([FutureHead(config) for _ in range(n - 1)])


def future_loss(heads: nn.ModuleList, x: Tensor, targets: Tensor,
                loss: Callable[[Tensor, Tensor], Tensor],
                document_end: int | None = None) -> Tensor | float:
    """The sum over the heads of `loss`(what a head gives for x (B, T, C), its targets (B, T)), the
    mean nats of those that count; a head whose targets are all beyond the rows' ends adds
    nothing."""
    total = 0.0
    for steps, head in enumerate(heads, start=1):
        wanted = later(targets, steps, document_end)
        nats = loss(head(x), wanted)
        total = total + torch.where(wanted.ne(IGNORE_INDEX).any(), nats, torch.zeros_like(nats))
    return total


def later(targets: Tensor, steps: int, document_end: int | None = None) -> Tensor:
    """(B, T) targets → those `steps` tokens on, IGNORE_INDEX where the row ends before, or, with a
    document_end, where the document does."""
    T = targets.size(1)
    steps = min(steps, T)
    shifted = torch.cat((targets[:, steps:], targets.new_full((len(targets), steps),
                                                              IGNORE_INDEX)), dim=1)
    if document_end is None:
        return shifted
    ended = (targets == document_end).long()
    ends = ended.cumsum(1)                                              # up to and with each target
    between = F.pad(ends, (0, steps - 1), mode="constant")[:, steps - 1:] - (ends - ended)
    return shifted.masked_fill(between > 0, IGNORE_INDEX)
