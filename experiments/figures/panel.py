"""
What a figure is drawn from: one study's results, the arms' styles, and the chosen axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from experiments.figures.series import Series, difference, mean, points, window
from experiments.figures.style import ArmStyle, arm_styles
from experiments.records.runs import Run
from experiments.verdicts.results import Results, known_arms


class Skip(Exception):
    """A figure that cannot be drawn from these runs; the message says why."""


@dataclass
class Panel:
    """Results and how to look at them. `x` and `metric` name columns of the runs' tables."""
    results: Results
    x: str = "iteration"
    metric: str = "loss"
    styles: dict[str, ArmStyle] = field(init=False)
    _means: dict[tuple[str, str, str], Series | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.styles = arm_styles(self.results.arms, self.results.baseline, known_arms())

    @property
    def arms(self) -> tuple[str, ...]:
        return self.results.arms

    @property
    def baseline(self) -> str:
        return self.results.baseline

    def mean(self, arm: str, x: str, y: str) -> Series | None:
        """An arm's mean over its complete runs, or over all of them as long as none is complete."""
        key = (arm, x, y)
        if key not in self._means:
            self._means[key] = mean([points(run, x, y) for run in self.shown(arm)])
        return self._means[key]

    def require(self, arm: str) -> Series:
        """An arm's mean on the chosen axes. Raises Skip when it has none."""
        line = self.mean(arm, self.x, self.metric)
        if line is None:
            raise Skip(f"{arm} has no {self.metric} over {self.x}")
        return line

    def shown(self, arm: str) -> list[Run]:
        """The runs that stand for an arm."""
        runs = self.runs_of(arm)
        return [run for run in runs if run.complete] or runs

    def runs_of(self, arm: str) -> list[Run]:
        """An arm's runs, seconds at its undisturbed pace."""
        return [run for run in self.results.paced if run.arm == arm]

    def strays(self, arm: str) -> list[Run]:
        """Runs beside an arm's complete ones: drawn on their own, never in a mean."""
        shown = self.shown(arm)
        return [run for run in self.runs_of(arm) if not any(run is each for each in shown)]

    def lines(self, x: str, y: str) -> dict[str, Series]:
        """The mean of every arm that has both columns. Raises Skip when none has."""
        lines = {arm: line for arm in self.arms if (line := self.mean(arm, x, y)) is not None}
        if not lines:
            missing = [c for c in (x, y) if not any(run.table[c].notna().any()
                                                    for run in self.results.runs)]
            raise Skip(f"no run has {' and '.join(missing)}" if missing else
                       f"the seeds of an arm have no stretch of {x} in common")
        return lines

    def differences(self, x: str, y: str) -> tuple[dict[str, Series], bool]:
        """Arm − baseline for every arm that shares seeds with it, and whether those are pairs.
        Raises Skip."""
        if self.baseline not in self.arms:
            raise Skip(f"no run of the baseline {self.baseline!r}")
        base, lines, paired = self.shown(self.baseline), {}, True
        for arm in self.arms:
            if arm != self.baseline:
                line, pairs = difference(self.shown(arm), base, x, y)
                lines |= {arm: line} if line is not None else {}
                paired &= pairs or line is None
        if not lines:
            self.lines(x, y)   # says so when a column is missing
            raise Skip(f"no arm shares a seed with the baseline {self.baseline!r}")
        return lines, paired

    def crossings(self, x: str, y: str) -> dict[str, tuple[float, float]]:
        """Where each arm's mean last changes places with the baseline's; arms that never do are not
        there."""
        base = self.mean(self.baseline, x,
                         y) if self.baseline in self.arms and y == "val_loss" else None
        found = self.results.budgets.on(x) if base is not None else ()
        return {budget.arm: (budget.crossing, float(np.interp(budget.crossing, base.x, base.y)))
                for budget in found
                if budget.crossing is not None}

    def caption(self, lines: dict[str, Series], y: str, *, band: bool = True,
                strays: bool = True) -> str:
        """What the lines and bands are, and which runs are not in them."""
        counts = sorted({line.n for line in lines.values()})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts = ["one run an arm" if counts == [1] else
                 f"line: mean over {seeds} seeds" + ("; band: least to greatest of them" if band
                                                     else "")]
        rows = max((len(line.x) for line in lines.values()), default=0)
        if y == "loss" and window(rows) > 1:
            parts.append(f"training loss averaged over {window(rows)} log points")
        unfinished = [f"{run.path.stem} {run.status}" for run in self.results.runs
                      if not run.complete and run.arm in lines]
        if unfinished:
            more = f" and {len(unfinished) - 4} more" if len(unfinished) > 4 else ""
            dotted = " (dotted)" if strays and any(self.strays(arm) for arm in lines) else ""
            parts.append(f"not complete{dotted}: " + ", ".join(unfinished[:4]) + more)
        return "; ".join(parts)
