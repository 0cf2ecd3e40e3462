"""The sums of a step have the same bits on any number of processes, in the tree's order alone."""

import threading
from queue import SimpleQueue

import pytest
import torch

from mingpt.parallel.tree import (
    FlatGradients,
    GradientTree,
    sequence,
    subtrees,
    sum_over_processes,
)


def by_hand(leaves):
    """The tree's sum, written as its definition."""
    width = len(leaves) // subtrees(len(leaves))
    sums = [sum(leaves[i + 1:i + width], leaves[i]) for i in range(0, len(leaves), width)]
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def of_leaves(leaves, count=1):
    """The sums that `count` processes get from these leaves, one per process."""
    own, lines = len(leaves) // count, {}
    for pair in ((a, b) for a in range(count) for b in range(count)):
        lines[pair] = SimpleQueue()
    found = [None] * count

    def process(rank):
        def swap(sent, received, other):
            lines[rank, other].put(sent.clone())
            received.copy_(lines[other, rank].get(timeout=20))
        p = torch.nn.Parameter(torch.zeros_like(leaves[0]))
        unused = torch.nn.Parameter(torch.zeros(3))
        tree = GradientTree([p, unused], own, sequence(own, len(leaves)))
        for number, leaf in enumerate(leaves[rank * own:(rank + 1) * own], rank * own):
            p.grad = leaf.clone() if p.grad is None else p.grad + leaf   # as a backward does
            if number == 0:
                unused.grad = torch.full_like(unused, -0.0)              # only one leaf uses it
            tree.add(leaf[0])
        loss = tree.loss
        if count > 1:
            loss = FlatGradients([p, unused], count).sum_over(
                loss, lambda flat: sum_over_processes(flat, rank, count, swap))
        found[rank] = (p.grad.clone(), loss, unused.grad.clone())
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def bits(sums):
    return [tensor.view(torch.int32).tolist() for tensor in sums]


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 6, 8, 12, 16, 32])
def test_every_number_of_processes_gets_the_bits_of_the_tree(leaves):
    torch.manual_seed(leaves)
    parts = [torch.randn(37) * 10 ** torch.randn(37) for _ in range(leaves)]
    total = by_hand(parts)
    expected = bits([total, total[0], torch.full((3,), -0.0)])
    for count in (n for n in (1, 2, 4, 8, 16) if subtrees(leaves) % n == 0):
        for rank, sums in enumerate(of_leaves(parts, count)):
            assert bits(sums) == expected, (count, rank)


def test_another_order_has_other_bits():
    torch.manual_seed(0)
    parts = [torch.randn(37) * 10 ** torch.randn(37) for _ in range(8)]
    assert bits([sum(parts[1:], parts[0])]) != bits([by_hand(parts)])
    shuffled = [parts[i] for i in (0, 2, 1, 3, 4, 5, 6, 7)]
    assert bits([by_hand(shuffled)]) != bits([by_hand(parts)])


def test_one_process_holds_one_gradient_per_level():
    p = torch.nn.Parameter(torch.zeros(4))
    tree, most = GradientTree([p], 32, sequence(32, 32)), 0
    for _ in range(32):
        p.grad = torch.ones(4) if p.grad is None else p.grad.add_(1)
        tree.add(1.0)
        most = max(most, len(tree.waiting))
    assert most == 4 and tree.loss == 32 and p.grad.tolist() == [32.0] * 4
    for few in (1, 2):    # as before there was a tree: the backward alone adds
        tree = GradientTree([p], few, sequence(few, few))
        p.grad = grad = torch.zeros(4)
        for _ in range(few):
            tree.add(1.0)
        assert p.grad is grad and not tree.waiting
