"""
Hypothesis strategies that damage files: bytes of any kind, and the values inside JSON and TOML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]

# Values that have broken programs: of another type, out of range, or steering what shows them.
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -2**63, 10**30, int("9" * 400), 0.5, -0.0, 1e308,
    1e-320, float("nan"), float("inf"), "", " ", "x", "é", "../../x", "/etc/passwd", "a" * 5000,
    "[/red]", "\x1b[31m", "\0", "\n", "${HOME}", "%s", "{}", "nan", "1e999", "2026-01-01",
    "-r", "~nobody/x", [], [[]], {}, {"": None}, [1, "a", None], {"a": {"b": []}}]
ODD_BYTES = [b"", b"\0", b"null", b"[]", b"{}", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80",
             b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5000, b"-1", b"NaN", b"\r\n", b'"',
             b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x93NUMPY", b"PAR1"]
odd_values = st.sampled_from(ODD_VALUES) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3), max_leaves=5)
odd_words = st.sampled_from([str(value) for value in ODD_VALUES if value != "\0"]) | st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with one to three cuts, flips, insertions or repetitions."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 64, 10**9])))
        how = draw(st.sampled_from(["cut", "flip", "insert", "odd", "repeat", "number"]))
        part = {"cut": b"", "flip": bytes(byte ^ 1 << at % 8 for byte in data[at:at + 4]),
                "insert": draw(st.binary(max_size=8)), "odd": draw(st.sampled_from(ODD_BYTES)),
                "repeat": data[at:end][:4096] * 3,
                "number": draw(st.integers(-2**31, 2**31)).to_bytes(5, "little", signed=True)[:4],
                }[how]
        keep = at if how in ("insert", "odd") else at + 4 if how in ("flip", "number") else end
        data = data[:at] + part + data[keep:]
    return data


@st.composite
def damaged_json(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three of its values replaced, removed or added to."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            return draw(odd_values)
        inside, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "swap"]))
        if how == "replace":
            inside[key] = draw(odd_values)
        elif how == "remove":
            del inside[key]
        elif how == "swap":
            other, name = draw(st.sampled_from(places))
            inside[key] = json.loads(json.dumps(other[name]))
        elif isinstance(inside, dict):
            inside[draw(st.text(max_size=5))] = draw(odd_values)
        else:
            inside.append(draw(odd_values))
    return tree


def _places(tree: Any):
    """Every (container, key) of a tree."""
    keys = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in keys:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


@st.composite
def damaged_toml(draw: st.DrawFn, text: str) -> bytes:
    """The TOML with one to three lines whose value, key or table is another, or that are doubled
    or gone."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        line = lines[at] if lines else ""
        key, equals, _ = line.partition(" = ")
        how = draw(st.sampled_from(["value", "value", "value", "key", "remove", "double", "add"]))
        if how == "value" and equals:
            line = f"{key} = {_toml(draw(odd_values))}"
        elif how == "key":
            line = re.sub(r"[a-z_]+", lambda _: draw(odd_words) or "q", line, count=1)
        elif how == "add":
            line = f"{line}\n{draw(st.sampled_from(KEYS))} = {_toml(draw(odd_values))}"
        lines[at:at + 1] = {"remove": [], "double": [line, line]}.get(how, [line])
    return "\n".join(lines).encode("utf-8", "replace")


KEYS = ["lr", "match", "factorial", "stop", "expect", "pictures", "selection_seeds", "alpha",
        "base", "arms", "metric", "baseline", "model.n_layer", "model.schedule", "model.norm",
        "model.mlp",
        "model.attention", "model.position", "trainer.betas", "trainer.optimizer", "data.paths",
        "data.separator", "data.cache", "run.init", "run.logger", "run.freeze_except",
        "model.mlp_hidden", "model.nope_layers", "trainer.device", "trainer.dtype", "name"]


def _toml(value: Any) -> str:
    """A value as TOML, or nearly: JSON's form of it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}"
                               for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return ("nan" if value != value else '""' if value is None
            else json.dumps(value).replace("Infinity", "inf"))
