"""
Train every arm of a study with every seed, here or on SLURM, and plot the results.

run_all.sh runs this verb. Finished runs are not repeated and interrupted ones continue, so the same
command may be given again at any time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

from commands._arguments import preset_names
from mingpt.utils import BadInput

DONE, FAILED, INTERRUPTED = 0, 1, 3   # exit codes
SBATCH = ("partition", "qos", "account", "gres", "time")   # options that sbatch has too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `study`."""
    add = parser.add_argument
    add("study", nargs="?", default="seven", metavar="STUDY",
        help="a shipped study, or a path to a TOML file (default seven)")
    add("--seeds", metavar="0-4",
        help="the seeds to run, as 0-4 or 0,2,5 (default: the study's own)")
    add_launch_options(parser)
    # run_single.sh gives --plan: run one task of a submitted plan
    add("--plan", type=Path, help=argparse.SUPPRESS)
    add("--task", type=int, metavar="N", help="run only the N-th run of the study, counted from 0")


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verbs that run a study: on what, where, and how many at once."""
    add = parser.add_argument
    add("--preset", metavar="NAME", help="size and training settings of all arms (default: the "
        "study's own): a TOML file, or a name").names = preset_names
    add("--data", nargs="+", default=[], metavar="PATH",
        help="files, folders, globs or the name of a data set")
    add("--out", default=".", metavar="DIR",
        help="where losses/, checkpoints/, visualizations/ and logs/ are written (default .)")
    add("--jobs", type=int, metavar="N",
        help="number of runs at once; threads and GPUs are divided among them (default: as many as "
             "a short measurement finds fastest)")
    add("--processes", type=int, metavar="N",
        help="processes that train one run together, on each of its nodes (default 1)")
    add("--max-iters", type=int, metavar="N", help="iterations of each run")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps")
    add("--local", action="store_true", help="train on this machine, even where SLURM is available")
    add("--budget", type=float, metavar="HOURS",
        help="train nothing that needs more hours than this, one run after the other; a ladder is "
             "cut at its top")
    add("--dry-run", action="store_true",
        help="print the plan and the expected time; train nothing")
    add("--plot", action="store_true", help="train nothing; say how the runs went and plot them")
    add("--json", action="store_true", help="print the plan or the outcome as JSON")
    slurm = parser.add_argument_group("SLURM (used where sbatch is on the PATH)").add_argument
    for name in SBATCH:
        slurm(f"--{name}", metavar=name.upper(), help={
            "gres": "sbatch's --gres (default: gpu:1 where the cluster has GPUs, else none)",
            "time": "time limit of one run (default: predicted)",
        }.get(name, f"sbatch's --{name}"))
    slurm("--nodes", type=int, metavar="N", help="nodes per run (default 1)")
    slurm("--array-max", type=int, metavar="N", help="number of runs at once")
    slurm("--sbatch", action="append", default=[], metavar="OPTION",
          help="any other option of sbatch, as in --sbatch=--constraint=a100")
    slurm("--tokenize-here", action="store_true",
          help="tokenise before submitting, for nodes that reach no network")


def main(args: argparse.Namespace) -> int:
    """Plan the study, then submit it or train it here; return the exit code. Raises BadInput."""
    from experiments.launch import slurm
    if args.plan:
        return _become(slurm.task_arguments(args.plan, _task(args)))
    request = _request(args)
    if request.study.ladder:
        return _climb(args, request)
    if args.task is not None:
        return _become(_nth(request, args.task))
    from experiments.launch import board
    from experiments.launch.plan import make_plan, seconds_left
    if args.plot:
        return _finish(args, request)
    jobs = make_plan(request)
    _check_budget(args.budget, seconds_left(jobs))
    submits = not args.local and slurm.available()
    if (args.nodes or 1) > 1 and not submits:
        raise BadInput(f"--nodes {args.nodes} needs SLURM: leave it out to train on this machine")
    if args.dry_run or not args.json:
        board.plan(request, jobs, args.jobs or 1, as_json=args.json)
    if args.dry_run:
        return DONE
    if submits:
        return _submit(args, request, jobs)
    if not args.local and (asked := _slurm_options(args)):
        print(f"no SLURM cluster is configured on this machine, so it trains here, without "
              f"{', '.join(asked)}", file=sys.stderr)
    return _train(args, request, jobs)


def _climb(args: argparse.Namespace, request) -> int:
    """Train the rungs of a ladder one after the other, or submit them; return the exit code. Raises
    BadInput."""
    from experiments.launch import board, climb, launch, rates, slurm
    if args.task is not None:
        raise BadInput(f"--task: {request.study.name} is a ladder; each rung is a study of its own")
    planned = climb.rungs(request)
    if args.plot:
        return launch.plot_ladder(request, sys.stderr if args.json else None)
    planned = climb.plans(request, planned)
    grids = climb.plans(request, rates.rate_rungs(request, planned))
    first = sum(rung.seconds for rung in grids)
    if (kept := climb.within(planned, args.budget, first)) < len(planned):
        cut = ", ".join(rung.name for rung in planned[kept:])
        print(f"--budget {args.budget:g}: without {cut}", file=sys.stderr)
        jobs = {rung.name: rung.jobs for rung in planned}
        planned = [dataclasses.replace(rung, jobs=jobs[rung.name])
                   for rung in climb.rungs(request, kept)]
    if args.dry_run or not args.json:
        board.climb(request, [*grids, *planned], as_json=args.json)
    if args.dry_run:
        return DONE
    submits = not args.local and slurm.available()
    run = functools.partial(_rung, args, request, submits)
    for rung in grids:
        if (code := run(rung, [])) is not None:
            return code
    if grids:
        if submits and any(not job.ended for rung in grids for job in rung.jobs):
            return _later("the rates are chosen first")
        planned = climb.plans(request, rates.tuned(request, planned))
        print("\n".join(rates.edges(request, planned)), file=sys.stderr)
    for rung in planned:
        below = [each for each in planned[:rung.number - 1] if not each.held_out]
        if submits and rung.held_out and not all(job.ended for each in below for job in each.jobs):
            return _later(f"{rung.name} is predicted first, from the rungs below it")
        if (code := run(rung, below)) is not None:
            return code
    return DONE if submits else launch.plot_ladder(request, sys.stderr if args.json else None)


def _later(why: str) -> int:
    print(f"{why}: give the same command again when these runs have ended")
    return DONE


def _rung(args: argparse.Namespace, request, submits: bool, rung, below) -> int | None:
    """Train or submit one rung. Returns the exit code where the ladder cannot go on, else None."""
    from experiments.launch import climb
    from experiments.launch.plan import make_plan
    until = climb.written(request, rung, below)
    jobs = make_plan(until)
    if submits:
        return _submit(args, until, jobs) or None
    code = _train(args, until, jobs)
    if code == INTERRUPTED:
        return code
    if left := [job.name for job in make_plan(until) if not job.ended]:
        print(f"{rung.name}: {', '.join(left[:4])} did not end, so the ladder stops here",
              file=sys.stderr)
        return FAILED
    return None


def _check_budget(hours: float | None, seconds: float) -> None:
    """Raise BadInput where a study needs more hours than it may take."""
    if hours is not None and seconds > 3600 * hours:
        from experiments.launch.plan import duration
        raise BadInput(f"--budget {hours:g}: the study needs about {duration(seconds)} of "
                       f"training; give fewer --seeds, or a smaller --preset")


def _slurm_options(args: argparse.Namespace) -> list[str]:
    """The options for SLURM that were given."""
    given = {f"--{name.replace('_', '-')}": getattr(args, name)
             for name in (*SBATCH, "array_max", "sbatch", "tokenize_here")}
    return [option for option, value in given.items() if value not in (None, [], False)]


def check_jobs(jobs: int | None) -> None:
    """Raise BadInput where --jobs is given and is not a number of runs."""
    if jobs is not None and jobs < 1:
        raise BadInput(f"--jobs {jobs}: at least 1")


def _request(args: argparse.Namespace):
    """The request that the arguments describe, with the study read and checked."""
    from experiments.declare.study import load_study, parse_seeds
    from experiments.launch.plan import Request
    check_jobs(args.jobs)
    study = load_study(args.study)
    if args.seeds:
        study = study.with_seeds(parse_seeds(args.seeds))
    short = {"trainer.max_iters": args.max_iters, "trainer.device": args.device}
    overrides = [f"--{key}={value}" for key, value in short.items() if value is not None]
    return Request(study, Path(args.out).expanduser().resolve(), args.preset, tuple(args.data),
                   (*overrides, *args.overrides), args.processes, args.nodes)


def _words(args: argparse.Namespace) -> list[str]:
    """The words after run_all.sh that give this study again."""
    options = {"--seeds": args.seeds, "--preset": args.preset,
               "--out": args.out if args.out != "." else None,
               "--jobs": args.jobs, "--processes": args.processes, "--nodes": args.nodes,
               "--max-iters": args.max_iters,
               "--device": args.device}
    words = [args.study, *(["--data", *args.data] if args.data else [])]
    words += [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    return [*words, *(["--local"] if args.local else []), *args.overrides]


def _task(args: argparse.Namespace) -> int:
    """The number of the plan's task: --task, or else SLURM's own. Raises BadInput."""
    task = args.task if args.task is not None else os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is None:
        raise BadInput("--plan needs --task, or SLURM_ARRAY_TASK_ID")
    return int(task)


def _nth(request, task: int) -> list[str]:
    """lab.py's arguments for the study's run number `task`, counted from 0. Raises BadInput."""
    from experiments.launch.plan import order
    jobs = order(request.study)
    if not 0 <= task < len(jobs):
        raise BadInput(f"study {request.study.name} has no run {task}: 0 to {len(jobs) - 1}")
    return request.arguments(jobs[task])


def _become(arguments: list[str]) -> int:
    """Replace this process by one run of lab.py, so that the run receives the signals itself."""
    from experiments.launch.launch import LAB
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(LAB), *arguments])


def _train(args: argparse.Namespace, request, jobs) -> int:
    """Run the plan on this machine, then plot; return the exit code."""
    from experiments.launch import board, launch
    from experiments.launch.choose import choice_for
    from experiments.launch.plan import looks, write_order
    from experiments.launch.progress import Progress
    # what the children print must not get into the JSON
    stdout = sys.stderr if args.json else None
    if any(not job.ended for job in jobs) and (code := launch.tokenize(request, stdout)):
        return code   # the child has printed why
    choice = choice_for(request, jobs, args.jobs)
    print(choice.line(), file=sys.stderr)
    refused = set()
    for until, between in looks(request, jobs):
        if todo := [job for job in between if not job.ended]:
            write_order(until, todo, choice.jobs, _words(args), choice.to_dict())
            with Progress(todo, request, choice.jobs, choice.slowdown) as progress:
                launcher = launch.Launcher(request, choice.jobs, progress.report, progress.tick,
                                           stdout, choice.threads)
                if not launcher.run(todo):
                    board.stopped(request)
                    return INTERRUPTED
            refused |= {job for job, outcome in launcher.outcomes.items() if outcome == "refused"}
        if until.study.seeds != request.study.seeds and board.decided(until):
            break
    return _finish(args, until, refused)


def _finish(args: argparse.Namespace, request, refused=()) -> int:
    """Plot, and print how all runs went. Returns 0 when every run is done and drawn, else 1."""
    from experiments.launch import board, launch
    code = launch.plot(request, sys.stderr if args.json else None)
    whole = board.outcome(request, refused, args.json, _words(args))
    return DONE if whole and code == 0 else FAILED


def _submit(args: argparse.Namespace, request, jobs) -> int:
    """Submit the runs that are left to SLURM and print the jobs' ids; return the exit code."""
    from experiments.launch import launch, slurm
    from experiments.records.record import near
    held = slurm.queued(request)
    todo = [job for job in jobs if not job.ended and (job.arm, job.seed) not in held]
    if held:
        queued = ", ".join(sorted(set(held.values())))
        print(f"{len(held)} runs are already queued or running: job {queued}", file=sys.stderr)
    if not todo:
        print(json.dumps({"jobs": {}, "runs": 0}) if args.json else "nothing to submit")
        return DONE
    if args.tokenize_here and (code := launch.tokenize(request)):
        return code
    resources = slurm.Resources(args.partition, args.qos, args.account, args.gres, args.time,
                                args.array_max, tuple(args.sbatch), args.nodes)
    ids = slurm.submit(request, todo, resources, args.tokenize_here)
    if args.json:
        print(json.dumps({"jobs": ids, "runs": len(todo), "logs": str(request.logs)}))
    else:
        for what, job_id in ids.items():
            print(f"submitted {what:<8} job {job_id}" + (f"   {len(todo)} runs" if what == "runs"
                                                         else ""))
        print(f"logs in {near(request.logs)}; watch with: squeue --me, or python lab.py status "
              f"--watch --out {args.out}")
    return DONE
