"""
Weighted running means: what msla's latents hold, and what queries read from them. `running_means`
computes all tokens of a text at once; `States` is the cache, which takes the next tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.losses import wide_dtype
from mingpt.sampling.cache import Cache

CHUNK = 64      # tokens per chunk; within a chunk, tokens are computed as pairs


def running_means(read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None = None) -> Tensor:
    """Return the mean that each latent holds at each token, weighted by `read` and summed over the
    latents:

        y_i = Σ_l read_il · (Σ_{j ≤ i} f^(i−j) write_jl v_j) / (Σ_{j ≤ i} f^(i−j) write_jl)

    with f = e^(−slope). read and write (B, nh, T, L), write above 0; v (B, nh, T, hs); slopes (nh,)
    or None for 0 → (B, nh, T, hs) in v's dtype, computed in float32 at least.

    Time and memory are linear in T: what the latents hold is kept once per CHUNK tokens. Only
    positive weights are added up, so no digits are lost in differences of large sums.
    """
    T, dtype = v.size(-2), v.dtype
    with torch.autocast(v.device.type, enabled=False):
        read, write, v = (_chunked(_wide(x)) for x in (read, write, v))  # (B, nh, chunks, c, ·)
        fade = Fade(slopes, write)
        held = _held(fade, write, v)  # (B, nh, chunks, L, hs + 1)
        # (B, nh, chunks, c, L): the sum of each latent's weights so far
        total = fade.within @ write + fade.since * held[..., -1].unsqueeze(-2)
        read = read / total
        near = (read @ write.mT * fade.within) @ v          # (B, nh, chunks, c, hs): own chunk
        y = near + fade.since * (read @ held[..., :-1])     # and all chunks before it
    return y.flatten(2, 3)[:, :, :T].to(dtype)              # (B, nh, T, hs), without the padding


class Fade:
    """The factors by which a token's weight has faded, within its chunk and after it. slopes (nh,)
    or None for 0; `like` (B, nh, chunks, c, ·) gives c, dtype and device. All factors broadcast
    over (B, nh, chunks, …)."""

    def __init__(self, slopes: Tensor | None, like: Tensor):
        place = torch.arange(like.size(-2), device=like.device, dtype=like.dtype)
        slopes = like.new_zeros(1) if slopes is None else slopes.to(like)
        slopes, last = slopes[:, None, None, None], len(place) - 1
        # (nh, 1, c, c): token j of the chunk, seen from its token i
        self.within = (-slopes * (place[:, None] - place)).exp().tril()
        # (nh, 1, c, 1): the state before the chunk, seen from its token i
        self.since = (-slopes * (place[:, None] + 1)).exp()
        # (nh, 1, c, 1): token j of the chunk, seen from the chunk's last token
        self.until = (-slopes * (last - place[:, None])).exp()
        # (nh, 1, 1): a state, over the length of a chunk
        self.over = (-slopes * (last + 1)).exp()[:, 0]


def _held(fade: Fade, write: Tensor, v: Tensor) -> Tensor:
    """write (B, nh, chunks, c, L), v (B, nh, chunks, c, hs) → (B, nh, chunks, L, hs + 1): what the
    latents hold before each chunk. It is the sum of the weighted values and, in the last column, of
    the weights."""
    # (B, nh, chunks, L, hs + 1): what each chunk adds
    added = (write * fade.until).mT @ F.pad(v, (0, 1), value=1.0)
    states = [torch.zeros_like(added[:, :, 0])]                             # (B, nh, L, hs + 1)
    for chunk in added[:, :, :-1].unbind(2):
        states.append(states[-1] * fade.over + chunk)
    return torch.stack(states, 2)


def _wide(x: Tensor) -> Tensor:
    """x in the type that sums are computed in: see wide_dtype."""
    return x.to(wide_dtype(x.dtype))


def _chunked(x: Tensor) -> Tensor:
    """(B, nh, T, d) → (B, nh, chunks, c, d), padded with 1. The padding comes last, so no earlier
    token sees it."""
    c = min(CHUNK, x.size(-2))
    return F.pad(x, (0, 0, 0, -x.size(-2) % c), value=1.0).unflatten(2, (-1, c))


class State(NamedTuple):
    """What the latents hold after `length` tokens: (B, nh, L, hs + 1), the sums of the weighted
    values and, in the last column, of the weights."""
    length: int
    held: Tensor


class States:
    """The cache of one layer: what its latents hold now, and what they held at the last slack + 1
    lengths, so that `truncate` can go back to those."""
    forgets = True

    def __init__(self, cache: Cache, topk: int):
        self.cache, self.topk = cache, topk
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        self.states: list[State] = []
        self.peak = 0       # the most tokens that were held since then

    @property
    def least(self) -> int:
        """The smallest length that `truncate` can go back to."""
        return max(0, self.peak - 1 - self.cache.slack)

    def truncate(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        self.states = [state for state in self.states if state.length <= length]

    def __call__(self, read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
        """running_means for n new tokens that continue the cached ones: read and write (B, nh, n,
        L), v (B, nh, n, hs) → (B, nh, n, hs). Appends them to the cache."""
        with torch.autocast(v.device.type, enabled=False):      # states are kept in float32
            return self._means(read, write, v, slopes)

    def _means(self, read: Tensor, write: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
        """__call__ without autocast."""
        read, write, dtype, n = _wide(read), _wide(write), v.dtype, v.size(-2)
        wide = F.pad(_wide(v), (0, 1), value=1.0)                               # (B, nh, n, hs + 1)
        fade = None if slopes is None else (-slopes.to(wide)).exp()[:, None, None]      # (nh, 1, 1)
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
        return y if first else torch.stack(y, 2).to(dtype)                      # (B, nh, n, hs)

    def _summed(self, write: Tensor, wide: Tensor, slopes: Tensor | None, n: int) -> State:
        """write (B, nh, T, L), wide (B, nh, T, hs + 1) → the state after the first n of the T
        tokens."""
        write, wide = write[:, :, :n], wide[:, :, :n]
        if slopes is not None:
            age = torch.arange(n - 1, -1, -1, device=write.device, dtype=write.dtype)
            write = write * (-slopes.to(write)[:, None] * age).exp()[..., None]
        return State(n, write.mT @ wide)                                        # (B, nh, L, hs + 1)

    def _add(self, write: Tensor, wide: Tensor, fade: Tensor | None) -> None:
        """Append the state after one more token: write (B, nh, L), wide (B, nh, hs + 1)."""
        length, held = self.states[-1]
        held = held if fade is None else held * fade
        self.states.append(State(length + 1, torch.addcmul(                     # (B, nh, L, hs + 1)
            held, write.unsqueeze(-1), wide.unsqueeze(-2))))

    def _mean(self, read: Tensor) -> Tensor:
        """read (B, nh, L), of which all but k are 0 → the weighted sum of the means that those k
        latents hold now, (B, nh, hs)."""
        weights, index = read.topk(self.topk, -1)                               # (B, nh, k)
        held = self.states[-1].held                                             # (B, nh, L, hs + 1)
        # (B, nh, k, hs + 1)
        best = held.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, held.size(-1)))
        return ((weights / best[..., -1]).unsqueeze(-2) @ best[..., :-1]).squeeze(-2)
