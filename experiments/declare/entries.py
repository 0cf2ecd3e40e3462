"""
Settings that are lists of texts, among them tables: TOML's {web = 0.7, code = 0.3} is the setting
["code=0.3", "web=0.7"].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.declare.ranges import OTHERS, shown
from mingpt.utils import BadInput

# Settings that are a list of "name=value" entries; a TOML table is read as one.
TABLES = ("data.sources", "data.mixture", "data.filter")
LISTS = (*TABLES, "data.val_sources", "data.val_paths")


def entries(key: str, value: Any) -> list[str] | None:
    """The value of one of LISTS as a list of texts; None where it is empty. Numbers are written in
    one way and shares in the order of their names, so that equal values are equal lists. Raises
    BadInput for any other type."""
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, Mapping) and key in TABLES:
        value = [f"{name}={_text(part)}" for name, parts in value.items()
                 for part in (parts if isinstance(parts, list) else [parts])]
    elif isinstance(value, str):
        value = value.replace(",", " ").split() if key == "data.mixture" else [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{key}={shown(value)}: give {OTHERS[key][0]}")
    if key == "data.mixture":
        pairs = [each.partition("=") for each in value]
        return sorted(f"{name.strip()}={_text(share.strip())}" for name, _, share in pairs)
    return list(value)


def _text(value: Any) -> str:
    """A value as text; a number in its one way of writing: 0.30 is 0.3 and 2.0 is 2."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)
    if isinstance(value, bool | int):
        return str(value)
    return str(int(found)) if found.is_integer() and abs(found) < 2**53 else repr(found)
