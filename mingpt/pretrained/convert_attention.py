"""
Make one kind of attention from another's queries, keys and values, so that it computes the same or
nearly the same.

    gqa, mqa          groups of heads of keys and values become one head (Ainslie et al. 2023,
                      arXiv 2305.13245)
    mla               keys and values with the least squared error for a latent of that rank, by
                      singular values. Exact where the rank is the model's width and positions are
                      a table.
    msla_published    the same projections under study 004's names
    msla, mha         unchanged; heads of keys and values are repeated where the source has fewer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mingpt.pretrained.weights import Heads, Tensors, without_qkv_bias
from mingpt.utils import BadInput, did_you_mean

# of groups of heads, (n, heads in a group, hs, …) → (n, hs, …)
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda each: each.mean(1),
                                                   "first": lambda each: each[:, 0]}
SMALL = 1e-6    # a norm's gain that is nearer to 0 counts as this much


@dataclass(frozen=True)
class Made:
    """A tensor, how it was made, and the source's tensors that it was made from."""
    tensor: Tensor
    how: str
    sources: tuple[str, ...]


def remade(model: nn.Module, state: Tensors, heads: Heads, pooling: str = "mean") -> dict[str,
                                                                                          Made]:
    """What is made, not taken as it is, of the source's attention, by the model's names."""
    if pooling not in POOLINGS:
        raise BadInput(f"run.init_heads={pooling!r}{did_you_mean(pooling, POOLINGS)}")
    attn = model.transformer.h[0].attn
    convert = next((CONVERTERS[kind.__name__] for kind in type(attn).__mro__
                    if kind.__name__ in CONVERTERS), None)
    if convert is None or "transformer.h.0.attn.c_attn.weight" not in state:
        return {}
    return convert(model, state, heads, pooling)


def grouped(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Made]:
    """As many heads of keys and values as the model has, out of the source's."""
    attn = model.transformer.h[0].attn
    _same_heads(attn, heads)
    wanted = getattr(attn, "n_kv_head", attn.n_head)
    if wanted == heads.n_kv_head:
        return {}
    how, made = f"{heads.n_kv_head} → {wanted} heads of keys and values ({pooling})", {}
    for name in (name for name in state if ".attn.c_attn." in name):
        q, k, v = heads.split(state[name])
        both = (regrouped(t, heads, wanted, pooling) for t in (k, v))
        made[name] = Made(torch.cat((q, *both)), how, (name,))
    return {name: value for name, value in made.items() if name in dict(model.named_parameters())}


def regrouped(t: Tensor, heads: Heads, wanted: int, pooling: str) -> Tensor:
    """(nkv·hs, …) → (wanted·hs, …): groups of neighbours become one head, or every head is
    repeated."""
    each = t.unflatten(0, (heads.n_kv_head, heads.size))
    if heads.n_kv_head % wanted == 0:
        return POOLINGS[pooling](each.unflatten(0, (wanted, -1))).flatten(0, 1)
    if wanted % heads.n_kv_head == 0:
        return each.repeat_interleave(wanted // heads.n_kv_head, 0).flatten(0, 1)
    raise BadInput(f"--init: {heads.n_kv_head} heads of keys and values make no {wanted} "
                   f"(model.n_kv_head): give a "
                   "divisor or a multiple")


def published(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Made]:
    """q, k and v apart, under study 004's names."""
    made, named = {}, dict(model.named_parameters())
    for name in (name for name in state if ".attn.c_attn." in name):
        q, k, v = heads.split(state[name])
        for part, t in (("q", q), ("k", heads.repeated(k)), ("v", heads.repeated(v))):
            made[name.replace(".c_attn.", f".msla.{part}_proj.")] = Made(t, "split from c_attn",
                                                                         (name,))
    return {name: value for name, value in made.items() if name in named
            and named[name].shape == value.tensor.shape}


def latent(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Made]:
    """Keys and values through a normed latent: [W_k; W_v] · gain = U·S·Vᵀ says which directions of
    the normed input they need most. The latent is those, with the norm's shift taken off, so that
    its own norm divides by about 1; what the shift did to keys changes no softmax, and what it did
    to values goes into the output's bias."""
    attn = model.transformer.h[0].attn
    _check_latent(attn, heads)
    learned = model.transformer.wpe is not None
    moved = without_qkv_bias(state, heads) if learned and hasattr(model.transformer.h[0],
                                                                  "ln_2") else dict(state)
    made: dict[str, Made] = {}
    for l in range(model.config.n_layer):
        made |= _latent_layer(model.transformer.h[l], f"transformer.h.{l}.", moved)
    named = dict(model.named_parameters())
    return {name: value for name, value in made.items() if name in named}


def _latent_layer(block: nn.Module, at: str, state: Tensors) -> dict[str, Made]:
    attn, source = block.attn, (f"{at}attn.c_attn.weight", f"{at}attn.c_attn.bias")
    heads = Heads(attn.n_head, attn.n_head, attn.head_dim)
    q, k, v = (t.double() for t in heads.split(_repeated(state[source[0]], attn)))
    gain = state[f"{at}ln_1.weight"].double()
    gain = torch.where(gain.abs() < SMALL, SMALL, gain)
    shift = state.get(f"{at}ln_1.bias", torch.zeros_like(gain)).double()
    u, s, vt = torch.linalg.svd(torch.cat((k, v)) * gain, full_matrices=False)
    rank = min(attn.rank, len(s))
    share = float(s[:rank].square().sum() / s.square().sum())
    how = f"by singular values: rank {rank} holds {share:.1%} of keys and values"
    how += (" (biases of queries are lost)" if source[1] in state
            and heads.split(state[source[1]])[0].any() else "")
    down = attn.kv_a_proj.weight.double().clone()
    down[:attn.rank] = 0
    down[:rank] = vt[:rank] / gain
    up = torch.zeros(2 * len(k), attn.rank, dtype=torch.float64)
    up[:, :rank] = u[:, :rank] * s[:rank]
    # head by head
    up = torch.cat([t.unflatten(0, (attn.n_head, -1)) for t in up.chunk(2)], 1).flatten(0, 1)
    values = {"attn.q_proj.weight": _queries(q, attn), "attn.kv_a_proj.weight": down,
              "attn.kv_b_proj.weight": up}
    norm = torch.zeros(attn.rank, dtype=torch.float64)
    # the mean square is over all numbers, of which the rest are 0
    norm[:rank] = (rank / attn.rank) ** 0.5
    values["attn.kv_a_norm.weight"] = norm
    values["attn.kv_a_proj.bias"] = -down @ shift * (torch.arange(len(down)) < rank)
    out = state[f"{at}attn.c_proj.weight"].double()
    before = state.get(f"{at}attn.c_proj.bias", torch.zeros(len(out))).double()
    bias = heads.split(_repeated(state[source[1]], attn))[2].double() if source[1] in state else 0
    values["attn.c_proj.bias"] = before + out @ (v @ shift + bias)
    if f"{at}ln_1.bias" in state:
        values["ln_1.bias"] = shift
    return {at + name: Made(t.float(), how, source) for name, t in values.items()}


def _queries(q: Tensor, attn: nn.Module) -> Tensor:
    """W_q, beside which the part that turns keeps its own; larger by what the scale is smaller for
    having it."""
    rows = attn.q_proj.weight.double().unflatten(0, (attn.n_head, -1)).clone()
    rows[:, :attn.nope] = q.unflatten(0, (attn.n_head, -1)) * ((attn.nope
                                                                + attn.rope) / attn.nope) ** 0.5
    return rows.flatten(0, 1)


def _repeated(qkv: Tensor, attn: nn.Module) -> Tensor:
    """q, k and v with as many heads of each."""
    kv = (len(qkv) // attn.head_dim - attn.n_head) // 2
    heads = Heads(attn.n_head, kv, attn.head_dim)
    q, k, v = heads.split(qkv)
    return torch.cat((q, heads.repeated(k), heads.repeated(v)))


def _same_heads(attn: nn.Module, heads: Heads) -> None:
    if (attn.n_head, attn.head_dim) != (heads.n_head, heads.size):
        raise BadInput(f"--init: the source has {heads.n_head} heads of {heads.size}, the model "
                       f"{attn.n_head} of "
                       f"{attn.head_dim} (model.n_head, model.head_dim)")


def _check_latent(attn: nn.Module, heads: Heads) -> None:
    """BadInput where the source's heads do not fit the latent's."""
    _same_heads(attn, heads)
    if (attn.nope, attn.v_size) != (heads.size, heads.size) or not hasattr(attn, "q_proj"):
        raise BadInput(f"--init: mla is made from heads of {heads.size} with "
                       f"model.qk_nope_head_dim and v_head_dim as "
                       "large (None) and without model.q_lora_rank")


# class of attention → what makes it of a source's
CONVERTERS: Mapping[str, Callable] = {
    "CausalSelfAttention": grouped, "SparseLatentAttention": grouped,
    "MultiHeadLatentAttention": latent,
    "PublishedSparseLatentAttention": published}
