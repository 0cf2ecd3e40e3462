"""
Entries map keys of a Hugging Face config.json to our settings. `read` turns their keys into our
settings, and `write` turns our settings into their keys. Export writes the keys and reads them
back: a setting that comes back with another value cannot be expressed in that family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.utils import BadInput

REQUIRED = object()


class Entry:
    """Some keys of config.json, and the settings that mean the same."""

    def keys(self) -> set[str]:
        """The keys of config.json that this entry understands. A key that no entry understands is
        refused."""
        return set()

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any]) -> None:
        """Set in `ours` what `theirs` says. BadInput where no setting can express it."""

    def write(self, ours: Mapping[str, Any], theirs: dict[str, Any]) -> None:
        """Set in `theirs` what `ours` says, as far as these keys can express it."""


@dataclass(frozen=True)
class Key(Entry):
    """The same value under another name. `absent` is the value that a missing key means."""
    theirs: str
    ours: str
    absent: Any = REQUIRED

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        value = theirs.get(self.theirs, self.absent)
        if value is REQUIRED:
            raise BadInput(f"config.json has no {self.theirs!r}, which gives our model.{self.ours}")
        ours[self.ours] = value

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get(self.ours)  # some kinds of attention lack this setting


@dataclass(frozen=True)
class Choice(Entry):
    """A table of (their value, our value). Where several of theirs mean the same, the first is
    written. `absent` is their value for a missing key."""
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
    """Our settings that are the same for every model of the family."""

    def __init__(self, **settings: Any):
        self.settings = settings

    def read(self, theirs, ours):
        ours.update(self.settings)


class Only(Entry):
    """Keys of which only one value has a counterpart here. A key that is absent or null has that
    value. Any other value is BadInput."""

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
    """Like Only, for keys that export also writes."""

    def write(self, ours, theirs):
        theirs.update(self.values)


class Note(Entry):
    """Settings that matter only in training. Export writes them, for those who train the model
    further. Import ignores them: the run's own settings decide."""

    def __init__(self, **names: str):
        self.names = names

    def keys(self):
        return set(self.names)

    def write(self, ours, theirs):
        theirs.update({theirs_name: ours[name] for theirs_name, name in self.names.items()})


@dataclass(frozen=True)
class Hidden(Entry):
    """The width inside the MLP. A missing or null key means `default` times the model's width."""
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
    """The number of key and value heads. `absent` is the number where the key is missing. None, or
    a key that is null, means as many as query heads."""
    theirs: str = "num_key_value_heads"
    absent: int | None = None

    def keys(self):
        return {self.theirs}

    def read(self, theirs, ours):
        heads = theirs.get(self.theirs, self.absent)
        heads = ours["n_head"] if heads is None else heads
        ours |= ({"attention": "mha"} if heads == ours["n_head"]
                 else {"attention": "gqa", "n_kv_head": heads})

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get("n_kv_head", ours["n_head"])


@dataclass(frozen=True)
class HeadDim(Entry):
    """The size of a head. `absent` is the size where the key is missing. None, or a key that is
    null, means the model's width divided by the number of heads."""
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


class DenseEntry(Entry):
    """DeepSeek has experts from layer `first_k_dense_replace` on. Here that layer must be beyond
    the last one, so no layer has experts, and the other keys about experts change nothing."""

    def keys(self):
        return {"first_k_dense_replace", "aux_loss_alpha", "ep_size", "moe_intermediate_size",
                "moe_layer_freq", "n_group", "n_routed_experts", "n_shared_experts",
                "norm_topk_prob", "num_experts_per_tok", "num_mtp_layers",
                "num_nextn_predict_layers", "output_router_logits", "routed_scaling_factor",
                "scoring_func", "seq_aux", "topk_group", "topk_method"}

    def read(self, theirs, ours):
        first = theirs.get("first_k_dense_replace", 0)
        if first < ours["n_layer"]:
            raise BadInput(f"config.json: first_k_dense_replace={first}: DeepSeek's experts have "
                           f"no counterpart here; with {ours['n_layer']} or more, no layer has "
                           f"experts")

    def write(self, ours, theirs):
        theirs["first_k_dense_replace"] = ours["n_layer"]


class LatentHeads(Entry):
    """DeepSeek's keys whose values follow from other keys: as many key heads as query heads, and
    two sizes of a head. Other values are BadInput, because versions of transformers read them
    differently."""

    def keys(self):
        return {"num_key_value_heads", "head_dim", "qk_head_dim"}

    def read(self, theirs, ours):
        Only(num_key_value_heads=ours["n_head"], head_dim=ours["qk_rope_head_dim"],
             qk_head_dim=(ours["qk_nope_head_dim"] or 0) + (ours["qk_rope_head_dim"]
                                                            or 0)).read(theirs, ours)

    def write(self, ours, theirs):
        theirs["num_key_value_heads"] = ours["n_head"]
