"""
Learning-rate sensitivity, and the verdict with every arm at its own best rate.

A rate must not be chosen by the same runs that judge it: the best of five noisy rates looks better
than it is, and an arm with more rates looks best. Other validation tokens would not help, because a
lucky seed is lucky on all of them. So the seeds are split: some choose the rate, and only the
others enter the verdict, which is then an ordinary paired one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from experiments.verdicts.stats import RESAMPLES, Values, Verdict, not_comparable, verdicts


@dataclass(frozen=True)
class RatePoint:
    """One arm at one learning rate, over the seeds that have a value."""
    rate: float
    arm: str                      # the name of the runs: the arm's own, or ARM_lrRATE
    mean: float | None            # mean of the metric; None where no seed has a value
    sd: float | None              # over seeds
    n: int                        # the number of seeds with a value
    diverged: int                 # the number of seeds that diverged


@dataclass(frozen=True)
class ArmSensitivity:
    """One arm over its grid, in order of rate."""
    arm: str
    points: tuple[RatePoint, ...]
    # the best by the mean over the selection seeds; a rate that diverged on any is never chosen
    best: RatePoint | None
    at_edge: bool  # the best is the grid's lowest or highest, so a better one may lie outside
    range: float | None  # largest − smallest mean over the grid: what a wrong rate may cost
    # against the baseline at its own best rate, on the judging seeds; None for the baseline
    verdict: Verdict | None


@dataclass(frozen=True)
class Sensitivity:
    """All arms with a grid, the baseline first."""
    arms: tuple[ArmSensitivity, ...]
    selection_seeds: tuple[int, ...]     # the seeds that choose the rates
    judging_seeds: tuple[int, ...]       # the seeds in the verdicts
    metric: str = "val_loss"
    unit: str = "nats"


def split(seeds: Sequence[int],
          declared: Sequence[int] | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (choosing seeds, judging seeds). The choosing seeds are those declared, or else the
    first third, at least one."""
    chosen = (set(seeds) & set(declared) if declared
              else set(sorted(seeds)[: max(1, round(len(seeds) / 3))]))
    return tuple(sorted(chosen)), tuple(sorted(set(seeds) - chosen))


def sensitivity(grids: Mapping[str, Mapping[str, float]], values: Mapping[str, Values],
                baseline: str, *, selection: Sequence[int] | None = None, margin: float,
                alpha: float, metric: str = "val_loss", unit: str = "nats",
                resamples: int = RESAMPLES, barred: Mapping[str, str] | None = None) -> Sensitivity:
    """Return the sensitivity of every arm.

    `grids` maps arm → {the runs' name: rate}, and `values` maps the runs' name → seed → value. The
    baseline's grid may be the baseline alone at one rate. An arm whose grid has runs that are
    `barred` as not comparable gets no verdict.
    """
    bars = _bars(grids, baseline, barred or {})
    names = {name for grid in grids.values() for name in grid}
    seeds = sorted(set().union(*(values.get(name, {}) for name in names)) - {None})
    choosing, judging = split(seeds, selection)
    order = sorted(grids, key=lambda arm: arm != baseline)
    best = {arm: _best(grids[arm], values, choosing) for arm in order}
    judged = {arm: {s: values[name][s] for s in judging if s in values[name]}
              for arm, name in best.items() if name}
    found = {arm: not_comparable(arm, why, margin, alpha, unit) for arm, why in bars.items()}
    found |= verdicts(judged, baseline, margin=margin, alpha=alpha, unit=unit,
                      resamples=resamples, barred=bars) if baseline in judged else {}
    arms = [_over_grid(arm, grids[arm], values, best[arm],
                       found.get(arm) if arm != baseline else None) for arm in order]
    return Sensitivity(tuple(arms), choosing, judging, metric, unit)


def _bars(grids: Mapping[str, Mapping[str, float]], baseline: str,
          barred: Mapping[str, str]) -> dict[str, str]:
    """Return why each arm gets no verdict whose grid, or the baseline's, is not comparable."""
    bars = {arm: why for arm, grid in grids.items()
            if (why := "; ".join(f"{name}: {barred[name]}" for name in grid if name in barred))}
    return bars | {arm: f"the baseline's grid: {bars[baseline]}"
                   for arm in grids if baseline in bars and arm not in bars}


def _over_grid(arm: str, grid: Mapping[str, float], values: Mapping[str, Values], best: str | None,
               verdict: Verdict | None) -> ArmSensitivity:
    """Return one arm's points in order of rate, with its best one and its verdict."""
    points = tuple(_point(name, rate, values.get(name, {}))
                   for name, rate in sorted(grid.items(), key=lambda item: item[1]))
    means = [point.mean for point in points if point.mean is not None]
    chosen = next((point for point in points if point.arm == best), None)
    return ArmSensitivity(arm, points, chosen,
                          len(points) > 1 and chosen in (points[0], points[-1]),
                          max(means) - min(means) if means else None, verdict)


def _best(grid: Mapping[str, float], values: Mapping[str, Values],
          choosing: Sequence[int]) -> str | None:
    """Return the name with the lowest mean over the choosing seeds, of those that have a finite
    value on all of these seeds; None where there is none."""
    whole = {name: [values.get(name, {}).get(seed, math.nan) for seed in choosing] for name in grid}
    means = {name: fmean(v) for name, v in whole.items() if v and all(map(math.isfinite, v))}
    return min(means, key=means.get) if means else None


def _point(name: str, rate: float, values: Values) -> RatePoint:
    finite = [v for v in values.values() if math.isfinite(v)]
    return RatePoint(rate, name, fmean(finite) if finite else None,
                     stdev(finite) if len(finite) > 1 else None, len(finite),
                     len(values) - len(finite))
