"""
The reference's attention and positions, one head at a time. See reference.py for what B, T, C, P, c
and name stand for.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor


def linear(P: dict, name: str, x: Tensor) -> Tensor:
    """x (…, in) → (…, out), with the bias where there is one."""
    y = x @ P[name + "weight"].T
    return y + P[name + "bias"] if name + "bias" in P else y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension. arXiv 1910.07467."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


# -- positions -------------------------------------------------------------------------------------

def acts(c, layer: int) -> bool:
    """Whether positions act in this layer's attention."""
    if c.position not in ("rope", "alibi"):
        return False
    if c.nope_layers is None:
        return True
    every = re.fullmatch(r"every (\d+)", str(c.nope_layers))
    if every:
        return (layer + 1) % int(every[1]) != 0
    return layer not in [int(number) for number in re.findall(r"\d+", str(c.nope_layers))]


def rope(c, layer: int, x: Tensor) -> Tensor:
    """x (B, T, hs) → (B, T, hs): among the first r numbers, the pair (i, i + r/2) at position t
    turns by the angle t · base^(−2i/r). arXiv 2104.09864."""
    T, hs = x.size(1), x.size(2)
    r = int(hs * c.rope_fraction)
    local = c.rope_local_base is not None and str(c.layer_patterns[layer]) != "f"
    base = c.rope_local_base if local else c.rope_base
    t = torch.arange(T, dtype=x.dtype, device=x.device)
    turned = [x[..., i] for i in range(hs)]
    for i in range(r // 2):
        cos, sin = torch.cos(t * base ** (-2 * i / r)), torch.sin(t * base ** (-2 * i / r))
        a, b = x[..., i], x[..., i + r // 2]
        turned[i], turned[i + r // 2] = a * cos - b * sin, a * sin + b * cos
    return torch.stack(turned, -1)


def slope(n: int, head: int) -> float:
    """ALiBi's slope for head h of n: 2^(−8(h+1)/n) where n is a power of two. Otherwise the first
    heads have the slopes of the power of two below n, and the rest have every other slope of the
    next power. arXiv 2108.12409."""
    power = 1
    while power * 2 <= n:
        power *= 2
    if head < power:
        return 2.0 ** (-8 * (head + 1) / power)
    return 2.0 ** (-8 * (2 * (head - power) + 1) / (2 * power))


# -- one head --------------------------------------------------------------------------------------

def one_head(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, falling: float) -> Tensor:
    """q, k, v (B, T, ·), seen (B, T, T) bool → (B, T, ·):
    softmax(scale · q·k − falling · distance) v over the keys seen."""
    place = torch.arange(q.size(1), dtype=q.dtype, device=q.device)
    scores = scale * (q @ k.transpose(1, 2)) - falling * (place[:, None] - place[None, :])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


def cut(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Split the last dimension into consecutive pieces of these sizes."""
    return list(x.split(sizes, -1))


def attention(P: dict, layer: int, c, x: Tensor, seen: Tensor) -> Tensor:
    """x (B, T, C), seen (B, T, T) bool → (B, T, C): the heads side by side, then c_proj."""
    kind = {"mla": latent_attention, "msla": sparse_latent_attention,
            "msla_published": published_latents}
    name = f"transformer.h.{layer}.attn."
    heads = kind.get(c.attention, heads_attention)(P, name, layer, c, x, seen)
    return linear(P, name + "c_proj.", torch.cat(heads, -1))


def sizes(c) -> tuple[int, float]:
    """(the head size, the factor that scores are multiplied by)."""
    hs = c.head_dim if c.head_dim is not None else c.n_embd // c.n_head
    return hs, 1 / math.sqrt(hs) if c.attn_scale is None else c.attn_scale


def heads_attention(P: dict, name: str, layer: int, c, x: Tensor, seen: Tensor) -> list[Tensor]:
    """mha, gqa, mqa: query head h reads key and value head h // (n_head / n_kv_head). arXiv
    1706.03762, 2305.13245."""
    n, (hs, scale) = c.n_head, sizes(c)
    n_kv = {"mha": n, "mqa": 1}.get(c.attention, c.n_kv_head)
    if n_kv is None:
        n_kv = max([m for m in range(1, n) if n % m == 0], default=1)
    parts = cut(linear(P, name + "c_attn.", x), [hs] * (n + 2 * n_kv))
    queries, keys, values = parts[:n], parts[n:n + n_kv], parts[n + n_kv:]
    if c.qk_norm:
        queries = [rms_norm(q, P[name + "q_norm.weight"], c.norm_eps) for q in queries]
        keys = [rms_norm(k, P[name + "k_norm.weight"], c.norm_eps) for k in keys]
    if c.position == "rope" and acts(c, layer):
        queries, keys = [rope(c, layer, q) for q in queries], [rope(c, layer, k) for k in keys]
    falls = c.position == "alibi" and acts(c, layer)
    group = n // n_kv
    return [one_head(queries[h], keys[h // group], values[h // group], seen, scale,
                     slope(n, h) if falls else 0.0)
            for h in range(n)]


def latent_attention(P: dict, name: str, layer: int, c, x: Tensor, seen: Tensor) -> list[Tensor]:
    """mla: keys and values come from one normed latent. With rope, each query has additional
    numbers that turn, and all heads share one additional key that turns. arXiv 2405.04434."""
    n, (hs, _) = c.n_head, sizes(c)
    turns = c.position == "rope" and acts(c, layer)
    rank = c.kv_lora_rank or 4 * hs
    plain, v_size = c.qk_nope_head_dim or hs, c.v_head_dim or hs
    turning = (c.qk_rope_head_dim or max(2, hs // 4 * 2)) if turns else 0
    if c.q_lora_rank is None:
        q = linear(P, name + "q_proj.", x)
    else:
        q = linear(P, name + "q_b_proj.", rms_norm(linear(P, name + "q_a_proj.", x),
                                                   P[name + "q_a_norm.weight"], 1e-6))
    latent, shared = cut(linear(P, name + "kv_a_proj.", x), [rank, turning])
    expanded = linear(P, name + "kv_b_proj.", rms_norm(latent, P[name + "kv_a_norm.weight"], 1e-6))
    queries, pairs = cut(q, [plain + turning] * n), cut(expanded, [plain + v_size] * n)
    scale = 1 / math.sqrt(plain + turning) if c.attn_scale is None else c.attn_scale
    heads = []
    for h in range(n):
        (q_plain, q_turning), (k, v) = (cut(queries[h], [plain, turning]),
                                        cut(pairs[h], [plain, v_size]))
        if turns:
            q_plain = torch.cat((q_plain, rope(c, layer, q_turning)), -1)
            k = torch.cat((k, rope(c, layer, shared)), -1)
        falls = c.position == "alibi" and acts(c, layer)
        heads.append(one_head(q_plain, k, v, seen, scale, slope(n, h) if falls else 0.0))
    return heads


def best(scores: Tensor, k: int) -> Tensor:
    """A softmax over the k largest scores of each row; 0 for the others."""
    least = scores.sort(-1, descending=True).values[..., k - 1:k]
    return torch.softmax(scores.masked_fill(scores < least, -math.inf), -1)


def sparse_latent_attention(P: dict, name: str, layer: int, c, x: Tensor,
                            seen: Tensor) -> list[Tensor]:
    """msla: A_ij = Σ_l read_il · write_jl f^(i−j) / Σ_{j' ≤ i} write_j'l f^(i−j'), where
    f = e^(−slope)."""
    n, (hs, scale) = c.n_head, sizes(c)
    parts, latents = (cut(linear(P, name + "c_attn.", x), [hs] * 3 * n),
                      cut(P[name + "latents.weight"], [hs] * n))
    heads, falls = [], c.position == "alibi" and acts(c, layer)
    place = torch.arange(x.size(1), dtype=x.dtype, device=x.device)
    age = place[:, None] - place[None, :]
    for h in range(n):
        q, k, v = parts[h], parts[n + h], parts[2 * n + h]
        if c.qk_norm:
            q, k = (rms_norm(z, P[name + w], c.norm_eps)
                    for z, w in ((q, "q_norm.weight"), (k, "k_norm.weight")))
        read = best(scale * (q @ latents[h].T), c.msla_topk)                     # (B, T, L)
        write = torch.softmax(scale * (k @ latents[h].T), -1) + 1e-6             # (B, T, L)
        # (T, T): the share of what j wrote that is left at i
        kept = torch.exp(-(slope(n, h) if falls else 0.0) * age.clamp(min=0)) * (age >= 0)
        total = kept @ write                                                     # (B, T, L)
        heads.append(((read / total) @ write.transpose(1, 2) * kept) @ v)
    return heads


def published_latents(P: dict, name: str, layer: int, c, x: Tensor, seen: Tensor) -> list[Tensor]:
    """msla_published: a query's best latents are added to its own token's value. No token sees
    another token."""
    n, (hs, scale) = c.n_head, sizes(c)
    queries, values, latents = (cut(z, [hs] * n)
                                for z in (linear(P, name + "msla.q_proj.", x),
                                          linear(P, name + "msla.v_proj.", x),
                                          P[name + "msla.latents.weight"]))
    heads = [best(scale * (queries[h] @ latents[h].T), c.msla_topk) @ latents[h] + values[h]
             for h in range(n)]
    return [linear(P, name + "msla.out_proj.", torch.cat(heads, -1))]
