"""
The input of every figure: one study's results, the arms' styles, and the chosen axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from experiments.figures.series import Series, difference, from_mean, mean, points, window
from experiments.figures.style import BUSY, LABELS, ArmStyle, arm_styles, busy_text, study_text
from experiments.records.runs import RecordedRun, by_arm
from experiments.verdicts.results import Results
from experiments.verdicts.study_runs import known_arms
from experiments.verdicts.timing import timing

MOST = 50               # of more arms, only the baseline, the best and the worst have curves
BEST, WORST = 8, 4      # as many as the page shows at first


class Skip(Exception):
    """A figure that cannot be drawn from these runs; the message says why."""


class NotDeclared(Skip):
    """A figure of something that the study does not declare. Nobody asked for it, so the program
    does not mention it."""


@dataclass
class Panel:
    """One study's results and how to draw them. `x` and `metric` name columns of the runs'
    tables."""
    results: Results
    x: str = "iteration"
    metric: str = "loss"
    styles: dict[str, ArmStyle] = field(init=False)
    _means: dict[tuple[str, str, str], Series | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.styles = arm_styles(self.results.arms, self.results.baseline, known_arms())

    @property
    def arms(self) -> tuple[str, ...]:
        """The study's arms that have runs, the baseline first."""
        return self.results.arms

    @cached_property
    def drawn(self) -> tuple[str, ...]:
        """The arms that have curves: all, or of more than MOST the baseline and those that ended
        best and worst."""
        ends = {arm: v.difference for arm, v in self.results.verdicts.items()
                if v.difference is not None}
        if len(self.arms) <= MOST:
            return self.arms
        ranked = sorted(ends, key=ends.get) or [arm for arm in self.arms if arm != self.baseline]
        kept = {self.baseline, *ranked[:BEST], *ranked[-WORST:]}
        return tuple(arm for arm in self.arms if arm in kept)

    @property
    def baseline(self) -> str:
        """The name of the study's baseline."""
        return self.results.baseline

    def mean(self, arm: str, x: str, y: str) -> Series | None:
        """Return an arm's mean over its complete runs, or over all its runs while none is complete;
        None where there is no curve."""
        key = (arm, x, y)
        if key not in self._means:
            self._means[key] = mean([points(run, x, y) for run in self.shown(arm)])
        return self._means[key]

    def require(self, arm: str) -> Series:
        """Return an arm's mean on the chosen axes. Raises Skip when it has none."""
        line = self.mean(arm, self.x, self.metric)
        if line is None:
            raise Skip(f"{arm} has no {self.metric} over {self.x}")
        return line

    def shown(self, arm: str) -> list[RecordedRun]:
        """Return the runs whose mean stands for an arm: the complete ones, or all while none is
        complete."""
        runs = self.runs_of(arm)
        return [run for run in runs if run.complete] or runs

    def runs_of(self, arm: str) -> list[RecordedRun]:
        """Return an arm's runs, with their seconds at the arm's undisturbed pace."""
        return list(self._runs.get(arm, ()))

    @cached_property
    def _runs(self) -> dict[str, list[RecordedRun]]:
        return by_arm(self.results.paced)

    def strays(self, arm: str) -> list[RecordedRun]:
        """Return the other runs of an arm. They are drawn on their own and enter no mean."""
        shown = {id(run) for run in self.shown(arm)}
        return [run for run in self.runs_of(arm) if id(run) not in shown]

    def lines(self, x: str, y: str) -> dict[str, Series]:
        """Return arm → mean for every arm that has both columns. Raises Skip when none has."""
        lines = {arm: line for arm in self.drawn if (line := self.mean(arm, x, y)) is not None}
        if not lines:
            missing = [c for c in (x, y) if not any(run.table[c].notna().any()
                                                    for run in self.results.runs)]
            raise Skip(f"no run has {' and '.join(missing)}" if missing else
                       f"the seeds of an arm have no stretch of {x} in common")
        return lines

    def differences(self, x: str, y: str) -> tuple[dict[str, Series], bool]:
        """Return arm → (arm − baseline) for every arm that shares seeds with the baseline, and
        whether runs are paired by seed. Raises Skip where there is no such arm."""
        if self.baseline not in self.arms:
            raise Skip(f"no run of the baseline {self.baseline!r}")
        base, lines, paired = self.shown(self.baseline), {}, True
        for arm in self.drawn:
            if arm != self.baseline:
                alone = arm in self.results.unpaired
                line, pairs = ((from_mean(self.shown(arm), base, x, y), False) if alone
                               else difference(self.shown(arm), base, x, y))
                lines |= {arm: line} if line is not None else {}
                paired &= pairs or line is None
        if not lines:
            self.lines(x, y)   # raises Skip with the reason when a column is missing
            raise Skip(f"no arm shares a seed with the baseline {self.baseline!r}")
        return lines, paired

    def crossings(self, x: str, y: str) -> dict[str, tuple[float, float]]:
        """Return arm → (x, y) where its mean last crosses the baseline's. Arms that never cross it
        are left out."""
        base = (self.mean(self.baseline, x, y)
                if self.baseline in self.arms and y == "val_loss" else None)
        found = self.results.budgets.on(x) if base is not None else ()
        return {budget.arm: (budget.crossing, float(np.interp(budget.crossing, base.x, base.y)))
                for budget in found
                if budget.crossing is not None and budget.arm in self.drawn}

    def label(self, column: str) -> str:
        """Return the label of a loss's axis, in the unit of the runs' validation loss."""
        return (LABELS[column].replace("nats per token", self.results.unit)
                if self.results.foreign and self.results.unit != "nats"
                and column == "val_loss" else LABELS[column])

    def timing_note(self, x: str) -> str:
        """Return what the label of an axis of seconds adds where times are in doubt."""
        return BUSY if x == "seconds" and self.busy else ""

    @cached_property
    def busy(self) -> tuple[str, ...]:
        """The arms whose times were measured while something else used the machine."""
        return tuple(timing(self.results).arms)

    def caption(self, lines: dict[str, Series], y: str, *, x: str | None = None, band: bool = True,
                strays: bool = True) -> str:
        """Return the caption: what the lines and bands are, which runs are not complete, and what
        the times along `x` are worth. Without `x`, that is the chosen axis."""
        counts = sorted({line.n for line in lines.values()})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts = ["one run per arm" if counts == [1] else
                 f"line: mean over {seeds} {self.results.replicates}"
                 + ("; band: from the lowest to the highest of them" if band else "")]
        rows = max((len(line.x) for line in lines.values()), default=0)
        if y == "loss" and window(rows) > 1:
            parts.append(f"training loss averaged over {window(rows)} log points")
        if (x or self.x) == "seconds":
            parts.append("time at each arm's undisturbed pace, the lower quartile of its log "
                         "points" + busy_text(self.busy))
        if len(lines) > 1 and len(self.drawn) < len(self.arms):
            parts.append(f"of {len(self.arms)} arms, {self.baseline}, the {BEST} best and the "
                         f"{WORST} worst are drawn")
        unfinished = [f"{run.path.stem} {run.status}" for run in self.results.runs
                      if not run.complete and run.arm in lines]
        if unfinished:
            more = f" and {len(unfinished) - 4} more" if len(unfinished) > 4 else ""
            dotted = " (dotted)" if strays and any(self.strays(arm) for arm in lines) else ""
            parts.append(f"not complete{dotted}: " + ", ".join(unfinished[:4]) + more)
        return study_text(self.results.name) + "; ".join(parts)
