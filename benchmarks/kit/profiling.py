"""
Show where the time of our step goes: torch's profiler over a few steps, sorted by self time.
"""

from __future__ import annotations

from benchmarks.kit.cases import Case
from benchmarks.kit.tables import Table

STEPS, ROWS = 5, 18


def profile(cases: list[Case], device: str, threads: int) -> int:
    """Profile our step in this process, print one table per size, and return 0."""
    import torch
    torch.set_num_threads(threads)
    for case in cases:
        operators(case, device).print()
    return 0


def operators(case: Case, device: str, steps: int = STEPS) -> Table:
    """The table of our step's slowest operators: self ms per step, share, calls per step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from benchmarks.kit.ours import build
    side = build(case, device, tied=case.family == "gpt2")
    side.run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profiler(activities=activities) as found:
        for _ in range(steps):
            side.run()
        side.wait()
    timed = sorted(found.key_averages(), key=lambda event: -_own(event, device))
    whole = sum(_own(event, device) for event in timed)
    table = Table(f"{case.name}: operators of our step, by the time in their own code",
                  ("", "ms", "share", "calls"))
    for event in timed[:ROWS]:
        table.row(event.key, f"{_own(event, device) / steps / 1e3:.1f}",
                  f"{_own(event, device) / whole:.1%}", f"{event.count / steps:.0f}")
    return table


def _own(event, device: str) -> float:
    """The self time of an operator in microseconds, without the operators that it calls."""
    return event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
