"""
The loss.
"""

import torch
from torch.nn import functional as F

from mingpt.utils import IGNORE_INDEX


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean nats a predicted token. logits (B, T, V), targets (B, T); targets of IGNORE_INDEX do not count."""
    return F.cross_entropy(logits.reshape(-1, logits.size(-1)), targets.reshape(-1), ignore_index=IGNORE_INDEX)


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of every target, (B, T) float32; 0 where the target does not count."""
    flat = F.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), targets.reshape(-1),
                           ignore_index=IGNORE_INDEX, reduction="none")
    return flat.view(targets.shape)
