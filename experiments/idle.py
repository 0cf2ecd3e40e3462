"""
Settings that would do nothing in an arm: options of slot members that the arm does not have, and the like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN


def refuse_idle(settings: CN, given: Iterable[str], plain: Mapping[str, Any]) -> None:
    """BadInput for a setting that somebody gave and that changes nothing in this arm, saying to what it belongs.
    `given`: the keys; `plain`: the values, flat, that would stand there anyway, which may be written out."""
    for key in given:
        section, _, leaf = key.partition(".")
        value = getattr(getattr(settings, section), leaf)
        if value != plain[key] and (belongs := _belongs(key, settings)):
            raise BadInput(f"{key}={value!r} has no effect here: it belongs to {belongs}")


def _belongs(key: str, settings: CN) -> str | None:
    """What a setting belongs to that the arm does not have; None where it has an effect."""
    section, _, option = key.partition(".")
    owners = {slot: [name for name, member in members.items() if option in member.options]
              for slot, members in _slots(section).items()}
    owners = {slot: names for slot, names in owners.items() if names}
    config = getattr(settings, section)
    if owners and not any(option in _active(_slots(section)[slot][getattr(config, slot)], config) for slot in owners):
        return ", or ".join(f"{section}.{slot}={' or '.join(names)}" for slot, names in owners.items())
    needed = NEEDS.get(key)
    return None if needed is None or needed[1](settings) else needed[0]


def _slots(section: str) -> Mapping[str, Mapping[str, Any]]:
    from mingpt import model, trainer
    return {"model": model.SLOTS, "trainer": trainer.SLOTS}.get(section, {})


def _active(member: Any, config: CN) -> Iterable[str]:
    """The options that a member reads with these settings."""
    return member.active_options(config) if hasattr(member, "active_options") else member.options


# setting → (what it belongs to, whether these settings have that)
NEEDS: dict[str, tuple[str, Callable[[CN], bool]]] = {
    "model.rope_local_base": ("a model.schedule with windows", lambda s: s.model.schedule != "full"),
    "model.qk_rope_head_dim": ("model.position=rope", lambda s: s.model.position == "rope"),
    "model.future_weight": ("model.n_future from 2", lambda s: s.model.n_future > 1),
    "data.val_fraction": ("a corpus without data.val_docs", lambda s: s.data.val_docs is None),
    "data.text_key": ("data.paths", lambda s: s.data.paths is not None),
    "run.init_heads": ("run.init", lambda s: s.run.init is not None),
}
