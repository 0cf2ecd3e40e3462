"""
What a study's launcher shows the user: the plan, and how the runs ended.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from experiments.launch.alive import status_of, written_at
from experiments.launch.next_steps import study_steps
from experiments.launch.plan import Job, Request, duration, order, record_of, seconds_left
from experiments.launch.progress import speed_up
from experiments.records.record import near
from experiments.system import terminal

if TYPE_CHECKING:
    from experiments.declare.ladder import Ladder
    from experiments.launch.climb import PlannedRung


def plan(request: Request, jobs: list[Job], slots: int, as_json: bool = False) -> None:
    """Print the arms, the runs that are left, and the time that they should take."""
    if as_json:
        print(json.dumps(_plan_dict(request, jobs, slots), indent=2))
        return
    study, console = request.study, terminal()
    console.print(f"study {study.name}", style="bold")
    for title, text in (("question", study.question), ("hypothesis", study.hypothesis)):
        if text:
            console.print(f"{title + ':':<12}{text}")
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "changes"):
        table.add_column(name)
    for name in ("to do", "ended", "per run", "memory"):
        table.add_column(name, justify="right")
    for arm, changes in study.arms.items():
        mine = [job for job in jobs if job.arm == arm]
        ended = sum(job.ended for job in mine)
        what = ", ".join(f"{key}={value}" for key, value in changes.items()) or "–"
        what += f"; {mine[0].match}" if mine[0].match else ""
        table.add_row(Text(arm + (" (baseline)" if arm == study.baseline else "")), Text(what),
                      str(len(mine) - ended), str(ended), duration(mine[0].seconds),
                      f"{mine[0].memory_mb:.0f} MB")
    console.print(table)
    left = sum(not job.ended for job in jobs)
    console.print(f"{len(jobs)} runs, {len(jobs) - left} ended, {left} to do: about "
                  f"{duration(seconds_left(jobs) / speed_up(slots))} of training here, results "
                  f"under {near(request.out / 'losses' / study.name)}",
                  soft_wrap=True)


def climb(request: Request, rungs: Sequence[PlannedRung], as_json: bool = False) -> None:
    """Print the rungs of a ladder and what each costs."""
    study, total = request.study, sum(rung.seconds for rung in rungs)
    if as_json:
        print(json.dumps({"ladder": study.name, "question": study.question, "seconds_left": total,
                          "rungs": [{"study": rung.name, "parameters": rung.parameters,
                                     "iterations": rung.iterations, "batch_size": rung.batch_size,
                                     "learning_rate": rung.rate, "flops": rung.flops,
                                     "held_out": rung.held_out, "runs": len(rung.jobs),
                                     "to_do": sum(not job.ended for job in rung.jobs),
                                     "seconds_left": rung.seconds} for rung in rungs]}, indent=2))
        return
    console = terminal()
    console.print(f"ladder {study.name}", style="bold")
    for title, text in (("question", study.question), ("hypothesis", study.hypothesis)):
        if text:
            console.print(f"{title + ':':<12}{text}")
    console.print(f"{'arms:':<12}{', '.join(study.arms)}; rates: {study.ladder.lr}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("rung")
    for name in ("parameters", "steps", "batch", "rate", "FLOPs", "to do", "ended", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for rung in rungs:
        left = sum(not job.ended for job in rung.jobs)
        table.add_row(Text(rung.name), f"{rung.parameters:,}", f"{rung.iterations:,}",
                      str(rung.batch_size), _rate(study.ladder, rung), f"{rung.flops:.1e}",
                      str(left), str(len(rung.jobs) - left), duration(rung.seconds))
    console.print(table)
    if ahead := [rung.name for rung in rungs if rung.held_out]:
        console.print(f"predicted before training: {', '.join(ahead)}", markup=False)
    console.print(f"about {duration(total)} of training here, one run after the other",
                  soft_wrap=True)


def _rate(ladder: Ladder, rung: PlannedRung) -> str:
    """A rung's learning rate, as the plan shows it."""
    if ladder.lr != "tuned":
        return f"{rung.rate:.3g}"
    return "tuned" if "rung" in rung.table else f"{ladder.grid[0]:g}–{ladder.grid[-1]:g}"


def _plan_dict(request: Request, jobs: list[Job], slots: int) -> dict[str, Any]:
    study = request.study
    return {"study": study.name, "file": str(study.path), "hash": study.hash,
            "question": study.question, "hypothesis": study.hypothesis,
            "baseline": study.baseline, "metric": study.metric, "margin": study.margin,
            "alpha": study.alpha, "stop": list(study.stop), "match": study.match,
            "arms": study.arms, "seeds": study.seeds, "out": str(request.out),
            "runs": [{"arm": job.arm, "seed": job.seed, "state": job.state, "seconds": job.seconds,
                      "memory_mb": job.memory_mb, "match": job.match} for job in jobs],
            "seconds_left": seconds_left(jobs) / speed_up(slots)}


def decided(request: Request) -> bool:
    """Judge the study at one of its looks. True if every arm is decided, which ends the study."""
    from experiments.records.runs import runs_in
    from experiments.verdicts.results import Results
    runs = runs_in(request.out / "losses" / request.study.name, request.study.name)
    verdicts = Results(request.study.name, tuple(runs), request.study).verdicts
    unsettled = [arm for arm, verdict in verdicts.items() if verdict.word == "undecided"]
    told = f"undecided: {', '.join(unsettled)}; going on" if unsettled else (
        "every arm is decided; no more seeds" if verdicts else "no verdicts; going on")
    print(f"a look after {len(request.study.seeds)} seeds: {told}", file=sys.stderr)
    return bool(verdicts) and not unsettled


def outcome(request: Request, refused: Iterable[Job] = (), as_json: bool = False,
            words: Sequence[str] | None = None) -> bool:
    """Print how the runs of the study ended, naming those that are not done, and what to do next.
    `words` are those after run_all.sh that gave the study. True if all are done."""
    turned_away = {(job.arm, job.seed) for job in refused}
    runs = []
    for job in order(request.study):
        record = record_of(request, job) or {}
        status = ("refused" if (job.arm, job.seed) in turned_away
                  else status_of(record, written_at(request.files(job).json)))
        runs.append({"arm": job.arm, "seed": job.seed, "status": status,
                     "message": record.get("message"),
                     "val_loss": (record.get("result") or {}).get("val_loss"),
                     "record": str(request.files(job).json),
                     "log": str(request.logs / f"{job.name}.log")})
    counts = Counter(run["status"] for run in runs)
    steps = study_steps([run | {"study": request.study.name} for run in runs], request.study.name,
                        near(request.out), words)
    if as_json:
        print(json.dumps({"study": request.study.name, "counts": counts, "runs": runs,
                          "next": [asdict(step) for step in steps]}, indent=2))
    else:
        _say_outcome(runs, counts)
        print("\n".join(["next:", *(line for step in steps for line in step.lines())]))
    return counts["done"] == len(runs)


def _say_outcome(runs: list[dict], counts: Counter) -> None:
    console = terminal()
    parts = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    console.print(f"{len(runs)} runs: {parts}", style="bold")
    for run in runs:
        if run["status"] != "done":
            why = f": {run['message']}" if run["message"] else ""
            console.print(f"  {run['arm']}.s{run['seed']} {run['status']}{why}",
                          soft_wrap=True)
    if counts["diverged"]:
        console.print("  a diverged run would diverge again; delete its .json and .csv to train it "
                      "once more", markup=False)


def stopped(request: Request) -> None:
    """Print how many runs are done, after Ctrl-C."""
    statuses = [status_of(record_of(request, job) or {}) for job in order(request.study)]
    print(f"stopped: {statuses.count('done')} of {len(statuses)} runs are done; the same command "
          f"goes on from here", file=sys.stderr)
