"""Memory that training frees is used again, and is not given back to the system at each step."""

import os
import subprocess
import sys

import pytest

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
