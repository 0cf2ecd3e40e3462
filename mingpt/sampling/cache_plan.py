"""
Plans which keys a layer keeps in its cache, and in which slots of memory. The plan is made before
any token is read, because a pattern says in advance which queries will see a key.
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

# A share of the positions. A layer that needs slots for a larger share gets one slot per position
# and evicts nothing.
EVICT_BELOW = 0.9
# A share of the keys held. If a query sees a smaller share, copying the keys that it sees costs
# less than reading all of them.
SPARSE = 0.5


class Plan(NamedTuple):
    """Which slot of memory each position gets."""
    slots: np.ndarray       # (length,): the slot of each position
    size: int               # how many slots there are
    evicts: bool            # whether a later key may take the slot of an earlier one


@lru_cache(maxsize=64)
def plan(pattern: Pattern, length: int, slack: int) -> Plan:
    """The plan of a pattern for `length` positions.

    A slot becomes free when no later query sees its key, not even if the last `slack` queries come
    again after a truncation. A new position takes the lowest free slot, so that the slots in use
    lie together.
    """
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
    return (Plan(slots, used, True) if used <= EVICT_BELOW * length
            else Plan(np.arange(length), length, False))


def last_queries(pattern: Pattern, length: int) -> np.ndarray:
    """(length,) integers: for each key, the last query that sees it."""
    last = np.zeros(length, dtype=np.int64)
    for start in range(0, length, ROWS):
        stop = min(start + ROWS, length)
        seen = pattern.rows(start, stop)                                # (rows, stop)
        keys = seen.any(0).nonzero()[0]
        last[keys] = stop - 1 - seen[::-1, keys].argmax(0)
    return last


class View(NamedTuple):
    """Which slots some queries read, and what the queries see of them."""
    stop: int               # the slots before `stop` are read
    index: Tensor | None    # if not None, only these slots are read
    seen: Tensor | None     # (n, slots) bool: what each query sees of the slots read; None: all
    positions: Tensor       # (slots,): the positions that the slots read hold


class HeldKeys:
    """Records which position each slot holds (−1: none), for all layers of one pattern."""

    def __init__(self, pattern: Pattern, capacity: int, slack: int):
        self.pattern, self.slack, self.plan = pattern, slack, plan(pattern, capacity, slack)
        self.holds = np.empty(self.plan.size, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        self.holds.fill(-1)
        self.start = self.count = self.peak = 0
        self.view = None

    def extend(self, start: int, n: int) -> None:
        """Give slots to n new tokens, the first of which has position `start`."""
        self.start, self.count, self.view = start, n, None
        self.slots = self.plan.slots[start:start + n]
        # a slot that is used twice ends up with the later position
        self.holds[self.slots] = np.arange(start, start + n)
        self.peak = max(self.peak, start + n)

    @property
    def least(self) -> int:
        """The fewest tokens that `truncate` can keep. If the plan evicts keys, earlier queries
        would see keys that are lost."""
        return max(0, self.peak - 1 - self.slack) if self.plan.evicts else 0

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.holds.fill(-1)
        self.holds[self.plan.slots[:length]] = np.arange(length)

    def read(self, device: torch.device) -> View:
        """The view of the tokens that the last `extend` made room for."""
        if self.view is None:
            self.view = self._view(device)
        return self.view

    def _view(self, device: torch.device) -> View:
        # the empty slots are at the end
        stop = int(self.holds.argmin()) if self.holds[-1] < 0 else self.plan.size
        holds, queries = self.holds[:stop], np.arange(self.start, self.start + self.count)
        seen, index = self.pattern(queries[:, None], holds), None
        if self.count == 1 and seen.mean() < SPARSE:
            index = seen[0].nonzero()[0]
            holds, seen = holds[index], seen[:, index]
        as_tensor = lambda x: torch.from_numpy(x).to(device)    # noqa: E731
        return View(stop, None if index is None else as_tensor(index),
                    None if seen.all() else as_tensor(seen), as_tensor(holds.copy()))
