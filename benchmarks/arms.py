"""
Measure whether an arm is slow because of its implementation.

    python -m benchmarks.arms [--members] [--only NAME…] [--quick]

Each row is the time per FLOP of an arm's training step, divided by the baseline's. Only if a FLOP
costs every arm the same does an ablation at equal time compare what the arms learn.

There are two sizes: gpt-mini with GPT-2's vocabulary, as in step.py, and the same model reading
bytes, where no large head hides what the layers cost. `cosine` trains the baseline's model, so its
row shows the noise. `--members` adds every member of every slot that no arm has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.kit import floors, options
from benchmarks.kit.cases import CASES, Case
from benchmarks.kit.figure import FigurePanel, ratio_figure
from benchmarks.kit.machine import describe
from benchmarks.kit.tables import Table, ratio_cell, save, time_cell
from benchmarks.kit.turns import Side, take_turns
from experiments.train.workers import ratios, spread

ARMS = ("swiglu", "rope", "rmsnorm", "cosine", "all_modifications")
SIZES = {case.name: case for case in (CASES["gpt-mini"],
                                      replace(CASES["gpt-mini"], name="bytes", vocab_size=256))}
BASELINE, TOGETHER = "baseline", 6      # TOGETHER: how many arms take turns with one baseline
ROUNDS, QUICK_ROUNDS = 5, 3
COLUMNS = ("", "ms per step", "× the time", "× the FLOPs", "per FLOP", "floor")


def main(argv: list[str] | None = None) -> int:
    """Print one table per size; write the JSON and the figure."""
    parser = options.parser("arms", __doc__, ROUNDS, QUICK_ROUNDS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="measure only these sizes and these arms")
    parser.add_argument("--members", action="store_true",
                        help="also measure every member of every slot")
    args = options.parse(parser, argv)
    arms = {name: {"arm": name} for name in ARMS} | (dict(members()) if args.members else {})
    for name in args.only:
        options.known(name, [*SIZES, *arms])
    wanted = [name for name in arms if name in args.only] or list(arms)
    results: dict[str, Any] = {"machine": describe(args.device, args.threads),
                               "rounds": args.rounds, "sizes": {}}
    for name in [name for name in SIZES if name in args.only] or list(SIZES):
        results["sizes"][name] = measure(SIZES[name], {arm: arms[arm] for arm in wanted}, args)
        table(name, results["sizes"][name]).print()
    save(args.out, "arms", results, figure(results))
    return 0


def members() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, arguments of ours.build) for each member of a model slot that no arm above has.

    Each one changes that single slot.
    """
    from experiments.declare.arms import catalogue
    from mingpt.model import SLOTS
    had = {tuple(catalogue()[arm].settings.items()) for arm in ARMS}
    for slot, choices in SLOTS.items():
        for name in list(choices)[1:]:
            if ((f"model.{slot}", name),) not in had:
                yield f"{slot}={name}", {"settings": {f"model.{slot}": name}}


def measure(case: Case, arms: dict[str, dict], args: argparse.Namespace) -> dict[str, Any]:
    """Measure every arm at one size, and return {arm: figures}.

    At most TOGETHER arms run at a time. Each group has its own baseline.
    """
    names, rows = list(arms), {}
    for start in range(0, len(names), TOGETHER):
        group = names[start:start + TOGETHER]
        shared = {"case": case, "device": args.device}
        sides = [Side(name, "benchmarks.kit.ours:build", shared | arms.get(name, {}), args.threads)
                 for name in (BASELINE, *group)]
        taken = take_turns(sides, args.rounds,
                           lambda text: options.say(f"arms, {case.name}: {text}"))
        rows |= {name: row(taken, name) for name in (BASELINE, *group)}
    return rows


def row(taken: dict[str, dict], name: str) -> dict[str, Any]:
    """An arm's figures: ms per step, its time and FLOPs over the baseline's, and time per FLOP.

    An arm that failed has only the key "failed".
    """
    arm, baseline = taken[name], taken[BASELINE]
    if "failed" in arm:
        return {"failed": arm["failed"]}
    flops = arm["flops"] / baseline["flops"]
    slower = [a / b for a, b in zip(arm["seconds"], baseline["seconds"], strict=True)]
    return {"ms": spread([1e3 * s for s in arm["seconds"]]),
            "time": ratios(arm["seconds"], baseline["seconds"]),
            "flops": flops, "per_flop": spread([s / flops for s in slower])}


def table(name: str, rows: dict[str, dict]) -> Table:
    """The rows of a size, with the floor."""
    made = Table(f"arms, {name}: a step per FLOP, over the baseline's", COLUMNS)
    for arm, found in rows.items():
        if "failed" in found:
            made.note(arm, f"failed: {found['failed'].strip().splitlines()[-1]}")
        elif arm == BASELINE:
            made.row(arm, time_cell(found["ms"]), "", "", "", "")
        else:
            made.row(arm, time_cell(found["ms"]), f"{found['time']['median']:.2f}",
                     f"{found['flops']:.3f}", *ratio_cell(found["per_flop"], floors.ARM_PER_FLOP))
    return made


def figure(results: dict[str, Any]):
    """Draw the time per FLOP of each arm, one panel per size."""
    panels = [FigurePanel(size, [(arm, found["per_flop"], floors.ARM_PER_FLOP)
                           for arm, found in rows.items()
                           if arm != BASELINE and "per_flop" in found])
              for size, rows in results["sizes"].items()]
    return ratio_figure("What does a FLOP cost an arm, against the baseline?",
                        "the baseline's time", panels, results)


if __name__ == "__main__":
    sys.exit(options.run(main))
