"""
The weights themselves: whose they are, how they begin, and whether imported ones compute what they
did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.audit.subject import Call, Subject, shaken

STD = 0.02          # GPT-2's
CLOSE = 1e-3        # of the largest value: two implementations of the same layers
LENGTH = 16


@torch.no_grad()
def own(subject: Subject) -> bool | str:
    """Shaking one layer's weights changes that layer's output and no other's, and so does each part
    with weights."""
    calls = subject.calls(subject.tokens(1, min(LENGTH, subject.model.block_size)))
    for name, part in subject.parts.items():
        if part not in calls:
            return f"{name} is never called"

    def outputs() -> list[Tensor]:
        return [block(*calls[block][0], **calls[block][1]) for block in subject.blocks]
    before = outputs()
    for l, block in enumerate(subject.blocks):
        with shaken(block, subject):
            changed = [m for m, (a, b) in enumerate(zip(before, outputs(), strict=True))
                       if _moved(a, b)]
        if changed != [l]:
            whose = f"also layer {next(m for m in changed if m != l)}'s" if l in changed else (
                f"not its own but layer {changed[0]}'s" if changed else "no layer's")
            return f"layer {l}: its weights change {whose} output"
        for name, child in block.named_children():
            if any(True for _ in child.parameters()):
                with shaken(child, subject):
                    if not _moved(before[l], block(*calls[block][0], **calls[block][1])):
                        return f"layer {l}: its output does not depend on the weights of its {name}"
    return True


def _moved(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, rtol=0, atol=1e-6 * float(a.abs().max()), equal_nan=True)


def shared(subject: Subject) -> bool | str:
    """Every parameter has memory of its own, but for a head declared to be the embedding."""
    owners: dict[int, str] = {}
    tied = {"transformer.wte.weight", "lm_head.weight"} if getattr(subject.config, "tie_weights",
                                                                   False) else set()
    found = set()
    for name, p in subject.model.named_parameters(remove_duplicate=False):
        other = owners.setdefault(p.data_ptr(), name)
        if other != name and {other, name} != tied:
            return f"{other} and {name} are one tensor"
        found |= {other, name} if other != name else set()
    return (True if tied == found
            else "tie_weights is declared, and lm_head.weight has values of its own")


@torch.no_grad()
def initial(subject: Subject) -> bool | str | None:
    """Matrices have std 0.02, 1/√(2·layers) of it where they write into the residual stream; no two
    are equal."""
    if not subject.fresh:
        return None
    writers, seen = set(_residual_writers(subject)), {}
    for name, module in subject.model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        weight, bias = module.weight, getattr(module, "bias", None)
        expected = STD / math.sqrt(2 * len(subject.blocks)) if module in writers else STD
        std, slack = float(weight.std()), 0.03 + 4 / math.sqrt(weight.numel())
        if abs(std / expected - 1) > slack:
            kind = "an output into the residual stream " if module in writers else ""
            return f"{name}.weight has std {std:.4f}, {kind}declared {expected:.4f}"
        if bias is not None and bias.any():
            return f"{name}.bias does not begin at zero"
        twin = seen.setdefault((tuple(weight.shape), float(weight.flatten()[0])), (name, module))
        if twin[1].weight is not weight and torch.equal(twin[1].weight, weight):
            return f"{name}.weight begins as a copy of {twin[0]}.weight"
    return True


def _residual_writers(subject: Subject) -> Iterator[nn.Module]:
    """The linear layers whose output is what attention, MLP or one of its experts returns, whatever
    their names, in a layer or in a future head; those that declare not to scale their own are left
    out."""
    calls = subject.calls(subject.tokens(1, min(LENGTH, subject.model.block_size)))
    calls |= {head.mlp: ((subject.noise(1, LENGTH, subject.config.n_embd),), {})
              for head in getattr(subject.model, "future", ())}
    unscaled = not getattr(subject.config, "mlp_scaled_init", True)
    writers = [part for block in subject.blocks for part in (block.attn, block.mlp)]
    for child in dict.fromkeys([*writers, *calls]):
        for part in getattr(child, "experts", [child]):
            if child in calls and not (unscaled and hasattr(part, "c_gate")):
                yield from _last_linears(part, calls[child])


def _last_linears(part: nn.Module, call: Call) -> Iterator[nn.Module]:
    """Those whose output is the part's. Where something follows them, such as a gate, those that
    declare by `scaled_init` that they write into the residual stream."""
    out: dict[nn.Module, Tensor] = {}
    handles = [m.register_forward_hook(lambda m, args, y: out.__setitem__(m, y))
               for m in part.modules() if isinstance(m, nn.Linear)]
    y = part(*call[0], **call[1])
    for handle in handles:
        handle.remove()
    last = [m for m, z in out.items() if z.data_ptr() == y.data_ptr()]
    yield from last or [m for m in out if getattr(m, "scaled_init", False)]


@torch.no_grad()
def imported(subject: Subject) -> bool | str | None:
    """Layer by layer the input is the source's, and the logits at the end: a matrix loaded
    untransposed is not."""
    if subject.reference is None:
        return None
    idx = subject.tokens(2, min(LENGTH, subject.model.block_size))
    calls = subject.calls(idx)
    ours = [*(calls[block][0][0] for block in subject.blocks), subject.model(idx)[0]]
    for l, (a, b) in enumerate(zip(ours, subject.reference(idx), strict=True)):
        off = float((a - b).abs().max() / b.abs().max())
        if not off <= CLOSE:
            part = f"layer {l - 1}'s output" if l else "the embeddings' sum"
            part = "the last layer's output, or the head's," if l == len(subject.blocks) else part
            where = int((a - b).abs().amax((0, 2)).argmax())
            return f"{part} is off the source's by {off:.1%} at position {where}"
    return True
