"""
Entries for the keys of config.json about rotary positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.pretrained.keys import Entry
from mingpt.utils import BadInput

# the known keys inside `rope_parameters`
INSIDE = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


@dataclass(frozen=True)
class Rope(Entry):
    """Rotary positions. transformers 5 gathers in `rope_parameters` what earlier versions have as
    separate keys. Export writes the separate keys, which all versions read.

    `base` is the key for the rotary base, and `theta` is the base where that key is missing.
    `share` is the key for the share of each head that turns, and `share_absent` is that share where
    the key is missing. A family without `share` turns whole heads.

    A value may be given in several places; all of them must agree.
    """
    base: str = "rope_theta"
    share: str | None = None
    share_absent: float = 1.0
    theta: float = 10_000.0

    def keys(self):
        return {self.base, self.share or "partial_rotary_factor", "rope_theta",
                "partial_rotary_factor", "rope_parameters", "rope_scaling"}

    def read(self, theirs, ours):
        gathered = _gathered(theirs)
        ours["position"] = "rope"
        ours["rope_base"] = float(_agreed("rope_theta", self.base, self.theta, gathered, theirs))
        share = _agreed("partial_rotary_factor", self.share or "partial_rotary_factor",
                        self.share_absent, gathered, theirs)
        if share == 1.0:
            return
        if self.share is None:
            raise BadInput(f"config.json: partial_rotary_factor={share!r}: this family turns whole "
                           f"heads, and transformers ignores the key; only 1.0 has a counterpart")
        ours["rope_fraction"] = share

    def write(self, ours, theirs):
        theirs[self.base] = ours.get("rope_base", 10_000.0)
        if self.share:
            theirs[self.share] = ours.get("rope_fraction", 1.0)


def _gathered(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The value of `rope_parameters`, or of `rope_scaling`, its older name; {} without either.
    BadInput for scaled frequencies, for an unknown key inside, and where the two differ."""
    found = {key: theirs[key] for key in ("rope_parameters", "rope_scaling") if theirs.get(key)}
    for key, gathered in found.items():
        kind = gathered.get("rope_type", gathered.get("type", "default"))
        if kind not in ("default", None):
            raise BadInput(f"config.json: rope_type={kind!r} has no counterpart here; only "
                           f"'default' has")
        unknown = sorted(set(gathered) - INSIDE)
        if unknown:
            raise BadInput(f"config.json: {key} has a key {unknown[0]!r} that is not known here; "
                           f"known: {', '.join(sorted(INSIDE))}")
    if len(found) == 2 and found["rope_parameters"] != found["rope_scaling"]:
        raise BadInput(
            "config.json: rope_parameters and rope_scaling differ; leave out one of them"
        )
    return next(iter(found.values()), {})


def _agreed(name: str, own: str, absent: float, gathered: Mapping[str, Any],
            theirs: Mapping[str, Any]) -> Any:
    """The value of `name` inside `gathered`, else of the family's `own` key at the top level, else
    `absent`. BadInput where two of these places disagree, or where `name` at the top level, which
    not all versions read, gives another value."""
    given = [v for v in (gathered.get(name), theirs.get(own)) if v is not None]
    value = given[0] if given else absent
    for other in (*given, theirs.get(name)):
        if other is not None and other != value:
            raise BadInput(
                f"config.json: {name} is {value!r} in one place and {other!r} in another"
            )
    return value


class NoRopeLayers(Entry):
    """SmolLM3's list of layers: 1 where a layer turns queries and keys, 0 where it does not.
    Without the key, every fourth layer does not."""

    def keys(self):
        return {"no_rope_layers", "no_rope_layer_interval"}

    def read(self, theirs, ours):
        every, turned = theirs.get("no_rope_layer_interval", 4), theirs.get("no_rope_layers")
        if turned is None:
            turned = [int((l + 1) % every != 0) for l in range(ours["n_layer"])]
        if len(turned) != ours["n_layer"] or any(t not in (0, 1) for t in turned):
            raise BadInput(f"config.json: no_rope_layers={turned!r}: give 0 or 1 for each of "
                           f"{ours['n_layer']} layers")
        without = [l for l in range(ours["n_layer"]) if not turned[l]]
        if len(without) == ours["n_layer"]:
            ours["position"] = "none"
        elif without:
            ours["nope_layers"] = ",".join(map(str, without))

    def write(self, ours, theirs):
        without = (range(ours["n_layer"]) if ours["position"] == "none"
                   else _numbers(ours.get("nope_layers")))
        theirs["no_rope_layers"] = [int(l not in without) for l in range(ours["n_layer"])]


def _numbers(text: str | None) -> list[int]:
    return [int(word) for word in text.split(",")] if text else []
