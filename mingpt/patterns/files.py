"""
Reads schedules from the JSON files of studies 000 and 001. The files need no change.

Expanded (000): the file spells out every layer. `mask_patterns` and descriptions are ignored.

    {"schedules": {NAME: {"layers": {"0": {"layer_idx": 0, "mask_type": "sliding_window",
                                           "window_size": 256, "group_idx": null,
                                           "num_groups": null}, …}}},
     "default_schedule": NAME}

Compact (001): one formula per schedule, for GPT-2's 12 layers or for the optional "n_layer".

    {"schedules": {"half": {"type": "progressive", "start_layer": 6, "start_window": 512,
                            "end_window": 16},
                   "full": {"type": "none"}}}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mingpt.patterns.kinds import (
    BlockPattern,
    Full,
    LocalGlobal,
    Pattern,
    Random,
    ShiftedWindow,
    Strided,
    Window,
)
from mingpt.utils import BadInput, did_you_mean, read_json

COMPACT_LAYERS = 12


def load_schedule(path: str, name: str = "") -> list[Pattern]:
    """The patterns of one schedule in a file, first layer first. Without a name, this is the file's
    `default_schedule`, or its only schedule. Raises BadInput if the file cannot be read, has no
    such schedule, or is not in one of the formats above."""
    content = _read(path)
    schedules = _dict(content.get("schedules"), f"{path}: 'schedules'")
    name = name or _default(path, content, schedules)
    if name not in schedules:
        raise BadInput(f"{path} has no schedule {name!r}{did_you_mean(name, schedules)}")
    where = f"{path}: schedule {name!r}"
    schedule = _dict(schedules[name], where)
    for key, reader in (("layers", _expanded), ("type", _compact)):
        if key in schedule:
            return reader(schedule, where)
    raise BadInput(f"{where} has neither 'layers' (the format of study 000) nor 'type' (the format "
                   f"of study 001)")


def _read(path: str) -> dict:
    try:
        content = read_json(path)
    except FileNotFoundError:
        near = [p.name for p in Path(path).parent.glob("*.json")]
        raise BadInput(f"no schedule file {path}"
                       + (did_you_mean(Path(path).name, near) if near else "")) from None
    except OSError as error:
        raise BadInput(f"schedule file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:   # from decoding JSON or UTF-8
        raise BadInput(f"schedule file {path} is not JSON: {error}") from None
    return _dict(content, f"schedule file {path}")


def _dict(value: Any, where: str) -> dict:
    if not isinstance(value, dict) or not value:
        raise BadInput(f"{where} should be a JSON object that is not empty, like "
                       f"{{\"0\": {{…}}}}")
    return value


def _default(path: str, content: dict, schedules: dict) -> str:
    name = content.get("default_schedule") or (next(iter(schedules)) if len(schedules) == 1
                                               else None)
    if not isinstance(name, str):
        raise BadInput(f"{path} names no default_schedule: write {path}:NAME; known: "
                       f"{', '.join(schedules)}")
    return name


def _field(entry: dict, key: str, default: int | float | None = None) -> Any:
    """A value from the file. If it is missing or null, returns the default; raises BadInput if
    there is no default."""
    value = entry.get(key)
    if value is None and default is None:
        raise BadInput(f"{key} is missing")
    return default if value is None else value


def _whole(entry: dict, key: str, default: int, least: int = 0) -> int:
    value = _field(entry, key, default)
    if type(value) is not int or value < least:   # not isinstance: True is an int in Python
        raise BadInput(f"{key} = {value!r} is not a whole number of at least {least}")
    return value


def _choose(readers: dict[str, Callable], entry: dict, key: str) -> Callable:
    kind = _field(entry, key)
    if not isinstance(kind, str) or kind not in readers:
        raise BadInput(f"unknown {key} {kind!r}{did_you_mean(kind, readers)}")
    return readers[kind]


# 000's expanded format
# -----------------------------------------------------------------------------------------------

def _sliding_window(layer: dict) -> Pattern:
    w, i, groups = (_field(layer, "window_size"), _field(layer, "group_idx", 0),
                    _field(layer, "num_groups", 1))
    return Window(w) if (i, groups) == (0, 1) else ShiftedWindow(w, i, groups)


MASK_TYPES = {
    "none": lambda layer: Full(),
    "sliding_window": _sliding_window,
    "block_sparse": lambda layer: BlockPattern(_field(layer, "block_size"),
                                               _field(layer, "num_blocks")),
    "strided": lambda layer: Strided(_field(layer, "stride")),
    "local_global": lambda layer: LocalGlobal(_field(layer, "window_size"),
                                              _field(layer, "stride", 64)),
    "random_sparse": lambda layer: Random(_field(layer, "sparsity", 0.1), 0),
}


def _expanded(schedule: dict, where: str) -> list[Pattern]:
    layers = _dict(schedule["layers"], f"{where}: 'layers'")
    for l in range(len(layers)):
        if str(l) not in layers:
            raise BadInput(f"{where}: layer {l} is missing; it has {len(layers)} layers: "
                           f"{', '.join(layers)}")
    return [_layer(_dict(layers[str(l)], f"{where}, layer {l}"), l, where)
            for l in range(len(layers))]


def _layer(layer: dict, l: int, where: str) -> Pattern:
    try:
        if _whole(layer, "layer_idx", l) != l:
            raise BadInput(f"layer_idx is {layer['layer_idx']}, not {l}")
        return _choose(MASK_TYPES, layer, "mask_type")(layer)
    except BadInput as error:
        raise BadInput(f"{where}, layer {l}: {error}") from None


# 001's compact format
# ------------------------------------------------------------------------------------------------

def _compact(schedule: dict, where: str) -> list[Pattern]:
    try:
        return _choose(COMPACT_TYPES, schedule, "type")(
            schedule, _whole(schedule, "n_layer", COMPACT_LAYERS, 1))
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _progressive(schedule: dict, n_layer: int) -> list[Pattern]:
    start, end = _field(schedule, "start_window"), _field(schedule, "end_window")
    return halving(start, end, _whole(schedule, "start_layer", 0), n_layer)


COMPACT_TYPES = {"none": lambda schedule, n_layer: [Full()] * n_layer, "progressive": _progressive}


def halving(start: int, end: int, first: int, n_layer: int) -> list[Pattern]:
    """Study 001's progressive schedule. Layers before `first` are full. Layer `first` has a window
    of `start`, and each later layer half the window of the one before, but never less than `end`:
    halving(512, 16, 6, 12) ends in 512 256 128 64 32 16. Raises BadInput if end > start or the
    model has no layer `first`."""
    # Window checks both numbers, even those that no layer uses
    start, end = Window(start).w, Window(end).w
    if end > start:
        raise BadInput(f"progressive windows shrink: from {start} to {end} should be from {end} to "
                       f"{start}")
    if first not in range(n_layer):
        raise BadInput(f"start layer {first} of {n_layer}: the layers are 0 to {n_layer - 1}")
    return [Full()] * first + [Window(max(start >> l, end)) for l in range(n_layer - first)]
