"""
Which keys a layer has to keep, and where: a pattern says, before any token is read, which queries
will see a key.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mingpt.patterns.kinds import Full
from mingpt.patterns.pattern import ROWS, Pattern

# of the positions: a layer that needs slots for more has one for each, and lets nothing go
WORTH = 0.9
# of the keys held: where a query sees less, copying those it sees costs less than reading all
SPARSE = 0.5


class Plan(NamedTuple):
    """The slot of memory that each position has, (length,), how many slots there are, and whether
    any is used twice."""
    slots: np.ndarray
    size: int
    evicts: bool


@lru_cache(maxsize=64)
def plan(pattern: Pattern, length: int, slack: int) -> Plan:
    """A position's slot is free again when no query that may still come sees it, nor one of the
    last `slack` that may come again. The lowest free slot is taken, so that the slots in use lie
    together."""
    if isinstance(pattern, Full):
        return Plan(np.arange(length), length, False)
    freed_at = last_queries(pattern, length) + slack + 1
    slots, used, free, leaving = np.empty(length, dtype=np.int64), 0, [], {}
    for position in range(length):
        for slot in leaving.pop(position, ()):
            heapq.heappush(free, slot)
        slots[position] = heapq.heappop(free) if free else used
        used = max(used, int(slots[position]) + 1)
        leaving.setdefault(int(freed_at[position]), []).append(slots[position])
    return Plan(slots, used, True) if used <= WORTH * length else Plan(np.arange(length), length,
                                                                       False)


def last_queries(pattern: Pattern, length: int) -> np.ndarray:
    """(length,): the last query that sees each key."""
    last = np.zeros(length, dtype=np.int64)
    for start in range(0, length, ROWS):
        stop = min(start + ROWS, length)
        seen = pattern.rows(start, stop)                                # (rows, stop)
        keys = seen.any(0).nonzero()[0]
        last[keys] = stop - 1 - seen[::-1, keys].argmax(0)
    return last


class View(NamedTuple):
    """What some queries read: the slots up to `stop`, or those at `index` alone; `seen` (n, slots)
    is which of those each query sees, None where all; `positions` (slots,) is what they hold."""
    stop: int
    index: Tensor | None
    seen: Tensor | None
    positions: Tensor


class Ledger:
    """Which position each slot holds, for the layers of one pattern."""

    def __init__(self, pattern: Pattern, capacity: int, slack: int):
        self.pattern, self.slack, self.plan = pattern, slack, plan(pattern, capacity, slack)
        self.holds = np.empty(self.plan.size, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        self.holds.fill(-1)
        self.start = self.count = self.peak = 0
        self.view = None

    def extend(self, start: int, n: int) -> None:
        self.start, self.count, self.view = start, n, None
        self.slots = self.plan.slots[start:start + n]
        # of a slot used twice the later position
        self.holds[self.slots] = np.arange(start, start + n)
        self.peak = max(self.peak, start + n)

    @property
    def least(self) -> int:
        """The fewest tokens to truncate to: where slots are used twice, what is gone was seen by
        earlier queries."""
        return max(0, self.peak - 1 - self.slack) if self.plan.evicts else 0

    def truncate(self, length: int) -> None:
        self.holds.fill(-1)
        self.holds[self.plan.slots[:length]] = np.arange(length)

    def read(self, device: torch.device) -> View:
        """What the queries that were just made room for read."""
        if self.view is None:
            self.view = self._view(device)
        return self.view

    def _view(self, device: torch.device) -> View:
        # empty slots are at the end
        stop = int(self.holds.argmin()) if self.holds[-1] < 0 else self.plan.size
        holds, queries = self.holds[:stop], np.arange(self.start, self.start + self.count)
        seen, index = self.pattern(queries[:, None], holds), None
        if self.count == 1 and seen.mean() < SPARSE:
            index = seen[0].nonzero()[0]
            holds, seen = holds[index], seen[:, index]
        as_tensor = lambda x: torch.from_numpy(x).to(device)    # noqa: E731
        return View(stop, None if index is None else as_tensor(index),
                    None if seen.all() else as_tensor(seen), as_tensor(holds.copy()))
