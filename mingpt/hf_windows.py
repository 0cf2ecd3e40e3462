"""
What config.json says of windows. In `ours` the schedule is one word a layer: "f", or a number of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.hf_keys import Entry
from mingpt.utils import BadInput


def _windows(ours: Mapping[str, Any]) -> list[int | None]:
    """A window a layer; None where a layer sees everything, or something that no number says."""
    return [int(word) if word.isdigit() else None for word in ours["schedule"].split()]


def _schedule(windows: list[int | None]) -> str:
    return " ".join("f" if w is None else str(w) for w in windows)


class NoWindow(Entry):
    """Every layer sees everything."""

    def read(self, theirs, ours):
        ours["schedule"] = _schedule([None] * ours["n_layer"])


@dataclass(frozen=True)
class OneWindow(Entry):
    """Mistral's: one window in all layers, or none. `absent` is the window without the key."""
    absent: int | None = None

    def read(self, theirs, ours):
        ours["schedule"] = _schedule([theirs.get("sliding_window", self.absent)] * ours["n_layer"])

    def write(self, ours, theirs):
        theirs["sliding_window"] = _windows(ours)[0]


class LayerTypes(Entry):
    """Qwen's: each layer has the one window or sees everything. Its configurations from before `layer_types` have the
    window from layer `max_window_layers` on."""

    def read(self, theirs, ours):
        w, layers = theirs.get("sliding_window"), range(ours["n_layer"])
        w = w if theirs.get("use_sliding_window", False) else None
        kinds = theirs.get("layer_types") or ["full_attention" if l < theirs.get("max_window_layers", 28)
                                              else "sliding_attention" for l in layers]
        if set(kinds) - {"full_attention", "sliding_attention"}:
            raise BadInput(f"config.json: layer_types={kinds!r}: only full_attention and sliding_attention are known")
        ours["schedule"] = _schedule([w if kinds[l] == "sliding_attention" else None for l in layers])

    def write(self, ours, theirs):
        windows = _windows(ours)
        w = next((w for w in windows if w is not None), None)
        theirs |= {"use_sliding_window": w is not None, "sliding_window": w, "max_window_layers": 0,
                   "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows]}


class AttentionTypes(Entry):
    """GPT-Neo's: `global` and `local` layers, listed with repeats; 256 keys where they are local."""

    def read(self, theirs, ours):
        kinds = [kind for kinds, times in theirs.get("attention_types", [[["global", "local"], 12]])
                 for _ in range(times) for kind in kinds]
        w = theirs.get("window_size", 256)
        ours["schedule"] = _schedule([w if kind == "local" else None for kind in kinds])

    def write(self, ours, theirs):
        windows = _windows(ours)
        theirs["attention_types"] = [[["global" if w is None else "local" for w in windows], 1]]
        theirs["window_size"] = next((w for w in windows if w is not None), 256)
