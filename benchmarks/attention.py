"""
Time banded attention against torch's fused kernels, forward and backward.

    python -m benchmarks.attention [--tune] [--out DIR]

Each row times three kernels in one process: SDPA's causal flash kernel, which computes full
attention; SDPA with the pattern as a dense mask; and ours. They take turns, so that a disturbance
of the machine affects all of them. A speed-up is the median of the ratios of the single rounds.
`ideal` is the number of (query, key) pairs of causal attention divided by that of the pattern.
`share` is the speed-up over flash divided by `ideal`. --tune measures instead which tiles and which
backend are the fastest here, and prints the lines for the tables in the source.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.kit.options import RESULTS, say
from benchmarks.kit.tables import save
from benchmarks.kit.tuning import tune
from experiments.train.process import peak_memory_mb
from experiments.train.workers import ratios
from mingpt.patterns.kinds import parse_pattern
from mingpt.sparse.banded import banded_attention


@dataclass(frozen=True)
class AttentionCase:
    """One row: the shape (B, nh, T, hs), the pattern as text, and the speed-ups to reach."""
    shape: tuple[int, int, int, int]
    pattern: str
    over_flash: float | None = None
    over_dense: float | None = None


LONG = (1, 6, 2048, 64)
CASES = [
    AttentionCase(LONG, "64", 6.5, 11), AttentionCase(LONG, "128", 5, 8),
    AttentionCase(LONG, "256", 3, 5), AttentionCase(LONG, "512", 1.6, 2.8),
    AttentionCase((1, 6, 4096, 64), "256", 5.5, 10), AttentionCase((1, 6, 8192, 64), "256", 10),
    AttentionCase((4, 6, 1024, 32), "64", 3, 4.4),
    AttentionCase((4, 6, 1024, 32), "256", 1.7, 2.4), AttentionCase(LONG, "128/32", 2.1, 3.8),
    AttentionCase(LONG, "b128x4"), AttentionCase(LONG, "s64"), AttentionCase(LONG, "128+g64"),
]
LONGEST_DENSE = 4096    # a dense mask at 8192 needs gigabytes


def main(argv: list[str] | None = None) -> int:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention",
                                     description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int,
                        help="rounds, with one timing of each kernel per round (default 7)")
    parser.add_argument("--quick", action="store_true", help="measure only 3 rounds")
    parser.add_argument("--tune", action="store_true",
                        help="print this machine's lines for WORKING_SET (mingpt/sparse/tiles.py) "
                             "and BANDED_ON_CPU (mingpt/sparse/backends.py)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument("--cpu-time", action="store_true",
                        help="measure CPU seconds of one thread instead of wall time, for a "
                             "machine that others use at the same time")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS,
                        help="folder of the JSON file")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (3 if args.quick else 7)
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    if args.tune:
        print("\n".join(tune(args.rounds, say)))
        return 0
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(f"{'B, H, T, D':>16} {'pattern':>8} {'flash ms':>9} {'dense ms':>9} {'ours ms':>8} "
          f"{'ideal':>6} {'share':>6}"
          f"   {'over flash (quartiles; goal)':30} over dense (quartiles; goal)")
    rows = []
    for case in CASES:
        rows.append(measure(case, args.rounds, clock))
        print(line(rows[-1]), flush=True)
    memory = {kind: peak_memory(kind) for kind in ("inputs", "flash", "banded")}
    print("peak memory at T = 8192, w = 256, MB over an idle process: " +
          ", ".join(f"{kind} {megabytes:.0f}" for kind, megabytes in memory.items()))
    save(args.out, "attention", {"environment": environment(args), "rows": rows,
                                 "peak_memory_mb": memory})
    return 0


def measure(case: AttentionCase, rounds: int, clock: Callable[[], float]) -> dict:
    """Time the kernels of a case in turns and return its row.

    Times are medians in ms; speed-ups are (median, lower quartile, upper quartile).
    """
    T, pattern = case.shape[2], parse_pattern(case.pattern)
    ways = {"flash": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)}
    if T <= LONGEST_DENSE:
        mask = pattern.mask(T)
        ways["dense"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    ways["ours"] = lambda q, k, v: banded_attention(q, k, v, pattern)
    qkv = [torch.randn(case.shape, requires_grad=True) for _ in range(3)]
    seconds = taking_turns(ways, qkv, torch.randn(case.shape), rounds, clock)
    row = {"shape": case.shape, "pattern": case.pattern,
           "ideal": T * (T + 1) / 2 / pattern.count(T)}
    row |= {f"{way}_ms": 1e3 * statistics.median(times) for way, times in seconds.items()}
    for way, goal in (("flash", case.over_flash), ("dense", case.over_dense)):
        if way in seconds:
            row[f"over_{way}"] = tuple(ratios(seconds[way], seconds["ours"]).values())
            row[f"goal_{way}"] = goal
    return row | {"share_of_ideal": row["over_flash"][0] / row["ideal"]}


def taking_turns(ways: dict[str, Callable], qkv: list[torch.Tensor], upstream: torch.Tensor,
                 rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each forward and backward, one list per kernel. The first round is not counted."""
    seconds = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, attention in ways.items():
            start = clock()
            torch.autograd.grad(attention(*qkv), qkv, upstream)
            seconds[way].append(clock() - start)
    return {way: times[1:] for way, times in seconds.items()}


def line(row: dict) -> str:
    """Format a row of the table as one line."""
    def cell(way: str) -> str:
        if f"over_{way}" not in row:
            return "–"
        median, low, high = row[f"over_{way}"]
        goal = "" if row[f"goal_{way}"] is None else f"; {row[f'goal_{way}']:g}"
        return f"{median:5.2f} ({low:.2f} {high:.2f}{goal})"
    shape = ", ".join(map(str, row["shape"]))
    dense = f"{row['dense_ms']:9.1f}" if "dense_ms" in row else f"{'–':>9}"
    return (f"{shape:>16} {row['pattern']:>8} {row['flash_ms']:9.1f} {dense} {row['ours_ms']:8.1f} "
            f"{row['ideal']:6.2f} "
            f"{row['share_of_ideal']:6.0%}   {cell('flash'):30} {cell('dense')}")


def peak_memory(kind: str) -> float:
    """MB that a forward and backward at T = 8192 adds to the peak memory of a new process.

    `kind` is "flash", "banded" or "inputs". "inputs" measures only the part that all kernels share:
    four inputs and four results.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_by_a_step, (kind,))


def _added_by_a_step(kind: str) -> float:
    _step(kind, 256)
    before = peak_memory_mb()
    _step(kind, 8192)
    return peak_memory_mb() - before


def _step(kind: str, T: int) -> None:
    q, k, v = (torch.randn(1, 6, T, 64, requires_grad=True) for _ in range(3))
    upstream = torch.randn(1, 6, T, 64)
    if kind == "inputs":
        _ = [torch.ones_like(x) for x in (q, k, v, upstream)]
    elif kind == "flash":
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(upstream)
    else:
        banded_attention(q, k, v, parse_pattern("256")).backward(upstream)


def environment(args: argparse.Namespace) -> dict:
    """The versions, the machine and the options of this measurement, for the JSON file."""
    return {"torch": torch.__version__, "python": platform.python_version(),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(), "rounds": args.rounds,
            "clock": "CPU seconds" if args.cpu_time else "wall seconds",
            "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    sys.exit(main())
