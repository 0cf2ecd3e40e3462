"""
Work on several heads at once, a thread each, whose torch operations are serial.

Torch itself splits every operation among its threads, which then wait for each other. For many
small operations the waiting costs more than it gains, and far more on a machine that others use:
one late thread delays all, every time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


def for_each(work: Callable[..., None], jobs: list[tuple], device: torch.device) -> None:
    """work(*job) for every job, without gradients; jobs write to different memory. Results do not
    depend on threads."""
    threads = torch.get_num_threads()
    # a mode that watches operations, as a FLOP counter is, sees its own thread's only
    if (
        device.type != "cpu"
        or threads == 1
        or len(jobs) < threads
        or _get_current_dispatch_mode() is not None
    ):
        for job in jobs:
            work(*job)
        return
    list(_pool(threads, os.getpid()).map(lambda job: _without_gradients(work, job), jobs))


def _without_gradients(work: Callable[..., None], job: tuple) -> None:
    with torch.no_grad():    # a setting of the thread's own
        work(*job)


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads whose operations are serial; a forked process has none of its parent's."""
    pool = ThreadPoolExecutor(threads, "attention", initializer=torch.set_num_threads, initargs=(1,
                              ))
    all_there = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(all_there.wait)
    all_there.wait()
    # it is a thread's own, but threads to come begin with the value set last
    torch.set_num_threads(threads)
    return pool
