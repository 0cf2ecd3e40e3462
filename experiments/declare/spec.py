"""
Builds the one tree of settings for a run by merging layers. A later layer wins over an earlier one;
the order is: defaults, preset, the study's base, the arm, the command line.

    spec = make_spec(flags=["rope"], preset="nano", overrides=["--trainer.max_iters=20"])
    spec.arm, spec.settings.model.position, spec.changes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.declare.arms import NAME, catalogue, flatten, read_toml
from experiments.declare.idle import check_vocabulary, refuse_disguise, refuse_idle, warmup_note
from experiments.declare.names import LONGEST_NAME, default_name, makes_an_arm, refuse_undone_flags
from experiments.declare.settings import check, default_settings, differences, merge, walk
from experiments.declare.study import Study, combine, load_study
from mingpt.utils import BadInput, did_you_mean, parse_value
from mingpt.utils import CfgNode as CN

if TYPE_CHECKING:
    from experiments.declare.matching import Match

PRESETS = Path(__file__).parents[1] / "presets"
SCHEDULES = Path(__file__).parents[1] / "schedules"
DEFAULT_PRESET = "laptop"


@dataclass(frozen=True)
class Spec:
    """One arm of one study: everything that decides a run except its seed."""
    study: Study | None
    arm: str
    preset: str
    settings: CN
    baseline: CN                            # the baseline's, under the same preset and overrides
    changes: dict[str, list]                # setting → [baseline's value, this arm's]
    note: str | None = None                 # remarks for the reader, such as a flag without effect
    match: Match | None = None              # how its hidden size was matched to the baseline's


def build_settings(preset: str | None = None, study: str | Path | None = None,
                   arm: str | None = None, flags: Iterable[str] = (),
                   data: list[str] | None = None, overrides: Iterable[str] = ()) -> CN:
    """Only the settings of `make_spec`, which takes the same arguments."""
    return make_spec(preset, study, arm, flags, data, overrides).settings


def make_spec(preset: str | None = None, study: str | Path | None = None, arm: str | None = None,
              flags: Iterable[str] = (), data: list[str] | None = None,
              overrides: Iterable[str] = ()) -> Spec:
    """Merge all layers into a Spec. `flags` are arms of the catalogue to combine. With a study,
    `arm` is one of its arms; without one, it names the combination. `overrides` are strings of the
    form `--section.key=value`. Raises BadInput for settings that are unknown, out of range, without
    effect, or in contradiction."""
    declared = load_study(study) if study is not None else None
    preset_name = preset or (declared.preset if declared else None) or DEFAULT_PRESET
    layers, specials = load_preset(preset_name)
    flags = list(flags)
    name, changed, compared = _arm(declared, arm, flags)
    given = dict(parse_override(text) for text in overrides)
    ours = {key: value for key, value in given.items() if declared is None and makes_an_arm(key)}
    shared = [layers, declared.base if declared else {}]
    rest = {key: value for key, value in given.items() if key not in ours}
    if data:
        rest["data.paths"] = list(data)
    below = [*shared, *_source([*shared, changed, rest])]
    settings = merge([*below, _special(changed, specials), ours, rest])
    baseline = merge([*shared, *_source([*shared, compared, rest]), _special(compared, specials),
                      rest])
    check(settings)
    check(baseline)
    schedule, notes = settings.model.schedule, [_read_schedule(settings.model)]
    _read_schedule(baseline.model)
    asked = {**changed, **{key: value for key, value in given.items()
                           if not (declared and makes_an_arm(key))}}
    refuse_idle(settings, asked, _plain(baseline))
    refuse_disguise(settings.model, asked)
    if declared is None:
        without = merge([*below, _special(changed, specials), rest])
        _read_schedule(without.model)
        _check_flags(flags, differences(without, settings), baseline)
        acting, idle = _acting(flags, baseline, specials)
        notes += [f"{catalogue()[flag].flags[0]} changes nothing: preset or --init give that "
                  f"already" for flag in idle]
        name = _checked_name(arm, _default_name(acting, without, settings, specials, schedule))
    notes.append(warmup_note(settings, {**given, **changed, **declared.base} if declared
                             else given))
    note = "; ".join(filter(None, notes)) or None
    check_vocabulary(settings)
    matched = _match(declared, name, settings, baseline, given)
    return Spec(declared, name, preset_name, settings, baseline, differences(baseline, settings),
                note, matched)


def _plain(baseline: CN) -> dict[str, Any]:
    """The settings without the arm, flat. A setting that makes an arm has the baseline's value. Any
    other has its default, because arm and baseline do not differ in it."""
    defaults = dict(walk(default_settings()))
    return {key: value if makes_an_arm(key) else defaults[key] for key, value in walk(baseline)}


def _acting(
    flags: list[str], baseline: CN, specials: Mapping[str, Mapping]
) -> tuple[list[str], list[str]]:
    """(the flags that change something of the baseline, the flags whose settings it has
    already)."""
    flat = dict(walk(baseline))
    idle = [flag for flag in flags if catalogue()[flag].settings and all(
        flat[key] == value for key, value in _special(catalogue()[flag].settings,
                                                      specials).items())]
    return [flag for flag in flags if flag not in idle], idle


def _check_flags(flags: list[str], chosen: Mapping[str, list], baseline: CN) -> None:
    refuse_undone_flags(flags, {key: now for key, (_, now) in chosen.items()}, dict(walk(baseline)))


def _default_name(flags: list[str], without: CN, settings: CN, specials: Mapping[str, Mapping],
                  schedule: str) -> str:
    """The arm's name, made from its settings. `without` are the settings of preset and flags alone.
    `schedule` is the schedule as the user wrote it; the name uses that text."""
    chosen = {key: now for key, (_, now) in differences(without, settings).items()
              if makes_an_arm(key)}
    if "model.schedule" in chosen:
        chosen["model.schedule"] = schedule
    effective = {name: _special(arm.settings, specials) for name, arm in catalogue().items()}
    return default_name(flags, chosen, effective, dict(walk(settings)))


def _checked_name(arm: str | None, default: str) -> str:
    """The name that the user gave, or the default. Raises BadInput for a name that cannot name
    files, and for a catalogue arm's name on other settings."""
    if arm is None:
        return default
    if not NAME.fullmatch(arm) or len(arm) > LONGEST_NAME:
        raise BadInput(f"--arm {arm!r} cannot name files: letters, digits and _ . + - only, at "
                       f"most {LONGEST_NAME}")
    # Lower case, because some file systems treat Rope and rope as the same name.
    if arm.lower() in catalogue() and arm != default:
        raise BadInput(f"--arm {arm}: the catalogue has an arm of that name, and these settings "
                       f"are another arm: its own name is {default!r}")
    return arm


def _source(layers: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layer of settings that comes with a run's source of weights (run.init); an empty list
    where it has none."""
    init = next((layer["run.init"] for layer in reversed(layers) if "run.init" in layer), None)
    if init is None:
        return []
    if not isinstance(init, str):
        raise BadInput(f"run.init={init!r}: give a name or a path, in quotes")
    from experiments.weights.begin import source_layer
    return [source_layer(init)]


def _match(study: Study | None, arm: str, settings: CN, baseline: CN,
           given: Mapping[str, Any]) -> Match | None:
    """Set the arm's hidden size to match the baseline, where its study asks for that, and return
    how it was matched."""
    by = study.match_of(arm) if study else "none"
    if by == "none":
        return None
    from experiments.declare.matching import match
    matched = match(arm, settings, baseline, by,
                    fixed="model.mlp_hidden" in {*study.arms[arm], *given})
    if matched.mlp_hidden is not None:
        settings.model.mlp_hidden = matched.mlp_hidden
    return matched


def _read_schedule(model: CN) -> str | None:
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


def _arm(study: Study | None, arm: str | None, flags: list[str]) -> tuple[str, dict, dict]:
    """(the arm's name, the settings that it changes, the settings that its baseline changes)."""
    if study is None:
        return (*combine(flags), {})
    if flags:
        raise BadInput(f"--study {study.name} declares its arms: choose one with --arm, without "
                       f"arm flags")
    if arm is None:
        raise BadInput(f"--study {study.name} needs --arm: one of {', '.join(study.arms)}")
    if arm not in study.arms:
        raise BadInput(f"study {study.name} has no arm {arm!r}{did_you_mean(arm, study.arms)}")
    return arm, study.arms[arm], study.arms[study.baseline]


def _special(changed: Mapping[str, Any], specials: Mapping[str, Mapping]) -> dict[str, Any]:
    """An arm's changes, updated with the preset's values for the catalogue arms that it
    contains."""
    merged = dict(changed)
    for name, values in specials.items():
        own = catalogue()[name].own
        if all(changed.get(key) == value for key, value in own.items()):
            merged |= values
    return merged


def presets() -> dict[str, Path]:
    """The presets that come with the project, by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}


def load_preset(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(a preset's settings, flat; its own values for arms of the catalogue, by arm). Raises
    BadInput for an unknown preset or arm."""
    path = presets().get(name) or Path(name)
    if not path.is_file():
        raise BadInput(f"no preset {name!r}{did_you_mean(name, presets())}")
    table = read_toml(path)
    specials = {arm: flatten(values, f"{path}: [arms.{arm}]")
                for arm, values in table.pop("arms", {}).items()}
    for arm in specials:
        if arm not in catalogue():
            raise BadInput(f"{path}: [arms.{arm}]: no such arm{did_you_mean(arm, catalogue())}")
    return flatten(table, str(path)), specials


def parse_override(text: str) -> tuple[str, Any]:
    """'--model.n_layer=2' → ('model.n_layer', 2). Raises BadInput for any other form."""
    key, equals, value = text.partition("=")
    if not equals or not key.startswith("--"):
        raise BadInput(f"argument {text!r}: settings are given as --section.key=value")
    return key[2:], parse_value(value)
