"""
What each arm costs: parameters, FLOPs, step time and memory, and the verdicts at equal budgets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import fmean
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from experiments.records.runs import RecordedRun, by_arm
from experiments.verdicts.pairing import lost_seeds
from experiments.verdicts.stats import Verdict, compare, holm

QUARTILE = 0.25
FEWEST = 4                              # a curve with fewer evaluations is not interpolated
SPARSE = "evaluations are too far apart to say"
AXES = ("tokens", "flops", "seconds")   # columns of the CSV that can be a budget


@dataclass(frozen=True)
class Cost:
    """The cost of one arm over its finished runs. None where the records do not say."""
    arm: str
    parameters: int | None
    flops_per_token: float | None        # FLOPs per token of a training step
    step_seconds: float | None           # lower quartile over the log points of all runs
    tokens_per_second: float | None      # from the lower quartile of seconds per token
    peak_memory_mb: float | None
    n: int                               # the number of runs

    def ratio(self, baseline: Cost, quantity: str) -> float | None:
        """Return this arm's quantity divided by the baseline's: 1.05 is 5 % more."""
        mine, theirs = getattr(self, quantity), getattr(baseline, quantity)
        return mine / theirs if mine is not None and theirs else None


@dataclass(frozen=True)
class Costs:
    """The cost of every arm, the baseline's first when it has one."""
    baseline: str
    arms: tuple[Cost, ...]

    def of(self, arm: str) -> Cost | None:
        """Return the cost of one arm; None when it is unknown."""
        return self._by_arm.get(arm)

    @cached_property
    def _by_arm(self) -> dict[str, Cost]:
        return {cost.arm: cost for cost in self.arms}

    def ratio(self, arm: str, quantity: str) -> float | None:
        """Return an arm's quantity divided by the baseline's; None when either is unknown."""
        mine, theirs = self.of(arm), self.of(self.baseline)
        return mine.ratio(theirs, quantity) if mine and theirs else None


@dataclass(frozen=True)
class Budget:
    """An arm against the baseline at the point where both have spent the same."""
    arm: str
    axis: str                            # tokens, flops or seconds
    at: float                            # the largest budget that all runs of both reached
    crossing: float | None  # where the mean curves last cross; None where they do not
    verdict: Verdict  # on the metric at that budget, interpolated between evaluations;
                      # Holm-adjusted over the arms


@dataclass(frozen=True)
class Budgets:
    """The verdicts at equal tokens, equal FLOPs and equal seconds."""
    table: tuple[Budget, ...]

    def on(self, axis: str) -> tuple[Budget, ...]:
        """Return the budgets of one axis."""
        return tuple(budget for budget in self.table if budget.axis == axis)

    def of(self, arm: str, axis: str) -> Budget | None:
        """Return the budget of one arm on one axis; None when it has none."""
        return self._by_place.get((arm, axis))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], Budget]:
        return {(budget.arm, budget.axis): budget for budget in self.table}


def costs(runs: Iterable[RecordedRun], arms: Sequence[str], baseline: str) -> Costs:
    """Return the cost of every arm from the records of its finished runs, the baseline first."""
    finished = by_arm(run for run in runs if run.complete)
    order = sorted(arms, key=lambda arm: arm != baseline)
    return Costs(baseline, tuple(_cost(arm, finished.get(arm, [])) for arm in order))


def _cost(arm: str, runs: list[RecordedRun]) -> Cost:
    models = [_section(run, "model") for run in runs]
    results = [_section(run, "result") for run in runs]
    parameters = _mean(models, "parameters")
    steps = [pace for run in runs if len(pace := _paces(run))]
    seconds, tokens = np.quantile(np.concatenate(steps), QUARTILE, axis=0) if steps else (None,
                                                                                          None)
    rate = None if tokens is None or np.isnan(tokens) else float(1 / tokens)
    return Cost(arm, None if parameters is None else round(parameters),
                _mean(models, "flops_per_token"), None if seconds is None else float(seconds),
                rate, _mean(results, "peak_memory_mb"), len(runs))


def _paces(run: RecordedRun) -> np.ndarray:
    """Return (log points, 2): seconds per iteration and seconds per token since the log point
    before; NaN for the latter where no tokens were logged.

    The lower quartile of these is used instead of the mean, because other work on the machine only
    ever slows a run down. On a busy machine the means of one arm differ by a quarter, its lower
    quartiles by a hundredth.
    """
    if run.table["tokens"].isna().all():     # logs from elsewhere: seconds per token stay unknown
        steps = np.insert(np.diff(run.measured("iteration", "seconds"), axis=0), 1, np.nan, axis=1)
        steps = steps[(steps[:, ::2] > 0).all(axis=1)]
    else:
        steps = np.diff(run.measured("iteration", "tokens", "seconds"), axis=0)
        steps = steps[(steps > 0).all(axis=1)]
    return steps[:, 2:] / steps[:, :2]


def at_pace(run: RecordedRun, cost: Cost | None) -> RecordedRun:
    """Return the run with its seconds recomputed at its arm's undisturbed pace. Comparisons at
    equal seconds then do not depend on other work on the machine, or on another machine."""
    if cost is None or cost.step_seconds is None:
        return run
    iterations, seconds = (run.table[each].to_numpy() for each in ("iteration", "seconds"))
    seconds = np.where(np.isnan(seconds), np.nan, iterations * cost.step_seconds)
    return replace(run, table=run.table.assign(seconds=seconds))


def _section(run: RecordedRun, name: str) -> dict[str, Any]:
    section = (run.record or {}).get(name)
    return section if isinstance(section, dict) else {}


def _mean(tables: Iterable[Mapping[str, Any]], key: str) -> float | None:
    numbers = [t[key] for t in tables if isinstance(t.get(key), int | float)
               and math.isfinite(t[key])]
    return fmean(numbers) if numbers else None


def budgets(runs: Iterable[RecordedRun], arms: Sequence[str], baseline: str, *,
            metric: str = "val_loss", margin: float, alpha: float, unit: str = "nats",
            barred: Mapping[str, str] | None = None) -> Budgets:
    """Compare every arm with the baseline on every axis that both have, at the largest budget that
    all runs of the two reached. Arms that are `barred` as not comparable are left out. The verdicts
    have no bootstrap, which nothing shows."""
    groups = by_arm(run for run in runs if run.seed is not None)
    arms = [arm for arm in arms if arm not in (barred or {})]
    return Budgets(tuple(budget for axis in AXES for budget in _on_axis(
        {arm: _curves(groups.get(arm, []), axis, metric) for arm in arms},
        axis, baseline, margin=margin, alpha=alpha, unit=unit)))


# seed → (points, 2): what was spent so far, and the metric there; no points for a diverged run
Curves = Mapping[int, np.ndarray]


def _on_axis(curves: Mapping[str, Curves], axis: str, baseline: str, *, margin: float,
             alpha: float, unit: str) -> list[Budget]:
    base = curves.get(baseline, {})
    ends = {arm: _common_end([*mine.values(), *base.values()]) for arm, mine in curves.items()
            if arm != baseline and _finished(mine) and _finished(base)}
    # arms mostly end at the same budget, so what the baseline has there is kept
    base_known = cache(lambda end: _readable(_finished(base), end, margin))
    base_at = cache(lambda end: _at(base, end))
    known = {arm: _readable(_finished(curves[arm]), end, margin) and base_known(end)
             for arm, end in ends.items()}
    values = {arm: (_at(curves[arm], end), base_at(end)) if known[arm] else ({}, {})
              for arm, end in ends.items()}
    raw = {arm: replace(compare(*pair, margin=margin, alpha=alpha, family=len(ends),
                                resamples=0), arm=arm, unit=unit)
           for arm, pair in values.items()}
    judged = holm(raw, {arm: lost_seeds(*pair) for arm, pair in values.items()})
    return [Budget(arm, axis, ends[arm],
                   _crossing(curves[arm], base, ends[arm]) if known[arm] else None,
                   verdict if known[arm] else replace(verdict, reason=SPARSE))
            for arm, verdict in judged.items()]


def _curves(runs: Iterable[RecordedRun], axis: str, metric: str) -> Curves:
    """Return the curve of every finished run that has one, and an empty curve for every run that
    diverged."""
    curves = {run.seed: _curve(run, axis, metric) for run in runs if run.complete}
    return ({seed: curve for seed, curve in curves.items() if len(curve)}
            | {run.seed: np.empty((0, 2)) for run in runs if run.status == "diverged"})


def _curve(run: RecordedRun, axis: str, metric: str) -> np.ndarray:
    """Return (points, 2): what was spent at each evaluation, and the metric there. The metric is
    computed from the validation loss."""
    table = run.measured(axis, "val_loss")
    result = _section(run, "result")
    if metric == "perplexity":
        table[:, 1] = np.exp(table[:, 1])
    elif metric == "bits_per_byte":
        known = result.get("bits_per_byte") and result.get("val_loss")
        table = table * [1, result["bits_per_byte"] / result["val_loss"]] if known else table[:0]
    return table


def _finished(curves: Curves) -> list[np.ndarray]:
    return [curve for curve in curves.values() if len(curve)]


def _common_end(curves: Iterable[np.ndarray]) -> float:
    return float(min(curve[-1, 0] for curve in curves if len(curve)))


def _at(curves: Curves, x: float) -> dict[int, float]:
    """Return seed → the metric at the point where x was spent; NaN for a run that diverged."""
    finished = {seed: curve for seed, curve in curves.items() if len(curve)}
    values = _interpolated(list(finished.values()), np.array([x]))[:, 0]
    return dict.fromkeys(curves, math.nan) | dict(zip(finished, map(float, values), strict=True))


def _readable(curves: Sequence[np.ndarray], x: float, margin: float) -> bool:
    """Return whether every curve is known at x: it was measured there, or it lies between
    evaluations so close together that a chord and a cubic agree to half the margin. Fewer than
    FEWEST evaluations are not enough: three points can only bend at the middle one."""
    for together, spent, first in _same_places(curves):
        if np.isclose(spent, x, rtol=1e-9, atol=0).any():
            continue
        if len(spent) < FEWEST or not spent[0] <= x <= spent[-1]:
            return False
        cubic = _interpolated([curves[i] for i in together], np.array([x]))[:, 0]
        chord = [np.interp(x, spent, curves[i][first, 1]) for i in together]
        if (abs(cubic - chord) > margin / 2).any():
            return False
    return True


def _same_places(curves: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray,
                                                                 np.ndarray]]:
    """Yield (which curves, their places, the first row of each place) for the curves that were
    measured at the same places. The seeds of an arm mostly were, and are then handled at once."""
    groups: dict[bytes, list[int]] = {}
    for number, curve in enumerate(curves):
        groups.setdefault(curve[:, 0].tobytes(), []).append(number)
    for together in groups.values():
        yield together, *np.unique(curves[together[0]][:, 0], return_index=True)


def _interpolated(curves: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return (curves, points): the curves at x, interpolated by monotone cubics (PCHIP). A chord of
    a falling curve lies above it, which would favour the run that was measured exactly at x."""
    found = np.empty((len(curves), len(x)))
    for together, spent, first in _same_places(curves):
        values = np.stack([curves[i][first, 1] for i in together], axis=1)
        if len(spent) < 2:
            found[together] = np.array([curves[i][-1, 1] for i in together])[:, None]
        else:
            found[together] = PchipInterpolator(spent, values, extrapolate=False)(
                np.clip(x, spent[0], spent[-1])).T
    return found


def _crossing(arm: Curves, baseline: Curves, end: float) -> float | None:
    """Return where the difference of the mean curves last changes sign before `end`; None where it
    never does. The untrained models are no part of a curve: all arms begin near the same loss, and
    which is lower there says nothing."""
    seeds = [seed for seed in arm if len(arm[seed]) and len(baseline.get(seed, ()))]
    trained = [each[each[:, 0] > 0] for seed in seeds for each in (arm[seed], baseline[seed])]
    if not all(map(len, trained)) or not trained:
        return None
    spent = np.unique(np.concatenate([each[:, 0] for each in trained]))
    start = max(each[0, 0] for each in trained)
    spent = spent[(spent >= start) & (spent <= end)]
    mine, theirs = (_interpolated([each[s] for s in seeds], spent) for each in (arm, baseline))
    gap = np.mean(mine - theirs, axis=0)
    changes = np.flatnonzero(gap[:-1] * gap[1:] < 0)
    if not len(changes):
        return None
    i = changes[-1]
    return float(spent[i] + (spent[i + 1] - spent[i]) * gap[i] / (gap[i] - gap[i + 1]))
