"""
Slot `attention`: how a layer makes queries, keys and values and mixes tokens, (B, T, C) →
(B, T, C).
"""

import math

import torch
import torch.nn as nn

from mingpt.attention.base import Mixer, with_bias
from mingpt.attention.mla import MultiHeadLatentAttention
from mingpt.attention.msla import PublishedSparseLatentAttention, SparseLatentAttention
from mingpt.config import filled
from mingpt.layers import Linear, residual_output, scale
from mingpt.norms import NORMS, RMSNorm
from mingpt.patterns.kinds import Pattern
from mingpt.positions import POSITIONS
from mingpt.sampling.cache import Cache, KeyValues
from mingpt.sparse.backends import make_backend
from mingpt.utils import BadInput, CfgNode


class CausalSelfAttention(Mixer):
    """GPT-2's multi-head attention: every head has its own queries, keys and values, and one
    projection makes them all.

    The layer's pattern, from the schedule, says which keys a query may see. The options:
    - `qk_norm`: one RMSNorm on the queries of each head and another on the keys, so that scores
      stay bounded. This is Qwen3's form of Henry et al. 2020 (arXiv 2010.04245), who divide by the
      length and learn one factor.
    - `qkv_bias` and `attn_out_bias`: None is model.bias (Qwen2 has only the first bias, GPT-Neo
      only the second).
    - `attn_scale`: the factor of the scores; None is 1/√hs (GPT-Neo has 1).
    - `head_dim`: hs; None is C/nh.
    """
    options = {**Mixer.options, "qk_norm": False}

    def __init__(self, config: CfgNode, layer: int = 0):
        config = filled(config, {"attention": ATTENTIONS, "position": POSITIONS, "norm": NORMS})
        super().__init__(config, layer)
        self.n_kv_head = self.kv_heads(config)
        # the widths of q, k and v: nh·hs, nkv·hs, nkv·hs
        self.sizes = [n * self.head_dim for n in (self.n_head, self.n_kv_head, self.n_kv_head)]
        self.c_attn = Linear(config.n_embd, sum(self.sizes), bias=with_bias(config, "qkv_bias"))
        self.c_proj = residual_output(self.sizes[0], config.n_embd,
                                      with_bias(config, "attn_out_bias"))
        self.attend = make_backend(self.pattern, config, biased=self.position.slopes is not None)
        head_norm = RMSNorm if config.qk_norm else _no_norm
        self.q_norm = head_norm(self.head_dim, config)
        self.k_norm = head_norm(self.head_dim, config)
        # a factor of the queries, because backends always divide the scores by √hs
        self.q_factor = (1.0 if config.attn_scale is None
                        else config.attn_scale * math.sqrt(self.head_dim))
        self.scale_q = scale(self.q_factor)

    @staticmethod
    def kv_heads(config: CfgNode) -> int:
        """nkv, the number of heads of keys and values."""
        return config.n_head

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None,
                cache: KeyValues | None = None) -> torch.Tensor:
        """See Mixer."""
        B, T, _ = x.size()
        # q (B, nh, T, hs), k and v (B, nkv, T, hs)
        q, k, v = (part.view(B, T, -1, self.head_dim).transpose(1, 2)
                   for part in self.c_attn(x).split(self.sizes, 2))
        start, attend = (0, self.attend) if cache is None else (cache.start, cache)
        q, k = self.position.rotate(self.q_norm(q), self.k_norm(k), start)
        y = attend(self.scale_q(q), k, v, slopes=self.position.slopes,    # (B, nh, T, hs)
                   allowed=allowed, dropout_p=self.dropout_p)
        y = y.transpose(1, 2).reshape(B, T, self.sizes[0])  # (B, T, nh·hs): heads side by side
        return self.resid_dropout(self.c_proj(y))           # (B, T, C)

    def new_cache(self, cache: Cache) -> KeyValues:
        """Return this layer's part of a cache: the keys and values of its tokens."""
        return KeyValues(cache.held_keys(self.pattern), self.attend)

    def score_flops(self, T: int, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a forward's scores and weighted sums: two products per key that the
        layer's pattern, or the given one, has for a query, on average over T queries."""
        return 2 * 2 * self.sizes[0] * (pattern or self.pattern).count(T) / T

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        state_dict.pop(prefix + "bias", None)  # minGPT saved its causal mask under this name
        super()._load_from_state_dict(state_dict, prefix, *args)


class GroupedQueryAttention(CausalSelfAttention):
    """Grouped-query attention: each of `n_kv_head` heads of keys and values serves a group of
    n_head/n_kv_head query heads. The projection and the cache are smaller. With n_kv_head = n_head
    it is multi-head attention, with the same weights. Ainslie et al. 2023, arXiv 2305.13245."""
    options = {**CausalSelfAttention.options, "n_kv_head": None}

    @staticmethod
    def kv_heads(config: CfgNode) -> int:
        """`n_kv_head`; None is the largest divisor of n_head below it, so that pairs of query heads
        share where n_head is even. BadInput where it does not divide n_head."""
        heads, wanted = config.n_head, config.n_kv_head
        if wanted is None:
            return max((n for n in range(1, heads) if heads % n == 0), default=1)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1 or heads % wanted:
            known = [n for n in range(1, heads + 1) if heads % n == 0]
            raise BadInput(f"model.n_kv_head={wanted!r} does not divide model.n_head={heads}: "
                           f"{', '.join(map(str, known))} do")
        return wanted


class MultiQueryAttention(CausalSelfAttention):
    """Multi-query attention: one head of keys and values serves all query heads, which gives the
    smallest cache of the three. Shazeer 2019, arXiv 1911.02150."""

    @staticmethod
    def kv_heads(config: CfgNode) -> int:
        """1."""
        return 1


def _no_norm(dim: int, config: CfgNode) -> nn.Module:
    """What stands in the place of a norm without qk_norm: nothing."""
    return nn.Identity()


ATTENTIONS = {"mha": CausalSelfAttention, "gqa": GroupedQueryAttention, "mqa": MultiQueryAttention,
              "mla": MultiHeadLatentAttention, "msla": SparseLatentAttention,
              "msla_published": PublishedSparseLatentAttention}
