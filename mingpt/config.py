"""
Model sizes, and the rules of slots.

A slot is a dict from names to members, which are the alternatives for one part of the model or of
training. The first member is GPT-2's. A member declares its own settings in `options`, a dict from
names to defaults.
"""

from __future__ import annotations

import copy
from typing import Any

from mingpt.utils import BadInput, CfgNode, did_you_mean

SIZES = {
    # names follow the huggingface naming conventions; parameter counts leave out the head
    "openai-gpt":  dict(n_layer=12, n_head=12, n_embd=768),   # 117M, GPT-1
    "gpt2":        dict(n_layer=12, n_head=12, n_embd=768),   # 124M
    "gpt2-medium": dict(n_layer=24, n_head=16, n_embd=1024),  # 350M
    "gpt2-large":  dict(n_layer=36, n_head=20, n_embd=1280),  # 774M
    "gpt2-xl":     dict(n_layer=48, n_head=25, n_embd=1600),  # 1558M
    "gopher-44m":  dict(n_layer=8, n_head=16, n_embd=512),
    "gpt-mini":    dict(n_layer=6, n_head=6, n_embd=192),
    "gpt-micro":   dict(n_layer=4, n_head=4, n_embd=128),
    "gpt-nano":    dict(n_layer=3, n_head=3, n_embd=48),
}

# Settings that a layer reads and that no slot's member declares, with their defaults.
LAYER = {
    "n_layer": None,
    "bias": True,               # whether linear layers and norms have biases
    "schedule": "full",         # which keys each layer sees: see patterns/schedule.py
    "backend": "auto",          # how attention is computed: changes time and memory, not numbers
    "document_end": None,       # the token id that ends a document: attention then stays inside one
}


# The attributes that a slot requires of its members. The text beside each says how to add it. The
# error for a missing attribute ends with this text.
REQUIRED = {
    "block": {"forward": "forward(self, x, allowed=None, cache=None)",
              "final_norm": "a static method final_norm(config), or derive from Block"},
    "attention": {"forward": "forward(self, x, allowed=None, cache=None)",
                  "score_flops": "score_flops(self, T, pattern=None)",
                  "constant_flops": "constant_flops(self, T), or derive from Mixer"},
    "norm": {"forward": "forward(self, x)",
             "reset_parameters": "reset_parameters(self), or derive from Norm"},
    "mlp": {"forward": "forward(self, x)"},
    "position": {"table": "a static method table(config), or derive from NoPosition",
                 "rotate": "rotate(self, q, k, start=0), or derive from NoPosition",
                 "slopes": "a property slopes, or derive from NoPosition"},
    "parametrization": {"rule": "rule(self, name, linear, optimizer), or derive from Standard",
                        "writer_depth": "a property writer_depth, or derive from Standard"},
    "lr_schedule": {"__call__": "a function of (progress, config)"},
    "optimizer": {"__call__": "a function of (groups, config)"},
}


def options_of(member: Any) -> dict[str, Any]:
    """Return the options that a slot's member declares, as {name: default}; {} if it declares
    none."""
    return getattr(member, "options", {})


def check_members(slots: dict[str, dict]) -> None:
    """Raise TypeError for a member that lacks what its slot needs (see REQUIRED). The message says
    what to add."""
    for slot, members in slots.items():
        for name, member in members.items():
            for attribute, remedy in REQUIRED[slot].items():
                found = getattr(member, attribute, None)
                # nn.Module has a placeholder forward of this name, which only raises
                if found is None or getattr(found, "__name__", "") == "_forward_unimplemented":
                    raise TypeError(f"{slot} {name!r} lacks {attribute}: add {remedy}")


def slot_defaults(slots: dict[str, dict]) -> dict:
    """Return a dict with the first member of every slot, and with the default of every option that
    any member declares. Members that declare the same option must give it the same default."""
    defaults = {slot: next(iter(members)) for slot, members in slots.items()}
    for members in slots.values():
        for member in members.values():
            for option, value in options_of(member).items():
                assert defaults.setdefault(option, value) == value, (
                    f"two members disagree about {option}'s default"
                )
    return defaults


def check_slots(config: CfgNode, slots: dict[str, dict], section: str) -> None:
    """Raise BadInput where the config names a member that its slot does not have. `section` is the
    part of the option's name before the dot, such as "model"."""
    for slot, members in slots.items():
        chosen = getattr(config, slot)
        if not isinstance(chosen, str) or chosen not in members:
            raise BadInput(f"no {slot} {chosen!r} "
                           f"(--{section}.{slot}){did_you_mean(chosen, members)}")


def filled(config: CfgNode, slots: dict[str, dict]) -> CfgNode:
    """Return the config with every setting that a layer reads (LAYER and these slots): a setting
    that it lacks gets its default. A layer can then be built from a config made for minGPT, which
    has none of them. The given config is not changed."""
    absent = {name: value for name, value in {**LAYER, **slot_defaults(slots)}.items()
              if not hasattr(config, name)}
    if not absent:
        return config
    config = copy.deepcopy(config)
    config.merge_from_dict(absent)
    return config
