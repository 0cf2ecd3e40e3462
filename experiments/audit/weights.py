"""
Check the weights: each layer uses its own, initial ones have the declared scale, and imported ones
compute what their source computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.audit.coordinates import factors, known
from experiments.audit.subject import Call, Subject, shaken

STD = 0.02          # GPT-2's
CLOSE = 1e-3        # share of the largest value by which two implementations may differ
LENGTH = 16


@torch.no_grad()
def own(subject: Subject) -> bool | str:
    """Changing one layer's weights changes the output of that layer and of no other. Changing any
    of its parts with weights changes its output too."""
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
    """Every parameter has its own memory, except a head that is declared to be the embedding."""
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
            else "tie_weights is declared, but lm_head.weight has values of its own")


@torch.no_grad()
def initial(subject: Subject) -> bool | str | None:
    """Matrices have a standard deviation of 0.02, or 0.02/√(2·layers) where they write into the
    residual stream. Biases are zero, and no two matrices are equal. None where weights are not
    fresh."""
    if not subject.fresh or not known(subject):
        return None
    writers, seen = set(_residual_writers(subject)), {}
    for name, module in subject.model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        weight, bias = module.weight, getattr(module, "bias", None)
        expected = STD / math.sqrt(2 * len(subject.blocks)) if module in writers else STD
        expected *= factors(subject, f"{name}.weight")[0]
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
    """The linear layers whose output is what attention, an MLP or one of its experts returns, in a
    layer or in a future head. They are found by their outputs, not by their names. Gated MLPs are
    left out where mlp_scaled_init is false."""
    calls = subject.calls(subject.tokens(1, min(LENGTH, subject.model.block_size)))
    calls |= {head.mlp: ((subject.noise(1, LENGTH, subject.config.n_embd),), {})
              for head in getattr(subject.model, "future", ())}
    unscaled = not getattr(subject.config, "mlp_scaled_init", True)
    writers = [getattr(block, name) for block in subject.blocks for name in ("attn", "mlp")
               if hasattr(block, name)]
    for child in dict.fromkeys([*writers, *calls]):
        for part in getattr(child, "experts", [child]):
            if child in calls and not (unscaled and hasattr(part, "c_gate")):
                yield from _last_linears(part, calls[child])


def _last_linears(part: nn.Module, call: Call) -> Iterator[nn.Module]:
    """The linear layers of a part whose output is the part's output."""
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
    """The input of every layer and the logits are those of the source. A matrix that was loaded
    untransposed fails this. None without a source."""
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
