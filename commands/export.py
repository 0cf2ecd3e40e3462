"""
Export a trained run for Hugging Face's transformers: config, weights and tokenizer in one folder.

    python lab.py export rope.s0 --to hf rope-hf     write the folder rope-hf, which
                                                     AutoModelForCausalLM.from_pretrained opens
    python lab.py export --parity                    how close every family is, on random models

A run without an exact counterpart is refused. The message names the settings that have none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


class Parity(argparse.Action):
    """As --help is: prints, and leaves nothing more to do."""

    def __call__(self, parser, namespace, values, option_string=None):
        print_parity()
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN",
                        help="a run's name (rope.s0, seven/rope.s0), or a file of it")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--to", choices=["hf"], default="hf",
                        help="the format: hf, Hugging Face's (default)")
    parser.add_argument("--family", metavar="NAME",
                        help="as this one of their models (llama, qwen2, …), instead of "
                        "the plainest that computes the same")
    parser.add_argument("--best", action="store_true",
                        help="the weights of the best evaluation (--run.keep_best=true)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="where the runs are (default .)")
    parser.add_argument("--parity", action=Parity, nargs=0,
                        help="compare random models of every family, print a "
                        "table, and export nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace) -> int:
    from experiments.weights.export import export_run
    from experiments.weights.saved import find_run
    result = export_run(find_run(args.run, args.out), args.folder,
                        which="best" if args.best else "model", family=args.family)
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{result['folder']}: {result['architecture']}, {result['parameters']:,} parameters, "
          f"tokenizer "
          f"{result['tokenizer']}")
    if "largest_difference" not in result:
        print("not compared: transformers is not installed")
        return 0
    print(f"opened with transformers: the largest difference of a logit is "
          f"{result['largest_difference']:.1e}")
    if not result["same_ids"]:
        print(f"AutoTokenizer has a splitting of its own for {result['family']}; for the run's: "
              f"PreTrainedTokenizerFast(tokenizer_file='{result['folder']}/tokenizer.json')")
    return 0


def print_parity() -> None:
    """Every case of every family, as a Markdown table."""
    from experiments.weights.parity import tables
    rows = tables()
    print("| case | imported | exported again | greedy tokens |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.case} | {row.imported:.1e} | {row.exported:.1e} | "
              f"{'equal' if row.greedy else 'DIFFER'} |")
    largest = max(max(row.imported, row.exported) for row in rows)
    print(f"\nThe largest difference of a logit is {largest:.1e}.")
