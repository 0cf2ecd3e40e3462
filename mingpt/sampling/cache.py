"""
A key/value cache: what a model keeps of the tokens that it has read, so that the next ones cost one
position each.

    cache = Cache(model, batch=2)             # room for model.block_size tokens, or for length=64
    logits = advance(model, prompt, cache)    # (B, T) tokens → (B, T, vocab): reads all at once
    logits = advance(model, token, cache)     # (B, 1) → (B, 1, vocab): sees all tokens so far
    logits = advance(model, drafts, cache)    # (B, n) → (B, n, vocab), as speculative decoding does
    cache.truncate(cache.length - 2)          # forget the last two tokens
    cache.reset()                             # forget all tokens

A layer keeps a key as long as a later query may see it: all of them in a full layer, a ring of the
last w in a window, a block and those before it, every s-th of a stride and the last one. Which slot
of memory a position has is planned before, from the pattern (cache_plan.py), and the memory is
allocated once. What a pattern lets go is gone: where any layer lets go, `truncate` reaches back
slack + 1 tokens at most, and as many can be fed at once (`advance` splits what is longer). A
speculative decoder that drafts n tokens makes its cache with slack=n. Where no layer lets go,
everything can be truncated, and slack means nothing. Positions end at block_size, as the model's
do: `generate` says what then.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.losses import soft_cap
from mingpt.patterns.pattern import Pattern
from mingpt.sampling.cache_plan import Ledger, View
from mingpt.utils import BadInput


def advance(model, idx: Tensor, cache: Cache, last: bool = False) -> Tensor:
    """Feed tokens (B, n) behind those that the cache holds → their logits, (B, n, vocab); of the
    last alone if `last`. BadInput where the cache has no room for them."""
    cache.expect(idx)
    most = cache.at_once()
    pieces = idx.split(most, dim=1) if idx.size(1) > most else (idx,)
    hidden = [model.hidden(piece, cache) for piece in pieces]
    x = hidden[-1][:, -1:] if last else torch.cat(hidden, 1) if len(hidden) > 1 else hidden[0]
    return soft_cap(model.lm_head(x), model.softcap)


class Cache:
    """Every layer's cache for `batch` rows of `length` tokens (None: the model's block). See the
    top of this file."""

    def __init__(self, model, batch: int, length: int | None = None, slack: int = 0):
        reason = cannot_cache(model)
        if reason:
            raise BadInput(reason)
        self.batch, self.capacity = batch, min(length or model.block_size, model.block_size)
        self.slack, self.length = slack, 0
        self.ledgers: dict[Pattern, Ledger] = {}
        self.layers = [block.attn.new_cache(self) for block in model.transformer.h]
        self.tokens = None
        if model.document_end is not None:
            device = model.lm_head.weight.device
            self.tokens = torch.zeros(batch, self.capacity, dtype=torch.long, device=device)

    def ledger(self, pattern: Pattern) -> Ledger:
        """What is held of a pattern, shared by the layers that have it."""
        if pattern not in self.ledgers:
            self.ledgers[pattern] = Ledger(pattern, self.capacity, self.slack)
        return self.ledgers[pattern]

    def at_once(self) -> int:
        """How many tokens may be fed now; the first time as many as there is room for."""
        forgets = any(ledger.plan.evicts for ledger in self.ledgers.values()) or any(l.forgets
                                                                                     for l
                                                                                     in self.layers)
        return self.slack + 1 if forgets and self.length else self.capacity

    def expect(self, idx: Tensor) -> None:
        """BadInput where tokens (B, n) do not fit."""
        if idx.size(0) != self.batch or idx.size(1) > self.capacity - self.length:
            raise BadInput(f"a cache for {self.batch} rows of {self.capacity} tokens holds "
                           f"{self.length} and takes at "
                           f"most {self.capacity - self.length} more, not {tuple(idx.shape)}")

    def extend(self, idx: Tensor) -> int:
        """Make room for tokens (B, n), which the layers will now be given. Returns the position of
        the first one."""
        self.expect(idx)
        start, n = self.length, idx.size(1)
        if n > self.at_once():
            raise BadInput(f"a cache with slack={self.slack} takes at most {self.at_once()} more "
                           f"at once, not {n}")
        self.length += n
        for ledger in self.ledgers.values():
            ledger.extend(start, n)
        if self.tokens is not None:
            self.tokens[:, start:self.length] = idx
        return start

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`. BadInput where a layer has let go what a next
        token would see."""
        parts = [*self.ledgers.values(), *self.layers]
        least = max(part.least for part in parts)
        if length and not least <= length <= self.length:
            raise BadInput(f"truncate({length}): of {self.length} tokens a cache with "
                           f"slack={self.slack} can keep "
                           f"{least} … {self.length} here, or 0")
        self.length = length
        for part in parts if length else ():
            part.truncate(length)
        if not length:
            self.reset()

    def reset(self) -> None:
        """Forget all tokens; the memory stays."""
        self.length = 0
        for part in (*self.ledgers.values(), *self.layers):
            part.reset()


def cannot_cache(model) -> str | None:
    """Why a model has to be recomputed for every token, or None."""
    if model.published_padding is not None:
        return "model.published_padding lets text see what comes after it: there is nothing to keep"
    return None


# -- one layer -------------------------------------------------------------------------------------

class Kept:
    """One layer's memory: what it keeps of each token, tensors of (B, heads, slots, size)."""
    forgets, least = False, 0       # beyond what the ledger says

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.memory: list[Tensor] = []

    @property
    def start(self) -> int:
        """The position of the first new token."""
        return self.ledger.start

    def keep(self, *new: Tensor) -> None:
        """What is to be kept of the new tokens, tensors of (B, heads, n, size) → their slots."""
        # autocast began or ended in between
        if self.memory and self.start and self.memory[0].dtype != new[0].dtype:
            self.memory = [memory.to(x.dtype) for memory, x in zip(self.memory, new, strict=True)]
        if not self.memory or self.memory[0].dtype != new[0].dtype:
            self.memory = [x.new_empty(*x.shape[:2], self.ledger.plan.size, x.size(-1))
                           for x in new]
        slots = self.ledger.slots
        if len(slots) == 1 or not self.ledger.plan.evicts:
            for memory, x in zip(self.memory, new, strict=True):
                memory[:, :, slots[0]:slots[-1] + 1].copy_(x)
            return
        # not yet driven out
        held = self.ledger.holds[slots] == np.arange(self.start, self.start + len(slots))
        index, kept = (torch.from_numpy(x).to(new[0].device)
                       for x in (slots[held], held.nonzero()[0]))
        for memory, x in zip(self.memory, new, strict=True):
            memory.index_copy_(2, index, x.index_select(2, kept))

    def read(self) -> tuple[View, list[Tensor]]:
        """What the new tokens see of all that is kept, (B, heads, keys, size), and where it
        stands."""
        view = self.ledger.read(self.memory[0].device)
        if view.index is None:
            return view, [memory[:, :, :view.stop] for memory in self.memory]
        return view, [memory.index_select(2, view.index) for memory in self.memory]

    def truncate(self, length: int) -> None:
        """What is held follows from the ledger."""

    def reset(self) -> None:
        """So it does here."""


class KeyValues(Kept):
    """One layer's keys and values. Called as a backend is, with those of the new tokens; the first
    tokens, which see themselves alone, go through the layer's own backend."""

    def __init__(self, ledger: Ledger, backend: Callable):
        super().__init__(ledger)
        self.backend = backend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        self.keep(k, v)
        if self.start == 0:
            return self.backend(q, k, v, slopes=slopes, allowed=allowed, dropout_p=dropout_p)
        view, (k, v) = self.read()
        return over_keys(q, k, v, mask_of(view, self.start, q, slopes, allowed), dropout_p)


def mask_of(view: View, start: int, q: Tensor, slopes: Tensor | None,
            allowed: Tensor | None) -> Tensor | None:
    """The view's mask, of booleans, or of scores to add where there are slopes; broadcasts to (B,
    nh, n, keys)."""
    seen = view.seen
    if allowed is not None:
        here = allowed.index_select(-1, view.positions)                       # (B, 1, n, keys)
        seen = here if seen is None else here & seen
    if slopes is None:
        return seen
    distance = torch.arange(start, start + q.size(2), device=q.device)[:, None] - view.positions
    bias = (-slopes[:, None, None] * distance).to(q.dtype)                    # (nh, n, keys)
    return bias if seen is None else bias.masked_fill(~seen, float("-inf"))


def over_keys(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float = 0.0,
              scale: float | None = None) -> Tensor:
    """A few queries (B, nh, n, hs) over keys and values (B, nkv, keys, hs) → (B, nh, n, hs). The
    queries of heads that share keys are read as more queries of one head, so that nothing is
    copied."""
    B, heads, n, _ = q.shape
    kv_heads = k.size(1)
    if kv_heads < heads:
        q = q.reshape(B, kv_heads, heads // kv_heads * n, -1)
        mask = None if mask is None else _grouped(mask, heads, kv_heads)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    return y.view(B, heads, n, -1)


def _grouped(mask: Tensor, heads: int, kv_heads: int) -> Tensor:
    """(n, keys), (nh, n, keys) or (B, 1 or nh, n, keys) → (1 or B, 1 or nkv, groups · n, keys)."""
    mask = mask[(None,) * (4 - mask.dim())]
    per_head = mask.size(1) > 1
    mask = mask.expand(-1, heads if per_head else heads // kv_heads, -1, -1)
    return mask.reshape(len(mask), kv_heads if per_head else 1, -1, mask.size(-1))
