"""
What an arm really does, established on the model itself before it is trained: a table of named claims, each true or
a sentence saying what was seen instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mingpt.model import GPT
from mingpt.utils import IGNORE_INDEX
from mingpt.utils import CfgNode as CN

TOLERANCE = 1e-4   # in logits: float32 sums in another order differ by less


def audit(model: GPT, trainer: CN, T: int = 32) -> dict:
    """Run every check on a short random sequence → {"passed": bool, "checks": {claim: True or what was seen}}."""
    mode, T = model.training, min(T, model.block_size)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(model.config.vocab_size, (2, T), generator=generator).to(model.lm_head.weight.device)
    try:
        checks = {claim: check(model, idx, trainer) for claim, check in CHECKS.items()}
    finally:
        model.zero_grad(set_to_none=True)
        model.train(mode)
    return {"passed": all(seen is True for seen in checks.values()), "checks": checks}


@torch.no_grad()
def _causal(model: GPT, idx: torch.Tensor, trainer: CN) -> bool | str:
    before = model(idx)[0]
    for t in range(1, idx.size(1), 5):
        edited = idx.clone()
        edited[:, t] = (edited[:, t] + 1) % model.config.vocab_size
        moved = (model(edited)[0] - before).abs().amax(dim=(0, 2))[:t]      # (t,) before the edited token
        if moved.max() > TOLERANCE:
            return f"position {int(moved.argmax())} sees the token at {t}"
    return True


@torch.no_grad()
def _context(model: GPT, idx: torch.Tensor, trainer: CN) -> bool | str:
    edited = idx.clone()
    edited[:, 0] = (edited[:, 0] + 1) % model.config.vocab_size
    moved = (model(edited)[0] - model(idx)[0]).abs().amax(dim=(0, 2))
    return True if moved[1] > 0 else "the token at 0 changes nothing at position 1: no token sees another"


def _alive(model: GPT, idx: torch.Tensor, trainer: CN) -> bool | str:
    model.zero_grad(set_to_none=True)
    model(idx[:, :-1], idx[:, 1:])[1].backward()
    dead = [name for name, p in model.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.any()) and not _cancelled(name)]
    return True if not dead else f"no gradient reaches {', '.join(dead[:3])}" + (" …" if len(dead) > 3 else "")


def _cancelled(name: str) -> bool:
    """A key's bias adds the same to all scores of a query, so softmax ignores it; its gradient is rounding."""
    return name.endswith("c_attn.bias")


def _grouped(model: GPT, idx: torch.Tensor, trainer: CN) -> bool | str:
    optimizer = model.configure_optimizers(trainer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wrong = [name for name, p in model.named_parameters() if held.count(id(p)) != int(p.requires_grad)]
    return True if not wrong else f"not in exactly one optimizer group: {', '.join(wrong[:3])}"


@torch.no_grad()
def _padding(model: GPT, idx: torch.Tensor, trainer: CN) -> bool | str:
    half = idx.size(1) // 2
    targets = idx.roll(-1, dims=1)
    targets[:, half:] = IGNORE_INDEX
    padded = idx.clone()
    padded[:, half:] = 0
    moved = (model(padded, targets)[1] - model(idx, targets)[1]).abs()
    return True if moved < TOLERANCE else "what stands in the padding changes the loss"


CHECKS: dict[str, Callable] = {
    "no token sees a later one": _causal,
    "a token sees the one before it": _context,
    "every parameter is reached by the gradient": _alive,
    "every trainable parameter is in exactly one optimizer group": _grouped,
    "padding does not count in the loss": _padding,
}
