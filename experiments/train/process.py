"""
The current process: its memory, and the signals that ask it to end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

MB = 10**6    # bytes; every figure in MB is in this unit


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


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory in MB. On a CUDA device it is the most that torch allocated there; elsewhere it
    is the process's peak resident size."""
    if str(device).startswith("cuda"):
        import torch
        return torch.cuda.max_memory_allocated(device) / MB
    # /proc is read first, because getrusage's peak starts at that of the parent process.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kB
    return _status_mb("VmHWM") or (peak if sys.platform == "darwin" else peak * 1024) / MB


def resident_mb() -> float:
    """The memory in MB that this process holds now; the peak where only that is known."""
    return _status_mb("VmRSS") or peak_memory_mb()


def available_mb(device: str = "cpu") -> float:
    """The memory in MB that new processes can have: on a GPU that of one device, elsewhere the
    machine's."""
    if str(device).startswith("cuda"):
        import torch
        return torch.cuda.mem_get_info(device)[0] / MB
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        return int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024 / MB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MB / 2


def end_first() -> None:
    """On Linux, let the system end this process before any other where memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _status_mb(key: str) -> float | None:
    """A size from /proc/self/status, in MB; None where that is not known."""
    status = Path("/proc/self/status")
    _, found, rest = (status.read_text() if status.exists() else "").partition(f"{key}:")
    return int(rest.split()[0]) * 1024 / MB if found else None
