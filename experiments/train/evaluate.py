"""
The loss on a fixed set of validation tokens.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from mingpt.parallel.processes import Processes
from mingpt.utils import IGNORE_INDEX


@contextmanager
def evaluating(model: torch.nn.Module):
    """Inside, the model is in eval mode and computes no gradients. Afterwards it is in the mode
    that it was in before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def validation_losses(model: torch.nn.Module, x: np.ndarray, y: np.ndarray, batch_size: int,
                      autocast: AbstractContextManager | None = None,
                      processes: Processes | None = None) -> np.ndarray:
    """The loss of every target in nats: x, y (n, T) → (n, T) float32. It is 0 where the target is
    IGNORE_INDEX. Several `processes` share the batches, and each gets all losses."""
    device, rows, processes = next(model.parameters()).device, [], processes or Processes()
    with evaluating(model), autocast or nullcontext():
        for number in processes.share(-(-len(x) // batch_size)):
            batch = slice(number * batch_size, (number + 1) * batch_size)
            tokens, targets = (torch.from_numpy(part[batch]).to(device) for part in (x, y))
            rows.append(processes.token_losses(model, tokens, targets).cpu().numpy())
        for _ in range(processes.idle(-(-len(x) // batch_size))):
            model.token_losses(*(torch.from_numpy(part[:batch_size]).to(device)
                                 for part in (x, y)))
    return np.concatenate(processes.collect(rows))


def evaluate(model: torch.nn.Module, validation, batch_size: int,
             autocast: AbstractContextManager | None = None,
             processes: Processes | None = None) -> dict[str, Any]:
    """Compute val_loss in nats per predicted token, perplexity, bits per byte of the text, and
    val_loss by set.

    `validation` is the corpus's validation set (experiments/corpus): x, y, set_id and nbytes,
    (n, T) each, and set_names.
    """
    losses = validation_losses(model, validation.x, validation.y, batch_size,
                               autocast, processes).astype(np.float64)
    counts = validation.y != IGNORE_INDEX
    val_loss = losses.sum() / counts.sum()
    nbytes = validation.nbytes[counts].sum()
    by_set = {}
    for number, name in enumerate(validation.set_names):
        inside = counts & (validation.set_id == number)
        if inside.any():
            by_set[name] = float(losses[inside].sum() / inside.sum())
    return {"val_loss": float(val_loss), **_by_source(validation, by_set),
            "perplexity": perplexity(val_loss),
            "bits_per_byte": float(losses.sum() / math.log(2) / nbytes) if nbytes else None,
            "val_loss_by_set": by_set}


def _by_source(validation, by_set: dict[str, float]) -> dict[str, float]:
    """val_loss_SOURCE of each source of a mixed corpus; empty for any other corpus."""
    return {key: by_set[name] for key, name in zip(validation.source_columns, validation.set_names,
                                                   strict=False) if name in by_set}


def perplexity(loss: float) -> float:
    """exp(loss), for a loss in nats per token; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
