"""
Planning: what a paired t-test or an equivalence test on n seeds can be expected to find.

The square of a noncentral t is a noncentral F. Power is computed with scipy's `ncf`, because the
far tail of `nct` (and so statsmodels' TTestPower) returns NaN at few seeds and strict alphas, which
are usual in ablations.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import optimize, special, stats

POWER = 0.8           # the chance of a decision that every plan here aims at
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
MAX_SEEDS = 10_000    # a plan with more seeds is no use


def power_of_t(effect: float, n: int, alpha: float) -> float:
    """Return the chance that a two-sided paired t-test on n ≥ 2 seeds detects a true difference of
    `effect` standard deviations."""
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    return float(stats.ncf.sf(critical**2, 1, n - 1, effect**2 * n))


def power_of_tost(difference: float, sd: float, n: int, margin: float, alpha: float) -> float:
    """Return the chance that TOST on n ≥ 2 seeds finds a true `difference` inside ±margin
    (Phillips 1990).

    The mean must lie within ±(margin − critical · se), which narrows as the estimated sd grows. The
    normal chance of that is averaged over the chi distribution of the estimate.
    """
    if abs(difference) >= margin:
        return 0.0
    freedom, critical = n - 1, special.stdtrit(n - 1, 1 - alpha)
    scale = math.sqrt(n) / sd
    # the range of the estimated sd, in true sds
    low, high = np.sqrt(2 * special.gammaincinv(freedom / 2, [1e-9, 1 - 1e-9]) / freedom)
    high = min(high, margin * scale / critical)  # with a larger estimate, no mean passes
    if high <= low:
        return 0.0
    estimate = low + (high - low) * (NODES + 1) / 2
    room = margin * scale - critical * estimate
    passes = special.ndtr(room - difference * scale) - special.ndtr(-room - difference * scale)
    chi = estimate * math.sqrt(freedom)
    density = math.sqrt(freedom) * np.exp(
        (1 - freedom / 2) * math.log(2) - special.gammaln(freedom / 2)
        + special.xlogy(freedom - 1, chi) - chi**2 / 2)
    return float(np.sum(WEIGHTS * passes * density) * (high - low) / 2)


@cache
def minimal_detectable_effect(n: int, alpha: float, power: float = POWER) -> float:
    """Return the true difference that n seeds find with this power, in standard deviations of the
    differences."""
    top = 1.0
    while power_of_t(top, n, alpha) < power:
        top *= 2
    return float(optimize.brentq(lambda effect: power_of_t(effect, n, alpha) - power, 0, top,
                                 xtol=1e-6))


@cache
def seeds_that_decide(difference: float, sd: float, margin: float, alpha: float,
                      family: int = 1) -> int | None:
    """Return the smallest number of seeds that ends in better, worse or equivalent with 80 % power,
    if this difference and sd are the true ones. None where it is above MAX_SEEDS.

    Better and worse are planned at alpha / family, the strictest step of Holm's method.
    """
    def decides(n: int) -> bool:
        return (power_of_t(difference / sd, n, alpha / family) >= POWER
                or power_of_tost(difference, sd, n, margin, alpha) >= POWER)

    low, high = 1, 2
    while not decides(high):
        if high == MAX_SEEDS:
            return None
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:   # power rises with n, so bisection finds the first n that decides
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
