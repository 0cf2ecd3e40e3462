"""
Convert a source's attention weights to the model's kind of attention. The result computes the same
as the source, or nearly the same.

    gqa, mqa          each group of key and value heads becomes one head (Ainslie et al. 2023,
                      arXiv 2305.13245)
    mla               a singular value decomposition gives the latent of the wanted rank whose keys
                      and values have the least squared error. The result is exact where the rank
                      equals the model's width and positions are a table.
    msla_published    the same projections, under study 004's names
    msla, mha         unchanged; key and value heads are repeated where the source has fewer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mingpt.pretrained.weights import Heads, Tensors, without_qkv_bias
from mingpt.utils import BadInput, did_you_mean

# One head from each group: (n, heads per group, hs, …) → (n, hs, …).
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda each: each.mean(1),
                                                   "first": lambda each: each[:, 0]}
SMALL = 1e-6    # a norm's gain below this in size is replaced by this, so that we can divide by it


@dataclass(frozen=True)
class Converted:
    """A converted tensor, how it was made, and the names of the source's tensors it comes from."""
    tensor: Tensor
    how: str
    sources: tuple[str, ...]


def converted(model: nn.Module, state: Tensors, heads: Heads,
              pooling: str = "mean") -> dict[str, Converted]:
    """The attention tensors that must be converted rather than copied, by the model's names.

    `state` are the source's tensors under our names, `heads` the source's heads. Empty where the
    model's attention has no converter. BadInput for an unknown `pooling` or heads that do not fit.
    """
    if pooling not in POOLINGS:
        raise BadInput(f"run.init_heads={pooling!r}{did_you_mean(pooling, POOLINGS)}")
    attn = model.transformer.h[0].attn
    convert = next((CONVERTERS[kind.__name__] for kind in type(attn).__mro__
                    if kind.__name__ in CONVERTERS), None)
    if convert is None or "transformer.h.0.attn.c_attn.weight" not in state:
        return {}
    return convert(model, state, heads, pooling)


def grouped(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Converted]:
    """Give the source's keys and values as many heads as the model has."""
    attn = model.transformer.h[0].attn
    _same_heads(attn, heads)
    wanted = getattr(attn, "n_kv_head", attn.n_head)
    if wanted == heads.n_kv_head:
        return {}
    how, made = f"{heads.n_kv_head} → {wanted} heads of keys and values ({pooling})", {}
    for name in (name for name in state if ".attn.c_attn." in name):
        q, k, v = heads.split(state[name])
        both = (regrouped(t, heads, wanted, pooling) for t in (k, v))
        made[name] = Converted(torch.cat((q, *both)), how, (name,))
    return {name: value for name, value in made.items() if name in dict(model.named_parameters())}


def regrouped(t: Tensor, heads: Heads, wanted: int, pooling: str) -> Tensor:
    """(nkv·hs, …) → (wanted·hs, …): each group of neighbouring heads becomes one head, or every
    head is repeated. BadInput where `wanted` neither divides nor is a multiple of nkv."""
    each = t.unflatten(0, (heads.n_kv_head, heads.size))                         # (nkv, hs, …)
    if heads.n_kv_head % wanted == 0:
        # (wanted, nkv / wanted, hs, …) → (wanted, hs, …) → (wanted·hs, …)
        return POOLINGS[pooling](each.unflatten(0, (wanted, -1))).flatten(0, 1)
    if wanted % heads.n_kv_head == 0:
        return each.repeat_interleave(wanted // heads.n_kv_head, 0).flatten(0, 1)  # (wanted·hs, …)
    raise BadInput(f"--init: {heads.n_kv_head} heads of keys and values cannot become {wanted} "
                   f"(model.n_kv_head): give a divisor or a multiple")


def published(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Converted]:
    """Split c_attn into q, k and v, under study 004's names."""
    made, named = {}, dict(model.named_parameters())
    for name in (name for name in state if ".attn.c_attn." in name):
        q, k, v = heads.split(state[name])
        for part, t in (("q", q), ("k", heads.repeated(k)), ("v", heads.repeated(v))):
            made[name.replace(".c_attn.", f".msla.{part}_proj.")] = Converted(
                t, "split from c_attn", (name,))
    return {name: value for name, value in made.items() if name in named
            and named[name].shape == value.tensor.shape}


def latent(model: nn.Module, state: Tensors, heads: Heads, pooling: str) -> dict[str, Converted]:
    """Make keys and values pass through a normed latent.

    [W_k; W_v] · gain = U·S·Vᵀ gives the directions of the normed input that keys and values need
    most. The latent holds these directions, without the shift of the input norm, so that the
    latent's own norm divides by about 1. The shift of the keys changes no softmax, so it can go.
    The shift of the values moves into the bias of the output projection.
    """
    attn = model.transformer.h[0].attn
    _check_latent(attn, heads)
    learned = model.transformer.wpe is not None
    moved = without_qkv_bias(state, heads) if learned and hasattr(model.transformer.h[0],
                                                                  "ln_2") else dict(state)
    made: dict[str, Converted] = {}
    for l in range(model.config.n_layer):
        made |= _latent_layer(model.transformer.h[l], f"transformer.h.{l}.", moved)
    named = dict(model.named_parameters())
    return {name: value for name, value in made.items() if name in named}


def _latent_layer(block: nn.Module, at: str, state: Tensors) -> dict[str, Converted]:
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
    # order the rows head by head: k and v of the first head, then of the second, …
    up = torch.cat([t.unflatten(0, (attn.n_head, -1)) for t in up.chunk(2)], 1).flatten(0, 1)
    values = {"attn.q_proj.weight": _queries(q, attn), "attn.kv_a_proj.weight": down,
              "attn.kv_b_proj.weight": up}
    norm = torch.zeros(attn.rank, dtype=torch.float64)
    # The norm averages the squares over all attn.rank numbers, and those after `rank` are 0.
    norm[:rank] = (rank / attn.rank) ** 0.5
    values["attn.kv_a_norm.weight"] = norm
    values["attn.kv_a_proj.bias"] = -down @ shift * (torch.arange(len(down)) < rank)
    out = state[f"{at}attn.c_proj.weight"].double()
    before = state.get(f"{at}attn.c_proj.bias", torch.zeros(len(out))).double()
    bias = heads.split(_repeated(state[source[1]], attn))[2].double() if source[1] in state else 0
    values["attn.c_proj.bias"] = before + out @ (v @ shift + bias)
    if f"{at}ln_1.bias" in state:
        values["ln_1.bias"] = shift
    return {at + name: Converted(t.float(), how, source) for name, t in values.items()}


def _queries(q: Tensor, attn: nn.Module) -> Tensor:
    """W_q in the part of each head that does not turn; the part that turns keeps the model's own
    rows. A head with both parts is larger, so its scores are divided by more: W_q is scaled up to
    make up for it."""
    rows = attn.q_proj.weight.double().unflatten(0, (attn.n_head, -1)).clone()
    rows[:, :attn.nope] = q.unflatten(0, (attn.n_head, -1)) * ((attn.nope
                                                                + attn.rope) / attn.nope) ** 0.5
    return rows.flatten(0, 1)


def _repeated(qkv: Tensor, attn: nn.Module) -> Tensor:
    """((nh + 2·nkv)·hs, …) → (3·nh·hs, …): repeat key and value heads to one per query head."""
    kv = (len(qkv) // attn.head_dim - attn.n_head) // 2
    heads = Heads(attn.n_head, kv, attn.head_dim)
    q, k, v = heads.split(qkv)
    return torch.cat((q, heads.repeated(k), heads.repeated(v)))


def _same_heads(attn: nn.Module, heads: Heads) -> None:
    if (attn.n_head, attn.head_dim) != (heads.n_head, heads.size):
        raise BadInput(f"--init: the source has {heads.n_head} heads of size {heads.size}, but the "
                       f"model has {attn.n_head} of size {attn.head_dim} "
                       f"(model.n_head, model.head_dim)")


def _check_latent(attn: nn.Module, heads: Heads) -> None:
    """Raise BadInput where the source's heads do not fit the latent attention."""
    _same_heads(attn, heads)
    if (attn.nope, attn.v_size) != (heads.size, heads.size) or not hasattr(attn, "q_proj"):
        raise BadInput(f"--init: mla can only be made from this source's heads of size "
                       f"{heads.size} if model.qk_nope_head_dim and model.v_head_dim have that "
                       f"size too (or are None) and model.q_lora_rank is not set")


# {class name of the model's attention: the function that converts a source's attention to it}
CONVERTERS: Mapping[str, Callable] = {
    "CausalSelfAttention": grouped, "SparseLatentAttention": grouped,
    "MultiHeadLatentAttention": latent,
    "PublishedSparseLatentAttention": published}
