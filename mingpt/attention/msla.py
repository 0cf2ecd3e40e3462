"""
Attention through a few learned latents: `msla`, in which tokens mix, and `msla_published`, which is
study 004's and in which they do not.

In `msla`, each head has L learned vectors, the latents. Each token writes its value to all latents,
weighted by how well its key fits each one, and a latent holds the running mean of what was written
to it so far. A query scores the latents, keeps the best k, and reads the weighted mean of what
those hold. Query i thus gives an earlier token j a weight, as attention does:

    A_ij = Σ_l p_il · w_jl / Z_il        Z_il = Σ_{j ≤ i} w_jl

These weights sum to 1 over j ≤ i. This is linear attention with L features. Chunks of the text
affect each other only through what the latents hold (as Yang et al. 2023, arXiv 2312.06635, and
others compute it), so time and memory are linear in T. With a cache, one more token costs the same
however long the text is, since it meets only the L latents.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from mingpt.attention.base import Mixer, with_bias
from mingpt.attention.running_means import CHUNK, States, running_means
from mingpt.layers import Embedding, Linear, residual_output
from mingpt.norms import RMSNorm
from mingpt.patterns.kinds import Full, Pattern
from mingpt.positions import RoPE
from mingpt.sampling.cache import Cache
from mingpt.utils import BadInput, CfgNode

FLOOR = 1e-6    # every token writes at least this much to every latent, so that none is empty


class LatentMixer(Mixer):
    """The base class of both kinds: `msla_latents` learned vectors, each split over the heads. They
    have no pairs of a query and a key. BadInput for settings that need such pairs."""
    options = {**Mixer.options, "msla_latents": 64, "msla_topk": 4}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        self.count, self.topk = config.msla_latents, config.msla_topk
        for name, value, most in (("msla_latents", self.count, None),
                                  ("msla_topk", self.topk, self.count)):
            if (isinstance(value, bool) or not isinstance(value, int)
                    or value < 1 or value > (most or value)):
                raise BadInput(f"model.{name}={value!r}: give a whole number from 1"
                               + (f" to {most}" if most else ""))
        self._refuse_pairs(config)

    def _refuse_pairs(self, config: CfgNode) -> None:
        """Raise BadInput for settings that act on pairs of a query and a key."""
        kind, reason = config.attention, None
        if not isinstance(self.pattern, Full):
            reason = f"pattern {str(self.pattern)!r}: use schedule full"
        elif isinstance(self.position, RoPE):
            reason = "model.position=rope: use learned, none, or with msla alibi"
        elif config.backend != "auto":
            reason = f"--model.backend={config.backend}: use auto"
        elif config.document_end is not None:
            reason = "data.document_mask: leave it out"
        if reason:
            raise BadInput(f"model.attention={kind} has no pairs of a query and a key, so it "
                           f"cannot take {reason}")

    def heads(self, x: Tensor) -> Tensor:
        """(…, T, nh·hs) → (…, nh, T, hs)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-2, -3)

    def best(self, scores: Tensor) -> Tensor:
        """(…, L) scores → (…, L) weights: a softmax over the k best scores, 0 elsewhere."""
        values, index = scores.topk(self.topk, -1)                                # (…, k)
        weights = values.softmax(-1)        # under CUDA's autocast always float32
        return torch.zeros_like(scores, dtype=weights.dtype).scatter(-1, index, weights)


class SparseLatentAttention(LatentMixer):
    """Attention in which queries read the `msla_topk` best of `msla_latents` latents, which hold
    running means of the past. See the top of this file.

    With model.position=alibi, what a latent holds fades: a token at distance d counts e^(−slope·d)
    as much, which is the effect that ALiBi's scores have on a softmax.
    """
    options = {**LatentMixer.options, "qk_norm": False}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        width = self.n_head * self.head_dim
        self.c_attn = Linear(config.n_embd, 3 * width, bias=with_bias(config, "qkv_bias"))
        self.latents = Embedding(self.count, width)
        self.c_proj = residual_output(width, config.n_embd, with_bias(config, "attn_out_bias"))
        self.q_norm, self.k_norm = (RMSNorm(self.head_dim, config) if config.qk_norm
                                    else nn.Identity()
                                    for _ in range(2))
        self.scale = (1 / math.sqrt(self.head_dim) if config.attn_scale is None
                      else config.attn_scale)

    def forward(self, x: Tensor, allowed: Tensor | None = None,
                cache: States | None = None) -> Tensor:
        """See Mixer."""
        q, k, v = (self.heads(part) for part in self.c_attn(x).chunk(3, -1))      # (B, nh, T, hs)
        latents = self.heads(self.latents.weight).mT * self.scale                 # (nh, hs, L)
        read = self.best(self.q_norm(q) @ latents)                                # (B, nh, T, L)
        write = (self.k_norm(k) @ latents).softmax(-1) + FLOOR                    # (B, nh, T, L)
        if self.dropout_p:
            read = F.dropout(read, self.dropout_p)
        y = (running_means if cache is None else cache)(                          # (B, nh, T, hs)
            read, write, v, self.position.slopes)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).flatten(2)))      # (B, T, C)

    def new_cache(self, cache: Cache) -> States:
        """Return this layer's part of a cache: what the latents hold."""
        return States(cache, self.topk)

    def score_flops(self, T: int, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a forward, besides its projections. A pattern changes nothing.

        They are: its key and its query against all latents, and in `running_means` the values and
        their weights into the latents, the sums of the weights within its chunk, its pairs with its
        chunk, and the means out of the chunk and out of the latents. Chunks are computed whole: all
        c×c pairs, and the last chunk with its padding.
        """
        c, L, hs = min(CHUNK, T), self.count, self.head_dim
        padded = -(-T // c) * c / T
        means = L * (hs + 1) + 2 * c * L + c * hs + L * hs
        return 2 * self.n_head * (2 * L * hs + padded * means)

    def constant_flops(self, T: int) -> float:
        """See Mixer: the sums of the weights within a chunk are a product with a fixed triangle."""
        c = min(CHUNK, T)
        return 2 * self.n_head * c * self.count * (-(-T // c) * c / T)


class PublishedSparseLatentAttention(LatentMixer):
    """Study 004's attention as it was published. A query reads the `msla_topk` best of the learned
    vectors themselves and adds its own token's value.

    No token sees another, and k_proj is never used; the audit reports both. GPT-2's own output
    projection follows the study's. With GPT-2's tied weights, 256 latents, and everything except
    `attn.msla` frozen, 30,707,712 of 133,886,208 parameters are trained, as the study printed.
    """
    # GPT-2's own projection, which the study froze with the rest of GPT-2: naming "attn" does not
    # include it
    hosted = ("c_proj",)

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        if self.position.slopes is not None:
            raise BadInput("model.attention=msla_published does not read earlier tokens, so "
                           "model.position=alibi has no effect: use learned or none")
        self.msla = _Published(config, self.n_head * self.head_dim, self.count)
        self.c_proj = residual_output(config.n_embd, config.n_embd,
                                      with_bias(config, "attn_out_bias"))
        self.scale = (1 / math.sqrt(self.head_dim) if config.attn_scale is None
                      else config.attn_scale)

    def forward(self, x: Tensor, allowed: Tensor | None = None,
                cache: NoCache | None = None) -> Tensor:
        """See Mixer."""
        latents = self.heads(self.msla.latents.weight)                            # (nh, L, hs)
        weights = self.best(                                                      # (B, nh, T, L)
            self.heads(self.msla.q_proj(x)) @ latents.mT * self.scale)
        y = (weights @ latents                                                    # (B, T, nh·hs)
             + self.heads(self.msla.v_proj(x))).transpose(1, 2).flatten(2)
        return self.resid_dropout(self.c_proj(self.msla.out_proj(y)))             # (B, T, C)

    def new_cache(self, cache: Cache) -> NoCache:
        """Return this layer's part of a cache, which keeps nothing: no earlier token is read."""
        return NoCache()

    def score_flops(self, T: int, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a forward, besides its projections: its query against all latents, and
        their weighted sum, in which weights of 0 are multiplied too. A pattern changes nothing."""
        return 2 * 2 * self.count * self.n_head * self.head_dim


class _Published(nn.Module):
    """The study's own weights, under the study's names."""

    def __init__(self, config: CfgNode, width: int, count: int):
        super().__init__()
        bias = with_bias(config, "qkv_bias")
        self.q_proj, self.k_proj, self.v_proj = (Linear(config.n_embd, width, bias=bias)
                                                 for _ in range(3))
        self.out_proj = Linear(width, config.n_embd, bias=bias)
        self.latents = Embedding(count, width)

    def product_flops(self) -> float:
        """FLOPs per token of a forward's matrix products, without k_proj, which is never used."""
        return sum(2 * part.weight.numel() for part in (self.q_proj, self.v_proj, self.out_proj))


class NoCache:
    """The cache of a layer that keeps nothing."""
    forgets, least = False, 0

    def truncate(self, length: int) -> None:
        """Does nothing: there is nothing to forget."""

    def reset(self) -> None:
        """Does nothing: there is nothing to forget."""
