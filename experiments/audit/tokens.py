"""
What a change of tokens changes: the whole model as it is, from its tokens to its logits.
"""

from __future__ import annotations

import torch

from experiments.audit.subject import Subject
from experiments.audit.values import trained

MOVED = 1e-5   # of the largest logit: float32 sums in another order differ by less
LENGTH = 64    # the logits of a large vocabulary at more positions would be the audit's peak memory


@torch.no_grad()
def causal(subject: Subject) -> bool | str:
    """A token, or the end of a document in its place, changes no logit before it."""
    T = min(LENGTH, subject.short)
    places = sorted({1, T // 4, T // 2, T - 1} & set(range(1, T)))
    for token in (None, subject.eot):
        moved = _moved(subject, T, places, token)
        for row, place in zip(moved, places, strict=True):
            if row[:place].any():
                return (f"the model, query {int(row.nonzero()[0])} sees the later token at {place} "
                        f"(T = {T})")
    return True


@torch.no_grad()
def training(subject: Subject) -> bool | str:
    """In training too a token changes no logit before it and none of another row, as experts with
    little room might. Dropout is off: experts draw it in the order of their tokens, so a later
    token moves an earlier one's draw."""
    T = min(LENGTH, subject.short)
    whole = subject.tokens(3, T)
    with trained(subject.model):
        for place in sorted({1, T // 4, T // 2, T - 1} & set(range(1, T))):
            edited = whole.clone()
            edited[1, place:] = subject.tokens(1, T - place)
            logits, others = (_drawn_alike(subject, idx) for idx in (whole, edited))
            moved = (logits - others).abs().amax(-1) > MOVED * float(logits.abs().amax())
            if moved[1, :place].any():
                query = int(moved[1].nonzero()[0])
                return (f"the model in training, query {query} sees later tokens, from {place} (T "
                        f"= {T})")
            if moved[::2].any():
                return (f"the model in training, row {int(moved[::2].any(1).nonzero()[0]) * 2} "
                        f"sees row 1 (T = {T})")
    return True


def _drawn_alike(subject: Subject, idx: torch.Tensor) -> torch.Tensor:
    """The logits in training; whatever is drawn is drawn after the same seed."""
    torch.manual_seed(0)
    return subject.model(idx)[0]


@torch.no_grad()
def context(subject: Subject) -> bool | str:
    """A token changes the logits at itself and, where a layer's query sees it, after it."""
    T = min(LENGTH, subject.short)
    places, idx = sorted({0, T // 3, T // 2}), subject.tokens(1, T)
    masks = torch.stack([subject.declared(layer, idx) for layer in range(len(subject.blocks))])
    moved = _moved(subject, T, places, None, least=0.0)
    for row, place in zip(moved, places, strict=True):
        if not row[place]:
            return f"the model, query {place} does not see its own token"
        if masks[:, place + 1:, place].any() and not row[place + 1:].any():
            return (f"the model, no query after {place} sees the token at {place}: no token's "
                    f"context is used")
    return True


def _moved(subject: Subject, T: int, places: list[int], token: int | None,
           least: float = MOVED) -> torch.Tensor:
    """(places, T) bool: at which positions the logits move when the token at a place becomes
    another (or `token`)."""
    idx = subject.tokens(1, T).repeat(len(places) + 1, 1)
    for row, place in enumerate(places):
        idx[row, place] = (idx[row, place] + 1) % subject.vocab_size if token is None else token
    logits = subject.model(idx)[0]
    return (logits[:-1] - logits[-1]).abs().amax(-1).cpu() > least * float(logits.abs().amax())


@torch.no_grad()
def rows(subject: Subject) -> bool | str:
    """One row's tokens change nothing in another row."""
    T = min(LENGTH, subject.short)
    idx, others = subject.tokens(3, T), subject.tokens(3, T)
    others[1] = idx[1]
    logits, edited = (subject.model(x)[0][1] for x in (idx, others))
    moved = (logits - edited).abs().amax(-1) > MOVED * logits.abs().amax()
    return f"query {int(moved.nonzero()[0])} of row 1 sees rows 0 and 2" if moved.any() else True


@torch.no_grad()
def padding(subject: Subject) -> bool | str:
    """Other tokens in the padding of a row leave the logits before it as they are."""
    T = min(LENGTH, subject.short)
    idx, real = subject.padded(T)
    for token in (0, subject.vocab_size // 2):
        edited = idx.clone()
        edited[:, real:] = token
        both = subject.model(torch.cat([idx, edited]))[0][:, :real]
        moved = (both[0] - both[1]).abs().amax(-1) > MOVED * both.abs().amax()
        if moved.any() or both.isnan().any():
            query = int((moved | both.isnan().any(-1).any(0)).nonzero()[0])
            return f"the model, query {query} sees the padding from {real} (T = {T})"
    return True
