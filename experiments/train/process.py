"""
The current process: its peak memory, and the signals that ask it to end.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType


@contextlib.contextmanager
def relayed(handler: Callable[[int, FrameType | None], None],
            numbers: Iterable[int]) -> Iterator[None]:
    """Inside, `handler` handles these signals. Afterwards their previous handlers are back."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def peak_memory_mb(device: str) -> float:
    """Peak memory in MB (10⁶ bytes). On a CUDA device it is the most that torch allocated there;
    elsewhere it is the process's peak resident size."""
    if str(device).startswith("cuda"):
        import torch
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kB
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
