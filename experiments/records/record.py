"""
Write what a run leaves behind: a CSV with one row per log point, and one JSON record. Does not need
torch, except for `environment`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.system import file_name
from mingpt.utils import BadInput, read_json, write_atomic

SCHEMA = 1
COLUMNS = ("iteration", "loss", "val_loss", "learning_rate", "grad_norm", "tokens", "flops",
           "seconds", "tokens_per_second", "peak_memory_mb")
# Settings that may differ between a run and its continuation, because they change no number that
# the run computes.
FREE = frozenset({"trainer.device", "trainer.num_workers", "trainer.context_processes",
                  "data.cache", "data.paths", "data.sources", "data.val_paths",
                  "run.allow_audit_fail", "run.logger"})
# The kind of value that a record has under a key. Any of them may be null or missing.
SHAPE: dict[str, type] = {
    **dict.fromkeys(("config", "data", "process", "progress", "result", "model", "changes",
                     "environment", "audit", "code", "declaration", "match", "init", "sample"),
                    dict),
    **dict.fromkeys(("status", "study", "study_hash", "arm", "id", "message", "command", "preset",
                     "config_hash", "start", "end"), str),
    **dict.fromkeys(("notes", "resumed", "spikes"), list), "seed": int}
# The same for what lies deeper.
PARTS: dict[tuple[str, str], type] = {
    ("data", "hash"): str, ("data", "tokenizer"): str, ("data", "validation"): dict,
    ("environment", "device"): str, ("code", "commit"): str}
# Numbers in `result`, `progress` and `model`.
NUMBERS = frozenset({*COLUMNS, "perplexity", "bits_per_byte", "iterations", "max_iters",
                     "parameters", "non_embedding", "trainable", "flops_per_token", "sparsity",
                     "compute_sparsity"})
MAX_SEED = 2**63 - 1     # the greatest int64: seeds are kept in int64 arrays
ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[\w.-]+")      # of a package, at the start of a requirement


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run: OUT/losses/[STUDY/]ARM.s<SEED>.csv and .json, and
    OUT/checkpoints/[STUDY/]ARM.s<SEED>/."""
    out: Path
    study: str | None
    arm: str
    seed: int

    def __post_init__(self):
        """Raise BadInput where the study's or the arm's name would lead out of these folders."""
        if self.study is not None:
            file_name(self.study, "study")
        file_name(self.arm, "arm")

    @property
    def name(self) -> str:
        """[STUDY/]ARM.s<SEED>."""
        return "/".join(filter(None, [self.study, f"{self.arm}.s{self.seed}"]))

    @property
    def csv(self) -> Path:
        """The path of the run's log points."""
        return Path(self.out) / "losses" / f"{self.name}.csv"

    @property
    def json(self) -> Path:
        """The path of the run's record."""
        return Path(self.out) / "losses" / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """The folder of the run's checkpoints."""
        return Path(self.out) / "checkpoints" / self.name


def near(path: Path) -> Path:
    """The path as it is shown to the user: relative to the current folder where it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def begun_line(init: Mapping[str, Any]) -> str:
    """One line on the weights that a run begins with, from a record's `init`."""
    taken = init["taken"]
    if taken is None:
        return f"init {init['source']}: not fetched here"
    parts = [f"{taken['parameters']:,} parameters from {init['source']}"]
    parts += [f"{name}: {how}" for name, how in taken["made"].items()]
    parts += [f"{what}: {', '.join(taken[what])}" for what in ("new", "dropped") if taken[what]]
    return "init " + "; ".join(parts)


def trainable_line(model: Mapping[str, Any]) -> str | None:
    """'trainable 30,707,712 of 133,886,208 (22.94 %)', from a record's `model`. None where all
    parameters are trained."""
    trained, total = model["trainable"], model["parameters"]
    return (None if trained == total
            else f"trainable {trained:,} of {total:,} ({100 * trained / total:.2f} %)")


def read_record(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Read a run's JSON record. BadInput where it is not readable, not of this schema, or without
    one of the keys in `needs`."""
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable record ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BadInput(f"{path}: not a record of schema {SCHEMA}")
    absent = [f"it has no {key}" for key in needs if record.get(key) is None]
    if fault := misshapen(record) or next(iter(absent), None):
        raise BadInput(f"{path}: not a readable record ({fault})")
    return record


def misshapen(record: Mapping[str, Any]) -> str | None:
    """What is wrong with the shape of a record: a key that holds another kind of value than records
    have there. None where nothing is. Keys may be missing, as records of older versions lack
    some."""
    held = {key: (record.get(key), kind) for key, kind in SHAPE.items()}
    held |= {f"{key}.{part}": ((record[key] or {}).get(part), kind)
             for (key, part), kind in PARTS.items() if isinstance(record.get(key), dict)}
    for key, (value, kind) in held.items():
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            return f"{key} is a {type(value).__name__}"
    for section in ("result", "progress", "model"):
        for name, value in (record.get(section) or {}).items():
            if name in NUMBERS and type(value) not in (int, float, type(None)):
                return f"{section}.{name} is a {type(value).__name__}"
    for section, settings in (record.get("config") or {}).items():
        if not isinstance(settings, dict):
            return f"config.{section} is a {type(settings).__name__}"
        for name, value in settings.items():
            if isinstance(value, dict):
                return f"config.{section}.{name} is a table"
    return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write or replace a run's JSON record, atomically."""
    write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def config_hash(config: Mapping[str, Any]) -> str:
    """A hash of a configuration, 12 hex digits long."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def new_id() -> str:
    """A random id for one start of a run, 12 hex digits long."""
    return secrets.token_hex(6)


def now() -> str:
    """The time in UTC, in ISO format, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def moment(text: Any) -> datetime.datetime | None:
    """Return the moment in UTC that an ISO time names; None where the text is not one. A time
    without a zone is read as UTC, the zone in which runs write theirs."""
    try:
        time = datetime.datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
                ).astimezone(datetime.UTC)
    except (TypeError, ValueError, OverflowError):     # OverflowError: before year 1 in UTC
        return None


def process() -> dict[str, Any]:
    """The process that writes this record: host, pid, and the SLURM job, None outside SLURM."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm_job()}


def slurm_job() -> str | None:
    """The id of this SLURM job: '123', or '123_4' for an element of an array. Requeuing the
    job does not change it. None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@cache
def code_version() -> dict[str, Any]:
    """The project's version; and the commit, and whether the tree is dirty, where the code runs
    from a git clone (else None)."""
    def git(*args: str) -> str | None:
        try:
            # without a lock, which a killed run would leave behind: the user could commit no more
            done = subprocess.run(["git", "--no-optional-locks", "-C", str(ROOT), *args],
                                  capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"version": package_version(),
            "commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def package_version() -> str | None:
    """The version of this project; None where it is not installed as a package."""
    try:
        return metadata.version("ablate")
    except metadata.PackageNotFoundError:
        return None


def packages() -> dict[str, str]:
    """The exact version of every package that this project depends on and that is installed."""
    found = {}
    for needed in metadata.requires("ablate") or ():
        name, extra = NAME.match(needed)[0], "extra ==" in needed
        with contextlib.suppress(metadata.PackageNotFoundError):
            if not extra:
                found[name] = metadata.version(name)
    return found


def version_lines() -> list[str]:
    """What `lab.py --version` prints: this project, its commit, Python, and the packages."""
    code = code_version()
    commit = f" ({code['commit'][:12]}{', changed' if code['dirty'] else ''})" \
        if code["commit"] else ""
    return [f"ablate {code['version'] or 'not installed'}{commit}",
            f"python {platform.python_version()}",
            *(f"{name} {version}" for name, version in packages().items())]


def environment(device: str) -> dict[str, Any]:
    """The software and hardware that the run uses."""
    import torch
    cuda = str(device).startswith("cuda")
    return {"python": platform.python_version(), "torch": torch.__version__,
            "numpy": metadata.version("numpy"), "packages": packages(),
            "platform": platform.platform(),
            "cpu": processor(), "cores": cores(), "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if cuda else str(device)}


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, or of its architecture where the system gives no name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Log:
    """Write the CSV of a run: one row per log point, flushed at once. `before` is the content to
    continue from, a checkpoint's copy of the CSV; None starts a new file. `more` are columns after
    COLUMNS, such as the loss on each source."""

    def __init__(self, path: Path, before: bytes | None = None, more: Sequence[str] = ()):
        self.path, self.columns = path, (*COLUMNS, *more)
        write_atomic(path, ",".join(self.columns) + "\n" if before is None else before)
        # No context manager: the file stays open as long as the run, and close() ends it.
        self.file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def row(self, values: Mapping[str, Any]) -> Callable[[], None]:
        """Append one row. A column without a value stays empty. The returned function brings the
        row to the file; where the disk is full, it may be called again."""
        self.file.write(",".join(_cell(values.get(column)) for column in self.columns) + "\n")
        return self.file.flush

    def content(self) -> bytes:
        """The whole file as bytes, after it is synced to the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.path.read_bytes()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # 9 digits distinguish any two float32 numbers
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def at(record: Any, *keys: str) -> Any:
    """record[k1][k2]…, or None where a key is missing. A record may come from any version or
    program, so no key is certain."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record
