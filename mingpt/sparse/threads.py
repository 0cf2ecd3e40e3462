"""
Runs jobs on several heads at once, each in its own thread. Inside such a thread, torch's operations
are serial.

By default, torch splits every operation among its threads, which then wait for each other. For many
small operations the waiting costs more than the threads gain. It costs far more on a machine that
others use, where one late thread delays all the others in every operation.
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
    """Call work(*job) for every job, without gradients. The jobs must write to different memory.
    The results do not depend on the number of threads."""
    threads = torch.get_num_threads()
    # A dispatch mode, such as a FLOP counter, sees only the operations of its own thread.
    if (device.type != "cpu" or threads == 1 or len(jobs) < threads
            or _get_current_dispatch_mode() is not None):
        for job in jobs:
            work(*job)
        return
    list(_pool(threads, os.getpid()).map(lambda job: _without_gradients(work, job), jobs))


def _without_gradients(work: Callable[..., None], job: tuple) -> None:
    with torch.no_grad():    # each thread has its own setting
        work(*job)


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of threads whose torch operations are serial. It is cached per process, because a
    forked process does not inherit its parent's threads."""
    pool = ThreadPoolExecutor(threads, "attention", initializer=torch.set_num_threads,
                              initargs=(1,))
    all_there = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(all_there.wait)
    all_there.wait()
    # The setting belongs to each thread, but new threads start with the value that was set last.
    # So set it back.
    torch.set_num_threads(threads)
    return pool
