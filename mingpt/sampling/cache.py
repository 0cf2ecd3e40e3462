"""
A key/value cache: the keys and values of the tokens that a model has read. With it, each further
token costs the computation of one position.

    cache = Cache(model, batch=2)             # room for model.block_size tokens, or for length=64
    logits = advance(model, prompt, cache)    # (B, T) tokens → (B, T, vocab): reads all at once
    logits = advance(model, token, cache)     # (B, 1) → (B, 1, vocab): sees all tokens so far
    logits = advance(model, drafts, cache)    # (B, n) → (B, n, vocab), as speculative decoding does
    cache.truncate(cache.length - 2)          # forget the last two tokens
    cache.reset()                             # forget all tokens

A layer keeps a key as long as a later query may see it. A full layer keeps all keys. A window keeps
a ring of the last w keys. A block pattern keeps the current block and those before it that it sees.
A strided pattern keeps every s-th key and the last one. cache_plan.py plans from the pattern which
slot of memory each position gets, and the memory is allocated once.

A key that a layer has evicted is lost. So if any layer evicts keys, `truncate` can go back at most
slack + 1 tokens, and at most slack + 1 tokens can be fed at once (`advance` splits longer inputs).
A speculative decoder that drafts n tokens makes its cache with slack=n. If no layer evicts keys,
any number of tokens can be truncated, and slack has no effect. Positions end at block_size, as in
the model; generate.py explains what happens beyond it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.losses import soft_cap
from mingpt.patterns.pattern import Pattern
from mingpt.sampling.cache_plan import HeldKeys, View
from mingpt.utils import BadInput


def advance(model, idx: Tensor, cache: Cache, last: bool = False) -> Tensor:
    """Feed tokens (B, n), which continue the cached ones, and add them to the cache. Returns their
    logits (B, n, vocab), or those of the last token alone, (B, 1, vocab), if `last`. Raises
    BadInput if the cache has no room for them."""
    cache.expect(idx)
    most = cache.at_once()
    pieces = idx.split(most, dim=1) if idx.size(1) > most else (idx,)
    hidden = [model.hidden(piece, cache) for piece in pieces]
    # (B, n, C), or (B, 1, C) if last
    x = hidden[-1][:, -1:] if last else torch.cat(hidden, 1) if len(hidden) > 1 else hidden[0]
    return soft_cap(model.lm_head(x), model.softcap)


class Cache:
    """The caches of all layers, for `batch` rows of `length` tokens (None: model.block_size). The
    top of this file explains its use and `slack`. Raises BadInput for a model that cannot use a
    cache."""

    def __init__(self, model, batch: int, length: int | None = None, slack: int = 0):
        reason = cannot_cache(model)
        if reason:
            raise BadInput(reason)
        self.batch, self.capacity = batch, min(length or model.block_size, model.block_size)
        self.slack, self.length = slack, 0
        self.held: dict[Pattern, HeldKeys] = {}
        self.layers = [block.attn.new_cache(self) for block in model.transformer.h]
        self.tokens = None
        if model.document_end is not None:
            device = model.lm_head.weight.device
            self.tokens = torch.zeros(batch, self.capacity, dtype=torch.long, device=device)

    def held_keys(self, pattern: Pattern) -> HeldKeys:
        """The keys that the layers of a pattern hold. Layers with the same pattern share this."""
        if pattern not in self.held:
            self.held[pattern] = HeldKeys(pattern, self.capacity, self.slack)
        return self.held[pattern]

    def at_once(self) -> int:
        """How many tokens may be fed in one step. Into an empty cache, as many as it has room
        for."""
        forgets = (any(keys.plan.evicts for keys in self.held.values())
                   or any(l.forgets for l in self.layers))
        return self.slack + 1 if forgets and self.length else self.capacity

    def expect(self, idx: Tensor) -> None:
        """Raise BadInput if the cache has no room for tokens (B, n)."""
        if idx.size(0) != self.batch or idx.size(1) > self.capacity - self.length:
            raise BadInput(f"a cache for {self.batch} rows of {self.capacity} tokens holds "
                           f"{self.length} and takes at most {self.capacity - self.length} more, "
                           f"not tokens of shape {tuple(idx.shape)}")

    def extend(self, idx: Tensor) -> int:
        """Make room for tokens (B, n), which the layers are given next. Returns the position of the
        first one. Raises BadInput if they do not fit or are too many for one step."""
        self.expect(idx)
        start, n = self.length, idx.size(1)
        if n > self.at_once():
            raise BadInput(f"a cache with slack={self.slack} takes at most {self.at_once()} more "
                           f"at once, not {n}")
        self.length += n
        for keys in self.held.values():
            keys.extend(start, n)
        if self.tokens is not None:
            self.tokens[:, start:self.length] = idx
        return start

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`. Raises BadInput if a layer has evicted a key
        that the next token would see."""
        parts = [*self.held.values(), *self.layers]
        least = max(part.least for part in parts)
        if length and not least <= length <= self.length:
            raise BadInput(f"truncate({length}): of {self.length} tokens a cache with "
                           f"slack={self.slack} can keep {least} … {self.length} here, or 0")
        self.length = length
        for part in parts if length else ():
            part.truncate(length)
        if not length:
            self.reset()

    def reset(self) -> None:
        """Forget all tokens. The memory stays allocated."""
        self.length = 0
        for part in (*self.held.values(), *self.layers):
            part.reset()


def cannot_cache(model) -> str | None:
    """Why a model cannot use a cache and must be recomputed for every token, or None if it can. A
    block or an attention that cannot, such as one without `new_cache`, has `no_cache`, the
    reason."""
    if model.not_causal:
        return f"{model.not_causal}: this model cannot use a key/value cache"
    for part in (part for block in model.transformer.h for part in (block, block.attn)):
        if reason := getattr(part, "no_cache", None):
            return f"{type(part).__name__} cannot use a key/value cache: {reason}"
    return None


# -- one layer -------------------------------------------------------------------------------------

class Kept:
    """One layer's memory: the tensors (B, heads, slots, size) that it keeps of its tokens."""
    # For layers that forget more than held_keys says: whether the layer forgets tokens, and the
    # fewest tokens that it can be truncated to.
    forgets, least = False, 0

    def __init__(self, held_keys: HeldKeys):
        self.held_keys = held_keys
        self.memory: list[Tensor] = []

    @property
    def start(self) -> int:
        """The position of the first new token."""
        return self.held_keys.start

    def keep(self, *new: Tensor) -> None:
        """Store tensors (B, heads, n, size) of the new tokens in the slots of their positions."""
        # The dtype changes if autocast began or ended since the last call.
        if self.memory and self.start and self.memory[0].dtype != new[0].dtype:
            self.memory = [memory.to(x.dtype) for memory, x in zip(self.memory, new, strict=True)]
        if not self.memory or self.memory[0].dtype != new[0].dtype:
            self.memory = [x.new_empty(*x.shape[:2], self.held_keys.plan.size, x.size(-1))
                           for x in new]                            # (B, heads, slots, size)
        slots = self.held_keys.slots
        if len(slots) == 1 or not self.held_keys.plan.evicts:
            for memory, x in zip(self.memory, new, strict=True):
                memory[:, :, slots[0]:slots[-1] + 1].copy_(x)
            return
        # Among many new tokens, a later one may already have taken the slot of an earlier one.
        newest = self.held_keys.holds[slots] == np.arange(self.start, self.start + len(slots))
        index, kept = (torch.from_numpy(x).to(new[0].device)
                       for x in (slots[newest], newest.nonzero()[0]))
        for memory, x in zip(self.memory, new, strict=True):
            memory.index_copy_(2, index, x.index_select(2, kept))

    def read(self) -> tuple[View, list[Tensor]]:
        """The view of the new tokens, and the kept tensors that it covers, (B, heads, keys,
        size)."""
        view = self.held_keys.read(self.memory[0].device)
        if view.index is None:
            return view, [memory[:, :, :view.stop] for memory in self.memory]
        return view, [memory.index_select(2, view.index) for memory in self.memory]

    def truncate(self, length: int) -> None:
        """Nothing to do: held_keys records which slots are held."""

    def reset(self) -> None:
        """Nothing to do: held_keys records which slots are held."""


class KeyValues(Kept):
    """One layer's keys and values. It is called like a backend, with q, k and v of the new tokens.
    The first tokens fed see only one another, so they go through the layer's own backend."""

    def __init__(self, held_keys: HeldKeys, backend: Callable):
        super().__init__(held_keys)
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
    """The mask of a view, which broadcasts to (B, nh, n, keys), or None if all keys are seen. It is
    boolean; with slopes it holds numbers to add to the scores. `start` is the position of the first
    query."""
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
    """Attention of a few queries (B, nh, n, hs) over keys and values (B, nkv, keys, hs) → (B, nh,
    n, hs). The queries of heads that share keys are treated as more queries of one head, so that no
    keys or values are copied."""
    B, heads, n, _ = q.shape
    kv_heads = k.size(1)
    if kv_heads < heads:
        q = q.reshape(B, kv_heads, heads // kv_heads * n, -1)       # (B, nkv, groups · n, hs)
        mask = None if mask is None else _grouped(mask, heads, kv_heads)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    return y.view(B, heads, n, -1)                                  # (B, nh, n, hs)


def _grouped(mask: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The mask for queries grouped as in `over_keys`: (n, keys), (nh, n, keys) or (B, 1 or nh, n,
    keys) → (1 or B, 1 or nkv, groups · n, keys)."""
    mask = mask[(None,) * (4 - mask.dim())]
    per_head = mask.size(1) > 1
    mask = mask.expand(-1, heads if per_head else heads // kv_heads, -1, -1)
    return mask.reshape(len(mask), kv_heads if per_head else 1, -1, mask.size(-1))
