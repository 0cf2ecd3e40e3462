"""
Submits a study's plan to SLURM: a job that tokenises, one array over the runs (several for more
runs than SLURM takes in one), and a job that plots when they have ended.

A plan file, written at submission, says what each array task runs. A resubmission leaves out runs
that are done or queued, and numbers its tasks anew. It writes its own plan file, so the tasks that
are still waiting keep theirs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launch.launch import ROOT, tokenize_arguments
from experiments.launch.plan import Job, Request
from mingpt.utils import BadInput, read_json, write_atomic

SCRIPT = ROOT / "run_single.sh"
LONGEST = 12 * 60      # most minutes asked for; a longer run is queued again and continues
MOST_TASKS = 1000      # runs per array: SLURM's default for MaxArraySize is 1001
SIGNAL_LEAD = 120      # seconds before the time limit at which SLURM tells a run to save
WALLTIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


@dataclass(frozen=True)
class Resources:
    """Options for sbatch. None leaves the default of SLURM or of run_single.sh."""
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    gres: str | None = None
    time: str | None = None
    array_max: int | None = None
    more: tuple[str, ...] = ()     # other options, passed to sbatch unchanged
    nodes: int | None = None       # of one run

    def common(self) -> list[str]:
        """The options of all jobs. The tokenising and the plotting job have only these, and so ask
        for no GPU."""
        named = {"partition": self.partition, "qos": self.qos, "account": self.account}
        return [*(f"--{key}={value}" for key, value in named.items() if value), *self.more]

    def run(self, seconds: float) -> list[str]:
        """The options of a run that is expected to take `seconds`."""
        gres = self.gres or ("gpu:1" if cluster_has_gpus(self.partition) else "none")
        limit = self.time or str(walltime(seconds))
        lead = min(SIGNAL_LEAD, parse_walltime(limit) // 3)
        return [*self.common(), f"--time={limit}", f"--signal=B:USR1@{lead}", "--requeue",
                "--open-mode=append", *([f"--gres={gres}"] if gres != "none" else []),
                *([f"--nodes={self.nodes}"] if self.nodes else [])]


def available() -> bool:
    """Whether this machine can submit to SLURM: sbatch is on the PATH and has a configuration.

    A machine may have SLURM's packages without any configuration; that is no cluster. A cluster
    that does not answer counts as one, and submitting then fails with SLURM's own message.
    """
    if not shutil.which("sbatch"):
        return False
    probe = subprocess.run(["sbatch", "--version"], capture_output=True, text=True)
    return "configuration source" not in probe.stderr


def walltime(seconds: float) -> int:
    """Minutes to ask for: twice the expected time plus 15 for the start, at most LONGEST. A killed
    job costs more than one that ends early."""
    return min(LONGEST, math.ceil(2 * seconds / 60) + 15)


def parse_walltime(text: str) -> int:
    """A SLURM time in seconds. It has one of the forms M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; any
    other raises BadInput."""
    match = WALLTIME.fullmatch(text)
    if not match:
        raise BadInput(f"--time {text}: not a SLURM time; write minutes, H:MM:SS or D-HH:MM:SS")
    a, b, c = (int(match[key] or 0) for key in "abc")
    if match["d"] is not None:
        return ((int(match["d"]) * 24 + a) * 60 + b) * 60 + c
    return (a * 60 + b) * 60 + c if match["c"] is not None else a * 60 + b


def cluster_has_gpus(partition: str | None) -> bool:
    """Whether nodes of the partition have GPUs; without a partition, whether any nodes have."""
    if not shutil.which("sinfo"):
        return False
    chosen = ["-p", partition] if partition else []
    return "gpu" in _slurm("sinfo", "-h", "-o", "%G", *chosen)


def submit(request: Request, jobs: list[Job], resources: Resources,
           tokenize_here: bool = False) -> dict[str, str]:
    """Submit the runs and return the ids of the jobs `runs` and `plot`, and of `tokenize` unless
    that is done here.

    Raises BadInput with SLURM's own message where SLURM refuses.
    """
    ids, after = {}, []
    request.logs.mkdir(parents=True, exist_ok=True)
    if not tokenize_here:
        ids["tokenize"] = ":".join(_sbatch(request, "tokenize", resources.common(), arguments)
                                   for arguments in tokenize_arguments(request))
        # No run can start without a corpus. SLURM shall drop them all, not hold them forever.
        after = [f"afterok:{ids['tokenize']}"]
    arrays: list[str] = []
    try:
        for start in range(0, len(jobs), MOST_TASKS):
            # where only so many runs may train at once, an array waits for the one before it
            chain = [f"afterany:{arrays[-1]}"] if arrays and resources.array_max else []
            arrays.append(_submit_array(request, jobs[start:start + MOST_TASKS], resources,
                                        after + chain))
    except BadInput:
        if begun := [*filter(None, ids.get("tokenize", "").split(":")), *arrays]:
            _slurm("scancel", *begun)
        raise
    ids["runs"] = ":".join(arrays)
    seeds = ",".join(map(str, request.study.seeds))
    ids["plot"] = _sbatch(
        request, "plot", [*resources.common(), f"--dependency=afterany:{ids['runs']}"],
        ["study", str(request.study.path), "--seeds", seeds, "--out", str(request.out),
         *request.shared(), "--plot"])
    return ids


def _submit_array(request: Request, jobs: list[Job], resources: Resources,
                  after: list[str]) -> str:
    """Submit one array of runs with its plan file, and return the job's id. `after` lists what the
    array waits for."""
    plan = _write_plan(request, jobs)
    most = f"%{resources.array_max}" if resources.array_max else ""
    waits = [f"--dependency={','.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    job_id = _sbatch(request, "runs", [*resources.run(max(job.seconds for job in jobs)), *waits,
                                       f"--array=0-{len(jobs) - 1}{most}"],
                     ["study", "--plan", str(plan)])
    _note_job(plan, job_id)
    return job_id


def _sbatch(request: Request, what: str, options: list[str], arguments: list[str]) -> str:
    """Submit run_single.sh with lab.py's arguments and return the job's id."""
    pattern = "%A_%a.out" if what == "runs" else f"{what}_%j.out"
    output = str(request.logs / "_").replace("%", "%%")[:-1] + pattern
    name = f"{request.study.name}:{what}"
    return _slurm("sbatch", "--parsable", f"--job-name={name}", f"--output={output}", *options,
                  str(SCRIPT), *arguments).strip().partition(";")[0]


def _slurm(*command: str) -> str:
    """The output of one of SLURM's commands. Raises BadInput with its error output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise BadInput(f"SLURM refuses `{command[0]}`: {words} (--local trains here, without "
                       f"SLURM)")
    return done.stdout


def _write_plan(request: Request, jobs: list[Job]) -> Path:
    """Write the plan file, which lists the arguments of each task's run, and return its path."""
    count = sum(1 for _ in request.logs.glob("plan-*.json"))
    path = request.logs / f"plan-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{count}.json"
    runs = [{"arm": job.arm, "seed": job.seed, "arguments": request.arguments(job)} for job in jobs]
    write_atomic(path, json.dumps({"study": str(request.study.path), "job": None, "runs": runs},
                                  indent=1) + "\n")
    return path


def _note_job(path: Path, job_id: str) -> None:
    write_atomic(path, json.dumps(_read_plan(path) | {"job": job_id}, indent=1) + "\n")


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: no readable plan ({error})") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("runs"), list):
        raise BadInput(f"{path}: no readable plan (it lists no runs)")
    return plan


def task_arguments(plan: Path, task: int) -> list[str]:
    """lab.py's arguments for one task of an array. Raises BadInput for a number without a task."""
    runs = _read_plan(plan)["runs"]
    if not all(isinstance(run, dict) and isinstance(run.get("arguments"), list)
               and all(isinstance(word, str) for word in run["arguments"]) for run in runs):
        raise BadInput(f"{plan}: no readable plan (a run of it has no arguments)")
    if not 0 <= task < len(runs):
        raise BadInput(f"{plan}: no task {task}; it has 0 to {len(runs) - 1}")
    return runs[task]["arguments"]


def queued(request: Request) -> dict[tuple[str, int], str]:
    """The runs that earlier submissions still hold, waiting or running: {(arm, seed): job id}.

    Raises BadInput where SLURM does not say: submitting then could queue a run twice.
    """
    held = {}
    for path in sorted(request.logs.glob("plan-*.json")):
        plan = _read_plan(path)
        if plan["job"] is None:
            continue
        try:
            listed = _slurm("squeue", "-h", "-r", "-j", plan["job"], "-o", "%K")
        except BadInput as refused:
            if "Invalid job id" in str(refused):
                continue        # SLURM has forgotten the job, so it holds nothing
            raise
        for task in listed.split():
            if task.isdecimal():
                run = plan["runs"][int(task)]
                held[run["arm"], run["seed"]] = plan["job"]
    return held
