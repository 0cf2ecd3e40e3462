"""
Check what differs between training and evaluation, and in which layers positions act.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.audit.subject import Call, Subject
from mingpt.positions import POSITIONS, NoPosition, layers_without

LENGTH = 32
DRAWS = 8       # outputs of a part that must vary; a small dropout may leave one of them unchanged
# {part of a block: the dropout settings that act in it}
SHARES = {"attn": ("attn_pdrop", "resid_pdrop"), "mlp": ("resid_pdrop",)}


@torch.no_grad()
def evaluation(subject: Subject) -> bool | str:
    """In eval mode, two forwards of each part give the same bits, whatever the random state is."""
    idx = subject.tokens(2, min(LENGTH, subject.model.block_size))
    calls = subject.calls(idx)
    for name, part in {**_leaves_first(subject), "the model": subject.model}.items():
        call = ((idx,), {}) if part is subject.model else calls.get(part)
        if call and _varies(part, call):
            return f"{name} gives two outputs for one input: dropout is on, or something is drawn"
    return True


@torch.no_grad()
def training(subject: Subject) -> bool | str:
    """In train mode, a part varies if and only if one of its dropout shares is above 0."""
    idx = subject.tokens(2, min(LENGTH, subject.model.block_size))
    calls, declared = subject.calls(idx), subject.config
    subject.model.train()
    try:
        for l, block in enumerate(subject.blocks):
            for name, shares in SHARES.items():
                child = getattr(block, name, None)     # a block of the user may have no MLP
                share = max(getattr(declared, s, 0.0) for s in shares)
                if child in calls and _varies(child, calls[child], share) != (share > 0):
                    return (f"layer {l}'s {name} {'does not vary' if share else 'varies'} in "
                            f"training: its dropout is declared {share}")
        x = torch.ones(1, 64, declared.n_embd, device=subject.device)
        if _varies(subject.model.transformer.drop, ((x,), {}),
                   declared.embd_pdrop) != (declared.embd_pdrop > 0):
            return (f"the embeddings' dropout is declared {declared.embd_pdrop}, but training does "
                    f"not follow it")
    finally:
        subject.model.eval()
    return True


def _leaves_first(subject: Subject) -> dict:
    return dict(sorted(subject.parts.items(), key=lambda item: "'s" not in item[0]))


def _varies(part: torch.nn.Module, call: Call, share: float = 0.0) -> bool:
    """Whether a part gives different outputs for the same input, as the random state advances."""
    def output() -> Tensor:
        y = part(*call[0], **call[1])
        return y[0] if isinstance(y, tuple) else y
    first = output()
    draws = DRAWS if share else 1
    return any(not torch.equal(first, output()) for _ in range(draws)) and not first.isnan().any()


@torch.no_grad()
def positions(subject: Subject) -> bool | str | None:
    """Where positions are declared to act in attention, reordering a query's keys changes its
    output. None where positions do not act in attention."""
    member = POSITIONS[subject.config.position]
    has_table = member.table is not NoPosition.table      # learning.alive checks a table's rows
    if member is NoPosition or has_table and member.rotate is NoPosition.rotate:
        return None
    idx = subject.tokens(1, min(LENGTH, subject.model.block_size))
    calls, query = subject.calls(idx), idx.size(1) - 1
    without = layers_without(subject.config)
    for l, block in enumerate(subject.blocks):
        keys = subject.declared(l, idx)[query, :query].nonzero().flatten()
        if len(keys) < 2 or l in without:
            continue
        (_, *args), kwargs = calls[block.attn]
        x = subject.noise(1, idx.size(1), subject.config.n_embd)
        turned = x.clone()
        turned[:, keys] = x[:, keys.flip(0)]
        a, b = (block.attn(z, *args, **kwargs)[0, query] for z in (x, turned))
        if torch.allclose(a, b, rtol=0, atol=1e-4 * float(a.abs().max())):
            return (f"layer {l}: query {query} does not tell the order of its keys: "
                    f"{subject.config.position} does not act")
    return True
