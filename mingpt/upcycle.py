"""
A model that begins with another one's weights, as far as they fit, and trains as many of its own as it is told to.

What has the same name and shape is taken as it is. Attention of another kind is made from the source's queries, keys
and values: see CONVERTERS. What is left begins as in any other run. Ainslie et al. 2023 (arXiv 2305.13245) make
grouped-query models so.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mingpt.hf_weights import Heads, Tensors
from mingpt.utils import BadInput, did_you_mean


@dataclass
class Taken:
    """What became of the source's weights: names of modules of the new model, with layers as *, or of the source."""
    parameters: int = 0                                        # taken or made from the source's
    kept: set[str] = field(default_factory=set)
    made: dict[str, str] = field(default_factory=dict)         # name → how
    new: set[str] = field(default_factory=set)                 # as in any other run
    dropped: set[str] = field(default_factory=set)             # the source's that have no place


class Projections(NamedTuple):
    """One layer's attention in the source: weights (out, in), biases (out,) or None."""
    q: Tensor
    k: Tensor
    v: Tensor
    b_q: Tensor | None
    b_k: Tensor | None
    b_v: Tensor | None


@torch.no_grad()
def upcycle(model: nn.Module, state: Tensors, heads: Heads, pooling: str = "mean") -> Taken:
    """Give the model what fits of a source's tensors, which have our names; `heads` are the source's. `pooling` says
    how several heads of keys and values become one: their mean, or the first of them."""
    if pooling not in POOLINGS:
        raise BadInput(f"run.init_heads={pooling!r}{did_you_mean(pooling, POOLINGS)}")
    _check_shape(model, state)
    taken, given = Taken(), dict(state)
    given.setdefault("lm_head.weight", state["transformer.wte.weight"])
    made = {}
    for l, block in enumerate(model.transformer.h):
        at = f"transformer.h.{l}.attn."
        for name, (tensor, how) in _attention(block.attn, _projections(given, at, heads), heads, pooling).items():
            made[at + name] = tensor, how
    for name, p in model.named_parameters():
        if name in made:
            _put(p, made[name][0], taken)
            taken.made[_anywhere(name)] = made[name][1]
        elif name in given and _fits(name, p, given[name]):
            _put(p, given[name][:len(p)], taken)
            taken.kept.add(_anywhere(name))
        else:
            taken.new.add(_anywhere(name))
    used = taken.kept | set(taken.made)
    sources = {"attn.c_attn"} if taken.made else set()
    taken.dropped = {name for name in map(_anywhere, state) if name not in used
                     and not any(source in name for source in sources)}
    return taken


def _check_shape(model: nn.Module, state: Tensors) -> None:
    """BadInput where the model is of another size than its source."""
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.h."))
    vocabulary, width = state["transformer.wte.weight"].shape
    config = model.config
    for name, ours, theirs in (("model.n_layer", config.n_layer, layers), ("model.n_embd", config.n_embd, width),
                               ("vocabulary (data.tokenizer)", config.vocab_size, vocabulary)):
        if ours != theirs:
            raise BadInput(f"--init: the source's {name} is {theirs}, not {ours}")
    table = state.get("transformer.wpe.weight")
    if table is not None and model.transformer.wpe is not None and len(table) < model.block_size:
        raise BadInput(f"--init: the source has {len(table)} positions, not model.block_size={model.block_size}")


def _fits(name: str, p: Tensor, given: Tensor) -> bool:
    """The same shape; of a table of positions the first are taken."""
    return p.shape == given.shape or (name == "transformer.wpe.weight" and p.shape[1:] == given.shape[1:])


def _put(p: Tensor, value: Tensor, taken: Taken) -> None:
    p.copy_(value)
    taken.parameters += p.numel()


def _anywhere(name: str) -> str:
    return re.sub(r"\.h\.\d+\.", ".h.*.", name)


# -- attention of another kind ----------------------------------------------------------------------------------------

def _projections(state: Tensors, at: str, heads: Heads) -> Projections | None:
    weight, bias = state.get(f"{at}c_attn.weight"), state.get(f"{at}c_attn.bias")
    if weight is None:
        return None
    return Projections(*heads.split(weight), *((None,) * 3 if bias is None else heads.split(bias)))


def _attention(attn: nn.Module, source: Projections | None, heads: Heads, pooling: str) -> dict:
    """{name in the module: (tensor, how it was made)} of what is made, not taken as it is."""
    convert = next((CONVERTERS[kind.__name__] for kind in type(attn).__mro__ if kind.__name__ in CONVERTERS), None)
    return {} if source is None or convert is None else convert(attn, source, heads, pooling)


def to_grouped(attn: nn.Module, source: Projections, heads: Heads, pooling: str) -> dict:
    """As many heads of keys and values as the model has, out of the source's."""
    if (attn.n_head, attn.head_dim) != (heads.n_head, heads.size):
        raise BadInput(f"--init: the source has {heads.n_head} heads of {heads.size}, the model {attn.n_head} of "
                       f"{attn.head_dim} (model.n_head, model.head_dim)")
    if attn.n_kv_head == heads.n_kv_head:
        return {}

    def fewer(t: Tensor) -> Tensor:
        return regrouped(t, heads, attn.n_kv_head, pooling)
    how = f"{heads.n_kv_head} → {attn.n_kv_head} heads of keys and values ({pooling})"
    made = {"c_attn.weight": (torch.cat((source.q, fewer(source.k), fewer(source.v))), how)}
    if source.b_q is not None and attn.c_attn.bias is not None:
        made["c_attn.bias"] = torch.cat((source.b_q, fewer(source.b_k), fewer(source.b_v))), how
    return made


def regrouped(t: Tensor, heads: Heads, wanted: int, pooling: str) -> Tensor:
    """(nkv·hs, …) → (wanted·hs, …): groups of neighbours become one head, or every head is repeated."""
    each = t.unflatten(0, (heads.n_kv_head, heads.size))
    if heads.n_kv_head % wanted == 0:
        return POOLINGS[pooling](each.unflatten(0, (wanted, -1))).flatten(0, 1)
    if wanted % heads.n_kv_head == 0:
        return each.repeat_interleave(wanted // heads.n_kv_head, 0).flatten(0, 1)
    raise BadInput(f"--init: {heads.n_kv_head} heads of keys and values make no {wanted} (model.n_kv_head): give a "
                   "divisor or a multiple")


# of groups of heads, (n, heads in a group, hs, …) → (n, hs, …)
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda each: each.mean(1), "first": lambda each: each[:, 0]}

# class of attention → what it makes of the source's queries, keys and values
CONVERTERS: Mapping[str, Callable] = {"CausalSelfAttention": to_grouped}


# -- what is trained --------------------------------------------------------------------------------------------------

def freeze_except(model: nn.Module, patterns: str) -> None:
    """Train only the parameters that one of the patterns, parted by commas, names: words of a dotted name (`attn`,
    `mlp.c_fc`, `h.0`), with * for anything (`ln_*`). BadInput for one that names nothing."""
    named = dict(model.named_parameters())
    wanted = [pattern.strip() for pattern in str(patterns).split(",") if pattern.strip()]
    words = {word for name in named for word in name.split(".") if not word.isdigit()}
    trained: set[str] = set()
    for pattern in wanted:
        found = {name for name in named if fnmatch.fnmatchcase(f".{name}.", f"*.{pattern}.*")}
        if not found:
            raise BadInput(f"run.freeze_except: no parameter is named {pattern!r}{did_you_mean(pattern, words)}")
        trained |= found
    if not trained:
        raise BadInput("run.freeze_except names nothing, and nothing would be trained")
    for name, p in named.items():
        p.requires_grad_(name in trained)
