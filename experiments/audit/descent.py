"""
Compare the training loss and its gradients with those of the plain reference model.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

import experiments.audit.reference as reference
from experiments.audit.subject import Subject
from experiments.audit.values import (
    batch,
    closeness,
    comparable,
    declared,
    exact,
    gradient_off,
    known,
    off,
    trained,
)
from mingpt.trainer import loss_of


def gradients(subject: Subject) -> bool | str | None:
    """The training loss and its gradients equal the reference's, for two batches in turn. None
    where the reference does not know a part of the model."""
    if not comparable(subject) or not known(subject, *reference.KNOWN):
        return None
    with exact(subject), trained(subject.model), torch.enable_grad():
        P, c = declared(subject)
        for t in range(2):
            if wrong := _descent(subject, P, c, *batch(subject)):
                return f"{wrong}, batch {t}"
    return True


def _descent(subject: Subject, P: dict, c: SimpleNamespace, x: Tensor, y: Tensor) -> str | None:
    named = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    inputs, close = {}, closeness(subject)

    def note(module: nn.Module, args: tuple) -> None:
        inputs[module] = args[0]
    watched = [*subject.blocks, subject.model.transformer.ln_f]
    handles = [module.register_forward_pre_hook(note) for module in watched]
    try:
        ours = loss_of(subject.model)(x, y)
    finally:
        for handle in handles:
            handle.remove()
    theirs, streams = reference.loss(P, c, subject.patterns, x, y)
    if off(ours.detach(), theirs.detach()) > close:
        return (f"the loss in training is {ours.item():.6f}, but the reference's is "
                f"{theirs.item():.6f}")
    if not ours.requires_grad:
        return "the loss in training has no gradient"
    fair = [P[name] for name in named]
    want = torch.autograd.grad(theirs, [*streams, *fair], allow_unused=True)
    flowing = [l for l, module in enumerate(watched) if module in inputs
               and inputs[module].requires_grad]
    have = torch.autograd.grad(ours, [*[inputs[watched[l]] for l in flowing], *named.values()],
                               allow_unused=True)
    return (_streams(flowing, have, want, 2 * close, len(subject.blocks))
            or _parameters(list(named), have[len(flowing):], want[len(streams):], 2 * close))


def _streams(flowing: list[int], have: tuple, want: tuple, close: float, depth: int) -> str | None:
    """A sentence about the last layer where the gradient at the input is not the reference's, or
    None. `flowing` are the places that have a gradient; place `depth` is the final norm's input."""
    for place in reversed(range(len(flowing))):
        l = flowing[place]
        if gradient_off(have[place], want[l]) > close:
            share = 0.0 if have[place] is None else float(have[place].norm() / want[l].norm())
            where = "the loss and the head" if l == depth else f"layer {l}"
            return (f"the gradient through {where} is not the reference's: it has {share:.2f} "
                    f"times its size")
    return None


def _parameters(names: list[str], have: tuple, want: tuple, close: float) -> str | None:
    largest = max((float(g.abs().max()) for g in want if g is not None), default=0.0)
    for name, ours, theirs in zip(names, have, want, strict=True):
        if (d := gradient_off(ours, theirs, 1e-3 * largest)) > close:
            return f"the gradient of {name} differs from the reference by {d:.1%}"
    return None
