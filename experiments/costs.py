"""
What an arm costs beside what it brings: parameters, FLOPs, step time, memory, and the verdict at equal budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.stats import Verdict

AXES = ("tokens", "flops", "seconds")   # of the CSV: what a budget can be of


@dataclass(frozen=True)
class Cost:
    """One arm's, a mean over its finished runs. None: the records do not say."""
    arm: str
    parameters: int | None
    flops_per_token: float | None        # of a training step
    step_seconds: float | None           # warm-up of the machine not counted
    tokens_per_second: float | None
    peak_memory_mb: float | None
    n: int                               # runs

    def ratio(self, baseline: Cost, quantity: str) -> float | None:
        """This arm's quantity over the baseline's: 1.05 is 5 % more."""
        mine, theirs = getattr(self, quantity), getattr(baseline, quantity)
        return mine / theirs if mine is not None and theirs else None


@dataclass(frozen=True)
class Costs:
    """Every arm's cost, the baseline's first when it has one."""
    baseline: str
    arms: tuple[Cost, ...]

    def of(self, arm: str) -> Cost | None:
        return next((cost for cost in self.arms if cost.arm == arm), None)

    def ratio(self, arm: str, quantity: str) -> float | None:
        """An arm's quantity over the baseline's; None when either is unknown."""
        mine, theirs = self.of(arm), self.of(self.baseline)
        return mine.ratio(theirs, quantity) if mine and theirs else None


@dataclass(frozen=True)
class Budget:
    """An arm against the baseline when both have spent the same."""
    arm: str
    axis: str                            # tokens, flops or seconds
    at: float | None                     # the largest that all runs of both reached; None: the CSVs do not say
    crossing: float | None               # where the mean curves last change places; None: they do not
    verdict: Verdict                     # on val_loss there, interpolated between evaluations; Holm over the arms


@dataclass(frozen=True)
class Budgets:
    """The verdicts at equal tokens, equal FLOPs and equal seconds."""
    table: tuple[Budget, ...]

    def on(self, axis: str) -> tuple[Budget, ...]:
        return tuple(budget for budget in self.table if budget.axis == axis)

    def of(self, arm: str, axis: str) -> Budget | None:
        return next((b for b in self.table if (b.arm, b.axis) == (arm, axis)), None)
