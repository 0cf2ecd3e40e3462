"""
Turns arms that were asked for on the command line into the text of a study's TOML file.

    arms = read_arms([Asked("-r", flags=("rope",))], preset="nano", data=None, base=[])
    study_text(arms, base={}, preset="nano", seeds=[0, 1, 2], margin=0.01)
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.declare.arms import NAME, catalogue, combine
from experiments.declare.names import LONGEST_NAME, default_name, makes_an_arm, shortened
from experiments.declare.settings import differences, walk
from experiments.declare.spec import make_spec, parse_override
from experiments.declare.study import Study, load_study
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

BASELINE = "baseline"
BARE = re.compile(r"[A-Za-z0-9_-]+")     # a key that TOML reads without quotes
# A study that differs from an earlier one only in these fields goes on with the earlier one's runs.
MAY_DIFFER = dict.fromkeys(["path", "hash", "seeds", "question", "hypothesis", "table"])


@dataclass(frozen=True)
class Asked:
    """One arm as the user wrote it: `text`, and what it holds. Overrides are --section.key=value.
    Without a `name` the arm gets its default name."""
    text: str
    name: str | None = None
    flags: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declared:
    """One arm of a study's file: the catalogue's arms that it includes, and its own settings."""
    includes: tuple[str, ...] = ()
    own: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the arm changes, flat."""
        return combine(self.includes)[1] | self.own


def read_arms(asked: Iterable[Asked], preset: str | None, data: list[str] | None,
              base: list[str]) -> dict[str, Declared]:
    """The arms by name, the baseline first. `base` are the overrides that hold for all arms. Raises
    BadInput for an arm that equals the baseline or another arm, and for a name that lies."""
    def settings_of(one: Asked, arm: Declared) -> CN:
        own = [text for text in one.overrides if parse_override(text)[0] in arm.own]
        try:
            return make_spec(preset, None, None, arm.includes, data, [*base, *own]).settings
        except BadInput as error:
            raise BadInput(f"arm {one.text!r}: {error}") from None
    asked, baseline = list(asked), make_spec(preset, data=data, overrides=base).settings
    if (plain := Asked("-b", flags=(BASELINE,))) in asked:
        asked.remove(plain)     # a second one is refused below
    arms, found = {BASELINE: Declared()}, [("the baseline", baseline)]
    for one in asked:
        arm = _declared(one)
        _refuse_shared(one, arm, base)
        settings = settings_of(one, arm)
        if same := [text for text, theirs in found if theirs == settings]:
            raise BadInput(f"arm {one.text!r} is the same as {same[0]}: leave one out")
        without = settings_of(one, Declared(arm.includes))
        name = _checked_name(one, arm, _default_name(arm, baseline, without, settings))
        if name.lower() in map(str.lower, arms):
            raise BadInput(f"arm {one.text!r}: another arm is called {name!r} too: rename one")
        arms[name] = arm
        found.append((repr(one.text), settings))
    if len(arms) == 1:
        raise BadInput("no arms beside the baseline: give at least one, such as -r -s")
    return arms


def _declared(asked: Asked) -> Declared:
    """The arm's table. Settings that are all those of a catalogue arm become that arm, because a
    preset may give it further values. Raises BadInput for flags that contradict each other."""
    own = {key: _plain(key, value) for key, value in map(parse_override, asked.overrides)}
    flags = list(asked.flags)
    for name, arm in catalogue().items():
        if arm.own and arm.settings.items() <= own.items():
            flags.append(name)
            own = {key: value for key, value in own.items() if key not in arm.settings}
    combine(flags)
    return Declared(tuple(name for name, arm in catalogue().items()
                          if name in flags and arm.settings), own)


def _plain(key: str, value: Any) -> Any:
    """The value as a study's file holds it: tuples are lists. Raises BadInput for a value that TOML
    cannot hold."""
    if isinstance(value, list | tuple):
        return [_plain(key, each) for each in value]
    if not isinstance(value, bool | int | float | str):
        raise BadInput(f"{key}={value!r}: a study's file cannot hold this value")
    return value


def _refuse_shared(asked: Asked, arm: Declared, base: list[str]) -> None:
    """Raise BadInput for a setting that the arm changes, although it is given for all arms."""
    for key, value in map(parse_override, base):
        if key in arm.settings:
            raise BadInput(f"--{key}={value} holds for all arms, and arm {asked.text!r} sets it to "
                           f"{arm.settings[key]!r}: leave one of them out")


def _default_name(arm: Declared, baseline: CN, without: CN, settings: CN) -> str:
    """The arm's name, made from its settings as `train` makes it. What holds for all arms is left
    out. `without` are the settings of the arm's flags alone."""
    before = dict(walk(baseline))
    acting = [flag for flag in arm.includes if any(
        before[key] != value for key, value in catalogue()[flag].settings.items())]
    chosen = {key: now for key, (_, now) in differences(without, settings).items()
              if makes_an_arm(key) and key in arm.own}
    if "model.schedule" in chosen:       # the name uses the text that the user wrote
        chosen["model.schedule"] = str(arm.own["model.schedule"])
    effective = {name: each.settings for name, each in catalogue().items()}
    return default_name(acting, chosen, effective, dict(walk(settings)))


def _checked_name(asked: Asked, arm: Declared, default: str) -> str:
    """The name that the user gave, or the default. Raises BadInput for a name that cannot be this
    arm's, and without a name where the default does not tell everything that the arm changes."""
    untold = [key for key in arm.own if not makes_an_arm(key)]
    if untold and (asked.name is None or asked.name.lower() in catalogue()):
        raise BadInput(f"arm {asked.text!r}: {untold[0]} is no part of a default name: give the "
                       f'arm a name of its own, --arm "NAME: FLAGS"')
    if asked.name is None:
        return default
    if not NAME.fullmatch(asked.name) or len(asked.name) > LONGEST_NAME:
        raise BadInput(f"arm {asked.text!r}: {asked.name!r} cannot name files: letters, digits and "
                       f"_ . + - only, at most {LONGEST_NAME}")
    if asked.name.lower() in catalogue() and asked.name != default:
        raise BadInput(f"arm {asked.text!r}: the catalogue has an arm {asked.name!r}, and these "
                       f"settings are another arm: its own name is {default!r}")
    return asked.name


def study_name(arms: Iterable[str]) -> str:
    """The default name of a comparison, such as compare_rope_swiglu."""
    return shortened("_".join(["compare", *(arm for arm in arms if arm != BASELINE)]))


def study_text(arms: Mapping[str, Declared], base: Mapping[str, Any], preset: str | None,
               seeds: list[int], margin: float, code: Iterable[str] | None = None) -> str:
    """The TOML text of a study of these arms. `base` are the settings of all arms, flat, and `code`
    the user's code files. Raises BadInput for a value that TOML cannot hold."""
    others = [name for name in arms if name != BASELINE]
    several = " and ".join([", ".join(others[:-1]), others[-1]] if others[1:] else others)
    top = {"question": f"How {'do' if others[1:] else 'does'} {several} compare with the baseline?",
           "baseline": BASELINE, "seeds": seeds, "metric": "val_loss", "margin": margin,
           **({"preset": preset} if preset else {}),
           **({"code": [str(Path(file).expanduser().resolve()) for file in code]} if code else {})}
    tables = [("", top), *([("[base]", base)] if base else [])]
    for name, arm in arms.items():
        whole = combine(arm.includes)[0] == name and not arm.own      # the catalogue's own arm
        includes = {} if whole and name in catalogue() else {"include": list(arm.includes)}
        tables.append((f"[arms.{name if BARE.fullmatch(name) else _toml(name)}]",
                       (includes if arm.includes else {}) | arm.own))
    return "\n\n".join("\n".join([*([head] if head else []), *(
        f"{key} = {_toml(_plain(key, value))}" for key, value in table.items())])
                       for head, table in tables) + "\n"


def _toml(value: Any) -> str:
    """A text, number, boolean or list as TOML. Raises BadInput for a text that is not Unicode."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if not isinstance(value, str):
        return repr(value)               # TOML writes inf and nan as Python does
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadInput(f"{value!r} is not Unicode text, which a study's file needs")
    # JSON escapes what TOML must escape, except DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_back(text: str, name: str, arms: Mapping[str, Declared], base: Mapping[str, Any]) -> Study:
    """Load the text as a study of that name. Raises RuntimeError where the study does not hold the
    arms and the settings that were asked for; that is a fault of this program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        study = load_study(path)
    wanted = ({arm: each.settings for arm, each in arms.items()},
              {key: _plain(key, value) for key, value in base.items()})
    if (study.arms, study.base) != wanted or list(study.arms) != list(arms):
        raise RuntimeError(f"the study's file does not say what was asked for:\n{text}")
    return study


def same_question(a: Study, b: Study) -> bool:
    """Whether two studies declare the same arms and judge them alike, whatever their seeds."""
    return dataclasses.replace(a, **MAY_DIFFER) == dataclasses.replace(b, **MAY_DIFFER)
