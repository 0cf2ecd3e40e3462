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

from commands._arguments import add_arm_arguments, add_run_arguments, check_seed, spec_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add_arm_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of the weights and the data order (default 0)")
    parser.add_argument("--max-iters", type=int, metavar="N",
                        help="number of iterations, instead of the preset's")
    parser.add_argument("--resume", choices=["auto", "restart"], default="auto",
                        help="auto: continue from a checkpoint if there is one (default); restart: "
                             "discard the earlier run")
    parser.add_argument("--allow-audit-fail", action="store_true",
                        help="train even if the audit finds that the arm does not do what it "
                             "declares")
    parser.add_argument("--logger", metavar="NAME",
                        help="where to log besides the CSV (default none)").names = _loggers
    parser.add_argument("--dry-run", action="store_true",
                        help="print what would be trained and what it would cost; train nothing")
    parser.add_argument("--json", action="store_true",
                        help="print the result (or the dry run) as JSON")


def _loggers() -> list[str]:
    from experiments.train.loggers import LOGGERS
    return [*LOGGERS]


def main(args: argparse.Namespace) -> int:
    """Train the arm, or print the dry run, and return the exit code. Raises BadInput."""
    spec = spec_from(args)
    check_seed(args.seed)
    if args.dry_run:
        return _dry_run(spec, args)
    from experiments.corpus import open_corpus
    from experiments.train.loggers import Observers, make_logger
    from experiments.train.progress import Reporter
    from experiments.train.run import Run
    from mingpt.trainer import find_device
    # refuse a missing device before tokenising the corpus
    find_device(spec.settings.trainer.device)
    observer = Observers(Reporter(not args.json), make_logger(spec.settings.run.logger, args.out))
    # a study tokenises before its runs, which says already what the corpus is
    corpus = open_corpus(spec.settings.data, announce=args.study is None)
    run = Run(spec, args.seed, args.out, corpus, command=shlex.join(["python", *sys.argv]),
              observer=observer)
    code = run.execute(args.resume)
    if args.json:
        print(run.files.json.read_text(encoding="utf-8"), end="")
    return code


def _dry_run(spec, args: argparse.Namespace) -> int:
    """Print the plan of the run as text or JSON, and return the exit code 0."""
    from experiments.records.record import begun_line, trainable_line
    from experiments.train.predict import preview
    plan = preview(spec, args.seed, args.out)
    if args.json:
        print(json.dumps(plan, indent=2))
        return 0
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
    audited = {True: "passed", False: "failed", None: "left to the training"}
    print(f"audit             {audited[plan['audit']['passed']]}")
    for claim, seen in plan["audit"]["checks"].items():
        print(f"  {'yes' if seen is True else 'no '}  {claim}" + ("" if seen is True
                                                                  else f": {seen}"))
    for what in plan["audit"]["unchecked"]:
        print(f"   ?   unchecked: {what}")
    print(f"predicted time    {plan['predicted_seconds']:,.0f} s, {plan['max_iters']:,} iterations "
          f"on {plan['device']}")
    print(f"predicted memory  {plan['predicted_memory_mb']:,.0f} MB")
    print(f"would write       {plan['csv']}")
    return 0
