"""
Entries for the keys of config.json about attention windows. In `ours`, the schedule has one word
per layer: "f" for full attention, or the window's number of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.pretrained.keys import Entry
from mingpt.utils import BadInput


def _windows(ours: Mapping[str, Any]) -> list[int | None]:
    """One window per layer, in keys. None where a layer sees everything, or where its pattern is
    not a plain window."""
    return [int(word) if word.isdigit() else None for word in ours["schedule"].split()]


def _schedule(windows: list[int | None], n_layer: int) -> str:
    """The schedule: one word per layer. BadInput for a window that is not a whole number above 0,
    or where the number of windows is not the number of layers."""
    for w in windows:
        if w is not None and not (type(w) is int and w > 0):
            raise BadInput(f"config.json: a window of {w!r} keys: give a whole number above 0, or "
                           f"null for no window")
    if len(windows) != n_layer:
        raise BadInput(f"config.json lists the attention of {len(windows)} layers, but the model "
                       f"has {n_layer}")
    return " ".join("f" if w is None else str(w) for w in windows)


class NoWindow(Entry):
    """The family has no windows: every layer sees everything."""

    def read(self, theirs, ours):
        ours["schedule"] = _schedule([None] * ours["n_layer"], ours["n_layer"])


@dataclass(frozen=True)
class OneWindow(Entry):
    """Mistral has one window in all layers, or none. `absent` is the window where the key is
    missing."""
    absent: int | None = None

    def keys(self):
        return {"sliding_window"}

    def read(self, theirs, ours):
        window = theirs.get("sliding_window", self.absent)
        ours["schedule"] = _schedule([window] * ours["n_layer"], ours["n_layer"])

    def write(self, ours, theirs):
        theirs["sliding_window"] = _windows(ours)[0]


class LayerTypes(Entry):
    """In Qwen, each layer has the one window or sees everything. In a config.json from before
    `layer_types`, the layers from `max_window_layers` on have the window."""
    absent: int | None = 4096     # the window where the key is missing

    def keys(self):
        return {"sliding_window", "use_sliding_window", "layer_types", "max_window_layers"}

    def read(self, theirs, ours):
        used = theirs.get("use_sliding_window", False)
        window = theirs.get("sliding_window", self.absent) if used else None
        kinds = theirs.get("layer_types")
        if kinds is None:
            slides = [window is not None and own for own in self.sliding(theirs, ours)]
            kinds = ["sliding_attention" if own else "full_attention" for own in slides]
        if set(kinds) - {"full_attention", "sliding_attention"}:
            raise BadInput(f"config.json: layer_types={kinds!r}: only full_attention and "
                           f"sliding_attention are known")
        if "sliding_attention" in kinds and window is None:
            raise BadInput("config.json: layer_types has sliding_attention, but use_sliding_window "
                           "and sliding_window give no window: set both, or make every layer "
                           "full_attention")
        windows = [window if kind == "sliding_attention" else None for kind in kinds]
        ours["schedule"] = _schedule(windows, ours["n_layer"])

    def sliding(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[bool]:
        """Whether each layer has the window, for a config.json without `layer_types`."""
        return [l >= theirs.get("max_window_layers", 28) for l in range(ours["n_layer"])]

    def write(self, ours, theirs):
        windows = _windows(ours)
        w = next((w for w in windows if w is not None), None)
        theirs |= {"use_sliding_window": w is not None, "sliding_window": w, "max_window_layers": 0,
                   "layer_types": ["full_attention" if w is None else "sliding_attention"
                                   for w in windows]}


class NoPositionWindows(LayerTypes):
    """In SmolLM3, without `layer_types`, the layers without positions have the window. This entry
    must come after NoRopeLayers, whose settings it reads."""
    absent = None

    def keys(self):
        return super().keys() - {"max_window_layers"}

    def sliding(self, theirs, ours):
        without = (ours.get("nope_layers") or "").split(",")
        return [ours["position"] == "none" or str(l) in without for l in range(ours["n_layer"])]


class AttentionTypes(Entry):
    """GPT-Neo lists `global` and `local` layers with repeats. Local layers have a window of
    `window_size` keys, 256 where that key is missing. `attention_layers` is the same list written
    out."""

    def keys(self):
        return {"attention_types", "attention_layers", "window_size"}

    def read(self, theirs, ours):
        types = theirs.get("attention_types")
        types = [[["global", "local"], 12]] if types is None else types
        kinds = [kind for kinds, times in types for _ in range(times) for kind in kinds]
        if theirs.get("attention_layers", kinds) != kinds:
            raise BadInput("config.json: attention_layers and attention_types disagree")
        if set(kinds) - {"global", "local"}:
            raise BadInput(f"config.json: attention_types={types!r}: only global and local are "
                           f"known")
        window = theirs.get("window_size", 256)
        if "local" in kinds and window is None:
            raise BadInput("config.json: attention_types has local layers, but window_size is null")
        ours["schedule"] = _schedule([window if kind == "local" else None for kind in kinds],
                                     ours["n_layer"])

    def write(self, ours, theirs):
        windows = _windows(ours)
        theirs["attention_types"] = [[["global" if w is None else "local" for w in windows], 1]]
        theirs["window_size"] = next((w for w in windows if w is not None), 256)
