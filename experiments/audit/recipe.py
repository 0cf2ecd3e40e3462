"""
Check learning-rate schedules and optimizers that do not come with this project by what each of them
must do: follow the progress and nothing else, obey the rate, and go on from a checkpoint.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from experiments.audit.subject import Subject, kept
from experiments.audit.values import batch, trained
from mingpt.lr_schedules import SCHEDULES
from mingpt.trainer import loss_of

KNOWN = {"lr_schedule": {"constant", "cosine", "linear", "wsd"}, "optimizer": {"adamw", "muon"}}
POINTS = 41         # values of progress at which a schedule is asked
RATE = 1e-3
HIGHEST = 1 + 1e-6  # a schedule's largest share of the peak


def _foreign(subject: Subject, slot: str) -> str | None:
    """The name of the slot's member where it does not come with this project, else None."""
    name = getattr(subject.trainer, slot, None)
    return None if name is None or name in KNOWN[slot] else name


def rates(subject: Subject) -> bool | str | None:
    """A schedule gives the same finite share of the peak, from 0 to 1, for the same progress,
    whatever it was asked before."""
    if (name := _foreign(subject, "lr_schedule")) is None:
        return None
    asked = [i / (POINTS - 1) for i in range(POINTS)]
    values = [SCHEDULES[name](progress, subject.trainer) for progress in asked]
    for progress, value in zip(asked, values, strict=True):
        if (isinstance(value, bool) or not isinstance(value, int | float)
                or not math.isfinite(value) or not 0 <= value <= HIGHEST):
            return (f"{name} at progress {progress:g} is {value!r:.40}: the share of the peak "
                    f"rate is a number from 0 to 1")
    if not any(values):
        return f"{name} is 0 throughout: nothing would be learned"
    for index in random.Random(0).sample(range(POINTS), POINTS):
        if SCHEDULES[name](asked[index], subject.trainer) != values[index]:
            return (f"{name} gives two values at progress {asked[index]:g}: it keeps a state or "
                    f"draws at random, so a resumed run would differ")
    return True


def optimizer(subject: Subject) -> bool | str | None:
    """A step at rate 0 moves nothing, a step at another rate moves every parameter that has a
    gradient, and an optimizer that gets the tensors of another one's state continues it to the
    bit, as a resumed run does."""
    if (name := _foreign(subject, "optimizer")) is None:
        return None
    model = subject.model
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    held = {n: p.grad for n, p in named.items()}
    with kept(model), trained(model):
        try:
            return _tried(subject, name, named, [_gradients(subject, named) for _ in range(3)])
        finally:
            for n, p in named.items():
                p.grad = held[n]


def _gradients(subject: Subject, named: dict[str, Tensor]) -> list[Tensor | None]:
    with torch.enable_grad():
        loss = loss_of(subject.model)(*batch(subject))
        return torch.autograd.grad(loss, list(named.values()), allow_unused=True)


def _tried(subject: Subject, name: str, named: dict, gradients: list) -> bool | str:
    first = subject.model.configure_optimizers(subject.trainer)
    for missing in (what for what in ("step", "param_groups", "state") if not hasattr(first, what)):
        return f"{name} returns {type(first).__name__}, which has no {missing}"
    before = _values(named)
    _step(first, named, gradients[0], 0.0)
    for n, p in named.items():
        if not torch.equal(p, before[n]):
            return (f"{name}: a step at learning rate 0 moves {n}: it does not use the rate that "
                    f"the Trainer sets in its groups")
    _step(first, named, gradients[1], RATE)
    for (n, p), g in zip(named.items(), gradients[1], strict=True):
        if g is not None and g.any() and torch.equal(p, before[n]):
            return f"{name}: a step does not move {n}, although it has a gradient"
    return _continued(subject, name, named, first, gradients[2])


def _continued(subject: Subject, name: str, named: dict, first, gradients: list) -> bool | str:
    """Whether a second optimizer takes the same step from the tensors of the first one's state."""
    lost = (f"{name}: a step after loading its state differs: what it keeps must be tensors in "
            f"self.state[p], as nothing else is in a checkpoint")
    begun, state = _values(named), {n: {key: value.clone() for key, value in
                                        first.state.get(p, {}).items() if torch.is_tensor(value)}
                                    for n, p in named.items()}
    _step(first, named, gradients, RATE)
    wanted = _values(named)
    with torch.no_grad():
        for n, p in named.items():
            p.copy_(begun[n])
    second = subject.model.configure_optimizers(subject.trainer)
    order = [id(p) for group in second.param_groups for p in group["params"]]
    entries = {order.index(id(p)): state[n] for n, p in named.items() if state[n]}
    try:
        second.load_state_dict({"state": entries,
                                "param_groups": second.state_dict()["param_groups"]})
        _step(second, named, gradients, RATE)
    except Exception as error:
        return f"{lost} ({type(error).__name__}: {error})"
    return True if all(torch.equal(p, wanted[n]) for n, p in named.items()) else lost


def _step(optimizer, named: dict[str, Tensor], gradients: list, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    for p, g in zip(named.values(), gradients, strict=True):
        p.grad = None if g is None else g.clone()
    torch.manual_seed(0)
    optimizer.step()


def _values(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in named.items()}
