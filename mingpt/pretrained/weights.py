"""
Which tensor of a Hugging Face model holds which of ours, and how its numbers are arranged.
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

# what some checkpoints keep and no model needs: causal masks and rotary frequencies. The dot:
# c_attn.bias is a weight
NOT_WEIGHTS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")

Tensors = dict[str, Tensor]


class Heads(NamedTuple):
    """Heads of queries, heads of keys and values, and numbers in each; of latent attention, how
    many of them turn."""
    n_head: int
    n_kv_head: int
    size: int
    rope: int = 0

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """((nh + 2·nkv)·hs, …) → the rows of q, k and v."""
        kv = self.n_kv_head * self.size
        return qkv.split((self.n_head * self.size, kv, kv))

    def repeated(self, kv: Tensor) -> Tensor:
        """(nkv·hs, …) → (nh·hs, …): each head as often as queries share it."""
        heads = kv.unflatten(0, (self.n_kv_head, self.size))
        return heads.repeat_interleave(self.n_head // self.n_kv_head, 0).flatten(0, 1)


class Plain:
    """The same numbers. A layout takes a weight (out, in) or a bias (out,), in nn.Linear's
    arrangement here."""

    @staticmethod
    def to_theirs(ours: Tensor, heads: Heads) -> tuple[Tensor, ...]:
        """Our tensor → one for each of their names."""
        return (ours,)

    @staticmethod
    def to_ours(theirs: tuple[Tensor, ...], heads: Heads) -> Tensor:
        return theirs[0]


class Transposed(Plain):
    """OpenAI's checkpoints use a "Conv1D", whose weight is nn.Linear's transposed."""

    @staticmethod
    def to_theirs(ours, heads):
        return (ours.t(),)     # of a bias, itself

    @staticmethod
    def to_ours(theirs, heads):
        return theirs[0].t()


class TransposedQKV(Transposed):
    """As Transposed, q, k and v in one; as many heads of each."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        return (torch.cat((q, heads.repeated(k), heads.repeated(v))).t(),)


class SplitQKV(Plain):
    """q, k and v under three names."""

    @staticmethod
    def to_theirs(ours, heads):
        return heads.split(ours)

    @staticmethod
    def to_ours(theirs, heads):
        return torch.cat(theirs)


class UnscaledQKV(Plain):
    """GPT-Neo's, which divides no score by √hs: its queries are that much smaller. As many heads of
    each."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        return q / math.sqrt(heads.size), heads.repeated(k), heads.repeated(v)

    @staticmethod
    def to_ours(theirs, heads):
        q, k, v = theirs
        return torch.cat((q * math.sqrt(heads.size), k, v))


class QKVByHead(Plain):
    """GPT-NeoX's: q, k and v of the first head, then of the second, … As many heads of each."""

    @staticmethod
    def to_theirs(ours, heads):
        q, k, v = heads.split(ours)
        whole = torch.cat((q, heads.repeated(k), heads.repeated(v)))
        return (whole.unflatten(0, (3, heads.n_head, heads.size)).transpose(0, 1).flatten(0, 2),)

    @staticmethod
    def to_ours(theirs, heads):
        return theirs[0].unflatten(0, (heads.n_head, 3, heads.size)).transpose(0, 1).flatten(0, 2)


class PairedKey(Plain):
    """DeepSeek's: the last numbers of a latent turn, neighbours together, where ours are halves
    that turn together."""

    @staticmethod
    def to_theirs(ours, heads):
        return (
            turned_last(
                ours, heads.rope, lambda t: t.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            ),
        )

    @staticmethod
    def to_ours(theirs, heads):
        return turned_last(
            theirs[0], heads.rope, lambda t: t.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        )


class PairedQueries(Plain):
    """The same in each head of queries."""

    @staticmethod
    def to_theirs(ours, heads):
        return (torch.cat([PairedKey.to_theirs(head, heads)[0]
                           for head in ours.chunk(heads.n_head)]),)

    @staticmethod
    def to_ours(theirs, heads):
        return torch.cat([PairedKey.to_ours((head,), heads)
                          for head in theirs[0].chunk(heads.n_head)])


def turned_last(t: Tensor, n: int, arrange: Callable[[Tensor], Tensor]) -> Tensor:
    """(m, …) with its last n rows arranged otherwise."""
    return torch.cat((t[:len(t) - n], arrange(t[len(t) - n:]))) if n else t


@dataclass(frozen=True)
class Weight:
    """A module of ours and those of theirs that hold the same weights. `bias` says whether theirs
    have one: always, never, or where config.json says so under this key."""
    ours: str
    theirs: str                 # several are parted by spaces
    layout: type[Plain] = Plain
    bias: bool | str = False

    def of_layer(self, ours: str, theirs: str) -> Weight:
        """The same below a layer's prefixes."""
        names = " ".join(theirs + name for name in self.theirs.split())
        return Weight(ours + self.ours, names, self.layout, self.bias)

    def tensors(self, kind: str) -> tuple[str, ...]:
        """Their tensors' names; `kind` is 'weight' or 'bias'."""
        return tuple(f"{name}.{kind}" for name in self.theirs.split())


def unchanged(state: Tensors, heads: Heads) -> Tensors:
    return state


LARGEST_SHIFT = 10.0    # a norm's output is about 1: beyond this, float32 would lose a digit of it


def without_qkv_bias(state: Tensors, heads: Heads) -> Tensors:
    """The same model without biases of q, k and v, where positions are a table and the norm before
    has a bias.

    A shift s of the norm's bias with W_q·s = b_q does what b_q did. A shift of all keys alike
    changes no softmax, so b_k can go and k may shift. The weights of a softmax add up to 1, so what
    v lacks or has too much, b_v − W_v·s, passes unchanged into the output's bias. Where W_q is
    nearly singular, s is large: the bias stays, for want of digits.
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
    """Our tensors → (theirs, the names of ours that have no place among them). A bias of nothing
    but zeros needs none, and where theirs has one that we have not, it is zeros. Flags of
    config.json about biases are set as they come."""
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
    """Their tensors → ours. BadInput for one that is missing, or that nothing here stands for."""
    left = {name for name in theirs if not NOT_WEIGHTS.search(name)}
    ours = {}
    for w in weights:
        for kind in ("weight", "bias"):
            names = w.tensors(kind)
            if kind == "bias" and not w.bias:
                continue  # theirs has none there: a tensor of that name is refused below
            missing = [name for name in names if name not in left]
            if not missing:
                ours[f"{w.ours}.{kind}"] = w.layout.to_ours(tuple(theirs[name] for name in names),
                                                            heads)
                left -= set(names)
            elif kind == "weight" or w.bias is True or len(missing) < len(names):
                raise BadInput(f"no tensor {missing[0]!r} among the weights")
    if left:
        raise BadInput(f"tensor {min(left)!r} has no counterpart here")
    return ours
