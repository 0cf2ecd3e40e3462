"""
The tree of all settings with their defaults, layers merged into it, checks of the values, and the
differences between two trees.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.declare.entries import LISTS, entries
from experiments.declare.hints import hint
from experiments.declare.ranges import (
    OTHERS,
    RANGES,
    SHARE,
    SWITCH_OR_NONE,
    TEXT_OR_NONE,
    check_ranges,
    range_of,
    shown,
)
from experiments.declare.sources import check_sources
from mingpt.config import SIZES, check_slots
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

SCHEDULES = Path(__file__).parents[1] / "schedules"
SHAPE = ("n_layer", "n_head", "n_embd")
# Texts and switches whose default, None, does not show their type.
TEXTS = [key for key, (kind, _) in OTHERS.items() if kind == TEXT_OR_NONE]
SWITCHES = [key for key, (kind, _) in OTHERS.items() if kind == SWITCH_OR_NONE]

# Settings that are lists of texts, and settings that may be written as a list or as one value.
OF_TEXTS = {"data.paths", *LISTS}
LISTED = {"model.nope_layers", "run.freeze_except"}


def default_settings() -> CN:
    """Every setting at its default. Each section is defined by the module that it configures."""
    from experiments import corpus
    from experiments.weights.published_padding import model_defaults
    from mingpt.trainer import Trainer
    return CN(model=model_defaults(), trainer=Trainer.get_default_config(),
              data=corpus.get_default_config(), run=run_defaults())


def run_defaults() -> CN:
    """The defaults of the section `run`: how a run measures itself and what it keeps. ranges.py
    says what each means."""
    return CN(log_every=10, eval_every=100, checkpoint_every=100, eval_batch_size=None,
              keep_best=False, patience=None, allow_audit_fail=False, rehearsals=3, seed_offset=0,
              init=None, init_heads="mean", freeze_except=None, threads=None, logger="none",
              sample_prompt="\n", sample_tokens=100)


def merge(layers: Iterable[Mapping[str, Any]]) -> CN:
    """The defaults with every layer merged in, in order: a later layer wins. Raises BadInput for
    unknown settings and for values of another type."""
    settings = default_settings()
    for layer in layers:
        for key, value in layer.items():
            set_flat(settings, key, value)
        _one_shape(settings.model, layer)
    return settings


def _one_shape(model: CN, layer: Mapping[str, Any]) -> None:
    """Resolve the size, which is either a model_type or the three numbers of SHAPE. The last layer
    that gives one of the two decides."""
    if layer.get("model.model_type") is not None:
        model.merge_from_dict(dict.fromkeys(SHAPE))
    elif any(f"model.{key}" in layer for key in SHAPE):
        from mingpt.config import SIZES
        named = SIZES.get(model.model_type, {})
        now = {key: getattr(model, key) for key in SHAPE}
        model.merge_from_dict({key: named.get(key) if value is None else value
                               for key, value in now.items()} | {"model_type": None})


def set_flat(settings: CN, key: str, value: Any) -> None:
    """Set 'section.key'. Raises BadInput for unknown names and for values of another type."""
    section, _, leaf = key.partition(".")
    sections = settings.to_dict()
    if leaf not in sections.get(section, ()):
        unknown = repr(key) if section in sections else f"{key!r}, and no section {section!r}"
        raise BadInput(f"no setting {unknown}{hint(key, [known for known, _ in walk(settings)])}")
    node = getattr(settings, section)
    setattr(node, leaf, _checked(key, value, getattr(node, leaf)))


def _checked(key: str, value: Any, present: Any) -> Any:
    """The value, converted to the type of the present one: 1e3 becomes 1000 where a whole number is
    wanted. Raises BadInput where the types do not fit."""
    allowed = range_of(key, present)
    whole = allowed.whole if key in RANGES else type(present) is int
    if isinstance(value, float) and value.is_integer() and whole:
        value = int(value)   # 1e3 → 1000
    if key in LISTS:
        return entries(key, value)
    if isinstance(value, Mapping):
        raise BadInput(f"{key}={shown(value)}: a setting is one value, not a table")
    if present is None or allowed or value is None and key in TEXTS:
        return copy.deepcopy(value)   # `check` judges these later
    if isinstance(present, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(present, str):
        fits, kind = not isinstance(value, list | tuple | dict | None), "a text"
        value = str(value)   # a schedule of one window, such as 256, is parsed as a number
    elif isinstance(present, list | tuple):
        fits, kind = isinstance(value, list | tuple), "a list"
    else:
        fits, kind = True, ""
    if not fits:
        raise BadInput(f"{key}={value!r}: this setting takes {kind} (default {present!r})")
    return copy.deepcopy(value)


def check(settings: CN) -> None:
    """Raise BadInput for values that no run could use, before anything is built."""
    flat = dict(walk(settings))
    check_ranges(flat, dict(walk(default_settings())))
    for key in TEXTS:
        if flat[key] is not None and not isinstance(flat[key], str):
            raise BadInput(f"{key}={shown(flat[key])}: give a text, or None")
    for key in SWITCHES:
        if flat[key] is not None and not isinstance(flat[key], bool):
            raise BadInput(f"{key}={shown(flat[key])}: give true, false or None")
    betas, paths = flat["trainer.betas"], flat["data.paths"]
    if len(betas) != 2 or not all(SHARE.holds(beta) for beta in betas):
        raise BadInput(f"trainer.betas={shown(betas)}: give two numbers from 0 to below 1, such as "
                       f"[0.9, 0.95]")
    if (isinstance(paths, list) and not all(isinstance(path, str) for path in paths)
            or not isinstance(paths, list | str | None)):
        raise BadInput(f"data.paths={shown(paths)}: give a path, or a list of them")
    if settings.trainer.warmup_steps >= 1 and not float(settings.trainer.warmup_steps).is_integer():
        raise BadInput(f"trainer.warmup_steps={settings.trainer.warmup_steps}: give a whole number "
                       f"of iterations, or a share of the run below 1")
    check_sources(settings.data)
    length, block = settings.data.length, settings.model.block_size
    if length is not None and length > block:
        raise BadInput(f"data.length={length}: a row is longer than model.block_size={block}: give "
                       f"at most {block}")
    _check_heads(settings.model)
    _check_members(settings)


def _check_members(settings: CN) -> None:
    from mingpt import model, trainer
    from mingpt.mlps import DENSE
    from mingpt.sparse.backends import BACKENDS
    check_slots(settings.model, {**model.SLOTS, "backend": BACKENDS, "expert": DENSE}, "model")
    check_slots(settings.trainer, trainer.SLOTS, "trainer")


def _check_heads(model: CN) -> None:
    if model.model_type is None and None in (model.n_embd, model.n_head, model.n_layer):
        raise BadInput("model.n_layer, model.n_head and model.n_embd belong together: give all "
                       "three, or a model.model_type")
    if model.model_type is None and model.head_dim is None and model.n_embd % model.n_head:
        near = [h for h in range(1, model.n_embd + 1) if model.n_embd % h == 0]
        near = min(near, key=lambda h: abs(h - model.n_head))
        raise BadInput(f"model.n_head={model.n_head} does not divide model.n_embd={model.n_embd}: "
                       f"try {near}")


def read_schedule(model: CN) -> str | None:
    """Check the schedule and return its note, or None. A schedule from a file is written out in
    full in the settings, so a later change of the file is a change of settings. A schedule that
    hides nothing in any layer becomes `full`, however it is written."""
    from mingpt.config import SIZES
    from mingpt.patterns.schedule import parse_schedule, without_file
    depth = model.n_layer or SIZES.get(model.model_type, {}).get("n_layer")
    if not depth:
        return None   # the model refuses this shape later, with its own message
    text = _located(model.schedule)
    schedule, T = parse_schedule(text, depth), model.block_size
    kinds = set(schedule)
    # f* is the same arm as full.
    model.schedule = "full" if set(map(str, kinds)) == {"f"} else without_file(text, depth)
    idle = (f"schedule {text!r} hides nothing at model.block_size={T}: no window is shorter: try a "
            f"longer block")
    idle = (idle if model.schedule != "full" and T and not any(p.sparsity(T) for p in kinds)
            else None)
    return "; ".join(filter(None, (schedule.note, idle))) or None


def _located(schedule: str) -> str:
    """The schedule's text. Where it names a FILE.json that does not exist, the shipped file of that
    name replaces it, if there is one."""
    name, json, rest = schedule.partition(".json")
    shipped = SCHEDULES / f"{name}.json"
    return (f"{shipped}{rest}" if json and shipped.is_file() and not Path(f"{name}.json").exists()
            else schedule)


def walk(tree: CN | Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ('section.key', value) for every setting of a tree; tuples become lists."""
    for key, value in (tree.to_dict() if isinstance(tree, CN) else tree).items():
        if isinstance(value, Mapping):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def completed(config: Mapping) -> dict[str, Any]:
    """A record's settings. Settings that did not exist when it was written get their defaults."""
    def section_of(name: str) -> Mapping:
        found = config.get(name) if isinstance(config, Mapping) else None
        return found if isinstance(found, Mapping) else {}
    return {section: {**defaults, **section_of(section)}
            for section, defaults in default_settings().to_dict().items()}


def recorded(config: Mapping, where: str) -> CN:
    """A record's settings as a tree. Raises BadInput, with `where` in front, where no run can have
    them."""
    tree = CN(**{section: CN(**values) for section, values in completed(config).items()})
    try:
        _check_kinds(tree)
        check(tree)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return tree


def _check_kinds(tree: CN) -> None:
    """Raise BadInput for a setting of a record that holds another kind of value than settings can.
    What comes from the command line or a file of settings has its kind already."""
    defaults = dict(walk(default_settings()))
    for key, value in walk(tree):
        default, kind = defaults.get(key), None
        if key in OF_TEXTS:
            fits = isinstance(value, str | None) or (isinstance(value, list) and all(
                isinstance(text, str) for text in value))
            kind = None if fits else "a list of texts"
        elif isinstance(default, list):
            kind = None if isinstance(value, list) else "a list"
        elif isinstance(value, list) and key not in LISTED:
            kind = "one value"
        elif isinstance(default, bool) and not isinstance(value, bool):
            kind = "true or false"
        elif isinstance(default, str) and not isinstance(value, str | None):
            kind = "a text"
        if kind:
            raise BadInput(f"{key}={shown(value)}: this setting takes {kind}")
    if tree.model.model_type not in (None, "gpt", *SIZES):
        raise BadInput(f"model.model_type={shown(tree.model.model_type)}"
                       f"{did_you_mean(str(tree.model.model_type), SIZES)}")


def differences(a: CN | Mapping, b: CN | Mapping) -> dict[str, list]:
    """The settings in which two trees differ: {'section.key': [a's value, b's value]}."""
    left, right = dict(walk(a)), dict(walk(b))
    return {key: [left.get(key), right.get(key)] for key in dict.fromkeys([*left, *right])
            if left.get(key) != right.get(key)}
