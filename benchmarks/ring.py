"""
Compare ring attention with attention in one process: values, gradients, and what a window saves.

    torchrun --nproc-per-node 4 -m benchmarks.ring [--length T] [--window W]
    python -m benchmarks.ring --ranks 4        (starts the processes itself)

On one machine the ranks share its cores, so the times say little there. What counts is how many
pairs of stretches are computed and how much data is sent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.kit.options import run
from experiments.train.process import MB
from mingpt.parallel.ring import Route, ring_attention
from mingpt.patterns.kinds import Pattern, full, window
from mingpt.sparse.banded import banded_attention
from mingpt.utils import BadInput


def main(argv: list[str] | None = None) -> int:
    """Run one rank if torchrun started this process; otherwise start all ranks here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ring", description=__doc__.strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4,
                        help="processes to start when torchrun has not started them (default 4)")
    parser.add_argument("--length", type=int, default=4096, metavar="T",
                        help="tokens of the whole text (default 4096)")
    parser.add_argument("--window", type=int, metavar="W",
                        help="keys that each query sees (default: its own and all earlier ones)")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    args = parser.parse_args(argv)
    ranks = int(os.environ.get("WORLD_SIZE", args.ranks))
    if ranks < 1 or args.length < ranks or args.length % ranks:
        raise BadInput(f"--length {args.length} over {ranks} ranks: give a multiple of {ranks}")
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return work(args)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_start, (ranks, folder, args), nprocs=ranks)
    return 0


def _start(rank: int, ranks: int, folder: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank,
                            world_size=ranks)
    work(args)


def work(args: argparse.Namespace) -> int:
    """Do the work of one rank. Rank 0 also computes attention alone, compares and prints."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = f"cuda:{rank % torch.cuda.device_count()}" if dist.get_backend() == "nccl" else "cpu"
    pattern = window(args.window) if args.window else full()
    whole = [x.to(device) for x in texts(args)]
    mine = [x.chunk(ranks, dim=2)[rank].clone() for x in whole]
    dist.barrier()
    ring, seconds = timed(lambda q, k, v: ring_attention(q, k, v, pattern), mine)
    found = [gathered(x) for x in ring]
    if rank == 0:
        alone, plain = timed(lambda q, k, v: banded_attention(q, k, v, pattern), whole)
        off = max(float((a - b).abs().max()) for a, b in zip(alone, found, strict=True))
        report(args, pattern, ranks, off, seconds, plain)
    dist.barrier()
    dist.destroy_process_group()
    return 0


def texts(args: argparse.Namespace) -> list[Tensor]:
    """q, k, v and an upstream gradient, each (1, nh, T, hs) and the same in every rank."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, args.heads, args.length, args.head_dim, generator=generator)
            for _ in range(4)]


def timed(attention, parts: list[Tensor]) -> tuple[list[Tensor], float]:
    """Return [output, dQ, dK, dV] and the seconds of the forward and backward."""
    *qkv, upstream = parts
    for x in qkv:
        x.requires_grad_()
    begun = time.perf_counter()
    out = attention(*qkv)
    gradients = torch.autograd.grad(out, qkv, upstream)
    if out.is_cuda:
        torch.cuda.synchronize()
    return [out.detach(), *gradients], time.perf_counter() - begun


def gathered(part: Tensor) -> Tensor:
    """Join the parts of all ranks along T. (1, nh, T / ranks, hs) → (1, nh, T, hs)."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim=2)


def report(args: argparse.Namespace, pattern: Pattern, ranks: int, off: float, seconds: float,
           plain: float) -> None:
    """Print what rank 0 found: the largest difference, the work, the data sent, and the times."""
    route = Route(ranks, args.length // ranks, pattern.reach(args.length))
    # MB of a stretch's keys and values in float32
    stretch = 2 * args.heads * route.length * args.head_dim * 4 / MB
    moves = sum(min(route.hops, ranks - 1 - rank) for rank in range(ranks))
    print(f"{args.length} tokens over {ranks} ranks, {route.length} each; pattern {pattern}")
    print(f"largest difference to one process, outputs and gradients: {off:.1e}")
    print(f"pairs of stretches computed: {route.computed} of {ranks ** 2}, skipped: "
          f"{route.skipped}, {ranks * (ranks - 1) // 2} of them because their keys come later")
    print(f"keys and values sent per forward: {moves} · {stretch:.1f} MB; each stretch goes to the "
          f"next {route.hops} ranks")
    print(f"forward and backward: {seconds:.2f} s; in rank 0 alone, with all tokens: {plain:.2f} s")


if __name__ == "__main__":
    sys.exit(run(main))
