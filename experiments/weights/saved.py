"""
Find a run that has a checkpoint, and load its model.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.corpus.progress import say
from experiments.corpus.tokenizers import get_tokenizer
from experiments.records import codefiles
from experiments.records.record import RunFiles, read_record
from experiments.weights import checkpoint
from experiments.weights.published_padding import build_gpt
from mingpt.config import check_slots
from mingpt.model import GPT, SLOTS
from mingpt.trainer import find_device
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")   # every model has them
LARGEST = 2**20    # experts, later tokens and positions that a model can have


def known_runs(out: Path) -> dict[str, RunFiles]:
    """Every run with a checkpoint under OUT, by name, such as 'rope.s0' or 'seven/rope.s0'."""
    root = Path(out) / "checkpoints"
    found = {}
    for state in sorted({path.parent for name in (checkpoint.STATE, checkpoint.PREVIOUS)
                         for path in root.rglob(name)}):
        name = state.relative_to(root).as_posix()
        study, _, run = name.rpartition("/")
        arm, dot, seed = run.rpartition(".s")
        if dot and seed.isdecimal() and len(seed) < 20:
            with contextlib.suppress(BadInput):     # a folder of another origin
                found[name] = RunFiles(Path(out), study or None, arm, int(seed))
    return found


def runs_called(text: str, runs: Mapping[str, RunFiles]) -> list[RunFiles]:
    """The runs that a text names: the one of that whole name, or else those whose name without the
    study (rope.s0), or whose arm, it is."""
    if text in runs:
        return [runs[text]]
    return [files for name, files in runs.items()
            if text in (name.rpartition("/")[2], files.arm, f"{files.study}/{files.arm}")]


def find_run(text: str, out: Path) -> RunFiles:
    """Find a run by its name, by its name without the study or by its arm where only one run has
    that, or by one of its files or folders. BadInput where no run or several runs match."""
    runs = known_runs(out)
    if text in runs:
        return runs[text]
    path = Path(text)
    if path.exists():
        path = path.resolve()
        for files in known_runs(_out_of(path)).values():
            if path in (files.csv.resolve(), files.json.resolve(), files.checkpoint.resolve()):
                return files
    found = runs_called(text, runs)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"run {text!r} could be any of {', '.join(files.name for files in found)}")
    hint = did_you_mean(text, runs) if runs else f"; there are none under {out}/checkpoints"
    raise BadInput(f"there is no run {text!r}{hint}")


def _out_of(path: Path) -> Path:
    """The folder OUT that a path …/OUT/losses/… or …/OUT/checkpoints/… is in."""
    for parent in path.parents:
        if parent.name in ("losses", "checkpoints"):
            return parent.parent
    return path.parent


def require_code(files: RunFiles, state: Mapping[str, Any]) -> None:
    """Raise BadInput where a run's checkpoint or record mentions a code file of the user that this
    process has not run."""
    record = read_record(files.json) if files.json.exists() else {}
    for mentions in (state.get("run"), record):
        codefiles.require(codefiles.named(mentions), files.name)


def load_run(files: RunFiles, device: str = "auto",
             which: str = "model") -> tuple[GPT, Any, dict[str, Any]]:
    """(model in eval mode, tokenizer, record) of a run. `which` is "model", the last weights, or
    "best". The record is empty where its file is missing. BadInput without a checkpoint, and where
    the model needs a code file that the user has not given."""
    state = checkpoint.read_state(files.checkpoint)
    if state is None:
        raise BadInput(f"{files.checkpoint}: there is no checkpoint")
    require_code(files, state)
    model = _built(files, state)
    if told := checkpoint.load_model(files.checkpoint, model, which):
        say(told)
    device = find_device(device)
    record = read_record(files.json) if files.json.exists() else {}
    if not isinstance(state.get("tokenizer"), str):
        raise BadInput(f"{files.checkpoint / checkpoint.STATE}: it names no tokenizer")
    return model.to(torch.device(device)).eval(), get_tokenizer(state["tokenizer"]), record


def model_settings(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The section `model` of the settings that a state holds. Raises BadInput where one of them is
    of a kind that no model has, such as a text in place of a number. Only training and the user's
    own member know what an option of that member may be, so `_built` finds whether it fails."""
    where, settings = folder / checkpoint.STATE, state.get("model")
    kinds = GPT.get_default_config().to_dict()
    if not isinstance(settings, dict):
        raise BadInput(f"{where}: it holds no settings of a model")
    kinds |= dict.fromkeys(SIZES, 1)
    theirs = {key.removeprefix("model.") for file in codefiles.LOADED for key in file.options}
    for key in (key for key in kinds if key != "model_type" and key not in theirs):
        value = settings.get(key, None if key in SIZES else kinds[key])
        kind = type(kinds[key])
        plain = value is None or isinstance(value, bool | int | float | str)
        fits = (plain if kind is type(None) else type(value) in (int, float) if kind is float
                else type(value) is kind)
        if (not fits or isinstance(value, float) and not math.isfinite(value)
                or key in SIZES and value < 1):
            raise BadInput(f"{where}: model.{key} is {value!r:.60}")
    if not settings.get("head_dim") and settings["n_embd"] % settings["n_head"]:
        raise BadInput(f"{where}: {settings['n_head']} heads do not divide {settings['n_embd']}")
    check_slots(CN(**{**kinds, **settings}), SLOTS, "model")
    return settings


def _built(files: RunFiles, state: dict[str, Any]) -> GPT:
    """The model of a checkpoint, without its weights. Raises BadInput where the settings cannot be
    those of the weights. The shapes alone decide this, so false settings take no memory."""
    where, shapes = files.checkpoint / checkpoint.STATE, checkpoint.shapes(files.checkpoint, state)
    settings = model_settings(files.checkpoint, state)
    layers = {name.split(".")[2] for name in shapes if name.startswith("transformer.h.")}
    if settings.get("n_layer") != len(layers):
        raise BadInput(f"{where}: its settings are not those of the weights")
    counts = [settings.get(key, 1) for key in ("n_experts", "n_future", "block_size")]
    if not all(type(n) is int and n <= LARGEST for n in counts):
        raise BadInput(f"{where}: {counts} experts, later tokens and positions are no model's")
    config = CN(**settings | {"model_type": None})
    try:
        with contextlib.redirect_stdout(None):
            with torch.device("meta"):
                planned = {name: tuple(p.shape) for name, p in build_gpt(config).named_parameters()}
            if planned == shapes:
                return build_gpt(config)
    except BadInput:
        raise
    except Exception as error:     # settings of any type and size may fail anywhere
        raise BadInput(f"{where}: no model can be built from its settings "
                       f"({type(error).__name__}: {error})") from None
    raise BadInput(f"{where}: its settings are not those of the weights")
