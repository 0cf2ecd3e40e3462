"""
Finds the setting that was meant where a name is unknown: the same name in another section, a word
that other programs use for it, or the nearest spelling.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from experiments.declare.ranges import OTHERS, SECTIONS, TABLE
from mingpt.utils import did_you_mean

POINTER = "`python lab.py settings` lists all settings"
NEAR = 0.75    # difflib's ratio of two names from which one counts as a misspelling of the other

# setting, or an option of the command line → the words that other programs and papers use for it
SYNONYMS = {
    "model.model_type": "model size type architecture arch",
    "model.n_layer": "layers n_layers num_layers num_hidden_layers depth n_blocks",
    "model.n_head": "heads n_heads num_heads num_attention_heads nh",
    "model.n_embd": "d_model dim n_embed embd embed embed_dim emb_dim embedding embedding_size "
                    "hidden hidden_size hidden_dim width d",
    "model.mlp_hidden": "hidden hidden_dim d_ff ff ffn ffn_dim dim_feedforward intermediate_size "
                        "mlp_ratio mlp_width",
    "model.vocab_size": "vocab n_vocab vocabulary",
    "model.block_size": "ctx context context_length context_size ctx_len n_ctx seq_len seqlen seq "
                        "seq_length sequence_length max_seq_len max_seq_length max_length "
                        "n_positions max_position_embeddings length",
    "model.embd_pdrop": "dropout drop pdrop emb_dropout embd_dropout embedding_dropout",
    "model.resid_pdrop": "dropout drop pdrop resid_dropout residual_dropout hidden_dropout",
    "model.attn_pdrop": "dropout drop pdrop attn_dropout attention_dropout",
    "model.attention": "attn mha gqa mqa mla",
    "model.n_kv_head": "kv_heads n_kv_heads num_kv_heads num_key_value_heads groups n_groups",
    "model.norm": "normalization rmsnorm rms_norm layernorm layer_norm",
    "model.norm_eps": "layer_norm_eps layernorm_eps rms_norm_eps eps",
    "model.mlp": "activation act act_fn hidden_act nonlinearity swiglu geglu",
    "model.position": "pos pos_emb pos_encoding positional_encoding positions rope rotary alibi",
    "model.rope_base": "theta rope_theta base",
    "model.schedule": "window windows window_size sliding_window attention_window local_window "
                      "pattern mask sparsity dilation",
    "model.backend": "attn_implementation kernel flash flash_attention",
    "model.bias": "use_bias biases",
    "model.tie_weights": "tie tied tying weight_tying tie_embeddings tie_word_embeddings",
    "model.n_experts": "experts num_experts num_local_experts",
    "model.experts_per_token": "experts_top_k num_experts_per_tok active_experts",
    "model.logit_softcap": "softcap softcapping",
    "trainer.learning_rate": "lr rate max_lr peak_lr base_lr alpha eta step_size",
    "trainer.min_lr_ratio": "min_lr lr_min final_lr lr_end",
    "trainer.lr_schedule": "scheduler lr_scheduler lr_scheduler_type lr_decay decay_lr cosine",
    "trainer.warmup_steps": "warmup warm_up warmup_iters warmup_iterations warmup_ratio",
    "trainer.max_iters": "steps n_steps num_steps max_steps train_steps iters n_iters num_iters "
                         "iterations epochs n_epochs num_epochs max_epochs num_train_epochs",
    "trainer.batch_size": "bs batch batches batchsize micro_batch micro_batch_size minibatch "
                          "train_batch_size per_device_train_batch_size",
    "trainer.accumulation_steps": "accum accumulate accumulation grad_accum grad_accumulation "
                                  "gradient_accumulation gradient_accumulation_steps",
    "trainer.weight_decay": "wd decay l2",
    "trainer.betas": "beta beta1 beta2 adam_betas adam_beta1 adam_beta2",
    "trainer.adam_eps": "eps epsilon adam_epsilon",
    "trainer.muon_momentum": "momentum",
    "trainer.grad_norm_clip": "clip grad_clip clip_grad clip_norm gradient_clip gradient_clipping "
                              "max_grad_norm",
    "trainer.optimizer": "optim opt adam adamw muon",
    "trainer.dtype": "precision mixed_precision amp bf16 fp16 bfloat16",
    "trainer.device": "gpu cuda accelerator",
    "trainer.num_workers": "workers",
    "trainer.compile": "torch_compile",
    "data.paths": "data dataset data_dir data_path train_data corpus path file files text",
    "data.tokenizer": "vocab vocabulary tokeniser encoding bpe",
    "data.val_fraction": "val_split val_ratio val_size validation_split test_size",
    "data.document_mask": "doc_mask",
    "run.log_every": "log log_interval log_freq log_steps logging_steps print_every",
    "run.eval_every": "eval eval_interval eval_freq eval_steps eval_iters val_every val_interval "
                      "validate_every",
    "run.eval_batch_size": "eval_batch val_batch_size per_device_eval_batch_size",
    "run.checkpoint_every": "save save_every save_interval save_steps ckpt_every "
                            "checkpoint_interval checkpoint_steps",
    "run.keep_best": "save_best load_best_model_at_end",
    "run.patience": "early_stopping early_stopping_patience",
    "run.logger": "wandb tensorboard report_to",
    "run.init": "init_from pretrained from_pretrained checkpoint resume_from",
    "run.freeze_except": "freeze frozen trainable",
    "run.sample_prompt": "prompt",
    "run.threads": "n_threads num_threads cpus",
    "--seed": "seed random_seed rng_seed seeds",
    "--seeds": "seed",
    "--out": "output output_dir out_dir save_dir work_dir",
    "--window": "window_size windows sliding_window local_window attention_window",
    "--arm": "name run_name run_id experiment exp_name",
    "--name": "study_name",
    "--preset": "config cfg config_file",
    "--allow-audit-fail": "no_audit skip_audit",
    "--samples": "n num_samples num_return_sequences",
}
# setting → the option of the command line that sets it
FLAGS = {"model.attention": "--attention", "model.backend": "--backend",
         "model.schedule": "--schedule", "trainer.max_iters": "--max-iters",
         "trainer.device": "--device", "data.paths": "--data", "run.logger": "--logger",
         "run.init": "--init", "run.freeze_except": "--freeze-except"}
# setting or option → what to know about it where a hint names it
NOTES = {"model.schedule": "--window W gives every layer one window",
         "model.vocab_size": "the tokenizer decides it",
         "seed": "several seeds: lab.py compare, or seeds in a study's file"}


def hint(key: str, known: Iterable[str] = ()) -> str:
    """The end of an error line about an unknown setting: the settings that may be meant, or where
    all are listed. `key` is SECTION.KEY or a bare word; `known` are the settings (default: those of
    ranges.py)."""
    return said(meant(key, known))


def flag_hint(word: str, options: Iterable[str]) -> str:
    """The same for an unknown option `--word` of a verb that takes settings and these options."""
    options, plain = list(options), _plain(word)
    if plain in SECTIONS:
        return f": settings are written --{plain}.KEY=VALUE; {POINTER}"
    own = [name for name in synonyms(word) if name in options]
    named = [FLAGS[key] if FLAGS.get(key) in options else key for key in _named(word, _all(()))
             if not key.startswith("--")]
    found = own or named or nearest_option(word, options) or _near(word, _all(()))
    return said([name if name.startswith("--") else f"--{name}" for name in found])


def key_hint(key: str, keys: Iterable[str]) -> str:
    """The same for an unknown key at the top of a study's file, where settings do not stand."""
    if key in SECTIONS:
        return ": settings stand under [base], or in an arm's table"
    if not difflib.get_close_matches(key, keys, cutoff=NEAR) and (names := meant(key)):
        return f"{said(names)} Settings stand under [base], or in an arm's table"
    return did_you_mean(key, keys)


def nearest_option(word: str, options: Iterable[str]) -> list[str]:
    """The long option that is spelled like the word, or that the word begins or ends like; empty
    where none is near."""
    options = [option for option in options if option[:2] == "--"]
    other = [option for option in options if len(word) > 4 and option.startswith(word)
             or word.endswith(option[1:])]
    named = [name for name in synonyms(word) if name in options]
    return named[:1] or difflib.get_close_matches(word, options, n=1, cutoff=NEAR) or other[:1]


def meant(key: str, known: Iterable[str] = ()) -> list[str]:
    """The settings that an unknown name may mean, the likeliest first; empty where none is near."""
    known = _all(known)
    return _named(key, known) or _near(key, known)


def said(names: list[str]) -> str:
    """': did you mean A or B (a remark)?' for some names, a pointer to the list for none."""
    if not names:
        return f"; {POINTER}"
    notes = [NOTES[key] for name in names if (key := name.removeprefix("--")) in NOTES]
    remark = f" ({'; '.join(notes)})" if notes else ""
    return f": did you mean {' or '.join(map(repr, names))}{remark}?"


def synonyms(word: str) -> list[str]:
    """The settings and options that other programs call by this word."""
    word = _plain(word)
    return [name for name, words in SYNONYMS.items() if word in words.split()]


def _named(key: str, known: list[str]) -> list[str]:
    """The settings of the same name in another section, or else those of which it is a synonym;
    only those of its own section, where there are any."""
    section, _, leaf = _plain(key).rpartition(".")
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    found = same or [name for name in synonyms(leaf) if name.startswith("--") or name in known]
    return [name for name in found if name.startswith(f"{section}.")] or found


def _near(key: str, known: list[str]) -> list[str]:
    """The setting whose name is spelled nearest; its section decides between equals."""
    section, _, leaf = _plain(key).rpartition(".")

    def nearness(name: str) -> tuple[float, float]:
        theirs, _, its = name.rpartition(".")
        return (difflib.SequenceMatcher(None, leaf, its).ratio(),
                difflib.SequenceMatcher(None, section, theirs).ratio())
    best = max(known, key=nearness)
    return [best] if nearness(best)[0] >= NEAR else []


def _all(known: Iterable[str]) -> list[str]:
    return list(known) or [*TABLE, *OTHERS]


def _plain(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_").lower()
