"""
What an arm is, the catalogue of the arms that have a flag, and how several arms combine into one.

An arm is a name and the settings that it changes. The catalogue is arms.toml. Studies add their own
arms (study.py). This module does not know which settings exist; settings.py does.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.declare.entries import TABLES, entries
from experiments.declare.hints import hint
from experiments.declare.ranges import SECTIONS
from mingpt.utils import BadInput, did_you_mean, read_file

# The keys of an arm's table that are no settings; designs.py reads the last three.
ARM_WORDS = ("include", "flags", "help", "match", "lr", "factorial")
CATALOGUE = Path(__file__).parents[1] / "arms.toml"
# An arm's name is part of file names, so it holds no character that is special to a shell.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Arm:
    """One arm. `settings` is everything that it changes; `own` leaves out what its `includes`
    change."""
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    includes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    help: str = ""

    @property
    def is_group(self) -> bool:
        """Whether the arm only combines other arms and changes nothing of its own."""
        return bool(self.includes) and not self.own


@cache
def catalogue() -> Mapping[str, Arm]:
    """The arms that have a flag, by name, in the order in which a combined name lists them."""
    arms: dict[str, Arm] = {}
    for name, table in read_toml(CATALOGUE).items():
        arms[name] = make_arm(name, table, arms, f"{CATALOGUE.name}: [{name}]")
    flags = [flag for arm in arms.values() for flag in arm.flags]
    twice = sorted({flag for flag in flags if flags.count(flag) > 1})
    if twice:
        raise BadInput(f"{CATALOGUE}: {twice[0]} is the flag of two arms")
    return MappingProxyType(arms)


def make_arm(name: str, table: Mapping[str, Any], earlier: Mapping[str, Arm], where: str) -> Arm:
    """Make an arm from its TOML table. `include` merges `earlier` arms in the order listed; the
    arm's own settings win. Raises BadInput, with `where` in front, for a malformed table."""
    if not NAME.fullmatch(name):
        raise BadInput(f"{where}: {name!r} cannot name an arm: letters, digits and _ . + - only")
    if not isinstance(table, Mapping):
        raise BadInput(f"{where}: an arm is a table of settings, not {table!r}")
    includes = names_list(table.get("include", []), f"{where}: include")
    settings: dict[str, Any] = {}
    for include in includes:
        if include not in earlier:
            raise BadInput(f"{where}: include: no earlier arm "
                           f"{include!r}{did_you_mean(include, earlier)}")
        settings |= earlier[include].settings
    for key in table:
        near = difflib.get_close_matches(key, ARM_WORDS, n=1, cutoff=0.75)
        if near and key not in ARM_WORDS and "." not in key:
            raise BadInput(f"{where}: unknown key {key!r}: did you mean {near[0]!r}?")
    own = flatten({k: v for k, v in table.items() if k not in ("include", "flags", "help")}, where)
    flags, text = names_list(table.get("flags", []), f"{where}: flags"), table.get("help", "")
    if not isinstance(text, str):
        raise BadInput(f"{where}: help is a text, not {text!r}")
    return Arm(name, settings | own, own, tuple(includes), tuple(flags), text)


def combine(
    names: Iterable[str], arms: Mapping[str, Arm] | None = None
) -> tuple[str, dict[str, Any]]:
    """Combine several arms into one and return its (name, settings). The name joins the arms'
    names in the order of `arms` (default: the catalogue).

    The name leaves out an arm that another one includes (warmup and cosine is `cosine`). Exactly
    the members of a group get the group's name (all five are `all_modifications`). No arm at all is
    the baseline. Raises BadInput for unknown arms and for arms that contradict each other.
    """
    arms = catalogue() if arms is None else arms
    chosen = _resolve(names, arms)
    members = set().union(*(closure(name, arms) for name in chosen))
    for group in arms.values():
        if group.is_group and closure(group.name, arms) == members:
            return group.name, dict(group.settings)
    implied = set().union(*(closure(name, arms) - {name} for name in members))
    tops = [name for name in arms if name in members - implied]
    return "_".join(tops) or _unchanged(arms), _merge(tops, arms)


def _resolve(names: Iterable[str], arms: Mapping[str, Arm]) -> list[str]:
    """The names without repeats and without the baseline. Raises BadInput for an unknown name, and
    for an arm that changes nothing and stands beside others."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in arms:
            raise BadInput(f"no arm {name!r}{did_you_mean(name, arms)}")
    idle = [name for name in names if not arms[name].settings]
    if idle and len(names) > 1:
        others = " ".join(_call(arms[n]) for n in names if n not in idle) or _call(arms[names[1]])
        raise BadInput(f"{_call(arms[idle[0]])} changes nothing, so it cannot be combined with "
                       f"{others}: leave one out")
    return [name for name in names if name not in idle]


def closure(name: str, arms: Mapping[str, Arm]) -> set[str]:
    """The arms that `name` includes, directly or not, and `name` itself; only those with settings
    of their own."""
    arm = arms[name]
    below = set().union(*(closure(include, arms) for include in arm.includes))
    return below | ({name} if arm.own else set())


def _merge(names: list[str], arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The settings of several arms together. Raises BadInput where two of them set one key to
    different values."""
    merged: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for name in names:
        for key, value in arms[name].settings.items():
            if merged.get(key, value) != value:
                raise BadInput(f"arms {owner[key]!r} and {name!r} both set {key}: to "
                               f"{merged[key]!r} and {value!r}")
            merged[key], owner[key] = value, name
    return merged


def _unchanged(arms: Mapping[str, Arm]) -> str:
    """The name of the arm that changes nothing."""
    return next(name for name, arm in arms.items() if not arm.settings)


def _call(arm: Arm) -> str:
    return arm.flags[0] if arm.flags else arm.name


def names_list(value: Any, where: str) -> list[str]:
    """The names in a TOML value: a list of texts, or one text alone."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BadInput(f"{where} is a list of names, not {value!r}")
    return value


def flatten(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """{"model": {"position": "rope"}} → {"model.position": "rope"}. Raises BadInput unless each key
    is SECTION.KEY with a known section; whether the setting exists is checked later."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= dict(_walk(value, key))
        else:
            flat[key] = entries(key, value) if key in TABLES else value
    for key in flat:
        section, dot, rest = key.partition(".")
        if section not in SECTIONS:
            raise BadInput(f"{where}: no section {section!r} in {key!r}{hint(key)}")
        if not dot or not rest:
            raise BadInput(f"{where}: {key!r} names a section; a setting is {section}.KEY = value")
    return flat


def _walk(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and value and name not in TABLES:
            yield from _walk(value, name)
        else:
            yield name, entries(name, value) if name in TABLES else value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into a dict. Raises BadInput when the file cannot be read or is not TOML;
    the message then gives the line."""
    try:
        return tomllib.loads(read_file(path).decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from None
    # A number of 5,000 digits raises ValueError too, and brackets 1,000 deep RecursionError.
    except (ValueError, RecursionError) as error:
        hint = ("; texts stand in quotes, true and false are lower case, and there is no None"
                if "Invalid value" in str(error) else "")
        raise BadInput(f"{path}: not TOML: {error}{hint}") from None
