"""
Export one of our models as a Hugging Face family. To find the settings that a family cannot
express, we write its config.json and read it back: the settings that come back with another value
are lost.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mingpt.config import options_of, slot_defaults
from mingpt.positions import layers_without
from mingpt.pretrained.families import FAMILIES, Family
from mingpt.pretrained.files import write_model
from mingpt.pretrained.weights import Heads, Tensors, write_tensors
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

# settings that do not change what a finished model computes
FREE = {"model_type", "embd_pdrop", "resid_pdrop", "attn_pdrop", "backend", "mlp_scaled_init",
        "z_loss", "n_future", "future_weight"}
# settings that the tensors express
IN_TENSORS = {"bias", "qkv_bias", "attn_out_bias", "attn_scale"}
# settings that a user knows by another name than model.KEY
CALLED = {"document_end": "data.document_mask"}

# Written as null: a family's default token ids may lie beyond our vocabulary.
NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def save(model: nn.Module, folder: str | Path, family: str | None = None,
         avoid: Container[str] = (), **config: Any) -> Family:
    """Write the model as a family that computes the same; returns the family.

    The family is `family` where it is given, else the plainest one that is not in `avoid`. `config`
    is added to config.json. BadInput names the settings without a counterpart where no family
    fits.
    """
    chosen, theirs, tensors = convert(model, family, avoid)
    write_model(Path(folder), {**theirs, **NO_TOKENS, **config}, tensors)
    return chosen


def convert(model: nn.Module, family: str | None = None,
            avoid: Container[str] = ()) -> tuple[Family, dict[str, Any], Tensors]:
    """(family, config.json, tensors) of the model's counterpart, chosen as in `save`."""
    if family is not None and family not in FAMILIES:
        raise BadInput(f"no family {family!r}{did_you_mean(family, FAMILIES)}")
    refusals = {}
    for candidate in ([FAMILIES[family]] if family
                      else [f for name, f in FAMILIES.items() if name not in avoid]):
        theirs, tensors, lost = _converted(model, candidate)
        if not lost:
            return candidate, theirs, tensors
        refusals[candidate.name] = lost
    fewest = min(map(len, refusals.values()))
    nearest = [f"{name} lacks {', '.join(lost)}" for name, lost in refusals.items()
               if len(lost) == fewest]
    raise BadInput(f"no exact counterpart among Hugging Face's models: {'; '.join(nearest)}")


@torch.no_grad()
def _converted(model: nn.Module, family: Family) -> tuple[dict[str, Any], Tensors, list[str]]:
    """(config.json, tensors, the settings that the family cannot express). The tensors are empty
    where a setting is lost."""
    ours = settled(model, family)
    theirs: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.name,
                              "torch_dtype": str(model.lm_head.weight.dtype).removeprefix("torch.")}
    for entry in family.entries:
        entry.write(ours, theirs)
    lost = _lost(ours, theirs, model, family)
    if lost:
        return theirs, {}, lost
    attn = model.transformer.h[0].attn
    heads = (Heads(attn.n_head, attn.n_head, attn.nope + attn.rope, attn.rope)
             if ours["attention"] == "mla"
             else Heads(attn.n_head, attn.n_kv_head, attn.head_dim))
    state = family.prepare(_state(model, family), heads)
    tensors, left = write_tensors(family.weights(ours["n_layer"]), state, heads, theirs)
    return theirs, tensors, _unplaced(left)


def _unplaced(names: list[str]) -> list[str]:
    """Describe the tensors that have no place in the family, by the setting they come from where
    that is known."""
    kinds = sorted({name.split(".", 3)[-1] if name.startswith("transformer.h.") else name
                    for name in names})
    biases = [kind.removesuffix(".bias") for kind in kinds if kind.endswith(".bias")]
    others = [f"the weights {kind}" for kind in kinds if not kind.endswith(".bias")]
    return ([f"model.bias=True (of {', '.join(biases)})"] if biases else []) + others


def settled(model: nn.Module, family: Family) -> dict[str, Any]:
    """The model's settings in the form that the families' entries use.

    Defaults become numbers, the schedule has one word per layer, and of the options only those of
    the chosen members remain.
    """
    config, attn, mlp = (
        model.config.to_dict(),
        model.transformer.h[0].attn,
        model.transformer.h[0].mlp,
    )
    options = [option for slot, members in model.slots.items()
               for option in options_of(members[config[slot]])]
    ours = {k: v for k, v in config.items() if k not in set(slot_defaults(model.slots))
            - set(model.slots) or k in options}
    ours["schedule"] = " ".join(_word(pattern, model.block_size) for pattern in model.schedule)
    if "n_kv_head" in ours or config["attention"] in ("mha", "mqa"):
        ours |= {"attention": "mha", "n_kv_head": attn.n_kv_head if family.grouped else attn.n_head,
                 "head_dim": attn.head_dim}
    if config["attention"] == "mla":
        ours |= {"kv_lora_rank": attn.rank, "qk_nope_head_dim": attn.nope,
                 "qk_rope_head_dim": attn.rope, "v_head_dim": attn.v_size,
                 "head_dim": attn.head_dim}
    if "mlp_hidden" in ours and hasattr(mlp, "c_fc"):
        ours["mlp_hidden"] = mlp.c_fc.out_features
    if not config["tie_weights"]:
        ours["embd_scale"] = None      # _state multiplies it into the table, which no head shares
    return _positions(ours, model.config, family)


def _word(pattern, T: int) -> str:
    """A layer's word in the schedule: 'f', a window's number of keys, or any other pattern's
    spelling in brackets, so that it cannot be taken for a number."""
    if pattern.is_full(T):
        return "f"
    return str(pattern.width) if hasattr(pattern, "width") else f"({pattern})".replace(" ", "")


def _positions(ours: dict[str, Any], config: CN, family: Family) -> dict[str, Any]:
    """Bring the settings about positions to one form. A model without positions in any layer has
    position "none"; a family with a table of positions expresses that by a table of zeros."""
    without = layers_without(config)
    if len(without) == config.n_layer:
        ours["position"] = "none"
    elif "nope_layers" in ours:
        ours["nope_layers"] = ",".join(map(str, sorted(without))) or None
    if ours["position"] == "none" and family.table:
        ours["position"] = "learned"
    if (ours.get("rope_local_base") == ours.get("rope_base")
            or set(ours["schedule"].split()) == {"f"}):
        ours["rope_local_base"] = None
    return ours


def _lost(ours: dict[str, Any], theirs: dict[str, Any], model: nn.Module,
          family: Family) -> list[str]:
    """The settings that config.json does not express: those that come back with another value when
    it is read."""
    back = type(model).get_default_config().to_dict()
    read_back: dict[str, Any] = {}
    try:
        for entry in family.entries:
            entry.read(theirs, read_back)
    except BadInput as refusal:
        return [str(refusal)]
    back |= {"n_kv_head": ours["n_head"], "head_dim": ours["n_embd"] // ours["n_head"], **read_back}
    back["attention"] = "mha" if back["attention"] == "gqa" else back["attention"]
    if back["position"] == "none" == ours["position"]:
        back |= {"nope_layers": ours.get("nope_layers")}
    different = [k for k in ours if k not in FREE | IN_TENSORS and ours[k] != back.get(k)]
    implied = {option for slot in model.slots if slot in different
               for option in options_of(model.slots[slot][ours[slot]])}
    different = [k for k in different if k not in implied]      # a member's options go with it
    return [f"{CALLED.get(k, f'model.{k}')}={model.config.to_dict()[k]!r}" for k in different]


def _state(model: nn.Module, family: Family) -> Tensors:
    """The model's tensors. The effects of settings on the embedding, scores and positions are
    multiplied into the weights."""
    # A tied head is the embedding and has no name of its own. Heads for later tokens serve only
    # training.
    state = {name: t.detach().cpu() for name, t in model.named_parameters()
             if not name.startswith("future.")}
    if model.config.embd_scale is not None and not model.config.tie_weights:
        state["transformer.wte.weight"] = (state["transformer.wte.weight"]
                                           * model.transformer.wte.scale)
    for l, block in enumerate(model.transformer.h):
        factor, at = getattr(block.attn, "q_factor", 1.0), f"transformer.h.{l}.attn."
        if factor == 1.0:
            continue
        if f"{at}q_norm.weight" in state:
            state[f"{at}q_norm.weight"] = state[f"{at}q_norm.weight"] * factor
            continue
        rows = block.attn.n_head * block.attn.head_dim
        for name in (f"{at}c_attn.weight", f"{at}c_attn.bias"):
            if name in state:
                state[name] = torch.cat((state[name][:rows] * factor, state[name][rows:]))
        for name in (f"{at}q_proj.weight", f"{at}q_b_proj.weight"):      # of latent attention
            if name in state:
                state[name] = state[name] * factor
    if family.table and "transformer.wpe.weight" not in state:
        state["transformer.wpe.weight"] = torch.zeros(model.block_size, model.config.n_embd)
    return state
