"""
Sums over the micro-batches of a step, in an order that does not depend on who computes them.

The micro-batches are the leaves of a fixed tree, and every sum adds two halves of it: ((a + b) +
(c + d)) + … . One process computes the whole tree. Each of W processes computes a whole subtree
(GradientTree), and the processes then add their sums in the same tree (`sum_over_processes`).
Adding two floating-point numbers gives the same bits in either order, so 1, 2, 4 or 8 processes
get the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The most subtrees of a step, and so the most processes that can share it. Within a subtree the
# gradients are added in sequence. More subtrees would cost one process more memory: it holds a
# gradient per level of the tree.
MOST = 16
ALIGNED = 16    # elements: a gradient in the flat buffer starts where a tensor of its own could


def subtrees(leaves: int) -> int:
    """The number of subtrees over this many leaves: the largest power of two that divides it, at
    most MOST."""
    return min(leaves & -leaves, MOST)


def sequence(leaves: int, total: int) -> int:
    """Return how many leaves are added one after the other below the tree, in a process that
    computes `leaves` of the step's `total`. Two leaves added in sequence give the same sum as a
    tree of two, without a second gradient in memory."""
    return max(total // subtrees(total), min(2, leaves))


class GradientTree:
    """The sum of one process's share of a step. `leaves` micro-batches form runs of `run` each.
    Within a run they are added one after the other, and the runs in a binary tree. Each backward
    adds its gradient to the parameters' `grad`, and `add` then moves complete subtrees out of the
    way. After the last `add`, `grad` and `loss` hold the share's sums.

    Gradients may be None, as those of an expert without tokens are: None adds nothing.
    """

    def __init__(self, parameters: Sequence[Tensor], leaves: int, run: int):
        self.parameters, self.leaves, self.run = parameters, leaves, run
        self.loss: Tensor | float = 0.0
        self.added = 0
        self.waiting: list[tuple[int, list]] = []   # (runs, [loss, *gradients]) of left subtrees

    def add(self, loss: Tensor | float) -> None:
        """Count the next leaf, whose backward is done and whose loss this is."""
        self.loss = self.loss + loss
        self.added += 1
        if self.leaves > self.run and self.added % self.run == 0:
            self._close()

    @torch.no_grad()
    def _close(self) -> None:
        """Take in a complete run of leaves: add it to its sibling in the tree, then their sum to
        its own sibling, and so on while the sibling is complete."""
        runs, total = 1, [self.loss, *(p.grad for p in self.parameters)]
        while self.waiting and self.waiting[-1][0] == runs:
            total = [_sum(a, b) for a, b in zip(self.waiting.pop()[1], total, strict=True)]
            runs *= 2
        finished = self.added == self.leaves
        if not finished:
            self.waiting.append((runs, total))
        self.loss, *gradients = total if finished else [0.0, *(None for _ in self.parameters)]
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient


def _sum(a: Tensor | float | None, b: Tensor | float | None) -> Tensor | float | None:
    """Return a + b, written into a's memory if a is a tensor. None adds nothing."""
    if a is None or b is None:
        return b if a is None else a
    return a.add_(b) if isinstance(a, Tensor) else a + b


class FlatGradients:
    """One buffer for the gradients of all parameters, the flags of those that have one, and a loss.
    `sum_over` adds these over the processes; afterwards the gradients are views of the buffer."""

    def __init__(self, parameters: Sequence[Tensor], processes: int):
        self.parameters = parameters
        wide = torch.float32
        for p in parameters:
            wide = torch.promote_types(wide, p.dtype)
        self.places, sizes = [], dict.fromkeys([p.dtype for p in parameters] + [wide], 0)
        for p in parameters:
            self.places.append(slice(sizes[p.dtype], sizes[p.dtype] + p.numel()))
            sizes[p.dtype] += -(-p.numel() // ALIGNED) * ALIGNED
        self.rest = slice(sizes[wide], sizes[wide] + len(parameters) + 1)
        sizes[wide] += len(parameters) + 1
        device = parameters[0].device
        unit = processes * ALIGNED
        self.buffers = {dtype: torch.zeros(-(-size // unit) * unit, dtype=dtype, device=device)
                        for dtype, size in sizes.items()}
        self.extra = self.buffers[wide][self.rest]      # the loss, then one flag per parameter

    @torch.no_grad()
    def sum_over(self, loss: Tensor | float, add: Callable[[Tensor], None]) -> Tensor:
        """Sum the parameters' gradients and the loss over the processes, and return the summed
        loss. `add` sums one buffer in place."""
        has = [p.grad is not None for p in self.parameters]
        self.extra[1:] = torch.tensor(has, dtype=self.extra.dtype)
        self.extra[0] = loss
        for p, place in zip(self.parameters, self.places, strict=True):
            # x + −0.0 is x for every x, while −0.0 + 0.0 would lose a sign
            self.buffers[p.dtype][place].copy_(p.grad.reshape(-1)) if p.grad is not None else (
                self.buffers[p.dtype][place].fill_(-0.0))
        for buffer in self.buffers.values():
            add(buffer)
        for p, place, found in zip(self.parameters, self.places, self.extra[1:].tolist(),
                                   strict=True):
            p.grad = self.buffers[p.dtype][place].view_as(p) if found else None
        return self.extra[0].clone()


def sum_over_processes(flat: Tensor, rank: int, count: int,
                       swap: Callable[[Tensor, Tensor, int], None]) -> None:
    """flat (n,), n divisible by count, a power of two → its sum over the processes, in place, in
    the order of the tree. `swap(sent, received, other)` exchanges two tensors with a process.

    Neighbours halve the buffer between them: each adds one half. Pairs of neighbours then halve
    that half, and so on, until every process has the whole sum of its own n/count elements. The
    same steps backwards give all processes all sums. Each process sends 2·n·(count − 1)/count
    elements, as in a ring.
    """
    received = torch.empty_like(flat[:len(flat) // 2])
    low, size, distance, steps = 0, len(flat), 1, []
    while distance < count:
        size //= 2
        kept, given = (low, low + size) if rank & distance == 0 else (low + size, low)
        theirs = received[:size]
        swap(flat[given:given + size], theirs, rank ^ distance)
        flat[kept:kept + size].add_(theirs)
        steps.append((kept, given, size, rank ^ distance))
        low, distance = kept, distance * 2
    for kept, given, size, other in reversed(steps):
        swap(flat[kept:kept + size], flat[given:given + size], other)
