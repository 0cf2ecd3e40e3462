"""
How this process gets memory on a CPU, and how training can do with less of it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache, partial

import torch
from torch import nn

from mingpt.utils import BadInput

# numbers of options of glibc's mallopt, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1


@cache
def keep_freed_memory() -> None:
    """Tell glibc, the C library of most Linux systems, to keep freed memory for what is allocated
    next.

    Without this, large tensors go back to the system when they are freed. Each step of training
    then gets new pages for them, and a new page costs more than the arithmetic on it. Does nothing
    with another C library, or where an environment variable says how glibc should allocate.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or (
        "malloc" in os.environ.get("GLIBC_TUNABLES", ""))
    if sys.platform != "linux" or chosen:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)


def recompute_blocks(model: nn.Module) -> None:
    """Make a GPT's blocks keep only their input, (B, T, C), in training. The backward computes a
    block's forward again, with the same dropout, so the numbers stay the same. Chen et al. 2016,
    arXiv 1604.06174. Raises BadInput for a model without `transformer.h`."""
    blocks = getattr(getattr(model, "transformer", None), "h", None)
    if blocks is None:
        raise BadInput(f"trainer.checkpoint_activations: {type(model).__name__} has no "
                       f"transformer.h, the list of blocks")
    for block in blocks:
        if "forward" not in vars(block):    # else an earlier run of the same model has done it
            block.forward = partial(_recomputed, block.forward)


def _recomputed(forward, *args):
    """A block's output, (B, T, C). Where nothing is differentiated, it is computed as usual."""
    if not torch.is_grad_enabled():
        return forward(*args)
    from torch.utils.checkpoint import checkpoint
    return checkpoint(forward, *args, use_reentrant=False)
