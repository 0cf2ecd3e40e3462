"""
Check which targets the loss is a mean over. The loss is recomputed from the logits by its
definition, target by target.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.audit.subject import Subject
from mingpt.trainer import loss_of
from mingpt.utils import IGNORE_INDEX

CLOSE = 1e-4    # nats
LENGTH = 16


@torch.no_grad()
def counted(subject: Subject) -> bool | str:
    """Exactly the targets other than IGNORE_INDEX count, each once and at its own place. An end of
    document counts like any other target."""
    T = min(LENGTH, subject.model.block_size)
    idx, targets = subject.tokens(2, T), subject.tokens(2, T)
    logits = subject.model(idx)[0].double()
    nats = -logits.log_softmax(-1)                                       # (2, T, vocab)
    for token in (None, subject.eot, 0):
        for place in sorted({0, T // 2, T - 1}):
            one = torch.full_like(targets, IGNORE_INDEX)
            one[1, place] = targets[1, place] if token is None else token
            expected = float(nats[1, place, one[1, place]])
            if wrong := _differs(subject, idx, one, expected):
                kind = ("an end of document" if token == subject.eot
                        else f"the token {int(one[1, place])}")
                return f"with one target, {kind} at {place} of row 1, {wrong}"
    for real in {T, max(1, T // 2)}:
        some = targets.clone()
        some[:, real:] = IGNORE_INDEX
        expected = float(nats[:, :real].gather(-1, some[:, :real, None]).mean())
        if wrong := _differs(subject, idx, some, expected):
            return f"with targets at 0 … {real - 1} of {T} and padding after, {wrong}"
    return True


def _differs(subject: Subject, idx: Tensor, targets: Tensor, expected: float) -> str | None:
    """A sentence where the model's loss, or the loss that it is trained on, differs from the loss
    `expected` by its logits; None where both agree."""
    losses = {"loss": subject.model(idx, targets)[1],
              "loss trained on": loss_of(subject.model)(idx, targets)}
    for name, loss in losses.items():
        if not math.isclose(loss, expected, rel_tol=CLOSE, abs_tol=CLOSE):
            return f"the {name} is {loss:.4f}, but its logits give {expected:.4f}"
    return None


def shifted(subject: Subject) -> bool | str | None:
    """In the run's own batches, the target of each position is the row's next token, or is ignored
    where padding follows. None without batches."""
    if subject.batches is None:
        return None
    for t in range(2):
        x, y = (torch.as_tensor(part) for part in subject.batches.batch(t))
        wrong = (y[:, :-1] != x[:, 1:]) & ~((y[:, :-1] == IGNORE_INDEX) & (x[:, 1:] == subject.eot))
        if wrong.any():
            row, place = wrong.nonzero()[0].tolist()
            return (f"batch {t}, row {row}: the target at {place} is {int(y[row, place])}, "
                    f"but the next token is {int(x[row, place + 1])}")
        if not (y != IGNORE_INDEX).any():
            return f"batch {t} has no targets"
    return True
