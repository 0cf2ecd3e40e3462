"""
Planning: what a paired t-test or an equivalence test on n seeds can be expected to find.

The square of a noncentral t is a noncentral F, and scipy's `ncf` stays finite where `nct`'s far tail (and so
statsmodels' TTestPower) answers NaN: at few seeds and strict alphas, which is where ablations live.
"""

from __future__ import annotations

import math

from scipy import optimize, stats

POWER = 0.8           # the chance of a decision that everything here promises
MAX_SEEDS = 10_000    # beyond this, more seeds are no answer


def power_of_t(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided paired t-test on n ≥ 2 seeds sees a true difference of `effect` standard deviations."""
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    return float(stats.ncf.sf(critical**2, 1, n - 1, effect**2 * n))


def power_of_tost(difference: float, sd: float, n: int, margin: float, alpha: float) -> float:
    """Chance that TOST on n ≥ 2 seeds finds a true `difference` inside ±margin (Phillips 1990; a close lower bound)."""
    if abs(difference) >= margin:
        return 0.0
    se, critical = sd / math.sqrt(n), stats.t.ppf(1 - alpha, n - 1)
    passes = [stats.nct.sf(critical, n - 1, room / se) for room in (margin - difference, margin + difference)]
    return max(0.0, float(sum(passes) - 1))   # Bonferroni: both of two one-sided tests pass


def minimal_detectable_effect(n: int, alpha: float, power: float = POWER) -> float:
    """The true difference, in standard deviations of the differences, that n seeds find with this power."""
    top = 1.0
    while power_of_t(top, n, alpha) < power:
        top *= 2
    return float(optimize.brentq(lambda effect: power_of_t(effect, n, alpha) - power, 0, top, xtol=1e-6))


def seeds_that_decide(difference: float, sd: float, margin: float, alpha: float, family: int = 1) -> int | None:
    """Least n that ends in better, worse or equivalent with 80 % power, were these difference and sd the true ones.

    Better or worse is planned at alpha / family, the strictest step of Holm's. None: more than MAX_SEEDS.
    """
    def decides(n: int) -> bool:
        return (power_of_t(difference / sd, n, alpha / family) >= POWER
                or power_of_tost(difference, sd, n, margin, alpha) >= POWER)

    low, high = 1, 2
    while not decides(high):
        low, high = high, 2 * high
        if low >= MAX_SEEDS:
            return None
    while high - low > 1:   # power rises with n: bisection finds the first that decides
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
