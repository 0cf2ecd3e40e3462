"""
Map the tensors of a Hugging Face model to ours: which holds which, and how its numbers are
arranged. A layout is a class here that converts between the two arrangements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mingpt.utils import BadInput

# Causal masks and rotary frequencies, which some checkpoints store and no model needs. The dot
# matters: c_attn.bias is a weight.
NOT_WEIGHTS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")

Tensors = dict[str, Tensor]


class Heads(NamedTuple):
    """The number of query heads, the number of key and value heads, and the size of a head. For
    latent attention, `rope` is how many numbers of each head turn."""
    n_head: int
    n_kv_head: int
    size: int
    rope: int = 0

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """((nh + 2·nkv)·hs, …) → q (nh·hs, …), k (nkv·hs, …) and v (nkv·hs, …)."""
        kv = self.n_kv_head * self.size
        return qkv.split((self.n_head * self.size, kv, kv))

    def repeated(self, kv: Tensor) -> Tensor:
        """(nkv·hs, …) → (nh·hs, …): repeat each head once per query head that shares it."""
        heads = kv.unflatten(0, (self.n_kv_head, self.size))        # (nkv, hs, …)
        return heads.repeat_interleave(self.n_head // self.n_kv_head, 0).flatten(0, 1)  # (nh·hs, …)


class Plain:
    """Their tensor is ours. Base class of the layouts: ours is a weight (out, in) or a bias (out,),
    arranged as in nn.Linear."""

    @staticmethod
    def to_theirs(ours: Tensor, heads: Heads) -> tuple[Tensor, ...]:
        """Our tensor → their tensors, one per name of theirs."""
        return (ours,)

    @staticmethod
    def to_ours(theirs: tuple[Tensor, ...], heads: Heads) -> Tensor:
        """Their tensors → ours."""
        return theirs[0]


class Transposed(Plain):
    """OpenAI's checkpoints use a "Conv1D", whose weight is the transpose of nn.Linear's."""

    @staticmethod
    def to_theirs(ours, heads):
        return (ours.t(),)     # a bias has one dimension and stays as it is

    @staticmethod
    def to_ours(theirs, heads):
        return theirs[0].t()


class TransposedQKV(Transposed):
    """Like Transposed, for q, k and v in one tensor. Theirs has as many key and value heads as
    query heads."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        return (torch.cat((q, heads.repeated(k), heads.repeated(v))).t(),)


class SplitQKV(Plain):
    """Theirs has q, k and v under three names."""

    @staticmethod
    def to_theirs(ours, heads):
        return heads.split(ours)

    @staticmethod
    def to_ours(theirs, heads):
        return torch.cat(theirs)


class UnscaledQKV(Plain):
    """GPT-Neo does not divide scores by √hs, so its queries are smaller by that factor. It has as
    many key and value heads as query heads."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        return q / math.sqrt(heads.size), heads.repeated(k), heads.repeated(v)

    @staticmethod
    def to_ours(theirs, heads):
        q, k, v = theirs
        return torch.cat((q * math.sqrt(heads.size), k, v))


class QKVByHead(Plain):
    """GPT-NeoX has q, k and v of the first head, then of the second, and so on. It has as many key
    and value heads as query heads."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        whole = torch.cat((q, heads.repeated(k), heads.repeated(v)))        # (3·nh·hs, …)
        # (3, nh, hs, …) → (nh, 3, hs, …) → (nh·3·hs, …)
        return (whole.unflatten(0, (3, heads.n_head, heads.size)).transpose(0, 1).flatten(0, 2),)

    @staticmethod
    def to_ours(theirs, heads):
        # (nh, 3, hs, …) → (3, nh, hs, …) → (3·nh·hs, …)
        return theirs[0].unflatten(0, (heads.n_head, 3, heads.size)).transpose(0, 1).flatten(0, 2)


class PairedKey(Plain):
    """The last `rope` numbers of DeepSeek's latent turn in pairs of neighbours (0 and 1, 2 and 3).
    Ours turn in pairs across the two halves."""

    @staticmethod
    def to_theirs(ours, heads):
        return (
            with_last(
                ours, heads.rope, lambda t: t.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            ),
        )

    @staticmethod
    def to_ours(theirs, heads):
        return with_last(
            theirs[0], heads.rope, lambda t: t.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        )


class PairedQueries(Plain):
    """Like PairedKey, in each query head."""

    @staticmethod
    def to_theirs(ours, heads):
        return (torch.cat([PairedKey.to_theirs(head, heads)[0]
                           for head in ours.chunk(heads.n_head)]),)

    @staticmethod
    def to_ours(theirs, heads):
        return torch.cat([PairedKey.to_ours((head,), heads)
                          for head in theirs[0].chunk(heads.n_head)])


def with_last(t: Tensor, n: int, arrange: Callable[[Tensor], Tensor]) -> Tensor:
    """(m, …) → (m, …): `arrange` applied to the last n rows."""
    return torch.cat((t[:len(t) - n], arrange(t[len(t) - n:]))) if n else t


@dataclass(frozen=True)
class Weight:
    """One of our modules, and their modules that hold the same weights. `bias` says whether theirs
    have a bias: True, False, or the key of config.json that decides it."""
    ours: str
    theirs: str                 # names separated by spaces
    layout: type[Plain] = Plain
    bias: bool | str = False

    def of_layer(self, ours: str, theirs: str) -> Weight:
        """The same weight with the prefixes of a layer in front of both names."""
        names = " ".join(theirs + name for name in self.theirs.split())
        return Weight(ours + self.ours, names, self.layout, self.bias)

    def tensors(self, kind: str) -> tuple[str, ...]:
        """The names of their tensors; `kind` is 'weight' or 'bias'."""
        return tuple(f"{name}.{kind}" for name in self.theirs.split())


def unchanged(state: Tensors, heads: Heads) -> Tensors:
    """`state` itself: the `prepare` of families that need none."""
    return state


# A norm's output is about 1. Beyond this shift, float32 would lose a digit of it.
LARGEST_SHIFT = 10.0


def without_qkv_bias(state: Tensors, heads: Heads) -> Tensors:
    """Remove the biases of q, k and v; the model computes the same. This holds where positions are
    a table and the norm before attention has a bias.

    Adding a shift s with W_q·s = b_q to the norm's bias does what b_q did. A shift that all keys
    share changes no softmax, so b_k can go, and the keys may shift by W_k·s. The weights of a
    softmax add up to 1, so the rest of the values' shift, b_v − W_v·s, passes unchanged to the
    output and moves into its bias. Where W_q is nearly singular, s is large and float32 would lose
    digits, so the bias stays.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith("attn.c_attn.bias")]:
        at = name.removesuffix("attn.c_attn.bias")
        w_q, _, w_v = (t.double() for t in heads.split(state[f"{at}attn.c_attn.weight"]))
        b_q, _, b_v = (t.double() for t in heads.split(state[name]))
        shift = torch.linalg.lstsq(w_q, b_q[:, None]).solution[:, 0]
        if not (shift.abs().max() <= LARGEST_SHIFT and torch.allclose(w_q @ shift, b_q, atol=1e-9)):
            continue
        w_out = state[f"{at}attn.c_proj.weight"]
        through = w_out.double() @ heads.repeated(b_v - w_v @ shift)
        for bias, more in ((f"{at}ln_1.bias", shift), (f"{at}attn.c_proj.bias", through)):
            before = state.get(bias, torch.zeros(len(more), dtype=w_out.dtype))
            state[bias] = (before.double() + more).to(w_out.dtype)
        del state[name]
    return state


def write_tensors(weights: list[Weight], state: Tensors, heads: Heads,
                  config: dict) -> tuple[Tensors, list[str]]:
    """Our tensors → (theirs, the names of ours that have no place in theirs).

    A bias that is all zeros needs no place. Where theirs has a bias and ours has none, theirs is
    zeros. Sets the bias flags in `config`, which becomes config.json.
    """
    found, left = {}, dict(state)
    for w in weights:
        weight, bias = left.pop(f"{w.ours}.weight", None), left.pop(f"{w.ours}.bias", None)
        if weight is None:
            continue
        needed = bias is not None and bool(bias.any())
        if isinstance(w.bias, str):
            config[w.bias] = config.get(w.bias, False) or needed
        elif needed and not w.bias:
            left[f"{w.ours}.bias"] = bias
        found |= zip(w.tensors("weight"), w.layout.to_theirs(weight, heads), strict=True)
        if w.bias:
            zeros = torch.zeros(weight.size(0), dtype=weight.dtype)
            found |= zip(w.tensors("bias"), w.layout.to_theirs(zeros if bias is None else bias,
                                                               heads), strict=True)
    unflagged = {name for w in weights if isinstance(w.bias, str) and not config[w.bias]
                 for name in w.tensors("bias")}
    return {name: t.contiguous() for name, t in found.items()
            if name not in unflagged}, sorted(left)


def read_tensors(weights: list[Weight], theirs: Mapping[str, Tensor], heads: Heads) -> Tensors:
    """Their tensors → ours. BadInput for a tensor that is missing or has no counterpart here."""
    left = {name for name in theirs if not NOT_WEIGHTS.search(name)}
    ours = {}
    for w in weights:
        for kind in ("weight", "bias"):
            names = w.tensors(kind)
            if kind == "bias" and not w.bias:
                continue  # theirs has no bias there: a tensor of that name is refused below
            missing = [name for name in names if name not in left]
            if not missing:
                ours[f"{w.ours}.{kind}"] = w.layout.to_ours(tuple(theirs[name] for name in names),
                                                            heads)
                left -= set(names)
            elif kind == "weight" or w.bias is True or len(missing) < len(names):
                raise BadInput(f"tensor {missing[0]!r} is missing from the weights")
    if left:
        raise BadInput(f"tensor {min(left)!r} has no counterpart here")
    return ours
