"""
The loss on a fixed set of validation tokens.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from mingpt.utils import IGNORE_INDEX


@contextmanager
def evaluating(model: torch.nn.Module):
    """eval() and no gradients inside; the model's mode as it was outside."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def validation_losses(model: torch.nn.Module, x: np.ndarray, y: np.ndarray, batch_size: int,
                      autocast: AbstractContextManager | None = None) -> np.ndarray:
    """Nats of every target: x, y (n, T) → (n, T) float32, 0 where a target does not count."""
    device, rows = next(model.parameters()).device, []
    with evaluating(model), autocast or nullcontext():
        for start in range(0, len(x), batch_size):
            tokens, targets = (torch.from_numpy(part[start:start + batch_size]).to(device)
                               for part in (x, y))
            rows.append(model.token_losses(tokens, targets).cpu().numpy())
    return np.concatenate(rows)


def evaluate(model: torch.nn.Module, validation, batch_size: int,
             autocast: AbstractContextManager | None = None) -> dict[str, Any]:
    """val_loss in nats a predicted token, perplexity, bits per byte of the text, and val_loss by
    set.

    `validation` is a corpus's (experiments/corpus): x, y, set_id, nbytes (n, T) and set_names.
    """
    losses = validation_losses(model, validation.x, validation.y, batch_size,
                               autocast).astype(np.float64)
    counts = validation.y != IGNORE_INDEX
    val_loss = losses.sum() / counts.sum()
    nbytes = validation.nbytes[counts].sum()
    by_set = {}
    for number, name in enumerate(validation.set_names):
        inside = counts & (validation.set_id == number)
        if inside.any():
            by_set[name] = float(losses[inside].sum() / inside.sum())
    return {"val_loss": float(val_loss), "perplexity": perplexity(val_loss),
            "bits_per_byte": float(losses.sum() / math.log(2) / nbytes) if nbytes else None,
            "val_loss_by_set": by_set}


def perplexity(loss: float) -> float:
    """exp(nats a token), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
