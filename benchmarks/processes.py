"""
Compare the two ways in which several processes add up their gradients: the tree and all_reduce.

    torchrun --nproc-per-node 2 -m benchmarks.processes [--preset P] [--accumulation A] [--rounds R]

Each round takes one step of each kind, in turns: with the tree, with torch's all_reduce, and with
no exchange at all, which is what the computing alone costs. Ratios are taken within a round. Also
printed: how long the bare exchange of a gradient takes either way.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from benchmarks.kit.options import run
from experiments.declare.spec import make_spec
from experiments.train.predict import RandomTokens
from experiments.train.process import MB
from experiments.train.seeded import SeededTrainer, build_model
from mingpt.parallel.check import check_count
from mingpt.parallel.processes import Group, Processes, joined
from mingpt.parallel.tree import GradientTree
from mingpt.trainer import loss_of
from mingpt.utils import BadInput, CfgNode

WAYS = ("tree", "all_reduce", "alone")


class Alone(Processes):
    """Computes the share of one process of several and exchanges nothing."""

    def __init__(self, group: Processes):
        self.rank, self.count = group.rank, group.count

    def begin_step(self, counts: list[int]) -> list[int]:
        """This process's counts, as if those of the others were equal."""
        return counts * self.count


def main(argv: list[str] | None = None) -> int:
    """Measure in each of the processes that torchrun started; the first one prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="laptop", help="sizes (default laptop)")
    parser.add_argument("--accumulation", type=int, default=2, metavar="A",
                        help="batches per step, of all processes together (default 2)")
    parser.add_argument("--batch-size", type=int, metavar="B", help="rows per batch")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind (default 15)")
    args = parser.parse_args(argv)
    if "RANK" not in os.environ:
        raise BadInput("start it with torchrun --nproc-per-node N -m benchmarks.processes")
    given = [f"--trainer.accumulation_steps={args.accumulation}"]
    if args.batch_size:
        given.append(f"--trainer.batch_size={args.batch_size}")
    settings = make_spec(preset=args.preset, overrides=given).settings
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with joined(device) as group:
        check_count(group.count, settings.trainer)
        steps = {way: stepper(settings, way, group) for way in WAYS}
        taken = measure(steps, args.rounds, group)
        exchanges = exchange_seconds(settings, group, args.rounds)
        if group.first:
            report(settings, group, taken, exchanges)
    return 0


def stepper(settings: CfgNode, way: str, group: Processes) -> Callable[[], None]:
    """A function that takes one training step in one of the WAYS."""
    config = CfgNode(**settings.trainer.to_dict())
    config.reduce = "all_reduce" if way == "all_reduce" else "tree"
    tokens = RandomTokens(settings)
    trainer = SeededTrainer(config, build_model(settings, tokens, seed=0), tokens, 0,
                            Alone(group) if way == "alone" else group)
    trainer.optimizer = trainer.model.configure_optimizers(config)
    trainer.loss_of, batches = loss_of(trainer.model), trainer.batches()
    if way == "all_reduce":
        trainer.loss_of = group.wrapped(trainer.loss_of, trainer.model)

    def step() -> None:
        trainer.model.train()
        trainer.step(batches)
        float(trainer.loss)     # waits for the device
    return step


def measure(steps: dict[str, Callable], rounds: int, group: Processes) -> dict[str, list[float]]:
    """The seconds of each kind of step, round by round, without the first two rounds."""
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(rounds + 2):
        for way in (list(steps) if number % 2 else list(reversed(steps))):
            group.gather(None)
            begun = time.perf_counter()
            steps[way]()
            if number >= 2:
                taken[way].append(max(group.gather(time.perf_counter() - begun)))
    return taken


def exchange_seconds(settings: CfgNode, group: Group, rounds: int) -> dict[str, float]:
    """The median seconds in which the processes add up one gradient of the model, either way."""
    model = build_model(settings, RandomTokens(settings), seed=0)
    tree = GradientTree(list(model.parameters()), 1, 1)
    flat = torch.ones(sum(p.numel() for p in model.parameters()))
    taken: dict[str, list[float]] = {"tree": [], "all_reduce": []}
    for _ in range(rounds):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        for way, add in (("tree", lambda: group.sum(tree)), ("all_reduce",
                                                            lambda: dist.all_reduce(flat))):
            group.gather(None)
            begun = time.perf_counter()
            add()
            taken[way].append(max(group.gather(time.perf_counter() - begun)))
    return {way: statistics.median(seconds) for way, seconds in taken.items()}


def report(settings: CfgNode, group: Processes, taken: dict[str, list[float]],
           exchanges: dict[str, float]) -> None:
    """Print the medians, the ratios within rounds, and the bare exchange."""
    trainer = settings.trainer
    size = sum(p.numel() for p in build_model(settings, RandomTokens(settings), 0).parameters())
    print(f"{group.count} processes, {torch.get_num_threads()} threads each; {size:,} parameters, "
          f"{trainer.accumulation_steps} batches of {trainer.batch_size} × "
          f"{settings.model.block_size} tokens per step; {len(taken['tree'])} rounds")
    for way, seconds in taken.items():
        over = statistics.median(a / b for a, b in zip(seconds, taken["alone"], strict=True))
        print(f"  {way:<10} {1e3 * statistics.median(seconds):9.1f} ms per step, {over:.3f} × "
              f"without exchange")
    for way, seconds in exchanges.items():
        print(f"  {way:<10} {1e3 * seconds:9.2f} ms for one gradient of {4 * size / MB:.1f} MB")


if __name__ == "__main__":
    sys.exit(run(main))
