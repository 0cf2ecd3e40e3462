"""
The runs of a study: which there are, in what order they run, which have ended, and how long the
rest will take.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from experiments.declare.study import Study
from experiments.records import codefiles
from experiments.records.record import FREE, RunFiles, near, now, process, read_record
from mingpt.utils import BadInput, CfgNode, read_json, write_atomic

if TYPE_CHECKING:
    from experiments.declare.spec import Spec

# The settings of the trainer that decide the cost of a run.
WORK = ("max_iters", "batch_size", "accumulation_steps", "optimizer", "dtype", "device")
ENDED = ("done", "diverged")   # running such a run once more would give the same


@dataclass(frozen=True)
class Request:
    """A study as the user asked for it. The overrides stay strings, because each run's own command
    line parses them."""
    study: Study
    out: Path
    preset: str | None = None
    data: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    processes: int | None = None      # that train one run together, on each of its hosts
    nodes: int | None = None          # hosts of one run, on SLURM

    def shared(self) -> list[str]:
        """The part of a command line that all runs and `tokenize` share."""
        preset = ["--preset", self.preset] if self.preset else []
        data = ["--data", *self.data] if self.data else []
        return [*preset, *data, *self.overrides]

    def arguments(self, job: Job) -> list[str]:
        """lab.py's arguments for one run."""
        return ["train", "--study", str(self.study.path), "--arm", job.arm, "--seed", str(job.seed),
                "--out", str(self.out), *self.shared(),
                *(["--processes", str(self.processes)] if self.processes else [])]

    def files(self, job: Job) -> RunFiles:
        """The files of one run."""
        return RunFiles(self.out, self.study.name, job.arm, job.seed)

    @property
    def logs(self) -> Path:
        """The folder of the study's logs."""
        return self.out / "logs" / self.study.name


@dataclass(frozen=True)
class Job:
    """One run of a study. `state` is its record's status, or `todo` without a record. `seconds` and
    `memory_mb` are expected values. `match` says how the arm's hidden size was matched."""
    arm: str
    seed: int
    state: str = "todo"
    seconds: float = 0.0
    memory_mb: float = 0.0
    match: str | None = None

    @property
    def name(self) -> str:
        """The run's name, ARM.s<SEED>."""
        return f"{self.arm}.s{self.seed}"

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run."""
        return self.state in ENDED


def order(study: Study) -> list[Job]:
    """All runs of a study: one seed after the other, with the arms of each seed shuffled.

    A machine that warms up, or another program that comes and goes, then affects all arms alike.
    A study that is cut short has complete pairs. The same study always gives the same order.
    """
    jobs = []
    for seed in study.seeds:
        arms = list(study.arms)
        random.Random(f"{study.name}/{seed}").shuffle(arms)   # recorded by write_order
        jobs += [Job(arm, seed) for arm in arms]
    return jobs


def looks(request: Request, jobs: list[Job]) -> Iterator[tuple[Request, list[Job]]]:
    """Yield (request, jobs) per look of the study's `stop`: the request with the seeds up to that
    look, and the jobs since the look before. Without looks there is one item with all jobs. Seeds
    beyond the last look, which only the command line can ask for, come last."""
    seeds = request.study.seeds
    ends = [n for n in request.study.stop if n < len(seeds)] + [len(seeds)]
    for begin, end in zip([0, *ends], ends, strict=False):
        until = dataclasses.replace(
            request, study=dataclasses.replace(request.study, seeds=seeds[:end]))
        yield until, [job for job in jobs if job.seed in seeds[begin:end]]


def read_order(request: Request) -> list[dict[str, Any]]:
    """The launches of a study so far, from OUT/logs/STUDY/order.json."""
    path = request.logs / "order.json"
    try:
        launches = read_json(path) if path.exists() else []
    except ValueError:
        launches = None
    return launches if isinstance(launches, list) else []     # it only informs: begin a new one


def write_order(request: Request, jobs: list[Job], slots: int, words: Iterable[str] = (),
                chosen: dict[str, Any] | None = None) -> Path:
    """Add this launch to OUT/logs/STUDY/order.json: the order of its runs, their expected seconds,
    the seeds of the shuffle, the launching process, how the number of runs at once was chosen, and
    the `words` after run_all.sh that would give the study again. Returns the path."""
    path, launches = request.logs / "order.json", read_order(request)
    launches.append({"launched": now(), "study_hash": request.study.hash, "at_once": slots,
                     "chosen": chosen,
                     "interleaved": "by seed",
                     "shuffled_by": [f"{request.study.name}/{seed}"
                                     for seed in request.study.seeds],
                     "runs": [job.name for job in jobs],
                     "seconds": [round(job.seconds, 1) for job in jobs],
                     "process": process(), "words": list(words), "folder": os.getcwd()})
    write_atomic(path, json.dumps(launches, indent=1) + "\n")
    return path


def make_plan(request: Request) -> list[Job]:
    """The runs in order, each with its state and expected cost. Raises BadInput for settings that
    no run can use."""
    specs = {arm: _spec(request, arm) for arm in request.study.arms}
    settings = {arm: spec.settings for arm, spec in specs.items()}
    _check_grids(request.study, settings)
    from mingpt.parallel.check import check_count  # imports torch
    for each in settings.values():
        check_count((request.processes or 1) * (request.nodes or 1), each.trainer)
    jobs, measured = [], {}
    for job in order(request.study):
        record = record_of(request, job, needs=("status", "config"))
        state = _state(request.files(job).json, record, settings[job.arm]) if record else "todo"
        if state == "done":
            measured.setdefault(job.arm, []).append(record["result"])
        match = specs[job.arm].match
        jobs.append(dataclasses.replace(job, state=state, match=match.line() if match else None))
    _check_data({job.arm: settings[job.arm] for job in jobs if not job.ended})
    costs = _costs(request, settings, measured)
    return [dataclasses.replace(job, seconds=costs[job.arm][0], memory_mb=costs[job.arm][1])
            for job in jobs]


def settings_of(request: Request, arm: str) -> CfgNode:
    """The settings that the runs of an arm have."""
    return _spec(request, arm).settings


def _check_grids(study: Study, settings: dict[str, CfgNode]) -> None:
    """Raise BadInput where a point of a learning-rate grid has the arm's own rate. The check is
    here because the preset's rate is only known now."""
    for arm, points in study.grids.items():
        for point in points:
            rate = settings[point].trainer.learning_rate
            if rate == settings[arm].trainer.learning_rate:
                raise BadInput(f"{study.path}: lr: arm {arm!r} has the learning rate {rate:g} "
                               f"already, and {point!r} would be the same run again: leave that "
                               f"rate out, or use another preset")


def _spec(request: Request, arm: str) -> Spec:
    from experiments.declare.spec import make_spec
    study = request.study
    try:
        return make_spec(preset=request.preset, study=study, arm=arm, data=list(request.data),
                         overrides=request.overrides)
    except BadInput as error:
        shared = any(key in str(error) for key in study.base)     # no fault of this arm
        where = f"{near(study.path)}: [base]" if shared else f"arm {arm!r}"
        raise BadInput(f"{where}: {error}") from None


def _check_data(settings: dict[str, CfgNode]) -> None:
    """Raise BadInput where the data of an arm names nothing that can be read."""
    from experiments.corpus import check_paths
    checked = []
    for arm, tree in settings.items():
        named = (tree.data.paths, tree.data.sources, tree.data.val_paths)
        if named not in checked:
            checked.append(named)
            with _named(arm):
                check_paths(tree.data)


@contextlib.contextmanager
def _named(arm: str) -> Iterator[None]:
    """Re-raise BadInput with the arm's name in front."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"arm {arm!r}: {error}") from None


def _state(path: Path, record: dict[str, Any], settings: CfgNode) -> str:
    """A record's status. Like the run itself, it raises BadInput where the record was written under
    other settings, or with other code of the user."""
    from experiments.declare.settings import completed, differences
    changed = differences(completed(record["config"]), settings)
    code = codefiles.changed(codefiles.named(record), codefiles.identify(settings.to_dict()))
    fixed = [f"{key} changed: {was} → {now}" for key, (was, now) in code.items()]
    fixed += [f"{key} {was!r} → {now!r}" for key, (was, now) in changed.items() if key not in FREE]
    if fixed:
        what = "code" if len(fixed) == len(code) else "settings"
        raise BadInput(f"{near(path)}: {record['status']} under other {what}: "
                       f"{', '.join(fixed)}; give another --out, or move that run's files away")
    # Other paths may hold the same data; only the run itself can tell.
    moved = {"data.paths", "data.sources", "data.val_paths"} & set(changed)
    return "todo" if moved else record["status"]


def record_of(request: Request, job: Job, needs: Iterable[str] = ()) -> dict[str, Any] | None:
    """A run's record so far; None where there is none, where the file is not a record, or where it
    lacks one of the keys in `needs`."""
    path = request.files(job).json
    if not path.exists():
        return None
    try:
        return read_record(path, needs)
    except BadInput:
        return None   # the run itself stops and says what is wrong with the file


def _costs(
    request: Request, settings: dict[str, CfgNode], measured: dict[str, list[dict]]
) -> dict[str, tuple[float, float]]:
    """(seconds, MB) per arm: those of its finished runs, else predicted. Arms that compute the same
    share one prediction."""
    from experiments.train.predict import predict, run_seconds
    predictions: dict[str, Any] = {}
    costs = {}
    for arm, tree in settings.items():
        if arm in measured:
            training = mean(result["seconds"] for result in measured[arm])
            costs[arm] = (run_seconds(tree, training / tree.trainer.max_iters),
                          max(result["peak_memory_mb"] or 0.0 for result in measured[arm]))
            continue
        sections = [section.to_dict() for section in (tree.model, tree.run, tree.data)]
        work = str([*sections, *(getattr(tree.trainer, key) for key in WORK)])
        if work not in predictions:
            with _named(arm):
                predictions[work] = (_tried(request, arm) if (request.processes or 1) > 1
                                     else astuple(predict(tree)))
        costs[arm] = predictions[work]
    return costs


def _tried(request: Request, arm: str) -> tuple[float, float]:
    """(seconds, MB) of an arm's run in several processes on this host, which take a few of its
    steps. Raises BadInput where it would not fit."""
    lab = Path(__file__).resolve().parents[2] / "lab.py"
    words = request.arguments(Job(arm, request.study.seeds[0]))
    done = subprocess.run([sys.executable, str(lab), *words, "--dry-run", "--json"],
                          capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its dry run ended with {done.returncode}"]
        raise BadInput(said[-1].removeprefix("error: "))
    plan = json.loads(done.stdout)
    return plan["predicted_seconds"], plan["predicted_memory_mb"]


def seconds_left(jobs: list[Job]) -> float:
    """Expected seconds of the runs that have not ended, if they run one after the other."""
    return sum(job.seconds for job in jobs if not job.ended)


def makespan(running: Iterable[float], waiting: Iterable[float], slots: int) -> float:
    """Seconds until all runs have ended: `running` are what the present ones still need, `waiting`
    what the others take. Each starts as soon as one of the `slots` is free."""
    free = sorted(running)
    free = [0.0] * (slots - len(free)) + free
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)


def duration(seconds: float) -> str:
    """Return seconds as text: '45 s', '12 min', '3 h 05 min', '263 days'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes > 4 * 24 * 60:
        return f"{minutes / (24 * 60):,.0f} days"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
