"""
The verdict on runs that share no seeds, so that nothing pairs them: two independent samples.

The test is Welch's (1947), which lets the two arms have different spreads. Where one arm has two or
three runs and the other many, Welch's estimate of the standard error is too small by chance too
often: of 20 runs of one configuration, split 2 to 18, it finds a difference in 12 % of all splits
instead of 5 %. So Student's pooled test is computed as well, and whichever of the two gives the
wider interval decides. That holds the error at 5 % for every split of equal spreads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy import stats as sp

from experiments.verdicts.pairing import Lost
from experiments.verdicts.power import minimal_detectable_effect
from experiments.verdicts.verdict import Values, Verdict


def shares_seeds(arm: Iterable[int | None], baseline: Iterable[int | None]) -> bool:
    """Return whether two arms are compared seed by seed: they share at least two seeds, and at
    least half of the seeds of the smaller arm."""
    mine, theirs = set(arm) - {None}, set(baseline) - {None}
    common = len(mine & theirs)
    return common >= 2 and 2 * common >= min(len(mine), len(theirs))


def diverged(arm: Values, baseline: Values) -> Lost:
    """Return the runs without a finite value, of the arm and of the baseline."""
    mine, theirs = (tuple(key for key, value in values.items() if not math.isfinite(value))
                    for values in (arm, baseline))
    return Lost(mine, theirs, word="run")


def evidence(arm: Values, baseline: Values, verdict: Verdict) -> Verdict:
    """Return the verdict with the numbers of two independent samples, and no word yet. Without two
    runs of each it says why there are none."""
    a, b = (np.array([v for v in values.values() if math.isfinite(v)], dtype=float)
            for values in (arm, baseline))
    counted = replace(verdict, n=len(a), n_baseline=len(b))
    if not len(a) or not len(b):
        whose = "no run" if not len(a) else "the baseline has no run"
        return replace(counted, reason=f"{whose} with a final value")
    counted = replace(counted, difference=float(a.mean() - b.mean()))
    if min(len(a), len(b)) < 2:
        whose = ("one run per arm" if len(a) == len(b) else
                 "one run" if len(a) == 1 else "one run of the baseline")
        return replace(counted, reason=f"{whose} says nothing about the spread over runs")
    sd = math.sqrt(a.var(ddof=1) + b.var(ddof=1))
    scale = float(max(np.abs(a).max(), np.abs(b).max()))
    error, freedom = standard_error(a, b, verdict.alpha)
    if sd <= 1e-12 * max(scale, 1e-300):       # only rounding
        return replace(counted, sd=0.0, error=0.0, freedom=freedom,
                       ci=(counted.difference, counted.difference))
    margin, gap = verdict.margin, counted.difference
    p_tost = max(sp.t.sf((gap + margin) / error, freedom), sp.t.cdf((gap - margin) / error,
                                                                    freedom))
    half = float(sp.t.ppf(1 - verdict.alpha / 2, freedom)) * error
    fewest = min(len(a), len(b))
    return replace(counted, sd=sd, error=error, freedom=freedom, ci=(gap - half, gap + half),
                   p=float(2 * sp.t.sf(abs(gap) / error, freedom)), p_tost=float(p_tost),
                   mde=sd * minimal_detectable_effect(fewest, verdict.alpha / verdict.family))


def standard_error(a: np.ndarray, b: np.ndarray, alpha: float) -> tuple[float, float]:
    """Return (standard error of the difference of means, degrees of freedom) by Welch's test or by
    Student's, whichever gives the wider interval at 1 − alpha."""
    n, m = len(a), len(b)
    parts = np.array([a.var(ddof=1) / n, b.var(ddof=1) / m])
    freedom = n + m - 2
    pooled = ((n - 1) * a.var(ddof=1) + (m - 1) * b.var(ddof=1)) / freedom
    student = math.sqrt(pooled * (1 / n + 1 / m)), float(freedom)
    if not parts.sum() > 0:
        return student
    welch = (math.sqrt(parts.sum()),
             float(parts.sum() ** 2 / (parts**2 / (n - 1, m - 1)).sum()))
    return max((welch, student), key=lambda test: test[0] * sp.t.ppf(1 - alpha / 2, test[1]))
