"""
Compare a whole training step of ours with that of other libraries.

    python -m benchmarks.step [--only NAME…] [--quick]

A step is forward, loss, backward, clipping and optimizer. Dropout is off, the vocabulary has 50,257
tokens, and all sides read the same tokens. Each side runs in its own process, and the sides take
turns (kit/turns.py). A ratio is the median of the ratios of the single rounds, with quartiles.

A peer whose head is its token embedding is compared with ours tied in the same way; a peer with two
matrices is compared with ours untied. The share of peak is relative to a plain matrix product
measured in the same rounds. It counts the FLOPs that the size needs (kit/cases.py), which are the
same for all sides. Memory is the peak of the process; in brackets, what it adds to the memory held
before the model was built.

On a GPU, all sides use bfloat16 autocast and GPT-2 124M at block 1024. The peak is that of a
bfloat16 product, the clock stops when the device is done, and memory is what torch allocated. This
path has not been measured yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from statistics import median
from typing import Any

from benchmarks.kit import floors, options
from benchmarks.kit.cases import CASES, CUDA_CASES, Case
from benchmarks.kit.figure import FigurePanel, ratio_figure
from benchmarks.kit.machine import describe
from benchmarks.kit.peers import PEERS, absent
from benchmarks.kit.tables import Table, memory_cell, percent_cell, ratio_cell, save, time_cell
from benchmarks.kit.turns import Side, take_turns
from experiments.train.process import available_mb
from experiments.train.workers import ratios, spread

GEMM, OURS, UNTIED = "matrix product", "ours", "ours, untied"
ROUNDS, QUICK_ROUNDS = 5, 3
SPARE = 0.8      # the share of the available memory that the processes may use
COLUMNS = ("", "ms per step", "tokens/s", "× ours", "floor", "of peak", "peak MB (own)",
           "ours / theirs", "floor")


def main(argv: list[str] | None = None) -> int:
    """Print one table per size; write the JSON and the figure."""
    parser = options.parser("step", __doc__, ROUNDS, QUICK_ROUNDS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="measure only these sizes and these peers")
    parser.add_argument("--profile", action="store_true",
                        help="compare nothing; show where the time of our step goes")
    args = options.parse(parser, argv)
    cases = CUDA_CASES if args.device == "cuda" else CASES
    wanted_cases, wanted_peers = chosen(args.only, cases)
    if args.profile:
        from benchmarks.kit.profiling import profile
        return profile([cases[name] for name in wanted_cases], args.device, args.threads)
    results: dict[str, Any] = {"machine": describe(args.device, args.threads),
                               "rounds": args.rounds, "cases": {}}
    for name in wanted_cases:
        result = measure(cases[name], wanted_peers, args)
        results["cases"][name] = result
        table(cases[name], result, args.device).print()
    save(args.out, "step", results, figure(results, args.device))
    return 0


def chosen(names: Iterable[str], cases: dict[str, Case]) -> tuple[list[str], list[str]]:
    """Split the names of --only into (sizes, peers).

    Where no size is named, all sizes are returned; the same holds for peers. BadInput for an
    unknown name.
    """
    for name in names:
        options.known(name, [*cases, *PEERS])
    sizes = [name for name in cases if name in names] or list(cases)
    return sizes, [name for name in PEERS if name in names] or list(PEERS)


def measure(case: Case, wanted: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Measure one size: {"absent": {peer: why}, "rows": {name: figures}, "tokens", "flops"}.

    The peers run in groups that fit into memory. Each group runs together with ours.
    """
    here = [name for name in wanted if case.family in PEERS[name].families]
    why = {name: absent(PEERS[name], args.copies) for name in here}
    rows: dict[str, Any] = {}
    for group in groups([name for name in here if not why[name]], case,
                        available_mb(args.device) * SPARE):
        sides = [side(name, case, args) for name in [*needed_ours(group), *group]]
        taken = take_turns([Side(GEMM, "benchmarks.kit.ours:gemm", {"device": args.device},
                                 args.threads), *sides],
                           args.rounds, lambda text: options.say(f"{case.name}: {text}"))
        for name in group:
            rows[name] = row(taken, name, case)
        for name in needed_ours(group):
            rows.setdefault(name, row(taken, name, case))
    return {"absent": {name: reason for name, reason in why.items() if reason}, "rows": rows,
            "tokens": case.tokens, "flops": case.flops}


def needed_ours(group: list[str]) -> list[str]:
    """Which of our two steps, tied and untied, the peers of a group are compared with."""
    tied = {PEERS[name].tied for name in group}
    return [name for name, is_tied in ((OURS, True), (UNTIED, False)) if is_tied in tied]


def counterpart(peer: str) -> str:
    """The name of our step that is tied if and only if the peer is."""
    return OURS if PEERS[peer].tied else UNTIED


def side(name: str, case: Case, args: argparse.Namespace) -> Side:
    """The side that trains `name`, one of ours or a peer."""
    if name in (OURS, UNTIED):
        arguments = {"case": case, "device": args.device, "tied": name == OURS}
        return Side(name, "benchmarks.kit.ours:build", arguments, args.threads)
    arguments = {"peer": name, "case": case, "device": args.device,
                 "path": args.copies.get(PEERS[name].source)}
    return Side(name, "benchmarks.kit.peers:build", arguments, args.threads)


def groups(names: list[str], case: Case, megabytes: float) -> list[list[str]]:
    """Split the peers, in order, into groups that fit into `megabytes` together with ours.

    Each group has at least one peer.
    """
    made: list[list[str]] = []
    for name in names:
        together = [*made[-1], name] if made else [name]
        tied = ([PEERS[peer].tied for peer in together]
                + [ours == OURS for ours in needed_ours(together)])
        if made and sum(map(case.megabytes, tied)) <= megabytes:
            made[-1].append(name)
        else:
            made.append([name])
    return made


def row(taken: dict[str, dict], name: str, case: Case) -> dict[str, Any]:
    """The figures of one side, and for a peer its ratios to ours, taken round by round."""
    mine = taken[name]
    if "failed" in mine:
        return {"failed": mine["failed"]}
    flops = mine.get("flops", case.flops)
    rate = [taken[GEMM]["flops"] / seconds for seconds in taken[GEMM]["seconds"]]
    found = {"ms": spread([1e3 * s for s in mine["seconds"]]), "loss": mine["loss"],
             "tokens_per_second": case.tokens / median(mine["seconds"]),
             "share_of_peak": spread([flops / s / r
                                      for s, r in zip(mine["seconds"], rate, strict=True)]),
             "peak_gflops": max(rate) / 1e9, "peak_mb": mine["peak_mb"],
             "own_mb": mine["peak_mb"] - mine["idle_mb"],
             "first_seconds": mine["first_seconds"]}
    if name in PEERS:
        ours = taken[counterpart(name)]
        found |= {"against": counterpart(name), "speed": ratios(mine["seconds"], ours["seconds"]),
                  "memory": ours["peak_mb"] / mine["peak_mb"],
                  "own_memory": (ours["peak_mb"] - ours["idle_mb"]) / found["own_mb"],
                  "trains": PEERS[name].trains}
    return found


def table(case: Case, result: dict[str, Any], device: str) -> Table:
    """The table of one size, with the floor of each ratio."""
    key = ("step", case.name)
    speed = (floors.SPEED if device == "cpu" else floors.CUDA_SPEED).get(key, {})
    memory = floors.MEMORY.get(key, {}) if device == "cpu" else {}
    share = floors.SHARE_OF_PEAK.get(key) if device == "cpu" else None
    made = Table(f"{case.name}: {case.n_layer} layers, {case.n_head} heads, {case.n_embd} wide, "
                 f"block {case.block_size}, batch {case.batch_size}; a step needs "
                 f"{case.flops / 1e9:.0f} GFLOP", COLUMNS)
    for name in [OURS, UNTIED, *PEERS]:
        found = result["rows"].get(name)
        if name in result["absent"]:
            made.note(name, f"absent: {result['absent'][name]}")
        elif found and "failed" in found:
            made.note(name, f"failed: {found['failed'].strip().splitlines()[-1]}")
        elif found:
            peer = name in PEERS
            made.row(name, time_cell(found["ms"]), f"{found['tokens_per_second']:,.0f}",
                     *(ratio_cell(found["speed"], speed.get(name)) if peer else ("", "")),
                     percent_cell(found["share_of_peak"], share if name == OURS else None),
                     memory_cell(found),
                     *(ratio_cell(found["memory"], memory.get(name)) if peer else ("", "")))
    return made


def figure(results: dict[str, Any], device: str):
    """Draw the speed ratio of each peer, one panel per size."""
    speed = floors.SPEED if device == "cpu" else floors.CUDA_SPEED
    panels = [FigurePanel(name, [(peer, found["speed"], speed.get(("step", name), {}).get(peer))
                           for peer, found in result["rows"].items() if "speed" in found])
              for name, result in results["cases"].items()]
    return ratio_figure("How long do others take for the same training step?", "the time of ours",
                        panels, results)


if __name__ == "__main__":
    sys.exit(options.run(main))
