"""
What config.json says of windows. In `ours` the schedule is one word a layer: "f", or a number of
keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.pretrained.keys import Entry
from mingpt.utils import BadInput


def _windows(ours: Mapping[str, Any]) -> list[int | None]:
    """A window a layer; None where a layer sees everything, or something that no number says."""
    return [int(word) if word.isdigit() else None for word in ours["schedule"].split()]


def _schedule(windows: list[int | None], n_layer: int) -> str:
    """One word per layer. BadInput for a window that is no whole number above 0, or another number
    of layers."""
    for w in windows:
        if w is not None and not (type(w) is int and w > 0):
            raise BadInput(f"config.json: a window of {w!r} keys: give a whole number above 0, or "
                           f"null for none")
    if len(windows) != n_layer:
        raise BadInput(f"config.json lists the attention of {len(windows)} layers, but the model "
                       f"has {n_layer}")
    return " ".join("f" if w is None else str(w) for w in windows)


class NoWindow(Entry):
    """Every layer sees everything."""

    def read(self, theirs, ours):
        ours["schedule"] = _schedule([None] * ours["n_layer"], ours["n_layer"])


@dataclass(frozen=True)
class OneWindow(Entry):
    """Mistral's: one window in all layers, or none. `absent` is the window without the key."""
    absent: int | None = None

    def keys(self):
        return {"sliding_window"}

    def read(self, theirs, ours):
        window = theirs.get("sliding_window", self.absent)
        ours["schedule"] = _schedule([window] * ours["n_layer"], ours["n_layer"])

    def write(self, ours, theirs):
        theirs["sliding_window"] = _windows(ours)[0]


class LayerTypes(Entry):
    """Qwen's: each layer has the one window or sees everything. Its configurations from before
    `layer_types` have the window from layer `max_window_layers` on."""
    absent: int | None = 4096     # the window without the key

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
                           "and sliding_window "
                           "give no window: set both, or make every layer full_attention")
        windows = [window if kind == "sliding_attention" else None for kind in kinds]
        ours["schedule"] = _schedule(windows, ours["n_layer"])

    def sliding(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[bool]:
        """Which layers slide where `layer_types` does not say it."""
        return [l >= theirs.get("max_window_layers", 28) for l in range(ours["n_layer"])]

    def write(self, ours, theirs):
        windows = _windows(ours)
        w = next((w for w in windows if w is not None), None)
        theirs |= {"use_sliding_window": w is not None, "sliding_window": w, "max_window_layers": 0,
                   "layer_types": ["full_attention" if w is None else "sliding_attention"
                                   for w in windows]}


class UnturnedWindows(LayerTypes):
    """SmolLM3's: without `layer_types` the layers without positions have the window. Stands after
    NoRopeLayers."""
    absent = None

    def keys(self):
        return super().keys() - {"max_window_layers"}

    def sliding(self, theirs, ours):
        without = (ours.get("nope_layers") or "").split(",")
        return [ours["position"] == "none" or str(l) in without for l in range(ours["n_layer"])]


class AttentionTypes(Entry):
    """GPT-Neo's: `global` and `local` layers, listed with repeats; 256 keys where they are local.
    `attention_layers` is the same list written out."""

    def keys(self):
        return {"attention_types", "attention_layers", "window_size"}

    def read(self, theirs, ours):
        types = theirs.get("attention_types")
        types = [[["global", "local"], 12]] if types is None else types
        kinds = [kind for kinds, times in types for _ in range(times) for kind in kinds]
        if theirs.get("attention_layers", kinds) != kinds:
            raise BadInput("config.json: attention_layers is not what attention_types gives")
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
