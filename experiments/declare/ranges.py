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
    """The numbers that a setting takes: whole ones only, or any; `words` are the texts that it
    takes as well."""
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
        return " ".join([kind, low, high, *(f"or {word}" for word
                                            in (*self.words, *(["None"] if self.none else [])))])


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 10**7 else f"{number:g}"


def whole(low: int, high: int, **more: Any) -> Range:
    """The whole numbers from low to high."""
    return Range(low, high, whole=True, **more)


def number(low: float, high: float, **more: Any) -> Range:
    """The numbers from low to high."""
    return Range(low, high, **more)


SHARE = number(0, 1, below=True)                      # of something dropped: not all of it
POSITIVE = number(0, 10**6, above=True)
FACTOR = number(0, 10**6, above=True, none=True)
WEIGHT = number(0, 10**6)                             # of a term of the loss
WIDTH = whole(1, 65_536, none=True)
HEADS = whole(1, 1_024, none=True)
TOKEN = whole(0, 10**7, none=True)
COUNT = whole(1, MANY)
OPTIONAL = whole(1, MANY, none=True)
BASE = number(1, 10**12, above=True)

# setting → (its range, what it means)
TABLE: dict[str, tuple[Range, str]] = {
    "model.n_layer": (whole(1, 1_000, none=True), "layers; None: as model.model_type has it"),
    "model.n_head": (HEADS, "heads of attention; None: as model.model_type has it"),
    "model.n_embd": (WIDTH, "numbers per token; None: as model.model_type has it"),
    "model.vocab_size": (whole(1, 10**7, none=True),
                         "tokens there are, which the tokenizer decides"),
    "model.block_size": (whole(1, 2**20), "tokens of a context"),
    "model.embd_pdrop": (SHARE, "dropout after the embeddings"),
    "model.resid_pdrop": (SHARE, "dropout of what is added to the residual stream"),
    "model.attn_pdrop": (SHARE, "dropout of attention weights"),
    "model.document_end": (TOKEN, "the token across which nothing attends"),
    "model.published_padding": (TOKEN, "the token as which study 000 read padding"),
    "model.parallel_norms": (whole(1, 2), "norms of a parallel block"),
    "model.head_dim": (WIDTH, "numbers per head; None: n_embd / n_head"),
    "model.n_kv_head": (HEADS, "heads of keys and values; None: the most that share"),
    "model.attn_scale": (FACTOR, "factor of the scores; None: 1/√head_dim"),
    "model.kv_lora_rank": (WIDTH, "numbers of the latent of keys and values; None: 4·head_dim"),
    "model.q_lora_rank": (WIDTH, "numbers of the queries' latent; None: there is none"),
    "model.qk_nope_head_dim": (WIDTH, "numbers of a query without position; None: head_dim"),
    "model.qk_rope_head_dim": (WIDTH, "numbers of a query that are turned; None: head_dim / 2"),
    "model.v_head_dim": (WIDTH, "numbers of a value; None: head_dim"),
    "model.msla_latents": (whole(1, 65_536), "latents of a head"),
    "model.msla_topk": (whole(1, 65_536), "latents that a query reads"),
    "model.norm_eps": (number(0, 1), "what a norm adds under its root"),
    "model.mlp_hidden": (whole(1, 10**6, none=True, words=("4d", "8/3d")),
                         "hidden numbers; None: the member's own"),
    "model.n_experts": (whole(1, 4_096), "experts of a layer"),
    "model.experts_per_token": (whole(1, 4_096), "experts that a token uses"),
    "model.balance_loss": (WEIGHT, "weight of the loss for an even load"),
    "model.capacity_factor": (FACTOR, "an expert's room over its even share; None: no limit"),
    "model.rope_base": (BASE, "base of the angles"),
    "model.rope_local_base": (number(1, 10**12, above=True, none=True),
                              "base under a window; None: rope_base"),
    "model.rope_fraction": (number(0, 1, above=True), "share of a head that is turned"),
    "model.embd_scale": (number(0, 10**6, above=True, none=True, words=("sqrt",)),
                         "factor of token embeddings"),
    "model.logit_softcap": (FACTOR, "bound of the logits; None: no bound"),
    "model.n_future": (whole(1, 1_024), "tokens that training predicts from each"),
    "model.future_weight": (WEIGHT, "weight of the later tokens' loss"),
    "model.z_loss": (WEIGHT, "weight of log²Z in the training loss"),
    "trainer.num_workers": (whole(0, 1_024), "processes of minGPT's own loader"),
    "trainer.max_iters": (COUNT, "iterations"),
    "trainer.batch_size": (whole(1, 10**6), "rows of a batch"),
    "trainer.accumulation_steps": (whole(1, 10**6), "batches of a step"),
    "trainer.learning_rate": (number(0, 1e30, above=True), "the peak rate"),
    "trainer.weight_decay": (WEIGHT, "decay of matrices"),
    "trainer.grad_norm_clip": (number(0, 1e30, none=True),
                               "largest norm of a gradient; 0 and None: no clipping"),
    "trainer.min_lr_ratio": (number(0, 1), "last rate over the peak"),
    "trainer.decay_share": (number(0, 1, above=True), "share of the run in which wsd decays"),
    "trainer.adam_eps": (number(0, 1), "what Adam adds to its denominator"),
    "trainer.muon_momentum": (SHARE, "Muon's momentum"),
    "trainer.muon_lr_ratio": (POSITIVE, "Muon's rate over AdamW's"),
    "trainer.warmup_steps": (number(0, MANY), "iterations of warm-up; below 1 a share of the run"),
    "data.length": (whole(1, 2**20, none=True), "tokens of a row; None: model.block_size"),
    "data.val_fraction": (number(0, 1, above=True, below=True), "share of documents held out"),
    "data.val_docs": (OPTIONAL, "last documents held out; None: val_fraction"),
    "data.max_docs": (OPTIONAL, "documents that are read; None: all"),
    "data.val_tokens": (COUNT, "tokens of the validation set"),
    "data.max_bad": (number(0, 1), "share of lines that may be bad"),
    "data.min_chars": (whole(0, 10**9), "characters of the shortest document"),
    "run.log_every": (COUNT, "iterations between rows"),
    "run.eval_every": (COUNT, "iterations between evaluations"),
    "run.checkpoint_every": (COUNT, "iterations between checkpoints"),
    "run.eval_batch_size": (whole(1, 10**6, none=True),
                            "rows evaluated at once; None: trainer.batch_size"),
    "run.patience": (OPTIONAL, "evaluations without a better one that end a run; None: never"),
    "run.rehearsals": (whole(0, 1_000), "forwards and backwards before the clock starts"),
    "run.seed_offset": (whole(0, 2**62), "added to the seed"),
    "run.threads": (whole(1, 1_024, none=True), "threads of the CPU; None: as many as torch takes"),
    "run.sample_tokens": (whole(0, 10**5), "tokens of the sample at the end"),
}
RANGES: dict[str, Range] = {key: allowed for key, (allowed, _) in TABLE.items()}


def range_of(key: str, default: Any) -> Range | None:
    """The setting's range; None for what is no number. An option of a new member needs no row
    above: without one it takes every finite number."""
    if key in RANGES or isinstance(default, bool) or not isinstance(default, int | float):
        return RANGES.get(key)
    return Range(-1e30, 1e30)


def check_ranges(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """BadInput for the first setting that is outside its range, and for any that is nan or
    infinite."""
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
    """Every setting's range and meaning, one line per setting, for --help."""
    width = max(map(len, TABLE))
    return "\n".join(f"  {key:<{width}}  {meaning}: {allowed}" for key,
                     (allowed, meaning) in TABLE.items())
