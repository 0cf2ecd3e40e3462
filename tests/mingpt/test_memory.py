"""Memory that training frees is used again, and recomputed blocks need less of it."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from mingpt.memory import recompute_blocks
from mingpt.model import GPT
from mingpt.utils import BadInput

STEPS = """
import resource
import torch
from mingpt.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def step():
    return [torch.ones(2**20) for _ in range(4)]    # 4 MB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(keep: bool, **environment) -> int:
    """How many pages 20 steps get from the system, after 3 that do not count."""
    done = subprocess.run([sys.executable, "-c", STEPS.format(keep=keep)], text=True, check=True,
                          capture_output=True, env=os.environ | environment)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_freed_memory_is_used_again():
    threshold = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}    # gives every large tensor new pages
    given_back = new_pages(True, **threshold)
    assert given_back > 20 * 1000, "the user's own setting is kept"
    assert new_pages(True) < given_back / 20


def kept_bytes(model: GPT) -> tuple[int, list[torch.Tensor]]:
    """The bytes of activations that a step keeps for its backward, and its loss and gradients."""
    kept = []

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor
    torch.manual_seed(1)
    x = torch.randint(11, (4, 16))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(x, x)
    loss.backward()
    return sum(kept), [loss.detach(), *(p.grad for p in model.parameters())]


def test_recomputed_blocks_keep_less_and_change_no_bit():
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 3, "n_head": 2, "n_embd": 16,
                            "vocab_size": 11, "block_size": 16, "mlp": "moe"})
    plain = GPT(config)       # with dropout, which must be drawn again
    again = copy.deepcopy(plain)
    recompute_blocks(again)
    recompute_blocks(again)   # a second call changes nothing
    (usual, expected), (less, found) = kept_bytes(plain), kept_bytes(again)
    assert less < usual / 5
    for one, other in zip(expected, found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_a_model_without_blocks_cannot_recompute_them():
    with pytest.raises(BadInput, match=r"Linear has no transformer\.h"):
        recompute_blocks(torch.nn.Linear(2, 2))
