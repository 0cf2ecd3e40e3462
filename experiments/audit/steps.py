"""
Check what the optimizer does with gradients: which parameters are trained, which decay, and what
one step of the real Trainer does.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings

import torch
from torch import Tensor, nn

from experiments.audit.coordinates import factors, known
from experiments.audit.subject import Subject, kept
from experiments.audit.values import batch, gradient_off, trained
from mingpt.pretrained.upcycle import freeze_except
from mingpt.trainer import Trainer, loss_of
from mingpt.utils import IGNORE_INDEX

CLOSE = 1e-3        # share of the largest value that may differ: float32 sums in another order
RATE = 1e-3         # learning rate of the step that is tried


def frozen(subject: Subject) -> bool | str:
    """Exactly the parameters that run.freeze_except does not name are frozen; without it, none."""
    named = dict(subject.model.named_parameters())
    now = {name: p.requires_grad for name, p in named.items()}
    wanted = dict.fromkeys(named, True)
    if subject.freeze_except is not None:
        try:
            freeze_except(subject.model, subject.freeze_except)
            wanted = {name: p.requires_grad for name, p in named.items()}
        finally:
            for name, p in named.items():
                p.requires_grad_(now[name])
    for name in named:
        if now[name] != wanted[name]:
            return (f"{name} is frozen, but no setting declares it" if wanted[name] else
                    f"{name} is trained, but run.freeze_except={subject.freeze_except} does not "
                    f"name it")
    return True


def decayed(subject: Subject) -> bool | str | None:
    """The weights of linear layers decay by trainer.weight_decay, and no other parameter decays."""
    if not known(subject):
        return None
    declared, named = subject.trainer.weight_decay, dict(subject.model.named_parameters())
    linear = {f"{name}.weight" for name, m in subject.model.named_modules()
              if isinstance(m, nn.Linear)}
    names = {id(p): name for name, p in named.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = subject.model.configure_optimizers(subject.trainer).param_groups
    for group in groups:
        for p in group["params"]:
            name = names.get(id(p))
            if name is None:
                continue
            wanted = declared * factors(subject, name)[2] if name in linear else 0.0
            if not math.isclose(group["weight_decay"], wanted, rel_tol=1e-6):
                return f"{name} decays by {group['weight_decay']}, declared {wanted}"
    return True


class _Watched(Trainer):
    """A Trainer whose training set is a list of batches, used as they are."""

    def batches(self):
        return iter(self.train_dataset)


def stepped(subject: Subject) -> bool | str:
    """One step of the Trainer on two micro-batches uses their mean gradient, and moves the weights
    as AdamW's rule says."""
    model, config = subject.model, copy.deepcopy(subject.trainer)
    config.merge_from_dict({"accumulation_steps": 2, "max_iters": 1, "learning_rate": RATE,
                            "grad_norm_clip": None, "compile": False, "warmup_steps": 0,
                            "lr_schedule": "constant", "dtype": "float32",
                            "device": str(subject.device)})
    pairs = [batch(subject), batch(subject)]
    # The second micro-batch has fewer targets than the first, but every target must weigh the same.
    pairs[1][1][0] = IGNORE_INDEX
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with kept(model), trained(model):
        wanted = _mean_gradient(model, pairs, list(named.values()))
        before = {name: p.detach().clone() for name, p in named.items()}
        made = _step(model, config, pairs, named)
        largest = max((float(g.abs().max()) for g in wanted if g is not None), default=0.0)
        for (name, ours), theirs in zip(made.items(), wanted, strict=True):
            if gradient_off(ours, theirs, 1e-2 * largest) > CLOSE:
                share = (0.0 if ours is None or theirs is None
                         else float(ours.norm() / theirs.norm()))
                return (f"the Trainer's gradient of {name} is {share:.2f} times that of the mean "
                        f"loss")
        return _moved(subject, config, named, before, made)


def _mean_gradient(model: nn.Module, pairs: list,
                   parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of the mean loss over all targets of all micro-batches."""
    targets = [int((y != IGNORE_INDEX).sum()) for _, y in pairs]
    with torch.enable_grad():
        loss = sum(loss_of(model)(x, y) * (n / sum(targets))
                   for (x, y), n in zip(pairs, targets, strict=True))
        return torch.autograd.grad(loss, parameters, allow_unused=True)


def _step(model: nn.Module, config, pairs: list,
          named: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Run one iteration of the Trainer; returns {parameter: its gradient after the step}."""
    held = {p: p.grad for p in named.values()}
    with contextlib.redirect_stdout(None), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        trainer = _Watched(config, model, pairs)
        try:
            trainer.run()
            return {name: None if p.grad is None else p.grad.detach().clone()
                    for name, p in named.items()}
        finally:
            for p in model.parameters():
                p.grad = held.get(p)


def _moved(subject: Subject, config, named: dict, before: dict, made: dict) -> bool | str:
    """AdamW's first step is p − rate · (g / (|g| + eps) + decay · p). Other optimizers are not
    checked."""
    if getattr(config, "optimizer", "adamw") != "adamw" or not known(subject):
        return True
    linear = {f"{name}.weight" for name, m in subject.model.named_modules()
              if isinstance(m, nn.Linear)}
    for name, p in named.items():
        g, was = made[name], before[name]
        if g is None:
            continue
        _, factor, decaying, epsilon = factors(subject, name)
        decay, rate = config.weight_decay * decaying if name in linear else 0.0, RATE * factor
        epsilon *= getattr(config, "adam_eps", 1e-8)
        wanted = -rate * (g / (g.abs() + epsilon) + decay * was)
        if (float((p.detach() - was - wanted).abs().max())
                > 1e-2 * rate * (1 + decay * float(was.abs().max()))):
            return f"a step moves {name} otherwise than AdamW at the declared rate and decay"
    return True
