"""
What config.json of a Hugging Face model says, and which of our settings say the same. An entry reads the one into the
other and writes it back; what an entry cannot say is lost on the way back, and that is how export finds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.utils import BadInput

REQUIRED = object()


class Entry:
    """Some keys of config.json, and the settings that say the same."""

    def read(self, theirs: Mapping[str, Any], ours: dict[str, Any]) -> None:
        """Set what `theirs` says in `ours`. BadInput where no setting says it."""

    def write(self, ours: Mapping[str, Any], theirs: dict[str, Any]) -> None:
        """Set what `ours` says in `theirs`, as well as these keys can."""


@dataclass(frozen=True)
class Key(Entry):
    """The same value under another name; `absent` is what their configuration means without the key."""
    theirs: str
    ours: str
    absent: Any = REQUIRED

    def read(self, theirs, ours):
        value = theirs.get(self.theirs, self.absent)
        if value is REQUIRED:
            raise BadInput(f"config.json has no {self.theirs!r}, which says our {self.ours}")
        ours[self.ours] = value

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get(self.ours)      # another kind of attention has not all of them


@dataclass(frozen=True)
class Choice(Entry):
    """A value of theirs for each of ours; of several that mean the same, the first is written."""
    theirs: str
    ours: str
    table: tuple[tuple[Any, Any], ...]
    absent: Any

    def read(self, theirs, ours):
        value = theirs.get(self.theirs, self.absent)
        for name, meaning in self.table:
            if value == name:
                ours[self.ours] = meaning
                return
        known = ", ".join(repr(name) for name, _ in self.table)
        raise BadInput(f"config.json: {self.theirs}={value!r} has no counterpart in model.{self.ours}; known: {known}")

    def write(self, ours, theirs):
        same = [name for name, meaning in self.table if meaning == ours[self.ours]]
        theirs[self.theirs] = same[0] if same else self.table[0][0]


class Ours(Entry):
    """Settings that every model of the family has."""

    def __init__(self, **settings: Any):
        self.settings = settings

    def read(self, theirs, ours):
        ours.update(self.settings)


class Theirs(Entry):
    """Keys of which we can say one value only: theirs by default."""

    def __init__(self, **values: Any):
        self.values = values

    def read(self, theirs, ours):
        for key, value in self.values.items():
            if theirs.get(key, value) not in (value, None):
                raise BadInput(f"config.json: {key}={theirs[key]!r} has no counterpart here; only {value!r} has")

    def write(self, ours, theirs):
        theirs.update(self.values)


class Note(Entry):
    """Settings that matter to training alone: written for whoever trains on, and left to the settings when reading."""

    def __init__(self, **names: str):
        self.names = names

    def write(self, ours, theirs):
        theirs.update({theirs_name: ours[name] for theirs_name, name in self.names.items()})


@dataclass(frozen=True)
class Hidden(Entry):
    """The width inside the MLP; None is `default` times the model's."""
    theirs: str
    default: int | None = None

    def read(self, theirs, ours):
        width = theirs.get(self.theirs)
        if width is None and self.default is None:
            raise BadInput(f"config.json has no {self.theirs!r}")
        ours["mlp_hidden"] = self.default * ours["n_embd"] if width is None else width

    def write(self, ours, theirs):
        theirs[self.theirs] = ours["mlp_hidden"]


@dataclass(frozen=True)
class KeyValueHeads(Entry):
    """Heads of keys and values. `absent` None: as many as there are queries'."""
    theirs: str = "num_key_value_heads"
    absent: int | None = None

    def read(self, theirs, ours):
        heads = theirs.get(self.theirs, self.absent) or ours["n_head"]
        ours |= {"attention": "mha"} if heads == ours["n_head"] else {"attention": "gqa", "n_kv_head": heads}

    def write(self, ours, theirs):
        theirs[self.theirs] = ours.get("n_kv_head", ours["n_head"])


@dataclass(frozen=True)
class HeadDim(Entry):
    """Numbers in a head. `absent` None: the width shared out over the heads."""
    theirs: str = "head_dim"
    absent: int | None = None

    def read(self, theirs, ours):
        size = theirs.get(self.theirs) or self.absent
        if size and size * ours["n_head"] != ours["n_embd"]:
            ours["head_dim"] = size

    def write(self, ours, theirs):
        theirs[self.theirs] = ours["head_dim"]


class Dense(Entry):
    """DeepSeek's: experts from a layer on, which is beyond the last here."""

    def read(self, theirs, ours):
        first = theirs.get("first_k_dense_replace", 0)
        if first < ours["n_layer"]:
            raise BadInput(f"config.json: first_k_dense_replace={first}: DeepSeek's experts have no counterpart here; "
                           f"from {ours['n_layer']} on no layer has any")

    def write(self, ours, theirs):
        theirs["first_k_dense_replace"] = ours["n_layer"]


@dataclass(frozen=True)
class Rope(Entry):
    """Rotary positions: transformers 5 gathers in `rope_parameters` what earlier ones have as keys of their own. The
    latter are written, as both read them. `share` is the key of the part of a head that turns, if there is one."""
    base: str = "rope_theta"
    share: str | None = None
    share_absent: float = 1.0

    def read(self, theirs, ours):
        gathered = theirs.get("rope_parameters") or {}
        scaling = theirs.get("rope_scaling") or gathered
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in ("default", None):
            raise BadInput(f"config.json: rope_type={kind!r} has no counterpart here; only 'default' has")
        ours["position"] = "rope"
        ours["rope_base"] = float(gathered.get("rope_theta", theirs.get(self.base, 10_000.0)))
        share = gathered.get("partial_rotary_factor", theirs.get(self.share, self.share_absent) if self.share else 1.0)
        if share != 1.0:
            ours["rope_fraction"] = share

    def write(self, ours, theirs):
        theirs[self.base] = ours.get("rope_base", 10_000.0)
        if self.share:
            theirs[self.share] = ours.get("rope_fraction", 1.0)


class NoRopeLayers(Entry):
    """SmolLM3's: 1 where a layer turns queries and keys, 0 where it does not; without the key every fourth does not."""

    def read(self, theirs, ours):
        every = theirs.get("no_rope_layer_interval", 4)
        turned = theirs.get("no_rope_layers") or [int((l + 1) % every != 0) for l in range(ours["n_layer"])]
        without = [l for l in range(ours["n_layer"]) if not turned[l]]
        if len(without) == ours["n_layer"]:
            ours["position"] = "none"
        elif without:
            ours["nope_layers"] = ",".join(map(str, without))

    def write(self, ours, theirs):
        without = range(ours["n_layer"]) if ours["position"] == "none" else _numbers(ours.get("nope_layers"))
        theirs["no_rope_layers"] = [int(l not in without) for l in range(ours["n_layer"])]


def _numbers(text: str | None) -> list[int]:
    return [int(word) for word in text.split(",")] if text else []
