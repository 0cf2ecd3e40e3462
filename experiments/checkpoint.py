"""
A run's state on disk: weights and optimizer in safetensors, the rest in `state.json`, which names the files that
belong together and is replaced last. A kill at any moment leaves the old state or the new one whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mingpt.utils import BadInput, write_atomic

STATE = "state.json"


def save(folder: Path, iteration: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None,
         state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`. `state` must be JSON; without an optimizer the run cannot go on from it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model": save_weights(folder, f"model-{iteration:06d}", model)}
    if optimizer is not None:
        files["optimizer"] = _save(folder, f"optimizer-{iteration:06d}", optimizer_tensors(model, optimizer))
    kept = {*files.values(), (state.get("best") or {}).get("file")}
    write_atomic(folder / STATE, json.dumps({"iteration": iteration, "files": files, **state}, indent=2))
    for old in folder.glob("*.safetensors"):
        if old.name not in kept:
            old.unlink()


def save_weights(folder: Path, name: str, model: torch.nn.Module) -> str:
    """Write a model's weights under a name; returns the file's."""
    folder.mkdir(parents=True, exist_ok=True)
    return _save(folder, name, dict(model.named_parameters()))   # a tied tensor has one name, and is written once


def _save(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> str:
    temporary = folder / f".{name}.tmp"
    save_file({k: t.detach().contiguous() for k, t in tensors.items()}, temporary)
    with open(temporary, "rb+") as f:
        os.fsync(f.fileno())
    temporary.replace(folder / f"{name}.safetensors")
    return f"{name}.safetensors"


def read_state(folder: Path) -> dict[str, Any] | None:
    """The checkpoint's state, or None where there is none."""
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def load_model(folder: Path, model: torch.nn.Module, which: str = "model") -> None:
    """Load the checkpoint's weights (`which`: "model", or "best")."""
    state = read_state(folder)
    if state is None:
        raise BadInput(f"{folder}: no checkpoint there ({STATE} is missing)")
    name = state["files"]["model"] if which == "model" else (state.get("best") or {}).get("file")
    if name is None:
        raise BadInput(f"{folder}: no best weights were kept; train with --run.keep_best=true")
    missing, unexpected = model.load_state_dict(load_file(folder / name), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_weights else set()
    if set(missing) - tied or unexpected:
        raise BadInput(f"{folder / name}: not this model's weights "
                       f"(missing {sorted(set(missing) - tied)}, unexpected {sorted(unexpected)})")


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's weights, by name; BadInput where there are none."""
    state = read_state(folder)
    if state is None:
        raise BadInput(f"{folder}: no checkpoint there ({STATE} is missing)")
    return load_file(folder / state["files"]["model"])


def load_optimizer(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the checkpoint's optimizer state, exactly."""
    state = read_state(folder)
    parameters = dict(model.named_parameters())
    for key, tensor in load_file(folder / state["files"]["optimizer"]).items():
        name, _, entry = key.rpartition("/")
        parameter = parameters[name]
        like = tensor if entry == "step" and tensor.ndim == 0 else tensor.to(parameter.device)
        optimizer.state[parameter][entry] = like.clone()


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every tensor of the optimizer's state as 'parameter/entry'."""
    return {f"{name}/{entry}": value for name, p in model.named_parameters()
            for entry, value in optimizer.state.get(p, {}).items() if torch.is_tensor(value)}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{folder} is in use by another process: wait for it, or give another --out") from None
        yield
