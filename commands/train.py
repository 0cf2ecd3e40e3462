"""
Train one arm and write its curve, record and checkpoint.

Flags turn changes on, alone or together. An interrupted run continues exactly where it stopped. A
finished run is not repeated.
Exit codes: 0 done, 1 failed or diverged, 2 bad input, 3 interrupted with a checkpoint saved.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys

from commands._arguments import (
    add_arm_arguments,
    add_code_argument,
    add_run_arguments,
    check_seed,
    spec_from,
)
from commands.audit import add_verbose, claims, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_arm_arguments(parser)
    add_run_arguments(parser)
    add_code_argument(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of the weights and the data order (default 0)")
    parser.add_argument("--max-iters", type=int, metavar="N",
                        help="number of iterations, instead of the preset's")
    parser.add_argument("--resume", choices=["auto", "restart"], default="auto",
                        nargs="?", const="auto",
                        help="auto: continue from a checkpoint if there is one (default); restart: "
                             "discard the earlier run")
    parser.add_argument("--allow-audit-fail", action="store_true",
                        help="train even if the audit finds that the arm does not do what it "
                             "declares")
    parser.add_argument("--logger", metavar="NAME",
                        help="where to log besides the CSV (default none)").names = _loggers
    parser.add_argument("--processes", type=int, metavar="N",
                        help="train with N processes, or N on each host of a SLURM job, as "
                        "torchrun does; the result is the same to the bit; to rounding, "
                        "where trainer.reduce is all_reduce or trainer.parallel is context "
                        "(default 1)")
    parser.add_argument("--dry-run", action="store_true",
                        help="print what would be trained and what it would cost; train nothing")
    add_verbose(parser, "with --dry-run: ")
    parser.add_argument("--json", action="store_true",
                        help="print the result (or the dry run) as JSON")


def _loggers() -> list[str]:
    from experiments.train.loggers import LOGGERS
    return [*LOGGERS]


def main(args: argparse.Namespace) -> int:
    """Train the arm, or print the dry run, and return the exit code. Raises BadInput."""
    spec = spec_from(args)
    check_seed(args.seed)
    from experiments.train.several import hosts_of_job
    from mingpt.parallel.check import check_count
    from mingpt.parallel.processes import started_as_one_of
    from mingpt.utils import BadInput
    started, asked = started_as_one_of(), args.processes
    if started > 1 and asked not in (None, started):
        raise BadInput(f"--processes {asked}: torchrun has started {started} already: leave it out")
    hosts = hosts_of_job()
    count = started if started > 1 else hosts.count * (1 if asked is None else asked)
    check_count(count, spec.settings.trainer)
    if args.dry_run:
        from experiments.corpus import check_paths
        check_paths(spec.settings.data)
    if count > started:
        return _several(spec, args, hosts)
    return _dry_run(spec, args) if args.dry_run else _train(spec, args)


def _several(spec, args: argparse.Namespace, hosts) -> int:
    """Train, or try what it costs, in several processes, each of which runs this verb. Returns the
    exit code."""
    from experiments.records.record import RunFiles
    from experiments.train.several import start
    files = None if args.dry_run else RunFiles(
        args.out, spec.study.name if spec.study else None, spec.arm, args.seed)
    return start(args.processes or 1, without_option(sys.argv[1:], "--processes"), files, hosts)


def without_option(words: list[str], option: str) -> list[str]:
    """The words of a command line without an option and its value."""
    kept, skip = [], False
    for word in words:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            kept.append(word)
    return kept


def _train(spec, args: argparse.Namespace) -> int:
    """Train in this process, alone or as one of several, and return the exit code."""
    from experiments.corpus import open_corpus
    from experiments.train.loggers import Observers, make_logger
    from experiments.train.observer import Observer
    from experiments.train.progress import Reporter
    from experiments.train.run import Run
    from experiments.train.several import first_opens, membership
    from mingpt.trainer import find_device
    # refuse a missing device before tokenising the corpus
    trainer = spec.settings.trainer
    with membership(find_device(trainer.device), trainer) as processes:
        observer = Observer() if not processes.first else Observers(
            Reporter(not args.json), make_logger(spec.settings.run.logger, args.out))
        # a study tokenises before its runs, which says already what the corpus is
        corpus = first_opens(processes, lambda first: open_corpus(
            spec.settings.data, announce=first and args.study is None))
        run = Run(spec, args.seed, args.out, corpus, command=shlex.join(["python", *sys.argv]),
                  observer=observer, processes=processes)
        code = run.execute(args.resume)
        if args.json and processes.first:
            print(run.files.json.read_text(encoding="utf-8"), end="")
    return code


def _dry_run(spec, args: argparse.Namespace) -> int:
    """Print the plan of the run as text or JSON, and return the exit code 0. Raises BadInput where
    it would not fit into the memory that is left."""
    from experiments.train.fit import Room
    from experiments.train.predict import preview
    from experiments.train.process import end_first
    from experiments.train.several import membership
    from mingpt.trainer import find_device
    end_first()     # a trial must not cost another program its memory
    trainer = spec.settings.trainer
    with membership(find_device(trainer.device), trainer) as processes:
        room = Room(spec.settings, processes)
        room.check()
        plan = preview(spec, args.seed, args.out, processes)
        if processes.first:
            print(json.dumps(plan, indent=2)) if args.json else _print_plan(plan, spec, args)
        room.check(plan["predicted_memory_mb"])
    return 0


def _print_plan(plan: dict, spec, args: argparse.Namespace) -> None:
    """Print the plan of a run as text."""
    from experiments.launch.plan import duration
    from experiments.records.record import begun_line, trainable_line
    print(f"arm               {plan['arm']} (preset {spec.preset}, seed {args.seed})")
    for key, (was, is_) in plan["changes"].items():
        print(f"  changes         {key}: {was!r} → {is_!r}")
    print(f"attention         {plan['schedule']}: sparsity {plan['sparsity']:.1%}, of the FLOPs "
          f"{plan['compute_sparsity']:.1%}" + (f"; {plan['note']}" if plan['note'] else ""))
    print(f"parameters        {plan['parameters']:,} ({plan['parameters_vs_baseline']:+.2%} "
          f"against the baseline)")
    if plan["match"]:
        print(f"hidden size       {spec.match.line()}")
    if line := trainable_line(plan):
        print(line)
    if plan["init"]:
        print(begun_line(plan["init"]))
    print(f"FLOPs per token   {plan['flops_per_token']:,.0f} ({plan['flops_vs_baseline']:+.2%})")
    audit = plan["audit"]
    told = "left to the training" if audit["passed"] is None else summary(audit, args.verbose)
    print(f"audit             {told}")
    for line in claims(audit, args.verbose):
        print(f"  {line}")
    several = f" in {plan['processes']} processes" if plan["processes"] > 1 else ""
    print(f"predicted time    {duration(plan['predicted_seconds'])}, {plan['max_iters']:,} "
          f"iterations on {plan['device']}{several}")
    print(f"predicted memory  {plan['predicted_memory_mb']:,.0f} MB{several}")
    print(f"would write       {plan['csv']}")
