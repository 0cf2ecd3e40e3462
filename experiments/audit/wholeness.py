"""
Check what a model with members that have no reference must do as a whole: read with a cache what it
reads at once, repeat a step with its seed, and be nothing but its weights.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.audit.properties import CLOSE, any_foreign, some_tokens
from experiments.audit.subject import Subject
from experiments.audit.values import off, too_large
from mingpt.sampling.cache import Cache, advance, cannot_cache
from mingpt.trainer import loss_of


@torch.no_grad()
def cached(subject: Subject) -> bool | str | None:
    """Reading a text token by token, with a cache, gives the logits of reading it at once. None for
    a model that cannot use a cache."""
    model = subject.model
    if not any_foreign(subject) or cannot_cache(model):
        return None
    idx = some_tokens(subject)
    whole, T = model(idx)[0], idx.size(1)
    if not all(hasattr(block.attn, "new_cache") for block in model.transformer.h):
        return ("attention has no new_cache(cache), so sampling fails: add it, or set no_cache "
                "to the reason why it has none")
    cache, begin = Cache(model, len(idx)), max(1, T // 3)
    pieces = [idx[:, :begin], *(idx[:, t:t + 1] for t in range(begin, T))]
    read = torch.cat([advance(model, piece, cache) for piece in pieces], 1)
    wrong = (read - whole).abs().amax((0, 2)) > 1e-3 * float(whole.abs().max())
    if wrong.any():
        return (f"the model, reading with a cache: the logits at position "
                f"{int(wrong.nonzero()[0])} are not those of reading at once")
    return True


def repeated(subject: Subject) -> bool | str | None:
    """In training, the same batch and seed give the same loss and gradients: nothing is drawn from
    a generator that the run does not seed (Python's, NumPy's, one of its own)."""
    if not any_foreign(subject):
        return None
    named = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    batch = some_tokens(subject)

    def once() -> list[Tensor | None]:
        torch.manual_seed(0)
        with torch.enable_grad():
            loss = loss_of(subject.model)(batch[:, :-1], batch[:, 1:])
            return [loss.detach(), *torch.autograd.grad(loss, list(named.values()),
                                                        allow_unused=True)]
    subject.model.train()
    try:
        first, *others = (once() for _ in range(4))
    finally:
        subject.model.eval()
    for other in others:
        for name, a, b in zip(["the loss", *named], first, other, strict=True):
            if (a is None) != (b is None) or a is not None and off(b, a) > CLOSE:
                return (f"{name} differs between two training steps with the same batch and seed: "
                        f"something is drawn that the run does not seed, or a state is kept")
    return True


def registered(subject: Subject) -> bool | str | None:
    """Every tensor that the training loss has a gradient for is a parameter of the model, and the
    forward makes no new ones. Others would be in no optimizer and in no checkpoint."""
    if not any_foreign(subject):
        return None
    if new := [name for name, _ in subject.model.named_parameters() if name not in subject.names]:
        return f"{new[0]} is made in the forward, after the weights were drawn: make it in __init__"
    batch = some_tokens(subject)
    subject.model.train()
    try:
        with torch.enable_grad():
            loss = loss_of(subject.model)(batch[:, :-1], batch[:, 1:])
    finally:
        subject.model.eval()
    known = {id(p) for p in subject.model.parameters()}
    for leaf in _leaves(loss):
        if id(leaf) not in known:
            return (f"a tensor of shape {tuple(leaf.shape)}{_owner(subject, leaf)} gets a gradient "
                    f"but is no parameter of the model, so no optimizer gets it: keep it as an "
                    f"nn.Parameter of a module, made in __init__")
    return True


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Every leaf that a gradient of the loss reaches."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [each for each, _ in node.next_functions]


def _owner(subject: Subject, leaf: Tensor) -> str:
    """', kept in layer 0's mlp.table' where a module keeps the tensor in a plain attribute."""
    for name, module in subject.model.named_modules():
        for key, value in vars(module).items():
            inside = value if isinstance(value, list | tuple) else (
                value.values() if isinstance(value, dict) else [value])
            held = [t for each in inside for t in (
                each.parameters() if isinstance(each, nn.Module) else [each])]
            if not key.startswith("_") and any(each is leaf for each in held):
                return f", kept in {name}.{key},"
    return ""


def reborn(subject: Subject) -> bool | str | None:
    """Building the model twice with one seed gives the same weights and buffers: all that is drawn
    comes from that seed. None where weights are not fresh."""
    if not any_foreign(subject) or not subject.fresh:
        return None
    made = []
    for start in (1, 2):
        model = _built(subject, start)
        model.init_weights(0)
        made.append({**dict(model.named_parameters()), **dict(model.named_buffers())})
    for name, a in made[0].items():
        if not torch.equal(a, made[1][name]):
            return (f"{name} is drawn by chance and not from the run's seed: draw it in "
                    f"reset_parameters, with torch's global generator")
    return True


@torch.no_grad()
def reloaded(subject: Subject) -> bool | str | None:
    """A model that is built anew and given this one's weights computes the same on a new text. So
    a checkpoint holds all that the model is, and nothing is kept from the first text."""
    if not any_foreign(subject) or too_large(subject):
        return None
    again = _built(subject, 3).to(subject.device).eval()
    missing = again.load_state_dict(subject.model.state_dict(), strict=False)
    if names := [*missing.missing_keys, *missing.unexpected_keys]:
        return f"{names[0]} depends on what was computed before, and is not in every checkpoint"
    idx = some_tokens(subject)
    ours, theirs = subject.model(idx)[0], again(idx)[0]
    if not torch.equal(ours, theirs):
        return (f"built anew with the same weights, the model differs by {off(theirs, ours):.1%}: "
                f"something that it computes with is in no checkpoint (keep it as a parameter or "
                f"a buffer), or is kept from an earlier text")
    return True


def _built(subject: Subject, seed: int) -> nn.Module:
    """A new model of the same settings. `seed` is that of torch's global generator meanwhile."""
    torch.manual_seed(seed)
    config = copy.deepcopy(subject.config)
    config.model_type = None       # its sizes are in the config already
    with contextlib.redirect_stdout(None):
        return type(subject.model)(config)
