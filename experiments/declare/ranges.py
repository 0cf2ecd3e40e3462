"""
What every setting means and may be, in two tables: the numeric settings with their ranges, and the
others. Also the check of numbers against their ranges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingpt.utils import BadInput

# the branches of the settings tree
SECTIONS = {"model": "the network: its size, its parts and their options",
            "trainer": "the optimizer, the learning rate, and the number of iterations",
            "data": "the text, its tokens, and how they fill batches",
            "run": "how a run measures itself, and what it keeps"}
MANY = 10**12   # more iterations, tokens or documents than anybody has


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, either whole ones or any. `words` are texts that it may
    have as well."""
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
        return " ".join([kind, low, high, *(
            f"or {word}" for word in (*self.words, *(["None"] if self.none else [])))])


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number < 10**7 else f"{number:g}"


def whole(low: int, high: int, **more: Any) -> Range:
    """The whole numbers from low to high."""
    return Range(low, high, whole=True, **more)


def number(low: float, high: float, **more: Any) -> Range:
    """The numbers from low to high."""
    return Range(low, high, **more)


SHARE = number(0, 1, below=True)                      # a share below 1, such as a dropout rate
POSITIVE = number(0, 10**6, above=True)
FACTOR = number(0, 10**6, above=True, none=True)
WEIGHT = number(0, 10**6)                             # the weight of a term of the loss
WIDTH = whole(1, 65_536, none=True)
HEADS = whole(1, 1_024, none=True)
TOKEN = whole(0, 10**7, none=True)
COUNT = whole(1, MANY)
OPTIONAL = whole(1, MANY, none=True)
BASE = number(1, 10**12, above=True)

# numeric setting → (its range, what it means)
TABLE: dict[str, tuple[Range, str]] = {
    "model.n_layer": (whole(1, 1_000, none=True), "layers; None: those of model.model_type"),
    "model.n_head": (HEADS, "attention heads; None: those of model.model_type"),
    "model.n_embd": (WIDTH, "embedding size; None: that of model.model_type"),
    "model.vocab_size": (whole(1, 10**7, none=True),
                         "tokens in the vocabulary, which the tokenizer decides"),
    "model.block_size": (whole(1, 2**20), "tokens per context"),
    "model.embd_pdrop": (SHARE, "dropout after the embeddings"),
    "model.resid_pdrop": (SHARE, "dropout of what is added to the residual stream"),
    "model.attn_pdrop": (SHARE, "dropout of attention weights"),
    "model.document_end": (TOKEN, "the token that ends a document; no attention across it"),
    "model.published_padding": (TOKEN, "the token that study 000 read padding as"),
    "model.base_n_embd": (WIDTH, "embedding size at which the learning rate was found"),
    "model.base_n_head": (HEADS, "attention heads of that model"),
    "model.base_n_layer": (whole(1, 1_000, none=True), "layers of that model"),
    "model.parallel_norms": (whole(1, 2), "norms per parallel block"),
    "model.head_dim": (WIDTH, "size of a head; None: n_embd / n_head"),
    "model.n_kv_head": (HEADS, "heads of keys and values; None: the most that share"),
    "model.attn_scale": (FACTOR, "factor on the attention scores; None: 1/√head_dim"),
    "model.kv_lora_rank": (WIDTH, "size of the latent of keys and values; None: 4·head_dim"),
    "model.q_lora_rank": (WIDTH, "size of the queries' latent; None: no latent"),
    "model.qk_nope_head_dim": (WIDTH, "size of a query's part without position; None: head_dim"),
    "model.qk_rope_head_dim": (WIDTH, "size of a query's rotated part; None: head_dim / 2"),
    "model.v_head_dim": (WIDTH, "size of a value; None: head_dim"),
    "model.msla_latents": (whole(1, 65_536), "latents per head"),
    "model.msla_topk": (whole(1, 65_536), "latents that a query reads"),
    "model.norm_eps": (number(0, 1), "what a norm adds under its square root"),
    "model.mlp_hidden": (whole(1, 10**6, none=True, words=("4d", "8/3d")),
                         "hidden size of the MLP; None: the member's own"),
    "model.n_experts": (whole(1, 4_096), "experts per layer"),
    "model.experts_per_token": (whole(1, 4_096), "experts that a token uses"),
    "model.balance_loss": (WEIGHT, "weight of the loss for an even load"),
    "model.capacity_factor": (FACTOR, "an expert's capacity over its even share; None: no limit"),
    "model.rope_base": (BASE, "base of the angles"),
    "model.rope_local_base": (number(1, 10**12, above=True, none=True),
                              "base in layers with a window; None: rope_base"),
    "model.rope_fraction": (number(0, 1, above=True), "share of a head that is rotated"),
    "model.embd_scale": (number(0, 10**6, above=True, none=True, words=("sqrt",)),
                         "factor on the token embeddings"),
    "model.logit_softcap": (FACTOR, "bound on the logits; None: no bound"),
    "model.n_future": (whole(1, 1_024), "tokens that training predicts from each position"),
    "model.future_weight": (WEIGHT, "weight of the later tokens' loss"),
    "model.z_loss": (WEIGHT, "weight of log²Z in the training loss"),
    "trainer.num_workers": (whole(0, 1_024), "processes of minGPT's own loader"),
    "trainer.max_iters": (COUNT, "iterations"),
    "trainer.batch_size": (whole(1, 10**6), "rows per batch"),
    "trainer.accumulation_steps": (whole(1, 10**6), "batches per step"),
    "trainer.context_processes": (whole(1, 4096, none=True), "processes that split one text, a "
                                  "power of two; None: all"),
    "trainer.learning_rate": (number(0, 1e30, above=True), "the peak rate"),
    "trainer.weight_decay": (WEIGHT, "weight decay of matrices"),
    "trainer.grad_norm_clip": (number(0, 1e30, none=True),
                               "largest norm of the gradient; 0 and None: no clipping"),
    "trainer.min_lr_ratio": (number(0, 1), "last rate over the peak rate"),
    "trainer.decay_share": (number(0, 1, above=True), "share of the run in which wsd decays"),
    "trainer.adam_eps": (number(0, 1), "what Adam adds to its denominator"),
    "trainer.muon_momentum": (SHARE, "Muon's momentum"),
    "trainer.muon_lr_ratio": (POSITIVE, "Muon's rate over AdamW's"),
    "trainer.warmup_steps": (number(0, MANY), "iterations of warm-up; below 1: share of the run"),
    "data.length": (whole(1, 2**20, none=True), "tokens per row; None: model.block_size"),
    "data.val_fraction": (number(0, 1, above=True, below=True), "share of documents held out"),
    "data.val_docs": (OPTIONAL, "last documents held out; None: val_fraction"),
    "data.max_docs": (OPTIONAL, "documents that are read; None: all"),
    "data.val_tokens": (COUNT, "tokens in the validation set"),
    "data.max_bad": (number(0, 1), "share of lines that may be bad"),
    "data.min_chars": (whole(0, 10**9), "fewest characters of a document"),
    "data.repeat_max": (FACTOR, "how often a source may be read from end to end; None: any number"),
    "run.log_every": (COUNT, "iterations between rows of the CSV"),
    "run.eval_every": (COUNT, "iterations between evaluations on the validation tokens"),
    "run.checkpoint_every": (COUNT, "iterations between checkpoints"),
    "run.eval_batch_size": (whole(1, 10**6, none=True),
                            "rows evaluated at once; None: trainer.batch_size"),
    "run.patience": (OPTIONAL, "evaluations without improvement that end a run; None: no limit"),
    "run.rehearsals": (whole(0, 1_000), "forward and backward passes before the clock starts, as "
                       "the first are slow"),
    "run.seed_offset": (whole(0, 2**62), "added to the seed of weights and batches; a baseline "
                        "with another offset shows the noise"),
    "run.threads": (whole(1, 1_024, none=True), "CPU threads; None: torch's own choice"),
    "run.sample_tokens": (whole(0, 10**5), "tokens of the sample at the end"),
}
RANGES: dict[str, Range] = {key: allowed for key, (allowed, _) in TABLE.items()}

NAME, TEXT, SWITCH = "a name", "a text", "true or false"
TEXT_OR_NONE, SWITCH_OR_NONE = "a text or None", "true, false or None"

# any other setting → (what it may be, what it means)
OTHERS: dict[str, tuple[str, str]] = {
    "model.model_type": (TEXT_OR_NONE, "a named size, in place of n_layer, n_head and n_embd"),
    "model.bias": (SWITCH, "whether linear layers and norms have biases"),
    "model.schedule": (TEXT, "which keys each layer sees: a name, or one pattern per layer, such "
                       "as 'f 256 128*4 f'"),
    "model.backend": (NAME, "how attention is computed; changes time and memory, not the numbers"),
    "model.block": (NAME, "the order of norm, attention and MLP in a layer"),
    "model.attention": (NAME, "how queries, keys and values are made"),
    "model.norm": (NAME, "what rescales the input of a part of a layer"),
    "model.mlp": (NAME, "what a layer does to each token by itself"),
    "model.position": (NAME, "how the model learns where a token stands"),
    "model.qkv_bias": (SWITCH_OR_NONE, "biases of queries, keys and values; None: model.bias"),
    "model.attn_out_bias": (SWITCH_OR_NONE, "bias of attention's output; None: model.bias"),
    "model.qk_norm": (SWITCH, "whether the queries and keys of each head are normalised"),
    "model.mlp_scaled_init": (SWITCH, "whether a gated MLP's output starts scaled down, as GPT-2's "
                              "does"),
    "model.expert": (NAME, "the MLP that each expert is"),
    "model.nope_layers": ("'3,7', 'every 4' or None", "layers without positions"),
    "model.parametrization": (NAME, "how rates and initial weights follow the size"),
    "model.tie_weights": (SWITCH, "whether embedding and head share one matrix"),
    "trainer.device": (TEXT, "cuda, cuda:1, mps or cpu; auto: the fastest on this machine"),
    "trainer.betas": ("two numbers from 0 to below 1", "AdamW's averaging of gradients"),
    "trainer.lr_schedule": (NAME, "how the learning rate changes after the warm-up"),
    "trainer.optimizer": (NAME, "what turns gradients into steps"),
    "trainer.dtype": (NAME, "type of matrix products; auto: bfloat16 on CUDA, float32 elsewhere"),
    "trainer.parallel": (NAME, "what several processes share: ddp, the batches of a step; fsdp, "
                         "the weights as well; context, each text"),
    "trainer.reduce": (NAME, "how the gradients of a step add up: tree, in an order that does not "
                       "depend on the number of processes; all_reduce, torch's own"),
    "trainer.checkpoint_activations": (SWITCH, "whether the backward computes each block again: "
                                       "less memory, more time"),
    "trainer.compile": (SWITCH, "whether to use torch.compile"),
    "data.paths": ("paths or None", "files, folders, globs or names; None: Python's own library"),
    "data.text_key": (TEXT, "the key or column that holds a record's text"),
    "data.separator": (TEXT_OR_NONE, "what separates the documents of a .txt, such as "
                       "<|endoftext|>; None: cut every 16 KB"),
    "data.bin_dtype": (TEXT_OR_NONE, "the type of a .bin without a header"),
    "data.tokenizer": (NAME, "gpt2, byte, or another encoding of tiktoken, fetched once"),
    "data.pack": (NAME, "how documents fill rows: end to end, or one truncated document per row"),
    "data.val_pack": (TEXT_OR_NONE, "the pack of the validation set; None: that of training"),
    "data.document_mask": (SWITCH, "whether attention stays inside a document"),
    "data.published_padding": (SWITCH, "whether to repeat study 000's fault with padding"),
    "data.sources": ("NAME=PATH entries or None", "several sources, in place of data.paths"),
    "data.mixture": ("NAME=SHARE entries or None", "shares of the sources, which sum to 1; None: "
                     "the sources as they come"),
    "data.val_sources": ("names or None", "sources that hold out validation text; None: all"),
    "data.val_paths": ("paths or None", "files that are the validation set, in place of held-out "
                       "text"),
    "data.filter": ("entries or None", "the documents to train on: min_bytes=N, max_bytes=N, "
                    "max_tokens=N, match=REGEX, set=NAME"),
    "data.dedup": (NAME, "exact: training reads each text once"),
    "data.set_key": (TEXT_OR_NONE, "the key that names the set of a JSON record, such as "
                     "meta.lang; None: meta.pile_set_name"),
    "data.allow_truncated": (SWITCH, "whether to use what is readable of a file that is cut off"),
    "data.cache": (TEXT_OR_NONE, "folder of tokens; None: $ABLATE_CACHE or ~/.cache/ablate"),
    "run.keep_best": (SWITCH, "whether to keep the weights of the best evaluation as well"),
    "run.allow_audit_fail": (SWITCH, "whether to train an arm that fails the audit"),
    "run.init": (TEXT_OR_NONE, "the weights to start from: gpt2, a folder, a name on the hub, or a "
                 "run's checkpoint folder"),
    "run.init_heads": (NAME, "how a source's key and value heads are reduced to fewer"),
    "run.freeze_except": (TEXT_OR_NONE, "train only the weights that these patterns name, such as "
                          "attn or mlp.c_fc,ln_*"),
    "run.logger": (NAME, "where to log besides the CSV"),
    "run.sample_prompt": (TEXT, "the sample at the end continues this text"),
}


def range_of(key: str, default: Any) -> Range | None:
    """The setting's range; None for a setting that is not a number. A numeric setting without a row
    in TABLE may have any finite value, so a new member's option needs no row."""
    if key in RANGES or isinstance(default, bool) or not isinstance(default, int | float):
        return RANGES.get(key)
    return Range(-1e30, 1e30)


def check_ranges(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise BadInput for the first setting that is outside its range, nan or infinite."""
    for key, value in flat.items():
        allowed = range_of(key, defaults.get(key))
        if allowed and not allowed.holds(value):
            raise BadInput(f"{key}={shown(value)}: give {allowed}")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{key}={shown(value)}: give a finite number")


def shown(value: Any) -> str:
    """A value as an error message shows it, cut to 57 characters where it is longer than 60."""
    try:
        text = repr(value)
    except ValueError:      # Python refuses to write a whole number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:56]}…"
