"""
Save and load a run's state. Weights and optimizer state are safetensors files, and the CSV so far
is copied beside them. `state.json` names the files that belong together, with a checksum of each.
It is replaced last, so a kill at any moment leaves either the old or the new state whole. The
previous state stays as `state-previous.json` and is used when the newest is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from experiments.system import held
from mingpt.pretrained.weights import Tensors
from mingpt.shards import is_shard, own_part, whole
from mingpt.utils import BadInput, read_json, write_atomic

STATE, PREVIOUS = "state.json", "state-previous.json"
# The files that this module makes in a run's folder. No other file is ever removed.
OURS = re.compile(r"(model|optimizer|best)-\d+\.safetensors|log-\d+\.csv"
                  r"|\.(model|optimizer|best)-\d+\.tmp")
# What safetensors says of an error of the system.
SYSTEM_ERROR = re.compile(r"(.*) \(os error (\d+)\)")


class DamagedCheckpoint(Exception):
    """A file of a checkpoint is missing or differs from what was written. The message is a clause
    that names the file."""


# -- writing ---------------------------------------------------------------------------------------

def save(folder: Path, iteration: int, weights: Tensors, optimizer: Tensors | None,
         state: dict[str, Any], log: bytes = b"") -> None:
    """Add a checkpoint to `folder` and keep the one before it.

    `weights` are model_tensors, and `optimizer` are optimizer_tensors. `state` must be serializable
    as JSON. `log` is the run's CSV so far. No optimizer means that the run is over: the older
    checkpoint then loses its optimizer too, because no run resumes from it.
    """
    files = {"model": save_weights(folder, f"model-{iteration:06d}", weights)}
    if optimizer is not None:
        files["optimizer"] = _save(folder, f"optimizer-{iteration:06d}", optimizer)
    files["log"] = f"log-{iteration:06d}.csv"
    write_atomic(folder / files["log"], log)
    if best := (state.get("best") or {}).get("file"):
        files["best"] = best
    older = _older(folder, iteration, over=optimizer is None)
    if older is not None:
        write_atomic(folder / PREVIOUS, signed(older))
    sha256 = {name: _digest(folder / name) for name in files.values()}
    newest = {"iteration": iteration, "files": files, "sha256": sha256, **state}
    write_atomic(folder / STATE, signed(newest))
    _sweep(folder, {*files.values(), *((older or {}).get("files") or {}).values()})


def _older(folder: Path, iteration: int, over: bool) -> dict[str, Any] | None:
    """The state that becomes the previous one: the newest readable state before `iteration`. Where
    the run is `over`, it no longer names its optimizer file."""
    for name in (STATE, PREVIOUS):
        with contextlib.suppress(FileNotFoundError, DamagedCheckpoint):
            state = _read(folder / name)
            if state["iteration"] < iteration and "sha256" in state:
                kept = {kind: file for kind, file in state["files"].items()
                        if kind != "optimizer" or not over}
                return {**state, "files": kept,
                        "sha256": {file: state["sha256"][file] for file in kept.values()}}
    return None


def save_weights(folder: Path, name: str, weights: Tensors) -> str:
    """Write weights to NAME.safetensors; returns the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    return _save(folder, name, weights)


def _save(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> str:
    temporary = folder / f".{name}.tmp"
    try:
        save_file({k: t.detach().contiguous() for k, t in tensors.items()}, temporary)
    except SafetensorError as error:
        if not (failed := SYSTEM_ERROR.search(str(error))):
            raise
        raise OSError(int(failed[2]), os.strerror(int(failed[2])), str(temporary)) from None
    with open(temporary, "rb+") as f:
        os.fsync(f.fileno())
    temporary.replace(folder / f"{name}.safetensors")
    return f"{name}.safetensors"


def discard(folder: Path) -> None:
    """Make the checkpoints in `folder` unusable, then remove their files. The newest state is
    removed last of the states, so after an earlier kill the run can still resume."""
    for name in (PREVIOUS, STATE):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir():
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        _sweep(folder, set())


def tidy(folder: Path) -> None:
    """Remove the files of checkpoints that no state names: what a kill between the newest state and
    the end of `save` left. Removes nothing where a state is damaged."""
    kept: set[str] = set()
    for name in (STATE, PREVIOUS):
        try:
            kept |= set(_read(folder / name)["files"].values())
        except FileNotFoundError:
            continue
        except DamagedCheckpoint:
            return
    _sweep(folder, kept)


def _sweep(folder: Path, kept: set[str]) -> None:
    """Remove checkpoint files that are not in `kept`, and temporary files that a kill left
    behind."""
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)


# -- checksums -------------------------------------------------------------------------------------

def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def signed(state: dict[str, Any]) -> str:
    """The state as JSON, with a checksum of its other fields added."""
    rest = {key: value for key, value in state.items() if key != "checksum"}
    return json.dumps({**rest, "checksum": _checksum(rest)}, indent=2)


def _checksum(rest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """Read a state file. Damaged where it is not a state or its own checksum differs. States from
    older versions have no checksums and pass."""
    try:
        state = read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, BadInput) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from None
    except ValueError:   # not JSON, or not UTF-8
        raise DamagedCheckpoint(f"{path} is damaged: not JSON") from None
    whole = (isinstance(state, dict) and isinstance(state.get("files"), dict)
             and "model" in state["files"] and type(state.get("iteration")) is int
             and state["iteration"] >= 0 and isinstance(state.get("sha256", {}), dict)
             and isinstance(state.get("best") or {}, dict)
             and all(isinstance(name, str) and OURS.fullmatch(name) for name in (
                 *state["files"].values(),
                 (state.get("best") or {}).get("file") or state["files"]["model"]))
             and ("sha256" not in state or {*state["files"].values()} <= {*state["sha256"]}))
    if not whole:
        raise DamagedCheckpoint(f"{path} is damaged: not the state of a checkpoint")
    checksum = state.pop("checksum", None)
    if (checksum is not None or "sha256" in state) and checksum != _checksum(state):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum differs")
    return state


def _verify(folder: Path, state: dict[str, Any], kinds: Iterable[str] | None) -> None:
    """Raise Damaged where a file of these kinds (None: all kinds) is missing or has another
    checksum."""
    for kind, name in state["files"].items():
        if kinds is not None and kind not in kinds:
            continue
        if not (folder / name).is_file():
            raise DamagedCheckpoint(f"{folder / name} is missing")
        if "sha256" in state and _digest(folder / name) != state["sha256"].get(name):
            raise DamagedCheckpoint(f"{folder / name} is damaged: its checksum differs")


# -- reading ---------------------------------------------------------------------------------------

def find(folder: Path,
         kinds: Iterable[str] | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """(the newest state whose files are whole, a sentence for the user where that is the older
    state); (None, None) where there is no checkpoint.

    `kinds` limits the check to files of these kinds. Every checked file is read and compared with
    its checksum. BadInput where no state is whole.
    """
    faults: list[str] = []
    for name in (STATE, PREVIOUS):
        try:
            state = _read(folder / name)
            _verify(folder, state, kinds)
        except FileNotFoundError:
            continue
        except DamagedCheckpoint as damage:
            faults.append(str(damage))
        else:
            older = f"the older checkpoint, of iteration {state['iteration']:,}, is used"
            return state, f"{faults[0]}; {older}" if faults else None
    if faults:
        raise BadInput(f"{'; '.join(faults)}: no checkpoint in {folder} is whole; --resume restart "
                       f"trains from the start")
    return None, None


def read_state(folder: Path) -> dict[str, Any] | None:
    """The newest readable state, or None where there is no checkpoint. The files that it names are
    not checked."""
    return find(folder, kinds=())[0]


def load_model(folder: Path, model: torch.nn.Module, which: str = "model",
               state: dict[str, Any] | None = None) -> str | None:
    """Load weights into the model; `which` is "model" (the last) or "best". Returns the sentence
    that `find` gives where the older checkpoint is used.

    The weights come from `state`, whose files `find` has verified, or without it from the newest
    checkpoint whose weights are whole. BadInput where they do not fit the model.
    """
    told = None
    if state is None:
        state, told = _whole(folder, which)
    name = _weights(folder, state, which)
    parameters = dict(model.named_parameters())
    missing, unexpected = model.load_state_dict(_loaded(folder / name, parameters.get),
                                                strict=False)
    tied = {"lm_head.weight"} if model.config.tie_weights else set()
    if set(missing) - tied or unexpected:
        raise BadInput(f"{folder / name}: these are not this model's weights "
                       f"(missing {sorted(set(missing) - tied)}, unexpected {sorted(unexpected)})")
    return told


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's weights, by name; BadInput where there are none."""
    return _loaded(folder / _weights(folder, _whole(folder, "model")[0], "model"))


def shapes(folder: Path, state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the newest weights, by name. Reads only the file's header."""
    path = folder / _weights(folder, state, "model")
    try:
        with safe_open(path, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: the weights cannot be read ({error})") from None


def _whole(folder: Path, which: str) -> tuple[dict[str, Any], str | None]:
    state, told = find(folder, kinds=(which,))
    if state is None:
        raise BadInput(f"{folder}: there is no checkpoint ({STATE} is missing)")
    return state, told


def _weights(folder: Path, state: dict[str, Any], which: str) -> str:
    name = state["files"]["model"] if which == "model" else (state.get("best") or {}).get("file")
    if name is None:
        raise BadInput(f"{folder}: no best weights were kept; train with --run.keep_best=true")
    return name


def _loaded(path: Path, parameter: Callable[[str], torch.Tensor | None] = lambda _: None
            ) -> Tensors:
    """The tensors of a file, by name. Where several processes share the parameter that a tensor
    belongs to, the rows of this process, with no more than one whole tensor in memory."""
    try:
        with safe_open(path, "pt") as opened:
            return {name: own_part(opened.get_tensor(name), parameter(name))
                    for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: the weights cannot be read ({error})") from None


def load_log(folder: Path, state: dict[str, Any]) -> bytes | None:
    """The checkpoint's copy of the CSV; None where an older version wrote the checkpoint without a
    copy."""
    name = state["files"].get("log")
    return (folder / name).read_bytes() if name else None


def load_optimizer(folder: Path, state: dict[str, Any], model: torch.nn.Module,
                   optimizer: torch.optim.Optimizer) -> None:
    """Load the checkpoint's optimizer state, bit for bit. torch's own `load_state_dict` puts each
    tensor on the device that the optimizer needs: a fused AdamW, for example, wants `step` on the
    parameter's device."""
    order = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(p): number for number, p in enumerate(order)}
    parameters = dict(model.named_parameters())
    entries: dict[int, dict[str, torch.Tensor]] = {}
    saved = _loaded(folder / state["files"]["optimizer"],
                    lambda key: parameters.get(key.rpartition("/")[0]))
    for key, tensor in saved.items():
        name, _, entry = key.rpartition("/")
        entries.setdefault(index[id(parameters[name])], {})[entry] = tensor
    optimizer.load_state_dict({"state": entries,
                               "param_groups": optimizer.state_dict()["param_groups"]})


def model_tensors(model: torch.nn.Module, keep: bool = True) -> Tensors:
    """Every parameter by its name; a tied one once. Of processes that share the parameters, all
    must call this, and those that `keep` the result get them whole, on the CPU."""
    return _gathered(model.named_parameters(), keep)


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer,
                      keep: bool = True) -> Tensors:
    """Every tensor of the optimizer's state, named 'parameter/entry'; `keep` as in
    model_tensors."""
    return _gathered(((f"{name}/{entry}", value) for name, p in model.named_parameters()
                      for entry, value in optimizer.state.get(p, {}).items()
                      if torch.is_tensor(value)), keep)


def _gathered(named: Iterable[tuple[str, torch.Tensor]], keep: bool) -> Tensors:
    tensors = {}
    for name, tensor in named:
        gathered = whole(tensor.detach())
        if keep:
            tensors[name] = gathered.cpu() if is_shard(tensor) else gathered
    return tensors


def locked(folder: Path, waiting: Callable[[], None] | None
           ) -> contextlib.AbstractContextManager[None]:
    """Lock a run's folder for this process. Where another process holds the lock, calls `waiting`
    and waits; raises Held where that is None."""
    folder.mkdir(parents=True, exist_ok=True)
    return held(folder / ".lock", waiting)
