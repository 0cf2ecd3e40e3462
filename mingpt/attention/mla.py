"""
Multi-head latent attention: one short vector per token gives the keys and values of all heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.attention.base import Mixer, with_bias
from mingpt.layers import Linear, residual_output, scale
from mingpt.norms import RMSNorm
from mingpt.patterns.kinds import Pattern
from mingpt.positions import RoPE
from mingpt.sampling.cache import Cache, Kept, mask_of, over_keys
from mingpt.sparse.backends import make_backend
from mingpt.utils import BadInput, CfgNode


class MultiHeadLatentAttention(Mixer):
    """Multi-head latent attention: a cache keeps one latent per token in place of keys and values.
    DeepSeek-AI 2024, arXiv 2405.04434.

    Keys and values are linear in the latent c, a normed vector of `kv_lora_rank` numbers. In
    DeepSeek-V2, c has 512 numbers for 128 heads, each of which has 128 + 128 numbers of its own.

    A rotation cannot stand between the latent and a head's key, so positions get a separate part.
    With model.position=rope, each query has `qk_rope_head_dim` more numbers, all heads share one
    more key of that size, and only these are rotated. With other positions this part is absent, and
    learned tables or ALiBi act as they do in mha.

    Tokens that continue a cache use the absorbed form. With k = W_k c and y = Σ p W_v c, the query
    W_kᵀ q is multiplied with the latents themselves, and W_v is applied after the sum, so that a
    cached latent is never expanded.

    Sizes that are None follow the paper's proportions to hs = C/nh: kv_lora_rank is 4·hs,
    qk_nope_head_dim and v_head_dim are hs, qk_rope_head_dim is hs/2. With q_lora_rank None, queries
    come from x itself, as in DeepSeek-V2-Lite. `qkv_bias` is about the projections down to the
    latents; the projections up from them, and that of a query from x itself, have no bias.
    """
    options = {**Mixer.options, "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": None,
               "qk_rope_head_dim": None, "v_head_dim": None}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        if config.qk_norm:
            raise BadInput("model.qk_norm=True: mla norms its latents; it has no keys to norm "
                           "before they are cached")
        rotary = isinstance(self.position, RoPE)
        self.rank, self.nope, self.rope, self.v_size = _sizes(config, self.head_dim, rotary)
        if rotary:
            self.position = RoPE(config, layer, self.rope)
        down, width = with_bias(config, "qkv_bias"), self.n_head * (self.nope + self.rope)
        if config.q_lora_rank is None:
            self.q_proj = Linear(config.n_embd, width, bias=False)
        else:
            self.q_a_proj = Linear(config.n_embd, config.q_lora_rank, bias=down)
            self.q_a_norm = LatentNorm(config.q_lora_rank, config)
            self.q_b_proj = Linear(config.q_lora_rank, width, bias=False)
        self.kv_a_proj = Linear(config.n_embd, self.rank + self.rope, bias=down)
        self.kv_a_norm = LatentNorm(self.rank, config)
        self.kv_b_proj = Linear(self.rank, self.n_head * (self.nope + self.v_size), bias=False)
        self.c_proj = residual_output(self.n_head * self.v_size, config.n_embd,
                                      with_bias(config, "attn_out_bias"))
        self.attend = make_backend(self.pattern, config, biased=self.position.slopes is not None)
        default = 1 / math.sqrt(self.nope + self.rope)
        self.scale = default if config.attn_scale is None else config.attn_scale
        # a factor of the queries, because backends always multiply the scores by `default`
        self.q_factor = self.scale / default
        self.scale_q = scale(self.q_factor)

    def forward(self, x: Tensor, allowed: Tensor | None = None,
                cache: Kept | None = None) -> Tensor:
        """See Mixer."""
        start = 0 if cache is None else cache.start
        nope, rope = self.queries(x, start)                          # (B, nh, T, nope), (…, rope)
        latent = self.latents(x, start)                              # (B, 1, T, rank + rope)
        if cache is not None:
            cache.keep(latent)
        y = (self.absorbed(nope, rope, allowed, cache) if start      # (B, nh, T, v_size)
             else self.expanded(nope, rope, latent, allowed))
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).flatten(2)))    # (B, T, C)

    def queries(self, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """x (B, T, C), whose first token is at position `start` → the two parts of the queries:
        (B, nh, T, nope), and (B, nh, T, rope), which is rotated."""
        q = (                                                        # (B, T, nh·(nope + rope))
            self.q_b_proj(self.q_a_norm(self.q_a_proj(x)))
            if hasattr(self, "q_a_proj")
            else self.q_proj(x)
        )
        # (B, nh, T, nope + rope), split in two
        nope, rope = (q.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
                      .split([self.nope, self.rope], -1))
        return nope, self._rotated(rope, start)

    def latents(self, x: Tensor, start: int) -> Tensor:
        """x (B, T, C) → (B, 1, T, rank + rope): the normed latent, then the rotated key that all
        heads share."""
        c, key = self.kv_a_proj(x).split([self.rank, self.rope], -1)     # (B, T, rank), (…, rope)
        return torch.cat((self.kv_a_norm(c), self._rotated(key, start)), -1).unsqueeze(1)

    def expanded(self, nope: Tensor, rope: Tensor, latent: Tensor,
                 allowed: Tensor | None) -> Tensor:
        """Attention with the keys and values of every head written out, over the T tokens of the
        queries themselves: nope (B, nh, T, nope), rope (B, nh, T, rope), latent (B, 1, T, rank +
        rope) → (B, nh, T, v_size)."""
        c, shared = latent.split([self.rank, self.rope], -1)         # (B, 1, T, rank), (…, rope)
        # (B, nh, T, nope), (B, nh, T, v_size)
        k, v = (self.kv_b_proj(c.squeeze(1)).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
                .split([self.nope, self.v_size], -1))
        k = torch.cat((k, shared.expand(-1, self.n_head, -1, -1)), -1)     # (B, nh, T, nope + rope)
        q = self.scale_q(torch.cat((nope, rope), -1))                    # (B, nh, T, nope + rope)
        # torch's fused CPU kernel needs values as wide as queries
        v = F.pad(v, (0, max(0, q.size(-1) - self.v_size)))
        y = self.attend(q, k, v, slopes=self.position.slopes, allowed=allowed,
                        dropout_p=self.dropout_p)
        return y[..., :self.v_size]                                  # without the padding

    def absorbed(self, nope: Tensor, rope: Tensor, allowed: Tensor | None, cache: Kept) -> Tensor:
        """The same attention over the latents of a cache, without expanding them: nope (B, nh, n,
        nope), rope (B, nh, n, rope) of n new tokens → (B, nh, n, v_size)."""
        # (nh, nope, rank), (nh, v_size, rank)
        to_k, to_v = (self.kv_b_proj.weight.view(self.n_head, -1, self.rank)
                      .split([self.nope, self.v_size], 1))
        q = torch.cat((nope @ to_k, rope), -1)                 # (B, nh, n, rank + rope)
        view, (latents,) = cache.read()                        # (B, 1, keys, rank + rope)
        mask = mask_of(view, cache.start, q, self.position.slopes, allowed)
        y = over_keys(q, latents, latents[..., :self.rank],    # (B, nh, n, rank)
                      mask, self.dropout_p, self.scale)
        return y @ to_v.mT                                     # (B, nh, n, v_size)

    def _rotated(self, x: Tensor, start: int) -> Tensor:
        """x (…, T, rope), rotated; x itself where there is no rotary part."""
        return self.position.rotated(x, start) if self.rope else x

    def new_cache(self, cache: Cache) -> Kept:
        """Return this layer's part of a cache: rank + rope numbers per token, however many heads
        there are."""
        return Kept(cache.held_keys(self.pattern))

    def score_flops(self, T: int, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a forward's scores and weighted sums, with keys and values written
        out: two products per key that the layer's pattern, or the given one, has for a query, on
        average over T queries. Values narrower than queries are padded to their width, and the
        padding counts, because it is computed too."""
        width = self.nope + self.rope
        keys = (pattern or self.pattern).count(T) / T
        return 2 * self.n_head * (width + max(width, self.v_size)) * keys


class LatentNorm(RMSNorm):
    """The RMSNorm of a latent, (…, rank) → (…, rank). Its eps is always DeepSeek's 1e-6, not the
    model's."""

    def __init__(self, dim: int, config: CfgNode):
        super().__init__(dim, config)
        self.eps = 1e-6


def _sizes(config: CfgNode, hs: int, rotary: bool) -> tuple[int, int, int, int]:
    """Return (kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim), with defaults for
    those that are None; `rotary` says whether there is a rotary part. BadInput for a size below
    1."""
    defaults = {"kv_lora_rank": 4 * hs, "qk_nope_head_dim": hs,
                "qk_rope_head_dim": max(2, hs // 4 * 2),        # about hs/2, and even
                "v_head_dim": hs, "q_lora_rank": 1}             # q_lora_rank is only checked here
    sizes = {name: default if getattr(config, name) is None else getattr(config, name)
             for name, default in defaults.items()}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadInput(f"model.{name}={size!r}: give a whole number from 1, or None")
    if not rotary:
        sizes["qk_rope_head_dim"] = 0
    return tuple(sizes[name] for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                                          "v_head_dim"))
