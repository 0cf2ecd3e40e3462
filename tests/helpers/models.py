"""Small models for tests, and text to validate them on."""

import contextlib
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from experiments.weights.published_padding import build_gpt, model_defaults
from mingpt.model import GPT
from mingpt.utils import CfgNode

SMALL = {"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 11,
         "block_size": 8, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}


def config_of(**changes) -> CfgNode:
    """The settings of a small model without dropout, with changes."""
    config = model_defaults()
    config.merge_from_dict({**SMALL, **changes})
    return config


def gpt_of(noise: float = 0.0, seed: int = 0, **changes) -> GPT:
    """A small model, in train mode, whose weights are drawn from torch's generator. It prints
    nothing. See `perturbed` for noise."""
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(None):
        model = build_gpt(config_of(**changes))
    return perturbed(model, noise)


@torch.no_grad()
def perturbed(module: nn.Module, noise: float) -> nn.Module:
    """Add normal noise of that std to every parameter, as training does: at std 0.02 a token has
    little effect on others, attention is nearly uniform, and biases are 0."""
    for p in module.parameters() if noise else ():
        p.add_(noise * torch.randn_like(p))
    return module


def validation_of(rows) -> SimpleNamespace:
    """The first five batches of a test's rows, as a validation set."""
    x, y = (np.concatenate(part) for part in zip(*map(rows.batch, range(5)), strict=True))
    return SimpleNamespace(x=x, y=y, nbytes=np.ones_like(x), set_id=np.zeros_like(x),
                           set_names=["all"], source_columns=[])
