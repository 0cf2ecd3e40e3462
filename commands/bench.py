"""
Measure one arm's training step under every attention backend.

    python lab.py bench --schedule lms_main --model.block_size=1024

For each backend it prints the losses, time, memory and FLOPs of a step. Two more rows are for
comparison: `full` is the same model with full attention, and `attention removed` skips every score.
No schedule can be faster than the second. All variants take turns. A time is the median over the
rounds, with its quartiles.
"""

from __future__ import annotations

import argparse
import json

from commands._arguments import (
    add_arm_arguments,
    add_code_argument,
    add_size_arguments,
    spec_from,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    add_arm_arguments(parser)
    add_size_arguments(parser)
    add_code_argument(parser)
    parser.add_argument("--rounds", type=int, default=7, metavar="N",
                        help="samples per backend, at least 5 (default 7)")
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        help="measure only these rows of the table (dense banded full)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def main(args: argparse.Namespace) -> int:
    """Measure, print the table or JSON, and return the exit code 0. Raises BadInput."""
    from experiments.system import terminal
    from mingpt.utils import BadInput
    if args.rounds < 5:
        raise BadInput(f"--rounds {args.rounds}: the least is 5")
    spec = spec_from(args)
    from experiments.train.bench import bench
    console = terminal(stderr=True)
    with console.status("starting") as status:
        result = bench(spec, args.rounds, args.only, status.update if console.is_terminal
                       else console.print)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    return 0


COLUMNS = ("", "step (ms)", "tokens/s", "speed of full's", "of dense's", "peak MB", "GFLOP needed",
           "counted")


def _print(result: dict) -> None:
    from rich.table import Table

    from experiments.system import terminal
    print(f"{result['arm']}: {result['schedule']}, T = {result['T']}, batch "
          f"{result['batch_size']}, on "
          f"{result['device']}; sparsity {result['sparsity']:.1%}, of the FLOPs "
          f"{result['compute_sparsity']:.1%}")
    if result["note"]:
        print(result["note"])
    table = Table(box=None, header_style="bold")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in result["rows"]:
        if not row["refused"]:
            table.add_row(*_cells(row))
    terminal(width=150).print(table)
    for row in result["rows"]:
        if row["refused"]:
            print(f"{row['name']}: {row['refused']}")


def _cells(row: dict) -> list[str]:
    ratios = [_spread(row.get(key), "{:.2f}×") for key in ("against_full", "against_dense")]
    flops = ["-" if n is None else f"{n / 1e9:,.2f}" for n in (row["flops_needed"],
                                                               row["flops_counted"])]
    return [row["name"], _spread(row["step_ms"], "{:.1f}"),
            f"{row['tokens_per_second']:,.0f}", *ratios,
            f"{row['peak_memory_mb']:,.0f}", *flops]


def _spread(values: dict | None, form: str) -> str:
    """The median and its quartiles, as '12.3 (12.1–12.9)'; '-' for None."""
    if values is None:
        return "-"
    middle, low, high = (form.format(values[key]) for key in ("median", "low", "high"))
    return f"{middle} ({low}–{high})"
