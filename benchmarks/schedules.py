"""
Time a whole training step under each shipped schedule.

    python -m benchmarks.schedules [--full] [--length 2048] [--out DIR]

The step is compared with full attention, with a dense mask, and with attention removed. The last
column is the time that the step saves over full attention, divided by what the layers' attention
alone saves when nothing else runs.

The model has 12 layers, a width of 384 and 6 heads. It reads bytes, so its head costs almost
nothing. Each variant runs in its own process. The variants take turns, and ratios are taken within
a round (experiments/train/bench.py). By default one schedule is measured in three rounds, which
takes a minute. `--full` makes the table of docs/sparsity.md: all schedules in five rounds, in seven
minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kit.options import RESULTS
from benchmarks.kit.tables import save
from benchmarks.kit.tuning import medians
from experiments.declare.spec import Spec, make_spec
from experiments.figures.style import page
from experiments.train.bench import CEILING, FULL, bench
from experiments.train.predict import RandomTokens
from experiments.train.seeded import build_model
from mingpt.sparse.backends import Auto, Flash

FEW, FEW_ROUNDS, ROUNDS = ("quarter",), 3, 5
SCHEDULES = ("half", "quarter", "aggressive", "block_sparse", "lms_main")
MODEL = ("--model.n_layer=12", "--model.n_embd=384", "--model.n_head=6", "--trainer.batch_size=1")
MEASURED = ("auto", "dense", FULL, CEILING)


def main(argv: list[str] | None = None) -> int:
    """Print the table, and write it as JSON and as a figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules",
                                     description=__doc__.strip().splitlines()[0])
    parser.add_argument("--length", type=int, default=2048,
                        help="tokens per sequence; the batch is 1 (default 2048)")
    parser.add_argument("--full", action="store_true",
                        help="measure all shipped schedules, not only one")
    parser.add_argument("--quick", action="store_true", help="measure only one round")
    parser.add_argument("--rounds", type=int,
                        help=f"rounds, with one timing of each variant per round (default "
                             f"{FEW_ROUNDS}; {ROUNDS} with --full)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS,
                        help="folder of the JSON file and the figure")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (ROUNDS if args.full else 1 if args.quick else FEW_ROUNDS)
    results = {}
    print(f"{'schedule':<14}{'sparsity':>9}{'of FLOPs':>9}   "
          f"{'of full (quartiles)':<26}{'of dense':<22}{'ceiling':>8}{'arrives':>9}")
    for name in SCHEDULES if args.full else FEW:
        overrides = [f"--model.schedule={name}", f"--model.block_size={args.length}", *MODEL]
        spec = make_spec(overrides=overrides)
        result = bench(spec, args.rounds, MEASURED, _say)
        rows = {row["name"]: row for row in result["rows"]}
        saved = rows[FULL]["step_ms"]["median"] - rows["auto"]["step_ms"]["median"]
        alone = alone_saves(spec, args.rounds)
        results[name] = result | {"rows": rows, "saved_ms": saved, "alone_saves_ms": alone}
        print(_line(name, results[name]), flush=True)
    save(args.out, "schedules", results, draw(results, args.length, args.rounds))
    return 0


def alone_saves(spec: Spec, rounds: int) -> float:
    """How many ms the attention of all layers takes less, forward and backward, under the schedule
    than under torch's causal kernel, when only attention runs."""
    model = spec.settings.model
    shape = (spec.settings.trainer.batch_size, model.n_head, model.block_size,
             model.n_embd // model.n_head)
    blocks = build_model(spec.settings, RandomTokens(spec.settings), seed=0).transformer.h
    patterns = [block.attn.pattern for block in blocks]
    saved = {}
    for pattern in {*patterns}:
        def run(backend: type, *qkv: torch.Tensor, pattern=pattern) -> torch.Tensor:
            return backend.attend(pattern, *qkv, None, None, 0.0)
        seconds = medians(run, (Auto, Flash), shape, 4 * rounds)
        saved[pattern] = 1e3 * (seconds[Flash] - seconds[Auto])
    return sum(saved[pattern] for pattern in patterns)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def _line(name: str, result: dict[str, Any]) -> str:
    auto = result["rows"]["auto"]
    ratios = [_ratio(auto[f"against_{other}"]) for other in (FULL, "dense")]
    ceiling = result["rows"][CEILING][f"against_{FULL}"]["median"]
    return (f"{name:<14}{result['sparsity']:>8.1%} {result['compute_sparsity']:>8.1%}   "
            f"{ratios[0]:<26}{ratios[1]:<22}{ceiling:>7.2f}×"
            f"{result['saved_ms'] / result['alone_saves_ms']:>9.0%}")


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f}× ({spread['low']:.2f}–{spread['high']:.2f})"


def draw(results: dict[str, Any], T: int, rounds: int):
    """Plot the speed of a whole step, as a multiple of full attention's, over sparsity."""
    caption = (
        f"a whole training step, 12 layers, 384 wide, T = {T}, batch 1, on a CPU; mark: median of "
        f"{rounds} interleaved rounds, bar: quartiles; ceiling: every score skipped, the rest kept"
    )
    figure, (axes,) = page(5.0, "What can skipping attention save, and what does it?", caption)
    ceilings = [result["rows"][CEILING][f"against_{FULL}"]["median"] for result in results.values()]
    axes.axhspan(min(ceilings), max(ceilings), color="#009E73", alpha=0.25, lw=0)
    axes.text(1, max(ceilings) + 0.02, "ceiling: attention removed", color="#007a5a", va="bottom")
    axes.axhline(1, color="black", lw=1.2)
    axes.text(1, 0.985, "full attention, torch's fused causal kernel", va="top")
    # left: the share of attention that is still computed
    left, ceiling = np.linspace(1, 0, 100), float(np.median(ceilings))
    axes.plot(100 * (1 - left), 1 / (1 / ceiling + left * (1 - 1 / ceiling)), color="#6b6b6b",
              ls="--", lw=1.3, label="if attention cost what its pairs do")
    for kind, color, marker in (("auto", "#0072B2", "o"), ("dense", "#D55E00", "s")):
        _points(axes, results, kind, color, marker)
    axes.set_xlim(0, 100)
    axes.set_ylim(0.6, max(ceilings) + 0.15)
    axes.set_xlabel("sparsity (% of the causal triangle not computed, or masked)")
    axes.set_ylabel("times as fast as full")
    return figure


def _points(axes, results: dict[str, Any], kind: str, color: str, marker: str) -> None:
    label = {"auto": "the work skipped (auto)", "dense": "a dense mask"}[kind]
    ordered = sorted(results.items(), key=lambda item: item[1]["sparsity"])
    for number, (name, result) in enumerate(ordered):
        row, x = result["rows"][kind][f"against_{FULL}"], 100 * result["sparsity"]
        bars = [[row["median"] - row["low"]], [row["high"] - row["median"]]]
        axes.errorbar([x], [row["median"]], yerr=bars, color=color, marker=marker, ms=7, capsize=3,
                      label=label if number == 0 else None)
        if kind == "auto":
            axes.annotate(name, (x, row["median"]), xytext=(0, -36 if number % 2 else -20),
                          ha="center", color=color, textcoords="offset points")
    axes.legend(loc="lower left", frameon=False)


if __name__ == "__main__":
    sys.exit(main())
