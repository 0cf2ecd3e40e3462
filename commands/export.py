"""
Export a trained run as a folder that Hugging Face's transformers opens.

    python lab.py export rope.s0 --to hf rope-hf     write the folder rope-hf, which
                                                     AutoModelForCausalLM.from_pretrained opens
    python lab.py export --parity                    measure on random models how closely every
                                                     family's logits agree

The folder holds the config, the weights and the tokenizer.

A run without an exact counterpart is refused. The message names the settings that have none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from commands._arguments import add_code_argument

TAKES_SETTINGS = False


class PrintParity(argparse.Action):
    """The option --parity. Like --help it prints and exits, so no other argument is needed."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Print the table and exit."""
        print_parity()
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("run", metavar="RUN",
                        help="a trained run, by name (rope.s0, seven/rope.s0) or by one of its "
                             "files")
    parser.add_argument("folder", type=Path, metavar="DIR",
                        help="the folder to write; it must not exist yet")
    parser.add_argument("--to", choices=["hf"], default="hf",
                        help="the format: hf (default) is Hugging Face's")
    parser.add_argument("--family", metavar="NAME",
                        help="the model family to write (llama, qwen2, …), instead of the "
                        "plainest one that computes the same")
    parser.add_argument("--best", action="store_true",
                        help="use the weights of the best evaluation (kept by "
                             "--run.keep_best=true)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds the runs (default .)")
    parser.add_argument("--parity", action=PrintParity, nargs=0,
                        help="export nothing; compare random models of every family and print a "
                        "table")
    add_code_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace) -> int:
    """Export the run, print what was written, and return 0. Raises BadInput."""
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
        print("not compared with the run: transformers is not installed")
        return 0
    print(f"opened with transformers: the largest difference of a logit is "
          f"{result['largest_difference']:.1e}")
    if not result["same_ids"]:
        print(f"AutoTokenizer splits text in its own way for {result['family']}; for the run's ids "
              f"use PreTrainedTokenizerFast(tokenizer_file='{result['folder']}/tokenizer.json')")
    return 0


def print_parity() -> None:
    """Print how closely every case of every family agrees, as a Markdown table."""
    from experiments.weights.parity import tables
    rows = tables()
    print("| case | imported | exported again | greedy tokens |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.case} | {row.imported:.1e} | {row.exported:.1e} | "
              f"{'equal' if row.greedy else 'DIFFER'} |")
    largest = max(max(row.imported, row.exported) for row in rows)
    print(f"\nThe largest difference of a logit is {largest:.1e}.")
