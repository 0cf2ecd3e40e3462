"""
A Hugging Face model on disk: config.json and safetensors. Nothing here runs code that came with a
model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mingpt.utils import BadInput, write_atomic

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
WANTED = [CONFIG, "*.safetensors", INDEX]


def find_folder(source: str | Path) -> Path:
    """A local folder, or the hub's model of that name (downloaded once; offline what was). BadInput
    without either."""
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise BadInput(f"{source!r} is no folder here; for the hub's models: pip install "
                       f"huggingface_hub") from None
    try:
        return Path(snapshot_download(str(source), allow_patterns=WANTED))
    # no network, no such name, not a name
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise BadInput(f"{source!r} is no folder here, and the hub gave none "
                       f"({type(error).__name__}: {reason})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}: a Hugging Face model has one") from None
    except ValueError as error:
        raise BadInput(f"{path}: no JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a model's settings, not {type(config).__name__}")
    return config


def read_weights(folder: Path, trunk: str) -> dict[str, torch.Tensor]:
    """All tensors, from one file or several. The names of a model saved without its head lack
    `trunk`: it is added."""
    tensors: dict[str, torch.Tensor] = {}
    for name in _weight_files(folder):
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{folder / name}: {error}") from None
    return _with_trunk(tensors, trunk)


def tensor_names(folder: Path, trunk: str) -> set[str]:
    """The names of all tensors, as `read_weights` gives them, from the files' heads alone."""
    names: set[str] = set()
    for file in _weight_files(folder):
        try:
            with safe_open(folder / file, "pt") as opened:
                names |= set(opened.keys())
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{folder / file}: {error}") from None
    return set(_with_trunk(dict.fromkeys(names), trunk))


def _with_trunk(tensors: dict[str, Any], trunk: str) -> dict[str, Any]:
    """The same under their whole names."""
    if any(name.startswith(trunk) for name in tensors):
        return tensors
    heads = ("lm_head.", "embed_out.")
    return {name if name.startswith(heads) else trunk + name: t for name, t in tensors.items()}


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            return sorted(
                set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{folder / INDEX}: no index of weights ({type(error).__name__}: {error})"
            ) from None
    pickled = any(folder.glob("*.bin"))
    raise BadInput(f"{folder}: no {WEIGHTS}"
                   + (": its weights are pickles, which can run code; convert them" if pickled
                                                else ""))


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """config.json and one safetensors file; config.json last, so that a folder with one is
    whole."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(folder / WEIGHTS)
    write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")
