"""
To and from Hugging Face models. What corresponds to what is declared in hf_families.py, once for both directions.

    model = hf.load("Qwen/Qwen3-0.6B")          a folder, or a name on the hub
    hf.save(model, "folder")                    for AutoModelForCausalLM.from_pretrained; BadInput without a counterpart
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from mingpt.model import GPT
from mingpt.pretrained.families import FAMILIES, Family
from mingpt.pretrained.files import write_model
from mingpt.pretrained.read import GPT2_SIZES, gpt2_settings, read, read_settings
from mingpt.pretrained.write import convert
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

__all__ = ["FAMILIES", "GPT2_SIZES", "convert", "gpt2_settings", "load", "load_gpt2", "read", "read_settings", "save"]

NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))   # the families' own may be beyond ours


class UnfusedGELU(nn.Module):
    """NewGELU in separate operations, as Hugging Face's GPT-2 computes it. The fused kernel differs in the last bit,
    and that is more than 1e-5 of a logit that is nearly zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


def load(source: str | Path, block_size: int | None = None, cls: type[GPT] = GPT, **settings: Any) -> GPT:
    """The model in a folder or of that name on the hub, in eval mode; its logits are the same. `block_size` cuts it to
    so many positions; other settings (dropout, backend, tie_weights) stand instead of the model's."""
    family, config, state = read(source, block_size)
    with contextlib.redirect_stdout(None):
        model = cls(CN(**{**cls.get_default_config().to_dict(), **config, **settings}))
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:])
        raise BadInput(f"{source}: its weights are not of the sizes that its config.json says: {first}") from None
    return model.eval()


def load_gpt2(cls: type[GPT], model_type: str) -> GPT:
    """minGPT's `from_pretrained`, for any model that `load` reads; its logits are the same to the last bit but one.
    Head and embedding are two matrices, as in minGPT."""
    assert model_type in GPT2_SIZES or "/" in model_type or Path(model_type).is_dir()
    model = load(model_type, cls=cls, tie_weights=False)
    if model.config.mlp == "gelu":
        for block in model.transformer.h:
            block.mlp.act = UnfusedGELU()
    return model


def save(model: GPT, folder: str | Path, family: str | None = None, avoid: Container[str] = (),
         **config: Any) -> Family:
    """Write the model as one of the families that compute the same: the one that is asked for, or the plainest that is
    not to be avoided. BadInput naming the settings without a counterpart where there is none. `config` is added to
    config.json."""
    chosen, theirs, tensors = convert(model, family, avoid)
    write_model(Path(folder), {**theirs, **NO_TOKENS, **config}, tensors)
    return chosen
