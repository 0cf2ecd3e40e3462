"""
Slots: a dict from name to member, the first GPT-2's; and what settings are where nobody gave them.
"""

from __future__ import annotations

import copy
from typing import Any

from mingpt.utils import BadInput, CfgNode, did_you_mean

SIZES = {
    # names follow the huggingface naming conventions; parameters without the head's
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

# what a layer reads and no slot's member declares
LAYER = {
    "n_layer": None,
    "bias": True,                # of the linear layers and norms
    "schedule": "full",          # which keys each layer sees: see layer_schedules.py
    "backend": "auto",  # how attention is computed: the same numbers, in other time and memory
    "document_end": None,  # a token id: attention then stays inside documents, which end with it
    "published_padding": None,  # a token id: study 000's fault with padding, to measure what it did
}


# What a member of each slot must offer beside its constructor, and how it is written. A member's
# `options`, {name: default}, may be left out: it then has none.
OFFERS = {
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
    "lr_schedule": {"__call__": "a function of (progress, config)"},
    "optimizer": {"__call__": "a function of (groups, config)"},
}


def options_of(member: Any) -> dict[str, Any]:
    """The options that a slot's member declares, each with its default; none where it has none."""
    return getattr(member, "options", {})


def check_members(slots: dict[str, dict]) -> None:
    """TypeError for a member that lacks what its slot asks for. The sentence says what to add."""
    for slot, members in slots.items():
        for name, member in members.items():
            for attribute, how in OFFERS[slot].items():
                found = getattr(member, attribute, None)
                # torch's modules come with a forward that says that there is none
                if found is None or getattr(found, "__name__", "") == "_forward_unimplemented":
                    raise TypeError(f"{slot} {name!r} lacks {attribute}: add {how}")


def slot_defaults(slots: dict[str, dict]) -> dict:
    """Every slot's first member, and every option that any member declares, with its default."""
    defaults = {slot: next(iter(members)) for slot, members in slots.items()}
    for members in slots.values():
        for member in members.values():
            for option, value in options_of(member).items():
                assert defaults.setdefault(option, value) == value, (
                    f"two members disagree about {option}'s default"
                )
    return defaults


def check_slots(config: CfgNode, slots: dict[str, dict], section: str) -> None:
    """BadInput for a member that no slot has."""
    for slot, members in slots.items():
        chosen = getattr(config, slot)
        if chosen not in members:
            raise BadInput(f"no {slot} {chosen!r} "
                           f"(--{section}.{slot}){did_you_mean(chosen, members)}")


def filled(config: CfgNode, slots: dict[str, dict]) -> CfgNode:
    """The config with what a layer of these slots reads: minGPT's own has none of it, and serves to
    build its parts."""
    absent = {name: value for name, value in {**LAYER, **slot_defaults(slots)}.items()
              if not hasattr(config, name)}
    if not absent:
        return config
    config = copy.deepcopy(config)
    config.merge_from_dict(absent)
    return config
