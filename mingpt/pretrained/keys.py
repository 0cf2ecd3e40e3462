"""
What config.json of a Hugging Face model says, and which of our settings say the same. An entry
reads the one into the other and writes it back; what an entry cannot say is lost on the way back,
and that is how export finds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.utils import BadInput

REQUIRED = object()


class Entry:
    """Some keys of config.json, and the settings that say the same."""

    def keys(self) -> set[str]:
        """The keys of config.json that this entry understands. A key that no entry understands is
        refused."""
        return set()

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any]) -> None:
        """Set what `theirs` says in `ours`. BadInput where no setting says it."""

    def write(self, ours: Mapping[str, Any], theirs: dict[str, Any]) -> None:
        """Set what `ours` says in `theirs`, as well as these keys can."""


@dataclass(frozen=True)
class Key(Entry):
    """The same value under another name; `absent` is what their configuration means without the
    key."""
    theirs: str
    ours: str
    absent: Any = REQUIRED

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        value = theirs.get(self.theirs, self.absent)
        if value is REQUIRED:
            raise BadInput(f"config.json has no {self.theirs!r}, which says our {self.ours}")
        ours[self.ours] = value

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get(self.ours)  # another kind of attention has not all of them


@dataclass(frozen=True)
class Choice(Entry):
    """A value of theirs for each of ours; of several that mean the same, the first is written."""
    theirs: str
    ours: str
    table: tuple[tuple[Any, Any], ...]
    absent: Any

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        value = theirs.get(self.theirs, self.absent)
        for name, meaning in self.table:
            if value == name:
                ours[self.ours] = meaning
                return
        known = ", ".join(repr(name) for name, _ in self.table)
        raise BadInput(f"config.json: {self.theirs}={value!r} has no counterpart in "
                       f"model.{self.ours}; known: {known}")

    def write(self, ours, theirs):
        same = [name for name, meaning in self.table if meaning == ours[self.ours]]
        theirs[self.theirs] = same[0] if same else self.table[0][0]


class Ours(Entry):
    """Settings that every model of the family has."""

    def __init__(self, **settings: Any):
        self.settings = settings

    def read(self, theirs, ours):
        ours.update(self.settings)


class Only(Entry):
    """Keys that have one value with a counterpart here. A key that is absent or null has that
    value."""

    def __init__(self, **values: Any):
        self.values = values

    def keys(self):
        return set(self.values)

    def read(self, theirs, ours):
        for key, value in self.values.items():
            if theirs.get(key, value) not in (value, None):
                raise BadInput(f"config.json: {key}={theirs[key]!r} has no counterpart here; only "
                               f"{value!r} has")


class Theirs(Only):
    """The same for keys that export writes."""

    def write(self, ours, theirs):
        theirs.update(self.values)


class Note(Entry):
    """Settings that matter to training alone: written for whoever trains on, and left to the
    settings when reading."""

    def __init__(self, **names: str):
        self.names = names

    def keys(self):
        return set(self.names)

    def write(self, ours, theirs):
        theirs.update({theirs_name: ours[name] for theirs_name, name in self.names.items()})


@dataclass(frozen=True)
class Hidden(Entry):
    """The width inside the MLP; None is `default` times the model's."""
    theirs: str
    default: int | None = None

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        width = theirs.get(self.theirs)
        if width is None and self.default is None:
            raise BadInput(f"config.json has no {self.theirs!r}")
        ours["mlp_hidden"] = self.default * ours["n_embd"] if width is None else width

    def write(self, ours, theirs):
        theirs[self.theirs] = ours["mlp_hidden"]


@dataclass(frozen=True)
class KeyValueHeads(Entry):
    """Heads of keys and values. `absent` is their number without the key; None means as many as
    query heads, and so does a key that is null."""
    theirs: str = "num_key_value_heads"
    absent: int | None = None

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        heads = theirs.get(self.theirs, self.absent)
        heads = ours["n_head"] if heads is None else heads
        ours |= {"attention": "mha"} if heads == ours["n_head"] else {"attention": "gqa",
                                                                      "n_kv_head": heads}

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get("n_kv_head", ours["n_head"])


@dataclass(frozen=True)
class HeadDim(Entry):
    """Numbers in a head. `absent` is their number without the key; None means the width divided by
    the heads, and so does a key that is null."""
    theirs: str = "head_dim"
    absent: int | None = None

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        size = theirs.get(self.theirs, self.absent)
        if size is not None and size * ours["n_head"] != ours["n_embd"]:
            ours["head_dim"] = size

    def write(self, ours, theirs):
        theirs[self.theirs] = ours["head_dim"]


class Dense(Entry):
    """DeepSeek's: experts from a layer on, which is beyond the last here. No layer reads the
    experts' keys then."""

    def keys(self):
        return {"first_k_dense_replace", "aux_loss_alpha", "ep_size", "moe_intermediate_size",
                "moe_layer_freq",
                "n_group", "n_routed_experts", "n_shared_experts", "norm_topk_prob",
                "num_experts_per_tok",
                "num_mtp_layers", "num_nextn_predict_layers", "output_router_logits",
                "routed_scaling_factor",
                "scoring_func", "seq_aux", "topk_group", "topk_method"}

    def read(self, theirs, ours):
        first = theirs.get("first_k_dense_replace", 0)
        if first < ours["n_layer"]:
            raise BadInput(f"config.json: first_k_dense_replace={first}: DeepSeek's experts have "
                           f"no counterpart here; "
                           f"from {ours['n_layer']} on no layer has any")

    def write(self, ours, theirs):
        theirs["first_k_dense_replace"] = ours["n_layer"]


class LatentHeads(Entry):
    """Keys of DeepSeek's that other keys decide: as many key heads as query heads, and two sizes of
    a head. Versions of transformers read other values differently, so those are refused."""

    def keys(self):
        return {"num_key_value_heads", "head_dim", "qk_head_dim"}

    def read(self, theirs, ours):
        Only(num_key_value_heads=ours["n_head"], head_dim=ours["qk_rope_head_dim"],
             qk_head_dim=(ours["qk_nope_head_dim"] or 0) + (ours["qk_rope_head_dim"]
                                                            or 0)).read(theirs, ours)

    def write(self, ours, theirs):
        theirs["num_key_value_heads"] = ours["n_head"]
