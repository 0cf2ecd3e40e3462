"""
Train one arm: flags turn changes on, alone or together; the result is a CSV, a record and a checkpoint.

A run that was interrupted goes on exactly where it stopped; a finished one is not repeated.
Exit codes: 0 done, 1 failed or diverged, 2 bad input, 3 interrupted with a checkpoint saved.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from experiments.declare.arms import catalogue
from experiments.declare.ranges import listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Numbers that --section.key=value takes:\n{listing()}"
    add_arm_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and data order (default 0)")
    parser.add_argument("--max-iters", type=int, metavar="N", help="iterations, instead of the preset's")
    parser.add_argument("--resume", choices=["auto", "restart"], default="auto",
                        help="auto: go on from a checkpoint (default); restart: throw the earlier run away")
    parser.add_argument("--allow-audit-fail", action="store_true",
                        help="train although the audit finds that the arm is not what it declares")
    parser.add_argument("--logger", metavar="NAME", help="besides the CSV: tensorboard, wandb or none (default)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained and what it costs")
    parser.add_argument("--json", action="store_true", help="print the result (or the dry run) as JSON")


def add_arm_arguments(parser: argparse.ArgumentParser) -> None:
    """What every verb that builds one arm takes."""
    arms = parser.add_argument_group("arms (they combine)")
    for arm in catalogue().values():
        arms.add_argument(*arm.flags, dest="flags", action="append_const", const=arm.name, help=arm.help)
    arms.add_argument("--study", metavar="FILE", help="a study's TOML file or name; with --arm")
    arms.add_argument("--arm", metavar="NAME", help="an arm of the study; without one, a name for this combination")
    attention = parser.add_argument_group("attention")
    attention.add_argument("--schedule", metavar="S", help="which keys each layer sees: lms_main, half, sssl …, one "
                           "pattern a layer as in 'f 256 128*4 f', or FILE.json[:NAME]")
    attention.add_argument("--window", type=int, metavar="W", help="in every layer the last W keys only")
    attention.add_argument("--dilation", type=int, metavar="D", help="and beyond the window every D-th")
    attention.add_argument("--attention", metavar="NAME", help="who makes queries, keys and values")
    attention.add_argument("--backend", metavar="NAME", help="how attention is computed (auto, dense, flash, banded, "
                           "flex): the same numbers in other time and memory")
    source = parser.add_argument_group("weights of another model")
    source.add_argument("--init", metavar="SOURCE", help="begin with those of gpt2, of another Hugging Face model (a "
                        "folder or a name on the hub), or of a run, as far as they fit")
    source.add_argument("--freeze-except", metavar="WORDS", help="train only the parameters that these words name: "
                        "attn, or several parted by commas (mlp.c_fc,ln_*)")


def attention_overrides(args: argparse.Namespace) -> list[str]:
    """The options about attention as settings."""
    from mingpt.utils import BadInput
    schedule = args.schedule
    if args.window is not None:
        from mingpt.patterns.schedule import uniform
        if schedule is not None:
            raise BadInput(f"--window {args.window} is a schedule of its own: leave out --schedule {schedule}")
        schedule = uniform(args.window, args.dilation)
    elif args.dilation is not None:
        raise BadInput(f"--dilation {args.dilation} is beyond a window: give --window W as well")
    given = {"schedule": schedule, "attention": args.attention, "backend": args.backend}
    return [f"--model.{key}={value}" for key, value in given.items() if value is not None]


def source_overrides(args: argparse.Namespace) -> list[str]:
    """The options about where weights begin, and which are trained, as settings."""
    given = []
    if args.init is not None:
        from experiments.weights.begin import find_source
        given.append(f"--run.init={find_source(args.init, getattr(args, 'out', Path('.')))}")
    if args.freeze_except is not None:
        given.append(f"--run.freeze_except={args.freeze_except}")
    return given


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What every verb that builds a model and a corpus takes."""
    add_size_arguments(parser)
    parser.add_argument("--data", nargs="+", metavar="PATH", help="files, folders, globs, or a data set's name "
                        "(default: a corpus made from Python's own standard library)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="where losses/, checkpoints/ and visualizations/ are written (default .)")


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """What every verb that builds a model takes."""
    parser.add_argument("--preset", metavar="NAME", help="laptop (default), nano, paper, gpt2, lms, sliding or a TOML "
                        "file")
    parser.add_argument("--device", metavar="D", help="cuda, mps, cpu (default: the fastest there is)")


def spec_from(args: argparse.Namespace):
    """The Spec that the arguments describe."""
    from experiments.declare.spec import make_spec
    overrides = [*attention_overrides(args), *source_overrides(args), *args.overrides]
    if getattr(args, "max_iters", None) is not None:
        overrides.append(f"--trainer.max_iters={args.max_iters}")
    if args.device:
        overrides.append(f"--trainer.device={args.device}")
    if getattr(args, "logger", None):
        overrides.append(f"--run.logger={args.logger}")
    if getattr(args, "allow_audit_fail", False):
        overrides.append("--run.allow_audit_fail=true")
    return make_spec(args.preset, args.study, args.arm, args.flags or (), getattr(args, "data", None),
                     overrides)


def main(args: argparse.Namespace) -> int:
    spec = spec_from(args)
    from experiments.records.record import MAX_SEED
    from mingpt.utils import BadInput
    if not 0 <= args.seed <= MAX_SEED:
        raise BadInput(f"--seed {args.seed}: a seed is a whole number from 0 to {MAX_SEED}")
    if args.dry_run:
        return _dry_run(spec, args)
    from experiments.corpus import open_corpus
    from experiments.train.loggers import Observers, make_logger
    from experiments.train.progress import Reporter
    from experiments.train.run import Run
    from mingpt.trainer import find_device
    find_device(spec.settings.trainer.device)   # refused before a corpus is tokenised for it
    observer = Observers(Reporter(), make_logger(spec.settings.run.logger, args.out))
    corpus = open_corpus(spec.settings.data)
    run = Run(spec, args.seed, args.out, corpus, command=shlex.join(["python", *sys.argv]), observer=observer)
    code = run.execute(args.resume)
    if args.json:
        print(run.files.json.read_text(encoding="utf-8"), end="")
    return code


def _dry_run(spec, args: argparse.Namespace) -> int:
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
    print(f"parameters        {plan['parameters']:,} ({plan['parameters_vs_baseline']:+.2%} against the baseline)")
    if plan["match"]:
        print(f"hidden size       {spec.match.line()}")
    if line := trainable_line(plan):
        print(line)
    if plan["init"]:
        print(begun_line(plan["init"]))
    print(f"FLOPs a token     {plan['flops_per_token']:,.0f} ({plan['flops_vs_baseline']:+.2%})")
    print(f"audit             {'passed' if plan['audit']['passed'] else 'failed'}")
    for claim, seen in plan["audit"]["checks"].items():
        print(f"  {'yes' if seen is True else 'no '}  {claim}" + ("" if seen is True else f": {seen}"))
    for what in plan["audit"]["unchecked"]:
        print(f"   ?   unchecked: {what}")
    print(f"predicted time    {plan['predicted_seconds']:,.0f} s, {plan['max_iters']:,} iterations on {plan['device']}")
    print(f"predicted memory  {plan['predicted_memory_mb']:,.0f} MB")
    print(f"would write       {plan['csv']}")
    return 0
