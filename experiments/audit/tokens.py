"""
Check which logits change when tokens change, for the whole model.
"""

from __future__ import annotations

import torch

from experiments.audit.subject import Subject
from experiments.audit.values import trained

# A logit moves if it changes by more than this share of the largest. Float32 sums in another order
# differ by less.
MOVED = 1e-5
# Positions, at most. With a large vocabulary, the logits of more would set the audit's peak memory.
LENGTH = 64


@torch.no_grad()
def causal(subject: Subject) -> bool | str:
    """Replacing a token by another, or by an end of document, changes no logit before it."""
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
    """In training too, a token changes no logit before it and no logit of another row. Experts with
    limited room could break this. Dropout is off, because experts draw it in the order of their
    tokens, so a later token changes what is drawn for an earlier one."""
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
                return (f"the model in training, query {query} sees later tokens, from {place} "
                        f"(T = {T})")
            if moved[::2].any():
                return (f"the model in training, row {int(moved[::2].any(1).nonzero()[0]) * 2} "
                        f"sees row 1 (T = {T})")
    return True


def _drawn_alike(subject: Subject, idx: torch.Tensor) -> torch.Tensor:
    """The logits in training, with the random state set to the same seed at every call."""
    torch.manual_seed(0)
    return subject.model(idx)[0]


@torch.no_grad()
def context(subject: Subject) -> bool | str:
    """A token changes the logits at its own position and, where a later query of some layer sees
    it, also after it."""
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
    """(places, T) bool: where the logits move when the token at each place is replaced by `token`,
    or by another one for None."""
    idx = subject.tokens(1, T).repeat(len(places) + 1, 1)
    for row, place in enumerate(places):
        idx[row, place] = (idx[row, place] + 1) % subject.vocab_size if token is None else token
    logits = subject.model(idx)[0]
    return (logits[:-1] - logits[-1]).abs().amax(-1).cpu() > least * float(logits.abs().amax())


@torch.no_grad()
def rows(subject: Subject) -> bool | str:
    """The tokens of one row change no logit of another row."""
    T = min(LENGTH, subject.short)
    idx, others = subject.tokens(3, T), subject.tokens(3, T)
    others[1] = idx[1]
    logits, edited = (subject.model(x)[0][1] for x in (idx, others))
    moved = (logits - edited).abs().amax(-1) > MOVED * logits.abs().amax()
    return f"query {int(moved.nonzero()[0])} of row 1 sees rows 0 and 2" if moved.any() else True


@torch.no_grad()
def padding(subject: Subject) -> bool | str:
    """Other tokens in the padding of a row do not change the logits before the padding."""
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
