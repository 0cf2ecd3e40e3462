"""
Start a model from another model's weights (`upcycle`), and choose which of its parameters are
trained (`freeze_except`).

A tensor with the same name and shape is copied. Attention of another kind is made from the source's
queries, keys and values: see convert_attention.py. All other parameters begin as in any other run.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mingpt.pretrained.convert_attention import converted
from mingpt.pretrained.weights import Heads, Tensors
from mingpt.utils import BadInput, did_you_mean


@dataclass
class Taken:
    """What became of the source's weights. Names are the new model's, except in `dropped`, and have
    * in place of the layer's number."""
    parameters: int = 0                                        # number copied or made
    kept: set[str] = field(default_factory=set)                # copied
    made: dict[str, str] = field(default_factory=dict)         # name → how it was made
    new: set[str] = field(default_factory=set)                 # begin as in any other run
    dropped: set[str] = field(default_factory=set)             # the source's names without a place


@torch.no_grad()
def upcycle(model: nn.Module, state: Tensors, heads: Heads, pooling: str = "mean") -> Taken:
    """Copy or convert a source's tensors into the model, as far as they fit; returns what was done.

    `state` are the source's tensors under our names, and `heads` the source's heads. `pooling` says
    how several key and value heads become one: "mean" or "first" of them. BadInput where the model
    and its source differ in size.
    """
    _check_shape(model, state)
    given = {"lm_head.weight": state["transformer.wte.weight"], **state}
    made = converted(model, given, heads, pooling)
    taken = Taken()
    for name, p in model.named_parameters():
        if name in made:
            _put(p, made[name].tensor, taken)
            taken.made[_anywhere(name)] = made[name].how
        elif name in given and _fits(name, p, given[name]):
            _put(p, given[name][:len(p)], taken)
            taken.kept.add(_anywhere(name))
        else:
            taken.new.add(_anywhere(name))
    read = {_anywhere(source) for value in made.values() for source in value.sources}
    taken.dropped = {_anywhere(name) for name in state} - taken.kept - set(taken.made) - read
    return taken


def _check_shape(model: nn.Module, state: Tensors) -> None:
    """Raise BadInput where the model and its source differ in size."""
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.h."))
    vocabulary, width = state["transformer.wte.weight"].shape
    config = model.config
    for name, ours, theirs in (("model.n_layer", config.n_layer, layers),
                               ("model.n_embd", config.n_embd, width),
                               ("vocabulary (data.tokenizer)", config.vocab_size, vocabulary)):
        if ours != theirs:
            raise BadInput(f"--init: the source's {name} is {theirs}, not {ours}")
    table = state.get("transformer.wpe.weight")
    if table is not None and model.transformer.wpe is not None and len(table) < model.block_size:
        raise BadInput(f"--init: the source has {len(table)} positions, fewer than "
                       f"model.block_size={model.block_size}")


def _fits(name: str, p: Tensor, given: Tensor) -> bool:
    """Whether the shapes agree. A longer table of positions fits too: its first rows are taken."""
    return p.shape == given.shape or (name == "transformer.wpe.weight"
                                      and p.shape[1:] == given.shape[1:])


def _put(p: Tensor, value: Tensor, taken: Taken) -> None:
    p.copy_(value)
    taken.parameters += p.numel()


def _anywhere(name: str) -> str:
    return re.sub(r"\.h\.\d+\.", ".h.*.", name)


# -- what is trained -------------------------------------------------------------------------------

def freeze_except(model: nn.Module, patterns: str) -> None:
    """Train only the parameters that `patterns` name, and freeze all others.

    `patterns` are separated by commas. A pattern is one or more words of a dotted parameter name
    (`attn`, `mlp.c_fc`, `h.0`); * matches anything (`ln_*`). BadInput for a pattern that matches no
    parameter.
    """
    named, hosts = dict(model.named_parameters()), _hosted(model)
    wanted = [pattern.strip() for pattern in str(patterns).split(",") if pattern.strip()]
    words = {word for name in named for word in name.split(".") if not word.isdigit()}
    trained: set[str] = set()
    for pattern in wanted:
        found = {name for name in named if fnmatch.fnmatchcase(f".{name}.", f"*.{pattern}.*")
                 and not fnmatch.fnmatchcase(f".{hosts.get(name, '')}", f"*.{pattern}")}
        if not found:
            raise BadInput(f"run.freeze_except: no parameter is named "
                           f"{pattern!r}{did_you_mean(pattern, words)}")
        trained |= found
    if not trained:
        raise BadInput("run.freeze_except is empty, so nothing would be trained")
    for name, p in named.items():
        p.requires_grad_(name in trained)


def _hosted(model: nn.Module) -> dict[str, str]:
    """{parameter: module} for the parameters of parts that a module holds although they belong to
    the whole model. A pattern that matches only the module's name does not mean them."""
    return {f"{at}.{part}.{name}": at for at, module in model.named_modules()
            for part in getattr(module, "hosted", ())
            for name, _ in module.get_submodule(part).named_parameters()}
