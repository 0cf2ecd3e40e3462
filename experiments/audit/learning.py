"""
What training reaches: gradients, and the optimizer's groups.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from experiments.audit.subject import Subject
from mingpt.trainer import loss_of

BATCHES = 3
TOKENS = 512    # of a batch
DRIVEN = 64     # tokens that each expert is given directly
FLOPS = 2e10    # of a batch's forward and backward; one row in any case


def alive(subject: Subject) -> bool | str:
    """Every row and column of every matrix, and every other parameter, has a gradient on one of
    several batches, of the loss that training has: some parts work for it alone."""
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
    """Give every expert tokens directly, where others of its layer are reached: at a small batch a
    router may choose few of many. Adds the gradients to `total`."""
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


def _gradients(subject: Subject, batch: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None,
                                                                                   ...]:
    subject.model.train()
    try:
        with torch.enable_grad():
            loss = loss_of(subject.model)(batch[:, :-1], batch[:, 1:])
            return torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        subject.model.eval()


def _dead(gradient: Tensor | None, used: Tensor | None) -> str | None:
    """Where nothing arrives: '' for the whole of it, else which rows or columns; None where
    something does everywhere. Of a table only the rows used count."""
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
    """Parameters whose gradient is zero by mathematics, not by mistake.

    A bias on keys adds the same to all scores of a query, which softmax ignores: only the sum over
    a linear layer's outputs cancels, so a linear's bias that is in the graph is as alive as its
    weight. And where queries see one key, nothing about the scores matters: of that attention only
    something must be reached.
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
    """The optimizer holds each trainable parameter once, no frozen one, and none of another
    model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # torch warns of duplicates without saying which
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
    return (f"{len(foreign)} tensors of the optimizer are no parameters of the model" if foreign
            else True)
