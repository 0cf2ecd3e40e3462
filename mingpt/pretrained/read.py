"""
Import a Hugging Face model: its settings and weights, converted to ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mingpt.config import SIZES
from mingpt.pretrained.bookkeeping import PLAIN
from mingpt.pretrained.families import FAMILIES, Family
from mingpt.pretrained.files import find_folder, read_config, read_weights, tensor_names
from mingpt.pretrained.weights import Heads, Tensors, Weight, read_tensors
from mingpt.utils import BadInput, did_you_mean

# settings that must be whole numbers above 0
COUNTS = {"n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "vocab_size", "block_size",
          "mlp_hidden", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}
MOST_LAYERS = 10_000     # lists of this length are made before any weight is seen
GPT2_SIZES = {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}


def read(source: str | Path,
         block_size: int | None = None) -> tuple[Family, dict[str, Any], Tensors]:
    """(family, settings of section `model`, tensors under our names) of a model in a folder or on
    the hub. `block_size` keeps only that many positions. BadInput for anything without a
    counterpart here."""
    folder, family, ours = read_settings(source)
    tensors = read_weights(folder, family.trunk)
    tensors = _one_table(family, tensors) if ours["tie_weights"] else tensors
    state = read_tensors(_weights(family, ours), tensors, _heads_of(ours))
    if ours["bias"]:    # this one setting adds several biases; those the source lacks are zeros
        for name in [n for n in state if ".mlp.c_" in n and n.endswith(".weight")]:
            state.setdefault(name.replace(".weight", ".bias"),
                             torch.zeros(len(state[name]), dtype=state[name].dtype))
    return family, ours, _cut(ours, state, block_size)


def read_settings(source: str | Path) -> tuple[Path, Family, dict[str, Any]]:
    """(folder, family, settings of section `model`) of a model, without reading the weights."""
    folder = find_folder(source)
    theirs = read_config(folder)
    kind = theirs.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise BadInput(f"{folder}/config.json: there is no family {kind!r} "
                       f"here{did_you_mean(str(kind), FAMILIES)}")
    family, ours = FAMILIES[kind], {"model_type": None}
    try:
        for entry in (PLAIN, *family.entries):
            entry.read(theirs, ours)
            layers = ours.get("n_layer")
            if type(layers) is int and layers > MOST_LAYERS:
                raise BadInput(f"config.json: {str(layers)[:20]} layers: at most {MOST_LAYERS:,}")
    except BadInput as error:
        raise BadInput(f"{folder}/{error}") from None
    # a value of the wrong type, such as a number where a list should be
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise BadInput(f"{folder}/config.json: not the settings of a {kind}: "
                       f"{type(error).__name__}: {error}") from None
    _check_keys(folder, family, theirs)
    _check_kinds(folder, ours)
    names = tensor_names(folder, family.trunk)
    _check_biases(folder, family, theirs, [w for w in _weights(family, ours)
                                           if isinstance(w.bias, str)], names)
    has = {w.ours.rpartition(".h.")[2].partition(".")[2] or w.ours for w in _weights(family, ours)
           if names.issuperset(w.tensors("bias"))}
    apart = {"qkv_bias": {"attn.c_attn", "attn.q_a_proj", "attn.kv_a_proj"},
             "attn_out_bias": {"attn.c_proj"}}
    ours["bias"] = bool(has - set().union(*apart.values()))
    return folder, family, ours | {k: bool(own & has) for k,
                                   own in apart.items() if bool(own & has) != ours["bias"]}


def _check_keys(folder: Path, family: Family, theirs: dict[str, Any]) -> None:
    """Raise BadInput for the first key that no entry understands, because it may change what the
    model computes."""
    unknown = sorted(set(theirs) - family.keys())
    if unknown:
        raise BadInput(f"{folder}/config.json: key {unknown[0]!r} ({theirs[unknown[0]]!r}) is not "
                       f"known for family {family.name!r} and may change what it "
                       f"computes{did_you_mean(unknown[0], family.keys())}")


def _check_kinds(folder: Path, ours: dict[str, Any]) -> None:
    """Raise BadInput for a setting whose value has the wrong type or range."""
    def whole(value: Any) -> bool:
        return type(value) is int and value > 0

    def number(value: Any) -> bool:
        return type(value) in (int, float) and 0 <= value < float("inf")

    kinds = {**dict.fromkeys(COUNTS, (whole, "a whole number above 0")),
             **dict.fromkeys(("norm_eps", "rope_base", "rope_fraction"),
                             (number, "a number from 0")),
             "tie_weights": (lambda value: type(value) is bool, "true or false")}
    for key in kinds.keys() & set(ours):
        fits, what = kinds[key]
        if not fits(ours[key]):
            raise BadInput(f"{folder}/config.json: it sets our model.{key} to {ours[key]!r}, which "
                           f"is not {what}")
    if ours.get("head_dim") is None and ours["n_embd"] % ours["n_head"]:
        raise BadInput(f"{folder}/config.json: a width of {ours['n_embd']} is not divisible by "
                       f"{ours['n_head']} heads")


def _check_biases(folder: Path, family: Family, theirs: dict[str, Any], weights: list[Weight],
                  names: set[str]) -> None:
    """Raise BadInput where a flag about biases contradicts the tensors in the files."""
    for w in weights:
        flag = theirs.get(w.bias, family.biased)
        if type(flag) is not bool:
            raise BadInput(f"{folder}/config.json: {w.bias}={flag!r} is not true or false")
        for tensor in w.tensors("bias"):
            if (tensor in names) != flag:
                raise BadInput(f"{folder}/config.json: {w.bias}={flag}, but tensor {tensor!r} is "
                               f"{'missing' if flag else 'there'}")


def gpt2_settings(name: str) -> dict[str, Any]:
    """The settings that `read_settings` gives for OpenAI's GPT-2 sizes, without a download."""
    config = {**SIZES[name], "vocab_size": 50257, "n_positions": 1024}
    ours: dict[str, Any] = {"model_type": None, "bias": True}
    for entry in FAMILIES["gpt2"].entries:
        entry.read(config, ours)
    return ours


def _weights(family: Family, ours: dict[str, Any]) -> list[Weight]:
    """Those of the family's weights that a model with these settings has."""
    return [w for w in family.weights(ours["n_layer"]) if _has(ours, w.ours)]


def _one_table(family: Family, tensors: Tensors) -> Tensors:
    """The tensors of a tied model, with the embedding and without the head.

    A file may store either of the two or both. BadInput where both are stored and differ, because
    transformers then leaves them untied.
    """
    table, head = (next(w.tensors("weight")[0] for w in family.outer if w.ours == ours)
                   for ours in ("transformer.wte", "lm_head"))
    if head not in tensors:
        return tensors
    stored = tensors.get(table, tensors[head])
    if not torch.equal(stored, tensors[head]):
        raise BadInput(f"config.json: tie_word_embeddings=True, but {table} and {head} differ: set "
                       f"it to false")
    return {name: t for name, t in tensors.items() if name != head} | {table: stored}


def _has(ours: dict[str, Any], module: str) -> bool:
    """Whether a model with these settings has the module. A tied head and a shared second norm do
    not exist."""
    shared = ours["block"] == "parallel" and ours["parallel_norms"] == 1
    part = module.rpartition(".")[2]
    if part in ("q_proj", "q_a_proj", "q_a_norm", "q_b_proj"):
        return (part == "q_proj") == (ours["q_lora_rank"] is None)
    return not (module == "lm_head" and ours["tie_weights"] or part == "ln_2" and shared)


def _heads_of(ours: dict[str, Any]) -> Heads:
    n_head = ours["n_head"]
    if ours.get("attention") == "mla":
        return Heads(n_head, n_head, ours["qk_nope_head_dim"] + ours["qk_rope_head_dim"],
                     ours["qk_rope_head_dim"])
    return Heads(n_head, ours.get("n_kv_head") or n_head,
                 ours.get("head_dim") or ours["n_embd"] // n_head)


def _cut(ours: dict[str, Any], state: Tensors, block_size: int | None) -> Tensors:
    """The settings and tensors cut to `block_size` positions; unchanged for None."""
    if block_size is not None:
        if block_size > ours["block_size"]:
            raise BadInput(f"model.block_size={block_size}: the imported model has only "
                           f"{ours['block_size']} positions")
        ours["block_size"] = block_size
        if "transformer.wpe.weight" in state:
            state["transformer.wpe.weight"] = state["transformer.wpe.weight"][:block_size].clone()
    return state
