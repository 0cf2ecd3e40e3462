"""
Learning-rate sensitivity, and the verdict with every arm at its own best rate.

A rate must not be chosen by the very runs that it is judged by: the best of five noisy rates looks better than it is,
and an arm with more rates looks best. Other tokens would not help, as a lucky seed is lucky on all of them. So the
seeds are split: some choose the rate and only the others are in the verdict, which is then an ordinary paired one.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.stats import Verdict


@dataclass(frozen=True)
class RatePoint:
    """One arm at one learning rate, over the seeds that have a value."""
    rate: float
    arm: str                      # the run's name: the arm's own, or ARM_lrRATE
    mean: float | None            # of the metric; None: no seed has a value
    sd: float | None              # over seeds
    n: int
    diverged: int                 # seeds on which it did


@dataclass(frozen=True)
class ArmSensitivity:
    """One arm over its grid, in order of rate."""
    arm: str
    points: tuple[RatePoint, ...]
    best: RatePoint | None        # by the selection seeds' mean; a rate that diverged on any of them is never chosen
    at_edge: bool                 # the best is the grid's least or greatest: a better one may lie outside
    range: float | None           # greatest − least mean over the grid: what a wrong rate may cost
    verdict: Verdict | None       # against the baseline at its own best, on the judging seeds; None for the baseline


@dataclass(frozen=True)
class Sensitivity:
    """All arms with a grid, the baseline first."""
    arms: tuple[ArmSensitivity, ...]
    selection_seeds: tuple[int, ...]     # choose the rates
    judging_seeds: tuple[int, ...]       # are in the verdicts
    metric: str = "val_loss"
    unit: str = "nats"
