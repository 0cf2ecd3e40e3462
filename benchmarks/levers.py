"""
Measure what each speed-up ("lever") of the training step is worth, by undoing one at a time.

    python -m benchmarks.levers [--only …]

The first rows of a size are our untouched steps. Each further row is our step with one lever
undone, that is, written as it was before or as one would write it first. Its time over that of the
untouched step is what the lever is worth. The row of torch.compile adds compilation instead: it
shows the time per step, and after how many steps the compilation has paid for itself. The two sizes
are those of arms.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.arms import SIZES
from benchmarks.kit import options
from benchmarks.kit.cases import Case
from benchmarks.kit.figure import FigurePanel, ratio_figure
from benchmarks.kit.machine import describe
from benchmarks.kit.tables import Table, ratio_cell, save, time_cell
from benchmarks.kit.turns import Side, take_turns
from experiments.train.workers import ratios, spread

# ARM: the arm that contains every lever but GELU's
ARM, OURS, COMPILED = "all_modifications", "ours", "with torch.compile"
ROUNDS, QUICK_ROUNDS = 5, 3


# -- runs in the process of a side; what it replaces there ends with that process ------------------

def all_logits() -> None:
    """Compute all logits at once for the loss."""
    import mingpt.trainer
    mingpt.trainer.loss_of = lambda model: lambda x, y: model(x, y)[1]


def looped_adamw() -> None:
    """Run AdamW in a loop: one parameter and one operation after the other."""
    import mingpt.optimizers
    fused = mingpt.optimizers.AdamW
    mingpt.optimizers.AdamW = lambda groups, **given: fused(
        groups, **{**given, "fused": False, "foreach": False})


def rms_formula() -> None:
    """Compute RMSNorm in five operations that autograd records."""
    import torch

    from mingpt.norms import RMSNorm

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
    RMSNorm.forward = forward


def rms_of_torch() -> None:
    """Use torch's own rms_norm."""
    from torch.nn import functional as F

    from mingpt.norms import RMSNorm
    RMSNorm.forward = lambda self, x: F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_concatenated() -> None:
    """Rotate the two halves of each head separately and concatenate them."""
    import torch

    from mingpt.positions import RoPE

    def turn(self, x, start=0):
        cos, sin = (t[start:start + x.size(-2)] for t in (self.cos, self.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    RoPE.rotated = turn


def gelu_formula() -> None:
    """Compute GELU's tanh formula operation by operation, as minGPT does."""
    import torch

    from mingpt.mlps import NewGELU
    NewGELU.forward = lambda self, x: 0.5 * x * (
        1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def memory_given_back() -> None:
    """Let the C library give freed memory back to the system, as it does by default."""
    import mingpt.trainer
    mingpt.trainer.keep_freed_memory = lambda: None


def dropout_modules() -> None:
    """Use nn.Dropout at p = 0, which still draws a mask and multiplies."""
    import torch.nn as nn

    import mingpt.attention.heads
    import mingpt.mlps
    import mingpt.model
    for module in (mingpt.attention.heads, mingpt.mlps, mingpt.model):
        module.dropout = nn.Dropout


LEVERS: dict[str, tuple[Callable[[], None], str]] = {   # row → (how to undo it, in which arm)
    "all logits at once": (all_logits, ARM),
    "AdamW in a loop": (looped_adamw, ARM),
    "RMSNorm by formula": (rms_formula, ARM),
    "torch's rms_norm": (rms_of_torch, ARM),
    "RoPE by concatenation": (rope_concatenated, ARM),
    "nn.Dropout(0)": (dropout_modules, ARM),
    "GELU by formula": (gelu_formula, "baseline"),
    "freed memory given back": (memory_given_back, ARM),
}


def build(case: Case, device: str, lever: str | None = None, arm: str = ARM,
          compiled: bool = False):
    """Build our step with one lever undone. This is the builder that the sides name."""
    from benchmarks.kit.ours import build as ours
    if lever:
        LEVERS[lever][0]()
    return ours(case, device, arm=arm, compiled=compiled)


# -- the table -------------------------------------------------------------------------------------

def main(argv: list[str] | None = None) -> int:
    """Print one table per size; write the JSON and the figure."""
    parser = options.parser("levers", __doc__, ROUNDS, QUICK_ROUNDS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="measure only these sizes and these levers")
    args = options.parse(parser, argv)
    for name in args.only:
        options.known(name, [*SIZES, *LEVERS, COMPILED])
    wanted = [name for name in (*LEVERS, COMPILED) if name in args.only] or [*LEVERS, COMPILED]
    results: dict[str, Any] = {"machine": describe(args.device, args.threads),
                               "rounds": args.rounds, "sizes": {}}
    for name in [name for name in SIZES if name in args.only] or list(SIZES):
        results["sizes"][name] = measure(SIZES[name], wanted, args)
        table(name, results["sizes"][name]).print()
    save(args.out, "levers", results, figure(results))
    return 0


def measure(case: Case, levers: list[str], args: argparse.Namespace) -> dict[str, dict]:
    """Measure one size: {row: figures}, each lever against the untouched step of its arm."""
    arms = sorted({arm_of(name) for name in levers})
    sides = {ours_of(arm): {"arm": arm} for arm in arms}
    sides |= {name: {"lever": None if name == COMPILED else name, "arm": arm_of(name),
                     "compiled": name == COMPILED}
              for name in levers}
    shared = {"case": case, "device": args.device}
    taken = take_turns([Side(name, "benchmarks.levers:build", shared | given, args.threads)
                        for name, given in sides.items()], args.rounds,
                       lambda text: options.say(f"levers, {case.name}: {text}"))
    return {name: row(taken[name], taken[ours_of(given["arm"])]) for name, given in sides.items()}


def arm_of(name: str) -> str:
    """The arm in which a row's lever is undone."""
    return LEVERS[name][1] if name in LEVERS else ARM


def ours_of(arm: str) -> str:
    """The name of an arm's untouched step."""
    return f"{OURS} ({arm})"


def row(found: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The figures of one row: ms per step, its time over ours, and its memory over ours.

    `break_even` is the number of steps that pay back a longer first step, or None if they never do.
    """
    if "failed" in found:
        return {"failed": found["failed"]}
    made = {"ms": spread([1e3 * s for s in found["seconds"]]),
            "times": ratios(found["seconds"], ours["seconds"]),
            "memory_mb": found["peak_mb"] - ours["peak_mb"],
            "first_seconds": found["first_seconds"]}
    saved = spread(ours["seconds"])["median"] - spread(found["seconds"])["median"]
    waited = found["first_seconds"] - ours["first_seconds"]
    return made | {"break_even": math.ceil(waited / saved) if saved > 0 and waited > 0 else None}


def table(name: str, rows: dict[str, dict]) -> Table:
    """The table of one size."""
    case = SIZES[name]
    made = Table(f"{name}: {case.n_embd} wide, vocabulary {case.vocab_size:,}; one lever undone at "
                 f"a time",
                 ("", "ms per step", "× ours", "peak MB over ours", "pays after"))
    for lever, found in rows.items():
        if "failed" in found:
            made.note(lever, f"failed: {found['failed'].strip().splitlines()[-1]}")
            continue
        pays = f"{found['break_even']:,} steps" if found["break_even"] else "never"
        made.row(lever, time_cell(found["ms"]), ratio_cell(found["times"], None)[0],
                 f"{found['memory_mb']:+.0f}", pays if lever == COMPILED else "")
    return made


def figure(results: dict[str, Any]):
    """Draw the time of each row over ours, one panel per size."""
    panels = [FigurePanel(name, [(lever, found["times"], None) for lever, found in rows.items()
                           if "times" in found and not lever.startswith(OURS)])
              for name, rows in results["sizes"].items()]
    return ratio_figure("What is each lever worth? Our step with one undone", "our step", panels,
                        results)


if __name__ == "__main__":
    sys.exit(options.run(main))
