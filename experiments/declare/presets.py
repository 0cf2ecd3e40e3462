"""
Presets: the size of the model and the training settings that all arms of a comparison share, by
name or as a TOML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.declare.arms import catalogue, flatten, read_toml
from mingpt.utils import BadInput, did_you_mean

PRESETS = Path(__file__).parents[1] / "presets"
DEFAULT_PRESET = "laptop"


@dataclass(frozen=True)
class Preset:
    """A preset's settings, flat. `arms` holds its own values for arms of the catalogue, by arm."""
    name: str
    settings: dict[str, Any]
    arms: dict[str, dict[str, Any]]

    def adapted(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """An arm's changes, updated with this preset's values for the catalogue arms that it
        contains."""
        merged = dict(changed)
        for name, values in self.arms.items():
            own = catalogue()[name].own
            if all(changed.get(key) == value for key, value in own.items()):
                merged |= values
        return merged

    def catalogue(self) -> dict[str, dict[str, Any]]:
        """What each arm of the catalogue changes under this preset."""
        return {name: self.adapted(arm.settings) for name, arm in catalogue().items()}


def presets() -> dict[str, Path]:
    """The presets that come with the project, by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} is a table, not {value!r}")
    return value


def load_preset(name: str) -> Preset:
    """Read a preset by its name or path. Raises BadInput for an unknown preset or arm."""
    path = presets().get(name) or Path(name)
    if not path.is_file():
        raise BadInput(f"no preset {name!r}{did_you_mean(name, presets())}")
    table = read_toml(path)
    arms = _table(table.pop("arms", {}), f"{path}: [arms]")
    arms = {arm: flatten(_table(values, f"{path}: [arms.{arm}]"), f"{path}: [arms.{arm}]")
            for arm, values in arms.items()}
    for arm in arms:
        if arm not in catalogue():
            raise BadInput(f"{path}: [arms.{arm}]: no such arm{did_you_mean(arm, catalogue())}")
    return Preset(name, flatten(table, str(path)), arms)
