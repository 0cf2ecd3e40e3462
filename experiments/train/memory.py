"""
Peak memory of this process.
"""

import resource
import sys


def peak_memory_mb(device: str) -> float:
    """MB (10⁶ bytes): what torch allocated at most on a CUDA device, elsewhere the process's peak resident size."""
    if str(device).startswith("cuda"):
        import torch
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6   # macOS counts bytes, Linux kB
