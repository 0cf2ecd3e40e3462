"""
Read and write a Hugging Face model on disk: config.json and safetensors files. Nothing here runs
code that came with a model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mingpt.utils import BadInput, read_json, write_atomic

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATIENCE = 3     # seconds to wait for the hub's first answer
WANTED = [CONFIG, "*.safetensors", INDEX]


def find_folder(source: str | Path) -> Path:
    """The folder of a model: a local folder, or the hub's model of that name.

    A hub model is downloaded once; offline, the downloaded copy is used. BadInput where there is
    neither.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError:
        raise BadInput(f"{source!r} is not a local folder; to load it from the hub: pip install "
                       f"huggingface_hub") from None
    try:
        return Path(snapshot_download(str(source), allow_patterns=WANTED, etag_timeout=PATIENCE))
    except errors.LocalEntryNotFoundError as error:     # neither a copy nor a network
        reason = ("HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE
                  else str(error).partition("\n")[0].removeprefix("Got: "))
        raise BadInput(f"{source!r} is not a local folder, no copy of it was downloaded before, "
                       f"and the hub cannot be reached ({reason})") from None
    # no network, an unknown name, or not a valid name
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise BadInput(f"{source!r} is not a local folder, and it cannot be loaded from the hub "
                       f"({type(error).__name__}: {reason})") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. BadInput where it is missing or not a JSON object."""
    path = folder / CONFIG
    try:
        config = read_json(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}; every Hugging Face model needs this "
                       f"file") from None
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: expected an object of settings, not {type(config).__name__}")
    return config


def read_weights(folder: Path, trunk: str) -> dict[str, torch.Tensor]:
    """All tensors by name, from one file or several. A model saved without its head has names
    without the prefix `trunk`; the prefix is then added."""
    tensors: dict[str, torch.Tensor] = {}
    for name in _weight_files(folder):
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{folder / name}: {error}") from None
    return _with_trunk(tensors, trunk)


def tensor_names(folder: Path, trunk: str) -> set[str]:
    """The names of all tensors, as `read_weights` gives them. Reads only the files' headers."""
    names: set[str] = set()
    for file in _weight_files(folder):
        try:
            with safe_open(folder / file, "pt") as opened:
                names |= set(opened.keys())
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{folder / file}: {error}") from None
    return set(_with_trunk(dict.fromkeys(names), trunk))


def _with_trunk(tensors: dict[str, Any], trunk: str) -> dict[str, Any]:
    """The same tensors, with the prefix `trunk` added where no name has it."""
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
                set(read_json(folder / INDEX)["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{folder / INDEX}: not an index of weights ({type(error).__name__}: {error})"
            ) from None
    pickled = any(folder.glob("*.bin"))
    raise BadInput(f"{folder}: there is no {WEIGHTS}"
                   + ("; its weights are pickles, which can run code: convert them to safetensors"
                      if pickled else ""))


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write config.json and one safetensors file. config.json comes last, so a folder that has one
    is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(folder / WEIGHTS)
    write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")
