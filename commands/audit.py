"""
Audit an arm: check on the model itself that it does what it declares.

    python lab.py audit -r --schedule lms_main     audit an arm, as `train` would build it
    python lab.py audit rope.s0                    audit the saved model of a trained run

Training begins with the same audit. It refuses an arm that fails, unless --allow-audit-fail is
given.
Exit codes: 0 passed, 1 failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json

from commands._arguments import (
    add_arm_arguments,
    add_code_argument,
    add_run_arguments,
    spec_from,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `audit`."""
    parser.add_argument("run", nargs="?", metavar="RUN",
                        help="instead of an arm: a trained run, by name (rope.s0, "
                        "seven/rope.s0) or by one of its files")
    add_arm_arguments(parser)
    add_run_arguments(parser)
    add_code_argument(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of the initial weights (default 0)")
    add_verbose(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_verbose(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add --verbose. `when` begins its help."""
    parser.add_argument("--verbose", action="store_true",
                        help=f"{when}list every claim of the audit, not only those that fail")


def main(args: argparse.Namespace) -> int:
    """Print what the audit found; return 0 if it passed, 1 if it failed. Raises BadInput."""
    name, result = _trained(args) if args.run else _arm(args)
    if args.json:
        print(json.dumps({"arm": name, **result}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*claims(result, args.verbose),
                         f"{name}: {summary(result, args.verbose)}, {result['seconds']:.1f} s"]))
    return 0 if result["passed"] else 1


def claims(result: dict, every: bool = False) -> list[str]:
    """One line per claim that failed and per part that was not checked; with `every`, also one per
    claim that holds."""
    return [*(f"{'yes' if seen is True else 'no '}  {claim}" + ("" if seen is True else f": {seen}")
              for claim, seen in result["checks"].items() if every or seen is not True),
            *(f" ?   unchecked: {what}" for what in result["unchecked"])]


def summary(result: dict, every: bool = False) -> str:
    """'passed: 25 claims hold (--verbose lists them)', or how many of them failed."""
    seen = list(result["checks"].values())
    hold = seen.count(True)
    listed = "" if every else " (--verbose lists them)"
    return (f"passed: all {hold} claims hold{listed}" if result["passed"]
            else f"failed: {len(seen) - hold} of {len(seen)} claims do not hold")


def _arm(args: argparse.Namespace) -> tuple[str, dict]:
    """(name, audit result) of an arm's initial model, on the batches that it would train on."""
    spec = spec_from(args)
    from mingpt.utils import BadInput
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: a seed is a whole number from 0 up")
    from experiments.audit import audit
    from experiments.corpus import open_corpus
    from experiments.train.seeded import build_model, row_length
    from experiments.weights.begin import audit_options
    from mingpt.trainer import find_device
    settings = spec.settings
    corpus = open_corpus(settings.data)
    device = find_device(settings.trainer.device)
    model = build_model(settings, corpus, args.seed).to(device)
    batches = corpus.train(row_length(settings), settings.trainer.batch_size, args.seed)
    return spec.arm, audit(model, settings.trainer, batches, **audit_options(settings))


def _trained(args: argparse.Namespace) -> tuple[str, dict]:
    """(name, audit result) of a trained run's saved model.

    Its initial weights and its batches are gone, so nothing is claimed about them.
    """
    if args.flags or args.overrides or args.study:
        from mingpt.utils import BadInput
        raise BadInput(f"audit {args.run}: a trained run's settings cannot be changed; leave out "
                       f"the arm's flags and settings")
    from experiments.audit import audit
    from experiments.weights.saved import find_run, load_run
    from mingpt.trainer import Trainer
    files = find_run(args.run, args.out)
    model, _, record = load_run(files, args.device)
    trainer = Trainer.get_default_config()
    trainer.merge_from_dict(record.get("config", {}).get("trainer", {}))
    return files.name, audit(model, trainer, fresh=False)
