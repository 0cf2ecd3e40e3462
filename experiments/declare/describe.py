"""
Describes every setting: its default, its range, its meaning, and what it can be chosen from. All of
it comes from where it is declared: ranges.py, the defaults of each section, and the members of the
slots with their docstrings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from experiments.declare.hints import meant, said, synonyms
from experiments.declare.names import all_slots
from experiments.declare.ranges import OTHERS, SWITCH, TABLE, TEXT, range_of
from experiments.declare.settings import default_settings, walk
from mingpt.config import SIZES, options_of
from mingpt.utils import BadInput


@dataclass(frozen=True)
class Choice:
    """One value that a setting can be chosen from: its name, its meaning, and its own settings with
    their defaults."""
    name: str
    meaning: str = ""
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Setting:
    """One setting. `allowed` says in words what it may be. `belongs` names the members that have it
    as an option; empty for a setting of its own."""
    key: str
    default: Any
    allowed: str
    meaning: str
    belongs: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    def mentions(self, word: str) -> bool:
        """Whether the word is part of the setting's name, meaning or choices."""
        texts = [self.key, self.meaning, *self.belongs]
        texts += [text for choice in self.choices for text in (choice.name, choice.meaning)]
        return any(word.lower() in text.lower() for text in texts)


def describe(loggers: Iterable[str] = ()) -> list[Setting]:
    """All settings in their order. `loggers` are the names that run.logger knows, which this folder
    must not import."""
    slots = all_slots()
    choices = {**{key: tuple(_members(members)) for key, members in slots.items()},
               **_other_choices(), "run.logger": tuple(map(Choice, loggers))}
    return [Setting(key, default, *_words(key, default), _owners(key, slots), choices.get(key, ()))
            for key, default in walk(default_settings())]


def _owners(key: str, slots: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """'slot=member' for every member that has the setting as an option."""
    section, _, option = key.partition(".")
    return tuple(f"{slot}={name}" for slot, members in slots.items()
                 if slot.startswith(f"{section}.")
                 for name, member in members.items() if option in options_of(member))


def search(settings: list[Setting], word: str) -> list[Setting]:
    """The settings that a word names, mentions, or is another name for. Raises BadInput where there
    are none."""
    other_names = synonyms(word)
    found = [setting for setting in settings
             if setting.key in other_names or setting.mentions(word)]
    if not found:
        near = meant(word, [setting.key for setting in settings])
        raise BadInput(f"no setting is about {word!r}" + (said(near) if near else
                                                          "; without a word, all are listed"))
    return found


def text_of(settings: list[Setting]) -> str:
    """The settings as text: a line per setting, and an indented line per choice."""
    width = max(len(setting.key) for setting in settings)
    column = max(len(_shown(setting.default)) for setting in settings)
    return "\n".join(line for setting in settings for line in (
        f"{setting.key:<{width}}  {_shown(setting.default):<{column}}  {setting.meaning}: "
        f"{_allowed(setting)}", *_choice_lines(setting)))


def _allowed(setting: Setting) -> str:
    """What a setting may be, and the members that it belongs to, on one line."""
    plain = [choice.name for choice in setting.choices if not choice.meaning]
    allowed = f"one of {', '.join(plain)}" if plain else setting.allowed
    members: dict[str, list[str]] = {}
    for owner in setting.belongs:
        slot, _, member = owner.partition("=")
        members.setdefault(slot, []).append(member)
    of = "; ".join(f"{slot}={' or '.join(names)}" for slot, names in members.items())
    return allowed + (f" (of {of})" if of else "")


def _choice_lines(setting: Setting) -> Iterable[str]:
    told = [choice for choice in setting.choices if choice.meaning]
    width = max((len(choice.name) for choice in told), default=0)
    for choice in told:
        options = ", ".join(f"{key}={_shown(value)}"
                            for key, value in (choice.options or {}).items())
        yield f"    {choice.name:<{width}}  {choice.meaning}" + (f" [{options}]" if options else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else repr(value)


def _words(key: str, default: Any) -> tuple[str, str]:
    """(what a setting may be, what it means). An option of a new member has no row in the tables,
    so its default tells what it may be."""
    if key in TABLE:
        return str(TABLE[key][0]), TABLE[key][1]
    if key in OTHERS:
        return OTHERS[key]
    kind = SWITCH if isinstance(default, bool) else range_of(key, default) or TEXT
    return str(kind), "an option"


def _members(members: Mapping[str, Any]) -> Iterable[Choice]:
    for name, member in members.items():
        yield Choice(name, first_sentence(member), dict(options_of(member)))


def _other_choices() -> dict[str, tuple[Choice, ...]]:
    """The choices of the settings that are chosen by name and are no slots."""
    from experiments.corpus.packing import PACKS
    from experiments.corpus.tokenfiles import BIN_DTYPES
    from mingpt.mlps import DENSE
    from mingpt.parallel.check import PARALLEL, REDUCE
    from mingpt.patterns.schedule import FORMULAS, NAMED
    from mingpt.pretrained.convert_attention import POOLINGS
    from mingpt.sparse.backends import BACKENDS
    from mingpt.trainer import DTYPES
    schedules = [Choice(name, layers) for name, layers in NAMED.items()]
    schedules += [Choice(f"{name}:…", first_sentence(make)) for name, make in FORMULAS.items()]
    packs = tuple(Choice(name, first_sentence(pack)) for name, pack in PACKS.items())
    return {"model.model_type": tuple(Choice(name, ", ".join(f"{k}={v}" for k, v in size.items()))
                                      for name, size in SIZES.items()),
            "model.schedule": tuple(schedules), "data.pack": packs, "data.val_pack": packs,
            "model.backend": tuple(Choice(name, first_sentence(backend))
                                   for name, backend in BACKENDS.items()),
            "model.expert": tuple(map(Choice, DENSE)),
            "trainer.dtype": tuple(map(Choice, ("auto", *DTYPES))),
            "trainer.parallel": tuple(map(Choice, PARALLEL)),
            "trainer.reduce": tuple(map(Choice, REDUCE)),
            "data.bin_dtype": tuple(map(Choice, BIN_DTYPES)),
            "run.init_heads": tuple(map(Choice, POOLINGS))}


def first_sentence(thing: Any) -> str:
    """The first sentence of a class's or function's docstring; empty where it has none."""
    text = " ".join((inspect.getdoc(thing) or "").split())
    return re.split(r"(?<=[a-z0-9)%`…])\. (?=[A-Z`(])", text, maxsplit=1)[0].rstrip(".")
