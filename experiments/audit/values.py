"""
Compare what every part computes with the plain reference model, on the input that the part really
gets. The real model runs; its weights are in float64 during the check.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import experiments.audit.reference as reference
from experiments.audit.reference_attention import attention
from experiments.audit.subject import Finding, Subject
from mingpt.trainer import loss_of
from mingpt.utils import IGNORE_INDEX

LENGTH, ROWS = 24, 3
# The share of the largest value that may differ. Some parts always compute in float32.
CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
SMALL = 1e-2    # the size of inputs at which a norm's eps shows
# Parameters, at most. The float64 copy of a larger model would set the run's peak memory.
LARGEST = 200_000_000
PARTS = {"attn": ("attention", ("attention", "position")), "mlp": ("MLP", ("mlp",))}
Seen = dict[nn.Module, tuple[Tensor, Tensor]]    # input and output of each module's last call


# -- what the reference does not know --------------------------------------------------------------

def unchecked(subject: Subject) -> list[str]:
    """One sentence per part of the model that is not compared with the reference."""
    config = subject.config
    found = [f"model.{slot}={getattr(config, slot)} has no reference"
             for slot, known in reference.KNOWN.items() if getattr(config, slot) not in known]
    if config.mlp == "moe" and config.expert not in {*reference.PLAIN, *reference.GATED}:
        found.append(f"model.expert={config.expert} has no reference")
    if subject.model.not_causal:
        found.append(f"{subject.model.not_causal}, which has no reference")
    if too_large(subject):
        found.append(f"values: a model of more than {LARGEST:,} parameters is not compared with "
                     f"the reference")
    return found


def too_large(subject: Subject) -> bool:
    """Whether the model has too many parameters to compare."""
    return sum(p.numel() for p in subject.model.parameters()) > LARGEST


def known(subject: Subject, *slots: str) -> bool:
    """Whether the reference computes the model's members of these slots."""
    expert = subject.config.expert if subject.config.mlp == "moe" and "mlp" in slots else "gelu"
    return (all(getattr(subject.config, slot) in reference.KNOWN[slot] for slot in slots)
            and expert in {*reference.PLAIN, *reference.GATED})


def comparable(subject: Subject) -> bool:
    """Whether the model can be compared with the reference at all."""
    return not subject.model.not_causal and not too_large(subject)


# -- the model, exact and without dropout ----------------------------------------------------------

@contextlib.contextmanager
def exact(subject: Subject) -> Iterator[None]:
    """Within the context, weights and buffers are in float64; afterwards each tensor has its
    original data again. Off the CPU they stay as they are, because not every kernel there supports
    float64."""
    model = subject.model
    held = [(tensor, tensor.data) for tensor in [*model.parameters(), *model.buffers()]]
    try:
        for tensor, data in held:
            if data.is_floating_point() and subject.device.type == "cpu":
                tensor.data = data.double()
        yield
    finally:
        for tensor, data in held:
            tensor.data = data


@contextlib.contextmanager
def undropped(model: nn.Module) -> Iterator[None]:
    """Within the context, every nn.Dropout has p = 0."""
    held = [(m, m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    try:
        for module, _ in held:
            module.p = 0.0
        yield
    finally:
        for module, p in held:
            module.p = p


@contextlib.contextmanager
def trained(model: nn.Module) -> Iterator[None]:
    """Within the context, the model is in train mode, without dropout."""
    model.train()
    try:
        with undropped(model):
            yield
    finally:
        model.eval()


class Weights(dict):
    """{name: tensor}. Looking up a name that the model does not have raises a Finding."""

    def __missing__(self, name: str) -> Tensor:
        raise Finding(f"what is declared needs {name}, but the model has no such parameter")


def declared(subject: Subject) -> tuple[dict[str, Tensor], SimpleNamespace]:
    """(the reference's weights, which require gradients; the reference's settings)."""
    state = Weights((name, p.detach().clone().requires_grad_())
                    for name, p in subject.model.named_parameters())
    if subject.model.lm_head.weight is subject.model.transformer.wte.weight:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    config = SimpleNamespace(**{**subject.config.to_dict(), "document_end": subject.document_end})
    config.layer_patterns = subject.patterns
    return state, config


def batch(subject: Subject) -> tuple[Tensor, Tensor]:
    """(tokens, targets), both (ROWS, T). The rows hold several documents that end at different
    places, and some targets are ignored. Every batch has the same number of targets."""
    T = min(LENGTH, subject.model.block_size)
    tokens = subject.tokens(ROWS, T + 1)
    for row in range(ROWS if T > 4 else 0):
        tokens[row, torch.randint(1, T - 1, (1 + row,), generator=subject.generator)] = subject.eot
    x, y = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    if T > 4:
        y[1, T - 3:] = IGNORE_INDEX
    return x, y


def off(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """The largest difference, divided by the reference's largest value or `least`, whichever is
    larger. Infinite where shapes differ or ours is NaN."""
    if ours.shape != theirs.shape:
        return float("inf")
    scale = max(float(theirs.abs().max()), least, 1e-30)
    return float((ours - theirs).abs().max().nan_to_num(torch.inf)) / scale


def gradient_off(ours: Tensor | None, theirs: Tensor | None, least: float = 0.0) -> float:
    """Like `off`, where a missing gradient counts as zero."""
    if ours is None and theirs is None:
        return 0.0
    ours = torch.zeros_like(theirs) if ours is None else ours
    theirs = torch.zeros_like(ours) if theirs is None else theirs
    return off(ours, theirs, least) if theirs.any() or ours.any() else 0.0


def closeness(subject: Subject) -> float:
    """The largest `off` that passes, for the dtype of the model."""
    return CLOSE[subject.model.lm_head.weight.dtype]


# -- part by part ----------------------------------------------------------------------------------

@torch.no_grad()
def parts(subject: Subject) -> bool | str | None:
    """Every part gives what the reference gives for the same input, in evaluation and in training,
    on two batches each. None where the model cannot be compared."""
    if not comparable(subject):
        return None
    with exact(subject):
        P, c = declared(subject)
        for training in (False, True):
            for t in range(2):
                x, y = batch(subject)
                with trained(subject.model) if training else contextlib.nullcontext():
                    seen = _watched(subject, x, y if training else None)
                    out = subject.model(x, y)[0] if training else subject.model(x)[0]
                if wrong := _compared(subject, P, c, x, seen, out, training):
                    return wrong + (f", in training, batch {t}" if training else "")
        return _small_norms(subject, P, c) or True


def _watched(subject: Subject, x: Tensor, y: Tensor | None) -> Seen:
    """The input and output of each part's last call: in the training loss where there are targets
    y, else in a forward."""
    seen: Seen = {}

    def note(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen[module] = (args[0], output)
    modules = [*subject.parts.values(), subject.model.transformer.ln_f]
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        subject.model(x) if y is None else loss_of(subject.model)(x, y)
    finally:
        for handle in handles:
            handle.remove()
    for name, part in subject.parts.items():
        if part not in seen:
            raise Finding(f"{name} is never called")
    return seen


def _compared(subject: Subject, P: dict, c: SimpleNamespace, idx: Tensor, seen: Seen, out: Tensor,
              training: bool) -> str | None:
    """A sentence about the first part that differs, in the order of computation; None where all
    agree."""
    given = reference.embed(P, c, idx)
    close, keys = closeness(subject), reference.seen_keys(subject.patterns, c, idx)
    if known(subject, "position") and (d := off(seen[subject.blocks[0]][0], given)) > close:
        return f"the input of layer 0 differs from the reference's embeddings by {d:.1%}"
    for l, block in enumerate(subject.blocks):
        if l and (d := off(seen[block][0], seen[subject.blocks[l - 1]][1])) > close:
            return f"the input of layer {l} differs from layer {l - 1}'s output by {d:.1%}"
        for name, child in block.named_children():
            made = _part(subject, P, c, l, name, seen[child][0], keys[l], training)
            if made is not None and (d := off(seen[child][1], made)) > close:
                return (f"layer {l}'s {PARTS.get(name, (name,))[0]} differs from the reference by "
                        f"{d:.1%}")
        if known(subject, *reference.KNOWN):
            made, _ = reference.block(P, l, c, seen[block][0], keys[l], training)
            if (d := off(seen[block][1], made)) > close:
                return f"layer {l}'s sums and order of parts differ from the reference by {d:.1%}"
    return _head(subject, P, c, seen, out)


def _part(subject: Subject, P: dict, c: SimpleNamespace, l: int, name: str, x: Tensor, keys: Tensor,
          training: bool) -> Tensor | None:
    """The reference's output for one part's input; None where it does not know the part."""
    if name == "attn" and known(subject, "attention", "position"):
        return attention(P, l, c, x, keys)
    if name == "mlp" and known(subject, "mlp"):
        return reference.mlp(P, f"transformer.h.{l}.mlp.", c, x, training)[0]
    if name.startswith("ln_") and known(subject, "norm"):
        return reference.norm(P, f"transformer.h.{l}.{name}.", c, x)
    return None


def _head(subject: Subject, P: dict, c: SimpleNamespace, seen: Seen, out: Tensor) -> str | None:
    last = seen[subject.blocks[-1]][1]
    if not known(subject, "norm", "block") or subject.model.transformer.ln_f not in seen:
        return None
    normed = reference.final_norm(P, c, last)
    if (d := off(seen[subject.model.transformer.ln_f][1], normed)) > closeness(subject):
        return f"the final norm differs from the reference by {d:.1%}"
    if (d := off(out, reference.logits(P, c, normed))) > closeness(subject):
        return f"the head's logits differ from the reference by {d:.1%}"
    return None


def _small_norms(subject: Subject, P: dict, c: SimpleNamespace) -> str | None:
    """A sentence about the first norm that differs at small inputs, where eps shows, or None."""
    x = subject.noise(1, 4, subject.config.n_embd).to(subject.model.lm_head.weight.dtype) * SMALL
    for l, block in enumerate(subject.blocks):
        for name, child in block.named_children():
            made = _part(subject, P, c, l, name, x, x, False) if name.startswith("ln_") else None
            if made is not None and (d := off(child(x), made)) > closeness(subject):
                return (f"layer {l}'s {name} differs from the reference by {d:.1%} at inputs of "
                        f"size {SMALL}")
    if not known(subject, "norm", "block"):
        return None
    d = off(subject.model.transformer.ln_f(x), reference.final_norm(P, c, x))
    return (f"the final norm differs from the reference by {d:.1%} at inputs of size {SMALL}"
            if d > closeness(subject) else None)
