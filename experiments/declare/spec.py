"""
Builds the one tree of settings for a run from layers. A later layer wins over an earlier one; the
order is: defaults, preset, the study's base, the source of weights, the arm, the command line.

    spec = make_spec(flags=["rope"], preset="nano", overrides=["--trainer.max_iters=20"])
    spec.arm, spec.settings.model.position, spec.changes

`make_spec` has three steps: it gathers the layers, merges and checks them, and names the arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.declare.arms import catalogue, combine
from experiments.declare.idle import check_vocabulary, refuse_disguise, refuse_idle, warmup_note
from experiments.declare.names import checked_name, default_name, makes_an_arm, refuse_undone_flags
from experiments.declare.presets import DEFAULT_PRESET, Preset, load_preset
from experiments.declare.settings import (
    check,
    default_settings,
    differences,
    merge,
    read_schedule,
    walk,
)
from experiments.declare.sources import fold, refuse_replaced
from mingpt.utils import BadInput, did_you_mean, parse_value
from mingpt.utils import CfgNode as CN

if TYPE_CHECKING:
    from experiments.declare.matching import Match
    from experiments.declare.study import Study


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


def make_spec(preset: str | None = None, study: Study | None = None, arm: str | None = None,
              flags: Iterable[str] = (), data: list[str] | None = None,
              overrides: Iterable[str] = ()) -> Spec:
    """Build the Spec of one arm. `flags` are arms of the catalogue to combine. With a study, `arm`
    is one of its arms; without one, it names the combination. `overrides` are strings of the form
    `--section.key=value`. Raises BadInput for settings that are unknown, out of range, without
    effect, or in contradiction. The study's code files are run first."""
    if study and study.code:
        from experiments.declare.members import load
        load(study.code)
    flags, given = list(flags), dict(parse_override(text) for text in overrides)
    given = fold(given, study)
    if study:
        refuse_replaced([*given, *(["data.paths"] if data else [])], study)
    layers = _gather(preset, study, arm, flags, data, given)
    settings, baseline, schedule_note, warmup = _merge_and_check(layers)
    name, idle = (arm, []) if study else _name(layers, settings, baseline, flags, arm)
    match = _match(study, name, settings, baseline, given)
    note = "; ".join(filter(None, [schedule_note, *idle, warmup])) or None
    return Spec(study, name, layers.preset.name, settings, baseline,
                differences(baseline, settings), note, match)


def parse_override(text: str) -> tuple[str, Any]:
    """'--model.n_layer=2' → ('model.n_layer', 2). Raises BadInput for any other form."""
    key, equals, value = text.partition("=")
    if not equals or not key.startswith("--"):
        raise BadInput(f"argument {text!r}: settings are given as --section.key=value")
    return key[2:], parse_value(value)


# -- 1. gather the layers --------------------------------------------------------------------------

@dataclass(frozen=True)
class _Layers:
    """The layers of one arm and of its baseline. Each layer is flat: {'section.key': value}."""
    preset: Preset
    below: list[Mapping[str, Any]]       # preset, the study's base, the source of weights
    arm: dict[str, Any]                  # what the arm changes under this preset
    own: dict[str, Any]                  # of the command line, what makes an arm without a study
    shared: dict[str, Any]               # the rest of the command line, which the baseline has too
    baseline: list[Mapping[str, Any]]    # all layers of the baseline
    asked: dict[str, Any]                # what the arm and the command line ask of this arm
    explicit: dict[str, Any]             # what the command line and the study set, flags left out


def _gather(preset: str | None, study: Study | None, arm: str | None, flags: list[str],
            data: list[str] | None, given: dict[str, Any]) -> _Layers:
    """Gather the layers. `given` are the settings of the command line. Raises BadInput for an
    unknown preset or arm, and for flags that contradict each other."""
    chosen = load_preset(preset or (study.preset if study else None) or DEFAULT_PRESET)
    changed, compared = _changes(study, arm, flags)
    own = {key: value for key, value in given.items() if study is None and makes_an_arm(key)}
    shared = {key: value for key, value in given.items() if key not in own}
    if data:
        shared["data.paths"] = list(data)
    common = [chosen.settings, study.base if study else {}]
    asked = {**changed, **{key: value for key, value in given.items()
                           if not (study and makes_an_arm(key))}}
    below, below_baseline = ([*common, *_source([*common, changes, shared])]
                             for changes in (changed, compared))
    return _Layers(preset=chosen, below=below, arm=chosen.adapted(changed), own=own, shared=shared,
                   baseline=[*below_baseline, chosen.adapted(compared), shared], asked=asked,
                   explicit={**given, **changed, **study.base} if study else given)


def _changes(study: Study | None, arm: str | None, flags: list[str]) -> tuple[dict, dict]:
    """(the settings that the arm changes, the settings that its baseline changes)."""
    if study is None:
        return combine(flags)[1], {}
    if study.ladder:
        raise BadInput(f"--study {study.name} is a ladder, whose rungs are studies of their own: "
                       f"`bash run_all.sh {study.name}` writes them to OUT/studies")
    if flags:
        raise BadInput(f"--study {study.name} declares its arms: choose one with --arm, without "
                       f"arm flags")
    if arm is None:
        raise BadInput(f"--study {study.name} needs --arm: one of {', '.join(study.arms)}")
    if arm not in study.arms:
        raise BadInput(f"study {study.name} has no arm {arm!r}{did_you_mean(arm, study.arms)}")
    return study.arms[arm], study.arms[study.baseline]


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


# -- 2. merge and check them -----------------------------------------------------------------------

def _merge_and_check(layers: _Layers) -> tuple[CN, CN, str | None, str | None]:
    """(the arm's settings, the baseline's, a note on the schedule, a note on the warm-up). Raises
    BadInput for settings that no run can use, and for those without effect."""
    settings = merge([*layers.below, layers.arm, layers.own, layers.shared])
    baseline = merge(layers.baseline)
    check(settings)
    check(baseline)
    schedule_note = read_schedule(settings.model)
    read_schedule(baseline.model)
    refuse_idle(settings, layers.asked, _plain(baseline))
    refuse_disguise(settings.model, layers.asked)
    warmup = warmup_note(settings, layers.explicit)
    check_vocabulary(settings)
    return settings, baseline, schedule_note, warmup


def _plain(baseline: CN) -> dict[str, Any]:
    """The settings without the arm, flat. A setting that makes an arm has the baseline's value. Any
    other has its default, because arm and baseline do not differ in it."""
    defaults = dict(walk(default_settings()))
    return {key: value if makes_an_arm(key) else defaults[key] for key, value in walk(baseline)}


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


# -- 3. name the arm -------------------------------------------------------------------------------

def _name(layers: _Layers, settings: CN, baseline: CN, flags: list[str],
          arm: str | None) -> tuple[str, list[str]]:
    """(the name of an arm that no study declares, a remark per flag that changes nothing). `arm` is
    the name that the user gave. Raises BadInput where a setting undoes a flag, and for a name that
    cannot be this arm's."""
    without = merge([*layers.below, layers.arm, layers.shared])   # preset and flags alone
    read_schedule(without.model)
    before, changes = dict(walk(baseline)), layers.preset.catalogue()
    chosen = {key: now for key, (_, now) in differences(without, settings).items()}
    refuse_undone_flags(flags, chosen, before)
    idle = [flag for flag in flags if catalogue()[flag].settings
            and all(before[key] == value for key, value in changes[flag].items())]
    chosen = {key: value for key, value in chosen.items() if makes_an_arm(key)}
    if "model.schedule" in chosen:      # the name uses the text that the user wrote
        chosen["model.schedule"] = str(layers.own["model.schedule"])
    name = default_name([flag for flag in flags if flag not in idle], chosen, changes,
                        dict(walk(settings)))
    return checked_name(arm, name), [
        f"{catalogue()[flag].flags[0]} changes nothing: preset or --init give that already"
        for flag in idle]
