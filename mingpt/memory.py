"""
How this process gets memory on a CPU.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

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
