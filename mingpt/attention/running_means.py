"""
Running means under weights, and sums of them: what msla's latents hold, for all tokens of a text or
for the next one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.losses import wide_dtype
from mingpt.sampling.cache import Cache

CHUNK = 64      # tokens that meet each other as pairs


def running_means(read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None = None) -> Tensor:
    """y_i = Σ_l read_il · (Σ_{j ≤ i} f^(i−j) write_jl v_j) / (Σ_{j ≤ i} f^(i−j) write_jl), where f
    = e^(−slope).

    read and write (B, nh, T, L), write above 0; v (B, nh, T, hs); slopes (nh,) or None for 0 → (B,
    nh, T, hs) in v's dtype, computed in float32 at least. Time and memory are linear in T: of what
    the latents hold, a state is kept for every CHUNK tokens. All that is added up is positive
    weights, so no difference of large sums loses its digits.
    """
    T, dtype = v.size(-2), v.dtype
    with torch.autocast(v.device.type, enabled=False):
        read, write, v = (_chunked(_wide(x)) for x in (read, write, v))  # (B, nh, chunks, c, ·)
        fade = Fade(slopes, write)
        held = _held(fade, write, v)  # (B, nh, chunks, L, hs + 1)
        # (B, nh, chunks, c, L)
        total = fade.within @ write + fade.since * held[..., -1].unsqueeze(-2)
        read = read / total
        near = (read @ write.mT * fade.within) @ v
        y = near + fade.since * (read @ held[..., :-1])
    return y.flatten(2, 3)[:, :, :T].to(dtype)


class Fade:
    """What is left of a token in its own chunk and after it, each broadcasting over (B, nh, chunks,
    …)."""

    def __init__(self, slopes: Tensor | None, like: Tensor):
        place = torch.arange(like.size(-2), device=like.device, dtype=like.dtype)
        slopes = like.new_zeros(1) if slopes is None else slopes.to(like)
        slopes, last = slopes[:, None, None, None], len(place) - 1
        self.within = (-slopes * (place[:, None] - place)).exp().tril()  # (nh, 1, c, c): of j, at i
        # (nh, 1, c, 1): of what was before, at i
        self.since = (-slopes * (place[:, None] + 1)).exp()
        # (nh, 1, c, 1): of j, at the chunk's end
        self.until = (-slopes * (last - place[:, None])).exp()
        self.over = (-slopes * (last + 1)).exp()[:, 0]  # (nh, 1, 1): of a state, over a chunk


def _held(fade: Fade, write: Tensor, v: Tensor) -> Tensor:
    """Σ of weighted values and, in the last column, of weights, before each chunk: (B, nh, chunks,
    L, hs + 1)."""
    added = (write * fade.until).mT @ F.pad(v, (0, 1), value=1.0)
    states = [torch.zeros_like(added[:, :, 0])]
    for chunk in added[:, :, :-1].unbind(2):
        states.append(states[-1] * fade.over + chunk)
    return torch.stack(states, 2)


def _wide(x: Tensor) -> Tensor:
    return x.to(wide_dtype(x.dtype))


def _chunked(x: Tensor) -> Tensor:
    """(B, nh, T, d) → (B, nh, chunks, c, d), filled up with 1, which no token before sees."""
    c = min(CHUNK, x.size(-2))
    return F.pad(x, (0, 0, 0, -x.size(-2) % c), value=1.0).unflatten(2, (-1, c))


class State(NamedTuple):
    """What the latents hold after `length` tokens: (B, nh, L, hs + 1), the last column the
    weights."""
    length: int
    held: Tensor


class States:
    """The cache of one layer: what its latents hold now and at the last slack + 1 lengths, to go
    back to."""
    forgets = True

    def __init__(self, cache: Cache, topk: int):
        self.cache, self.topk = cache, topk
        self.reset()

    def reset(self) -> None:
        self.states: list[State] = []
        self.peak = 0

    @property
    def least(self) -> int:
        return max(0, self.peak - 1 - self.cache.slack)

    def truncate(self, length: int) -> None:
        self.states = [state for state in self.states if state.length <= length]

    def __call__(self, read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
        """running_means, of the new tokens behind those that are held."""
        with torch.autocast(v.device.type, enabled=False):      # what is held is held in float32
            return self._means(read, write, v, slopes)

    def _means(self, read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
        read, write, dtype, n = _wide(read), _wide(write), v.dtype, v.size(-2)
        wide = F.pad(_wide(v), (0, 1), value=1.0)                               # (B, nh, n, hs + 1)
        fade = None if slopes is None else (-slopes.to(wide)).exp()[:, None, None]
        first = not self.states
        y = running_means(read, write, v, slopes) if first else []
        if first:
            self.states = [self._summed(write, wide, slopes, max(0, n - 1 - self.cache.slack))]
        for i in range(self.states[-1].length if first else 0, n):
            self._add(write[:, :, i], wide[:, :, i], fade)
            if not first:
                y.append(self._mean(read[:, :, i]))
        self.peak = max(self.peak, self.states[-1].length)
        self.states = [state for state in self.states if state.length >= self.least]
        return y if first else torch.stack(y, 2).to(dtype)

    def _summed(self, write: Tensor, wide: Tensor, slopes: Tensor | None, n: int) -> State:
        """The state after the first n of the tokens given."""
        write, wide = write[:, :, :n], wide[:, :, :n]
        if slopes is not None:
            age = torch.arange(n - 1, -1, -1, device=write.device, dtype=write.dtype)
            write = write * (-slopes.to(write)[:, None] * age).exp()[..., None]
        return State(n, write.mT @ wide)

    def _add(self, write: Tensor, wide: Tensor, fade: Tensor | None) -> None:
        """One token more: write (B, nh, L), wide (B, nh, hs + 1)."""
        length, held = self.states[-1]
        held = held if fade is None else held * fade
        self.states.append(State(length + 1, torch.addcmul(held, write.unsqueeze(-1),
                                                           wide.unsqueeze(-2))))

    def _mean(self, read: Tensor) -> Tensor:
        """read (B, nh, L), 0 but for k → what those hold, (B, nh, hs)."""
        weights, index = read.topk(self.topk, -1)
        held = self.states[-1].held
        # (B, nh, k, hs + 1)
        best = held.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, held.size(-1)))
        return ((weights / best[..., -1]).unsqueeze(-2) @ best[..., :-1]).squeeze(-2)
