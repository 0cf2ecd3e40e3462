"""
Makes an arm's default name from its settings. The name lists the catalogue's arms that it contains,
then every other setting of `model` or `trainer` that differs from the preset. Settings that all
arms of a comparison share (CONTEXT) are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.declare.arms import NAME, Arm, catalogue, closure, combine
from mingpt.config import options_of
from mingpt.utils import BadInput

LONGEST = 80         # letters of a schedule in a name; file systems allow 255 bytes
LONGEST_NAME = 120
LETTERS = {"*": "x", "/": "d", ">": "to", "@": "at", "|": "or", "&": "and", ":": "-", "(": ".",
           ")": ".", "~": "-"}
# Two different schedules of this form get different names; any other needs a hash in its name.
TELLING = re.compile(r"[a-z0-9_ */>@+]+|(sssl|progressive):[0-9>@]+")

# The settings that all arms of a comparison share. They do not make an arm a different one, and are
# not part of a name. `backend` is among them because every backend computes the same numbers.
CONTEXT = {
    "model": {"model_type", "n_layer", "n_head", "n_embd", "block_size", "vocab_size",
              "embd_pdrop", "resid_pdrop", "attn_pdrop", "backend"},
    "trainer": {"device", "num_workers", "dtype", "compile", "max_iters", "batch_size",
                "accumulation_steps", "parallel", "context_processes", "reduce",
                "checkpoint_activations", "learning_rate", "betas", "weight_decay",
                "grad_norm_clip"},
}


def makes_an_arm(key: str) -> bool:
    """Whether changing this setting makes a different arm: it is in `model` or `trainer` and not in
    CONTEXT."""
    section, _, leaf = key.partition(".")
    return section in CONTEXT and leaf not in CONTEXT[section]


def default_name(flags: list[str], chosen: Mapping[str, Any],
                 effective: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The name of the arm that these flags and settings make.

    `chosen` are the settings in which the arm differs from its preset and flags, with the schedule
    as the user wrote it. `effective` is what each arm of the catalogue changes under this preset.
    `settings` are all settings, flat.
    """
    arms = catalogue()
    contained = set().union(set(), *(closure(flag, arms) for flag in flags))
    rest = dict(chosen)
    for name, arm in arms.items():
        own = set(arm.own)
        if own and own <= set(rest) and all(settings[key] == value for key,
                                            value in effective[name].items()):
            contained.add(name)
            rest = {key: value for key, value in rest.items() if key not in effective[name]}
    name, parts = combine(contained)[0], _parts(rest)
    return shortened("_".join(parts if parts and not contained else [name, *parts]))


def checked_name(arm: str | None, default: str) -> str:
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


def refuse_undone_flags(flags: list[str], chosen: Mapping[str, Any],
                        before: Mapping[str, Any]) -> None:
    """Raise BadInput where a setting undoes what a flag turns on. `before` are the settings without
    any flag."""
    slots = all_slots()
    for name in flags:
        for owner in sorted(closure(name, catalogue())):
            arm: Arm = catalogue()[owner]
            for key in set(arm.own) & set(chosen):
                if key in slots or chosen[key] == before[key]:
                    raise BadInput(f"--{key}={chosen[key]} takes back {arm.flags[0]}, which sets "
                                   f"{arm.own[key]!r}: leave one of them out")


def all_slots() -> dict[str, Mapping[str, Any]]:
    """Every slot, such as 'model.norm', with its members."""
    from mingpt import model, trainer
    return {f"{section}.{slot}": members for section, slots in (("model", model.SLOTS),
                                                                ("trainer", trainer.SLOTS))
            for slot, members in slots.items()}


def _parts(rest: Mapping[str, Any]) -> list[str]:
    """The parts of a name, one per setting: each slot's member followed by its options, then the
    other settings in their order, then the schedule."""
    slots = all_slots()
    others = {key: value for key, value in rest.items() if key not in slots
              and key != "model.schedule"}
    members = []
    for key, value in rest.items():
        if key in slots:
            members.append(_member(key, value, slots))
            section = key.partition(".")[0]
            owned = [f"{section}.{option}" for option in options_of(slots[key][value])]
            members += [_option(option, others.pop(option))
                        for option in [*others] if option in owned]
    schedule = [_schedule(rest["model.schedule"])] if "model.schedule" in rest else []
    return [*members, *(_option(key, value) for key, value in others.items()), *schedule]


def _member(key: str, value: Any, slots: Mapping[str, Mapping[str, Any]]) -> str:
    """A member's own name, or 'slot-member' where the name alone could mean something else."""
    plain = str(value)
    owners = sum(plain in members for members in slots.values())
    clear = owners == 1 and plain not in catalogue() and plain != "none"
    return plain if clear else f"{key.partition('.')[2]}-{plain}"


def _option(key: str, value: Any) -> str:
    """A setting and its value as part of a name: 'qk_norm', 'no_bias', 'n_kv_head2',
    'warmup_steps0.2', 'expert-gelu'."""
    leaf = key.partition(".")[2]
    if value is True:
        return leaf
    if value is False:
        return f"no_{leaf}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = repr(value) if isinstance(value, int | float) else f"-{value}"
    return leaf + _plain(text)


def _schedule(text: Any) -> str:
    """A schedule as part of a name. A short hash is added where another schedule could have the
    same letters. A schedule from a file is named after the file, with 'schedule-' in front where
    the file's name could mean another part. A second file of the same name gives other settings
    under the same arm name; the run then refuses to start."""
    name, text = schedule_name(text), " ".join(str(text).split())
    if ".json" in text.lower():
        name = f"{name.lower()}-{_digits(name)}" if name != name.lower() else name
        return f"schedule-{name}" if _means_another(name) else name
    return name if TELLING.fullmatch(text) else f"{name.lower()}-{_digits(text)}"


def _means_another(name: str) -> bool:
    """Whether the name of a schedule's file begins like another part of an arm's name: an arm, a
    member, a setting, a shipped schedule, or a schedule's own text."""
    from mingpt.patterns.schedule import FORMULAS, NAMED
    members = (member for each in all_slots().values() for member in each)
    words = ("no_", "window", "schedule-", *catalogue(), *members, *_leaves(), *NAMED, *FORMULAS)
    return name.startswith(words) or re.match(r"[fbgs]?[0-9]|f($|[-x])", name) is not None


def _leaves() -> list[str]:
    """Every setting's name without its section."""
    from experiments.weights.published_padding import model_defaults
    from mingpt.trainer import Trainer
    return [*model_defaults().to_dict(), *Trainer.get_default_config().to_dict()]


def _plain(text: str) -> str:
    """A value as part of a file name, in lower case. A hash is added where characters were replaced
    or lowered, so that two values never share a name."""
    plain = "".join(c if c.isalnum() and c.isascii() or c in ".+-" else "-" for c in text)
    return plain if plain == text == text.lower() else f"{plain.lower()}-{_digits(text)}"


def shortened(name: str) -> str:
    """The name; where it is longer than LONGEST_NAME, a hash replaces its end."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME - 9]}-{_digits(name)}"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def schedule_name(text: str) -> str:
    """A schedule's text as part of a file name: lms_main, window96_dilation4, f-256x2-f,
    study000.half."""
    text = " ".join(str(text).split())
    if match := re.fullmatch(r"(\d+)(?:/(\d+))?\*", text):
        w, d = match.groups()
        return f"window{w}" + (f"_dilation{d}" if d else "")
    if match := re.fullmatch(r"(.+\.json)(?::(.*))?", text, re.IGNORECASE):
        text = ".".join(part for part in (Path(match[1]).stem, match[2]) if part)
    plain = (LETTERS.get(c, c if c.isalnum() and c.isascii() or c in "_.+-" else "-") for c in text)
    name = "".join(plain).lstrip("._+-")
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
