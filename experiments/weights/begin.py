"""
Start a run from the weights of a Hugging Face model or of an earlier run (`--init`), and freeze the
parameters that it does not train.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.records import codefiles
from experiments.weights import checkpoint
from experiments.weights.saved import find_run, known_runs, model_settings, runs_called
from mingpt.attention.heads import ATTENTIONS
from mingpt.mlps import MLPS, SwiGLU, hidden_size
from mingpt.model import GPT
from mingpt.positions import head_size
from mingpt.pretrained.read import GPT2_SIZES, gpt2_settings, read, read_settings
from mingpt.pretrained.upcycle import freeze_except, upcycle
from mingpt.pretrained.weights import Heads, Tensors
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

# settings that a run does not take from its source
OWN = {"vocab_size", "block_size", "embd_pdrop", "resid_pdrop", "attn_pdrop", "backend", "z_loss",
       "document_end", "published_padding", "model_type"}
RUN_NAME = re.compile(r"\.s\d+$")     # how the name of a run ends, which no model's name does


def is_run(init: str) -> bool:
    """Whether a source is the checkpoint of one of our runs."""
    return any((Path(init) / name).is_file() for name in (checkpoint.STATE, checkpoint.PREVIOUS))


def is_remote(init: str) -> bool:
    """Whether a source must be looked up on the hub."""
    return not Path(init).is_dir()


def source_settings(init: str) -> dict[str, Any]:
    """The settings of a source's section `model` that decide what the model computes. The sizes of
    GPT-2 are known without asking the hub."""
    if is_run(init):
        state = checkpoint.read_state(Path(init))
        codefiles.require(codefiles.named(state.get("run")), init)
        settings = model_settings(Path(init), state)
    elif is_remote(init) and init in GPT2_SIZES:
        settings = gpt2_settings(init)
    else:
        settings = _read_settings(init)
    settings = {**GPT.get_default_config().to_dict(), **settings}
    return _plain({key: value for key, value in settings.items() if key not in OWN})


def _read_settings(init: str) -> dict[str, Any]:
    """The settings of a Hugging Face model. Where there is none of that name, the error proposes
    the size of GPT-2 that is spelled like it."""
    try:
        return read_settings(init)[2]
    except BadInput as error:
        near = did_you_mean(init, GPT2_SIZES) if is_remote(init) else ""
        raise BadInput(f"{error}{near}" if "did you mean" in near else str(error)) from None


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, with None or the default in place of values that equal the default. An arm
    with another MLP then gets that MLP's own default."""
    filled = CN(**{**GPT.get_default_config().to_dict(), **settings, "mlp_hidden": None})
    default = "8/3d" if issubclass(MLPS[filled.mlp], SwiGLU) else "4d"
    if settings.get("mlp_hidden") == hidden_size(filled, default):
        settings["mlp_hidden"] = None
    if set(settings["schedule"].split()) == {"f"}:
        settings["schedule"] = "full"
    return settings


def source_layer(init: str) -> dict[str, Any]:
    """The source's settings as one layer of settings (`model.KEY`). An arm and the command line
    override them."""
    return {f"model.{key}": value for key, value in source_settings(init).items()}


def source_tensors(init: str) -> Tensors:
    """A source's weights, under our names."""
    if is_run(init):
        return checkpoint.load_tensors(Path(init))
    return read(init)[2]


def begin(model: GPT, settings: CN, fetch: bool = True) -> dict[str, Any] | None:
    """Give a fresh model its source's weights, and freeze what is not trained. Returns the record's
    `init`: the source and what was taken from it; None without a source. Without `fetch` the hub is
    not asked."""
    run, found = settings.run, None
    if run.init is not None:
        found = {"source": run.init, "taken": None}
        if fetch or not is_remote(run.init):
            state = source_tensors(run.init)
            taken = asdict(upcycle(model, state, _heads(run.init), run.init_heads))
            found |= {"taken": {k: sorted(v) if isinstance(v, set) else v
                                for k, v in taken.items()},
                      "sha256": _digest(state)}
    if run.freeze_except is not None:
        freeze_except(model, run.freeze_except)
    return found


def _heads(init: str) -> Heads:
    """The numbers and size of the source's heads."""
    filled = GPT.get_default_config()
    filled.merge_from_dict(source_settings(init))
    kind = ATTENTIONS[filled.attention]
    n_kv_head = kind.kv_heads(filled) if hasattr(kind, "kv_heads") else filled.n_head
    return Heads(filled.n_head, n_kv_head, head_size(filled))


def _digest(state: Tensors) -> str:
    """16 hex digits of the weights. They do not depend on the files that the weights came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def audit_options(settings: CN, taken: bool = True) -> dict[str, Any]:
    """The audit's arguments: `freeze_except`, and where weights were `taken` from a source, that
    they are not fresh and what they must compute."""
    init, frozen = settings.run.init, {"freeze_except": settings.run.freeze_except}
    if init is None or not taken:
        return frozen
    same = all(getattr(settings.model, key) == value
               for key, value in source_settings(init).items())
    foreign = not is_run(init) and not is_remote(init) and importlib.util.find_spec("transformers")
    return {**frozen, "fresh": False, "reference": _reference(init) if same and foreign else None}


def _reference(init: str) -> Callable:
    """transformers' own model as a function: tokens → the input of every layer, then the logits."""
    def outputs(idx: torch.Tensor) -> list[torch.Tensor]:
        from experiments.weights.parity import open_theirs
        out = open_theirs(Path(init))(idx.cpu(), output_hidden_states=True)
        return [t.to(idx.device) for t in (*out.hidden_states[:-1], out.logits)]
    return outputs


def find_source(text: str, out: Path) -> str:
    """What `--init` means: a folder, a run under OUT by its name or one of its files, or else a
    name on the hub. Returns a folder or that name."""
    if is_run(text) or (Path(text) / "config.json").is_file():
        return text
    if Path(text).exists() or RUN_NAME.search(text) or runs_called(text, known_runs(out)):
        return str(find_run(text, out).checkpoint)
    return text
