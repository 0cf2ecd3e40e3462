"""
The runs of a study: which, in what order, what is done already, and how long the rest will take.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from experiments.declare.study import Study
from experiments.records.record import FREE, RunFiles, now, read_record
from mingpt.utils import BadInput, CfgNode, write_atomic

if TYPE_CHECKING:
    from experiments.declare.spec import Spec

# of the trainer's settings
WORK = ("max_iters", "batch_size", "accumulation_steps", "optimizer", "dtype", "device")
ENDED = ("done", "diverged")   # states in which running once more would give the same


@dataclass(frozen=True)
class Request:
    """A study as the user asked for it. The settings stay strings, as each run's own command line
    will read them."""
    study: Study
    out: Path
    preset: str | None = None
    data: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def shared(self) -> list[str]:
        """The part of a command line that all runs and the tokenizer have in common."""
        preset = ["--preset", self.preset] if self.preset else []
        data = ["--data", *self.data] if self.data else []
        return [*preset, *data, *self.overrides]

    def arguments(self, job: Job) -> list[str]:
        """lab.py's arguments for one run."""
        return ["train", "--study", str(self.study.path), "--arm", job.arm, "--seed", str(job.seed),
                "--out", str(self.out), *self.shared()]

    def files(self, job: Job) -> RunFiles:
        return RunFiles(self.out, self.study.name, job.arm, job.seed)

    @property
    def logs(self) -> Path:
        return self.out / "logs" / self.study.name


@dataclass(frozen=True)
class Job:
    """One run of a study. `state`: its record's status, `todo` without one. `seconds`, `memory_mb`:
    expected. `match`: how the arm's hidden size was matched."""
    arm: str
    seed: int
    state: str = "todo"
    seconds: float = 0.0
    memory_mb: float = 0.0
    match: str | None = None

    @property
    def name(self) -> str:
        return f"{self.arm}.s{self.seed}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def order(study: Study) -> list[Job]:
    """All runs, one seed after the other, the arms of a seed shuffled.

    A machine that warms up or a neighbour that comes and goes then meets every arm alike, and a
    study cut short has whole pairs. The same study always gives the same order.
    """
    jobs = []
    for seed in study.seeds:
        arms = list(study.arms)
        random.Random(f"{study.name}/{seed}").shuffle(arms)   # recorded by write_order
        jobs += [Job(arm, seed) for arm in arms]
    return jobs


def looks(request: Request, jobs: list[Job]) -> Iterator[tuple[Request, list[Job]]]:
    """The runs between one look of the study's `stop` and the next, with the study as it is up to
    there. Without looks, all of them at once; seeds beyond the last look, which only the command
    line can ask for, come last."""
    seeds = request.study.seeds
    ends = [n for n in request.study.stop if n < len(seeds)] + [len(seeds)]
    for begin, end in zip([0, *ends], ends, strict=False):
        until = dataclasses.replace(request, study=dataclasses.replace(request.study,
                                                                       seeds=seeds[:end]))
        yield until, [job for job in jobs if job.seed in seeds[begin:end]]


def write_order(request: Request, jobs: list[Job], slots: int) -> Path:
    """Add to OUT/logs/STUDY/order.json in which order these runs were begun and what it was drawn
    from."""
    path = request.logs / "order.json"
    launches = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    launches.append({"launched": now(), "study_hash": request.study.hash, "at_once": slots,
                     "interleaved": "by seed",
                     "shuffled_by": [f"{request.study.name}/{seed}"
                                     for seed in request.study.seeds],
                     "runs": [job.name for job in jobs]})
    write_atomic(path, json.dumps(launches, indent=1) + "\n")
    return path


def make_plan(request: Request) -> list[Job]:
    """The runs in order, each with its state and expected cost. Raises BadInput for settings that
    no run can have."""
    specs = {arm: _spec(request, arm) for arm in request.study.arms}
    settings = {arm: spec.settings for arm, spec in specs.items()}
    _check_grids(request.study, settings)
    jobs, measured = [], {}
    for job in order(request.study):
        record = record_of(request, job)
        state = _state(request.files(job).json, record, settings[job.arm]) if record else "todo"
        if state == "done":
            measured.setdefault(job.arm, []).append(record["result"])
        match = specs[job.arm].match
        jobs.append(dataclasses.replace(job, state=state, match=match.line() if match else None))
    costs = _costs(settings, measured)
    return [dataclasses.replace(job, seconds=costs[job.arm][0], memory_mb=costs[job.arm][1])
            for job in jobs]


def _check_grids(study: Study, settings: dict[str, CfgNode]) -> None:
    """No point of a learning-rate grid may be the arm itself once more: only here is the preset's
    own rate known."""
    for arm, points in study.grids.items():
        for point in points:
            rate = settings[point].trainer.learning_rate
            if rate == settings[arm].trainer.learning_rate:
                raise BadInput(f"{study.path}: lr: arm {arm!r} has the learning rate {rate:g} "
                               f"anyway, and {point!r} "
                               "would be the same run again: leave that rate out, or take another "
                               "preset")


def _spec(request: Request, arm: str) -> Spec:
    from experiments.declare.spec import make_spec
    with _named(arm):
        return make_spec(preset=request.preset, study=request.study.path, arm=arm,
                         data=list(request.data), overrides=request.overrides)


@contextlib.contextmanager
def _named(arm: str) -> Iterator[None]:
    """Bad input inside is said to be this arm's."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"arm {arm!r}: {error}") from None


def _state(path: Path, record: dict[str, Any], settings: CfgNode) -> str:
    """A record's status. Raises BadInput when it was written under other settings, as the run
    itself would."""
    from experiments.declare.settings import completed, differences
    changed = differences(completed(record["config"]), settings)
    fixed = [f"{key} {was!r} → {now!r}" for key, (was, now) in changed.items() if key not in FREE]
    if fixed:
        raise BadInput(f"{path}: {record['status']} under other settings: {', '.join(fixed)}; give "
                       f"another --out, or "
                       "move that run's files away")
    # other paths may hold the same data, which only the run can tell
    return "todo" if "data.paths" in changed else record["status"]


def record_of(request: Request, job: Job) -> dict[str, Any] | None:
    """What a run has recorded so far; None when it has not begun, or its record is from another
    program."""
    path = request.files(job).json
    if not path.exists():
        return None
    try:
        return read_record(path)
    except BadInput:
        return None   # the run itself says what is wrong with it, and stops


def _costs(settings: dict[str, CfgNode], measured: dict[str, list[dict]]) -> dict[str,
                                                                                  tuple[float,
                                                                                        float]]:
    """Seconds and MB an arm: as its finished runs took, else predicted, once for all arms that
    compute the same."""
    from experiments.train.predict import START_SECONDS, predict
    predictions: dict[str, Any] = {}
    costs = {}
    for arm, tree in settings.items():
        if arm in measured:
            costs[arm] = (START_SECONDS + mean(result["seconds"] for result in measured[arm]),
                          max(result["peak_memory_mb"] or 0.0 for result in measured[arm]))
            continue
        sections = [section.to_dict() for section in (tree.model, tree.run, tree.data)]
        work = str([*sections, *(getattr(tree.trainer, key) for key in WORK)])
        if work not in predictions:
            with _named(arm):
                predictions[work] = predict(tree)
        costs[arm] = (predictions[work].seconds, predictions[work].memory_mb)
    return costs


def is_alive(record: dict[str, Any]) -> bool | None:
    """Whether the process that writes a record runs; None when that is another machine's affair."""
    process = record.get("process") or {}
    if process.get("host") != socket.gethostname():
        return None
    try:
        os.kill(int(process["pid"]), 0)
    except (ProcessLookupError, OverflowError):   # or no system has a process of that number
        return False
    except PermissionError:
        return True   # somebody else's
    return True


def status_of(record: dict[str, Any]) -> str:
    """A record's status; `killed` when it says running and its process is gone, `missing` without a
    record."""
    status = record.get("status", "missing")
    return "killed" if status == "running" and is_alive(record) is False else status


def seconds_left(jobs: list[Job]) -> float:
    """Expected seconds of the runs that have not ended, one after the other."""
    return sum(job.seconds for job in jobs if not job.ended)


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
