"""
Check what training reaches: the gradients of parameters, and the groups of the optimizer.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from experiments.audit.subject import Subject
from mingpt.trainer import loss_of

BATCHES = 3
TOKENS = 512    # per batch, at most
DRIVEN = 64     # vectors that each expert is given directly
FLOPS = 2e10    # per batch, forward and backward, at most; but a batch has at least one row


def alive(subject: Subject) -> bool | str:
    """Every row and column of every matrix, and every other parameter, has a gradient on at least
    one of several batches. The loss is the training loss, because some parts affect only that."""
    T, named = subject.long, {name: p for name, p in subject.model.named_parameters()
                              if p.requires_grad}
    dear = int(FLOPS / (6 * T * sum(p.numel() for p in named.values())))
    batches = [subject.tokens(max(1, min(TOKENS // T, dear)), T + 1) for _ in range(BATCHES)]
    total = dict.fromkeys(named, None)
    for batch in batches:
        for name, gradient in zip(named, _gradients(subject, batch, list(named.values())),
                                  strict=True):
            if gradient is not None:
                total[name] = (gradient.abs() if total[name] is None
                               else total[name] + gradient.abs())
    exempt = _exempt(subject, named, total)
    _drive_experts(subject, total)
    used = {"transformer.wpe.weight": torch.arange(T),
            "transformer.wte.weight": torch.cat(batches)[:, :-1].unique()}
    for name in named:
        if name not in exempt and (where := _dead(total[name], used.get(name))) is not None:
            return f"no gradient reaches {name}{where}"
    return True


def _drive_experts(subject: Subject, total: dict[str, Tensor | None]) -> None:
    """Give every expert random vectors directly and add the gradients to `total`. This happens only
    where the gradient reaches an expert of the same layer: with a small batch, a router may choose
    few of many experts."""
    for name, module in subject.model.named_modules():
        for number, expert in enumerate(getattr(module, "experts", ())):
            prefix = f"{name}.experts.{number}."
            mine = {n: p for n, p in subject.model.named_parameters() if n.startswith(prefix)
                    and n in total}
            reached = [n for n, g in total.items() if n.startswith(f"{name}.experts.")
                       and g is not None and g.any()]
            if not mine or not reached:
                continue
            with torch.enable_grad():
                y = expert(subject.noise(DRIVEN, subject.config.n_embd))
                made = torch.autograd.grad((y * subject.noise(*y.shape)).sum(),
                                           list(mine.values()), allow_unused=True)
            for n, g in zip(mine, made, strict=True):
                if g is not None:
                    total[n] = g.abs() if total[n] is None else total[n] + g.abs()


def _gradients(subject: Subject, batch: Tensor,
               parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of the training loss for a batch (B, T + 1) of tokens."""
    subject.model.train()
    try:
        with torch.enable_grad():
            loss = loss_of(subject.model)(batch[:, :-1], batch[:, 1:])
            return torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        subject.model.eval()


def _dead(gradient: Tensor | None, used: Tensor | None) -> str | None:
    """Where a gradient is zero: '' for everywhere, else the rows or columns; None for nowhere.
    `used` are the rows of a table that the batches use; no other rows count."""
    if gradient is None or not gradient.any():
        return ""
    if gradient.dim() != 2:
        return None
    rows = (gradient.cpu() if used is None else gradient.cpu()[used.cpu()]).ne(0)
    for kind, reached in (("row", rows.any(1)), ("column", rows.any(0))):
        if not reached.all():
            missing = (~reached).nonzero().flatten()
            first = int(missing[0]) if kind == "column" or used is None else int(used[missing[0]])
            return f", {kind} {first}" + (f" and {len(missing) - 1} more" if len(missing) > 1
                                          else "")
    return None


def _exempt(subject: Subject, named: dict[str, Tensor],
            total: dict[str, Tensor | None]) -> set[str]:
    """The parameters whose gradient may be zero for mathematical reasons.

    A bias on keys adds the same to all scores of a query, and softmax ignores that. So a bias that
    is in the graph counts as reached where the weight of its linear layer is reached. Where queries
    see only one key, the scores change nothing: it is enough that some parameter of that attention
    is reached.
    """
    linears = {name for name, m in subject.model.named_modules() if isinstance(m, nn.Linear)}
    exempt = {f"{name}.bias" for name in linears if total.get(f"{name}.bias") is not None
              and total.get(f"{name}.weight") is not None and total[f"{name}.weight"].any()}
    for l, pattern in enumerate(subject.patterns):
        mine = {name for name in named if name.startswith(f"transformer.h.{l}.attn.")}
        if pattern.reach(subject.long) == 0 and any(total[n] is not None and total[n].any()
                                                    for n in mine):
            exempt |= mine
    return exempt


def grouped(subject: Subject) -> bool | str:
    """The optimizer holds each trainable parameter exactly once, no frozen parameter, and no tensor
    from outside the model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # torch's warning about duplicates does not name them
            optimizer = subject.model.configure_optimizers(subject.trainer)
    except ValueError as error:
        return f"the optimizer refuses its groups: {error}"
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    named = dict(subject.model.named_parameters())
    for name, p in named.items():
        times = held.count(id(p))
        if times != int(p.requires_grad):
            return (f"{name} is {'trainable' if p.requires_grad else 'frozen'} and held {times} "
                    f"times")
    foreign = set(held) - {id(p) for p in named.values()}
    return (f"{len(foreign)} tensors of the optimizer are not parameters of the model" if foreign
            else True)
