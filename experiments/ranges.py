"""
The range of every numeric setting, in one table, and the check of values against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.utils import BadInput

MANY = 10**12   # more iterations, tokens or documents than anybody has


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes: whole ones only, or any; `words` are the texts that it takes as well."""
    low: float
    high: float
    whole: bool = False
    above: bool = False              # the low end itself is left out
    below: bool = False              # the high end itself is left out
    none: bool = False               # None is a value too
    words: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the setting may have this value."""
        if value is None:
            return self.none
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.above else 'from'} {_short(self.low)}"
        high = f"{'to below' if self.below else 'to'} {_short(self.high)}"
        return " ".join([kind, low, high, *(f"or {word}" for word in (*self.words, *(["None"] if self.none else [])))])


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 10**7 else f"{number:g}"


def whole(low: int, high: int, **more: Any) -> Range:
    """The whole numbers from low to high."""
    return Range(low, high, whole=True, **more)


SHARE = Range(0, 1, below=True)                       # of something dropped: not all of it
POSITIVE = Range(0, 10**6, above=True)
WEIGHT = Range(0, 10**6)                              # of a term of the loss
WIDTH = whole(1, 65_536, none=True)

RANGES: dict[str, Range] = {
    "model.n_layer": whole(1, 1_000, none=True),
    "model.n_head": whole(1, 1_024, none=True),
    "model.n_embd": WIDTH,
    "model.vocab_size": whole(1, 10**7, none=True),
    "model.block_size": whole(1, 2**20),
    "model.embd_pdrop": SHARE, "model.resid_pdrop": SHARE, "model.attn_pdrop": SHARE,
    "model.document_end": whole(0, 10**7, none=True), "model.published_padding": whole(0, 10**7, none=True),
    "model.parallel_norms": whole(1, 2),
    "model.head_dim": WIDTH, "model.n_kv_head": whole(1, 1_024, none=True),
    "model.attn_scale": Range(0, 10**6, above=True, none=True),
    "model.kv_lora_rank": WIDTH, "model.q_lora_rank": WIDTH, "model.qk_nope_head_dim": WIDTH,
    "model.qk_rope_head_dim": WIDTH, "model.v_head_dim": WIDTH,
    "model.msla_latents": whole(1, 65_536), "model.msla_topk": whole(1, 65_536),
    "model.norm_eps": Range(0, 1),
    "model.mlp_hidden": whole(1, 10**6, none=True, words=("4d", "8/3d")),
    "model.n_experts": whole(1, 4_096), "model.experts_per_token": whole(1, 4_096),
    "model.balance_loss": WEIGHT,
    "model.capacity_factor": Range(0, 10**6, above=True, none=True),
    "model.rope_base": Range(1, 10**12, above=True), "model.rope_local_base": Range(1, 10**12, above=True, none=True),
    "model.rope_fraction": Range(0, 1, above=True),
    "model.embd_scale": Range(0, 10**6, above=True, none=True, words=("sqrt",)),
    "model.logit_softcap": Range(0, 10**6, above=True, none=True),
    "model.n_future": whole(1, 1_024), "model.future_weight": WEIGHT, "model.z_loss": WEIGHT,
    "trainer.num_workers": whole(0, 1_024),
    "trainer.max_iters": whole(1, MANY),
    "trainer.batch_size": whole(1, 10**6), "trainer.accumulation_steps": whole(1, 10**6),
    "trainer.learning_rate": Range(0, 1e30, above=True),
    "trainer.weight_decay": Range(0, 10**6),
    "trainer.grad_norm_clip": Range(0, 1e30, none=True),          # 0 and None: no clipping
    "trainer.min_lr_ratio": Range(0, 1), "trainer.decay_share": Range(0, 1, above=True),
    "trainer.adam_eps": Range(0, 1),
    "trainer.muon_momentum": SHARE, "trainer.muon_lr_ratio": POSITIVE,
    "trainer.warmup_steps": Range(0, MANY),                       # below 1 it is a share of max_iters
    "data.length": whole(1, 2**20, none=True),
    "data.val_fraction": Range(0, 1, above=True, below=True),
    "data.val_docs": whole(1, MANY, none=True), "data.max_docs": whole(1, MANY, none=True),
    "data.val_tokens": whole(1, MANY),
    "data.max_bad": Range(0, 1), "data.min_chars": whole(0, 10**9),
    "run.log_every": whole(1, MANY), "run.eval_every": whole(1, MANY), "run.checkpoint_every": whole(1, MANY),
    "run.eval_batch_size": whole(1, 10**6, none=True),
    "run.patience": whole(1, MANY, none=True),                    # None: never stop early
    "run.rehearsals": whole(0, 1_000),
    "run.seed_offset": whole(0, 2**62),
    "run.threads": whole(1, 1_024, none=True),
    "run.sample_tokens": whole(0, 10**5),
}


def range_of(key: str, default: Any) -> Range | None:
    """The setting's range; None for what is no number. An option of a new member needs no row above: without one it
    takes every finite number."""
    if key in RANGES or isinstance(default, bool) or not isinstance(default, int | float):
        return RANGES.get(key)
    return Range(-1e30, 1e30)


def check_ranges(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """BadInput for the first setting that is outside its range, and for any that is nan or infinite."""
    for key, value in flat.items():
        allowed = range_of(key, defaults.get(key))
        if allowed and not allowed.holds(value):
            raise BadInput(f"{key}={shown(value)}: give {allowed}")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{key}={shown(value)}: give a finite number")


def shown(value: Any) -> str:
    """A value in an error line, cut where it would fill the line."""
    try:
        text = repr(value)
    except ValueError:      # a whole number of more digits than Python writes, which 0xfff… can be
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:56]}…"


def listing() -> str:
    """Every range, one line per setting, for --help."""
    width = max(map(len, RANGES))
    return "\n".join(f"  {key:<{width}}  {allowed}" for key, allowed in RANGES.items())
