"""
The seconds until a run ends, from what its steps, evaluations and checkpoints take. Needs no torch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# A whole step over its forward and backward passes, which are what is rehearsed. On a CPU AdamW
# adds 1 to 5 %, Muon about 10 %.
OPTIMIZER = 1.05
BUSY = 1.5       # steps this much slower than rehearsed are reported
WINDOW = 20.0    # seconds of training whose steps give the present pace
LEAST = 3.0      # seconds of training before steps are compared with the rehearsed ones


class Forecast:
    """The time left in one run. `seconds` are those of training alone, as the run's rows count
    them; `clock` also counts evaluating and saving, whose cost is the difference."""

    def __init__(self, max_iters: int, eval_every: int, checkpoint_every: int, iteration: int = 0,
                 seconds: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self.max_iters, self.eval_every, self.checkpoint_every = (
            max_iters, eval_every, checkpoint_every)
        self.clock, self.seen = clock, clock()
        self.rows = deque([(iteration, seconds)])   # of the last WINDOW seconds
        self.rehearsal: float | None = None         # seconds per step before the first one
        self.evaluation: float | None = None
        self.save = 0.0
        self.longest = 0.0                          # between two rows

    def rehearsed(self, step: float | None) -> None:
        """The rehearsals are over; a step is expected to take `step` seconds. None: there were
        none."""
        self.rehearsal, self.seen, self.longest = step, self.clock(), 0.0

    def row(self, iteration: int, seconds: float, evaluated: bool) -> None:
        """A log point: `seconds` of training so far, and whether the run has just evaluated."""
        before, trained = self.rows[-1]
        now = self.clock()
        other = max(0.0, now - self.seen - (seconds - trained))
        saves = self._saves(iteration) - self._saves(before)
        if evaluated and not saves:
            self.evaluation = other if self.evaluation is None else (self.evaluation + other) / 2
        elif saves:
            self.save = max(0.0, other - (self.evaluation or 0.0) * evaluated) / saves
        self.longest = max(self.longest, now - self.seen)
        self.seen = now
        self.rows.append((iteration, seconds))
        while len(self.rows) > 2 and seconds - self.rows[1][1] >= WINDOW:
            self.rows.popleft()

    def _saves(self, iteration: int) -> int:
        """How many checkpoints are due before this iteration."""
        return max(0, iteration - 1) // self.checkpoint_every

    @property
    def pace(self) -> float | None:
        """Seconds per step at present, or as rehearsed before the first rows."""
        (i, begun), (j, now) = self.rows[0], self.rows[-1]
        return (now - begun) / (j - i) if j > i else self.rehearsal

    @property
    def evaluations(self) -> int:
        """How many evaluations are to come. The last iteration is always evaluated."""
        n, at, every = self.max_iters, self.rows[-1][0], self.eval_every
        return n // every - at // every + (n % every != 0) if n > at else 0

    def left(self) -> float | None:
        """Seconds until the end at the present pace; None where no step was taken or rehearsed."""
        if self.pace is None:
            return None
        at = self.rows[-1][0]
        saves = self._saves(self.max_iters) - self._saves(at) + 1
        return (max(0, self.max_iters - at) * self.pace
                + self.evaluations * (self.evaluation or 0.0) + saves * self.save)

    def slowdown(self) -> float | None:
        """The present pace over the rehearsed one; None where too little is known."""
        (_, begun), (_, now) = self.rows[0], self.rows[-1]
        return self.pace / self.rehearsal if self.rehearsal and now - begun >= LEAST else None

    def progress(self) -> dict[str, float]:
        """What a run's record keeps where it is known: `seconds_left`, `slowdown`, and
        `longest_wait`, the most seconds between two writes since the first step."""
        found = {"seconds_left": self.left(), "slowdown": self.slowdown(),
                 "longest_wait": self.longest or None}
        return {name: round(value, 2) for name, value in found.items() if value is not None}

    def first_line(self) -> str | None:
        """What is expected before the first step: 'about 0:47: 700 steps of 62 ms, 10 evaluations
        of 0.4 s'. None where nothing was rehearsed."""
        if self.rehearsal is None:
            return None
        left, step = self.left(), 1000 * self.rehearsal
        text = f"about {clock_text(left)}" if left >= 1 else "under a second"
        text += (f": {self.max_iters - self.rows[-1][0]:,} steps of "
                 f"{step:,.{0 if step > 9 else 1}f} ms")
        if self.evaluation is None:
            return text
        n = self.evaluations
        return f"{text}, {n} evaluation{'s' * (n != 1)} of {self.evaluation:.1f} s"

    def line(self) -> str:
        """'1:33 left', and why where the machine is busy; empty where nothing is known."""
        left = self.left()
        return "" if left is None else f"{clock_text(left)} left{busy_text(self.slowdown(), '; ')}"


def busy_text(slowdown: float | None, before: str = "") -> str:
    """'steps take 1.9 × the rehearsed time: the machine is busy' with `before` in front, from
    Forecast.slowdown; empty below BUSY."""
    if slowdown is None or slowdown < BUSY:
        return ""
    return f"{before}steps take {slowdown:.1f} × the rehearsed time: the machine is busy"


def clock_text(seconds: float) -> str:
    """Seconds as 0:47 or 1:02:30."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
