"""
Predict an arm's effect at a compute that was not trained, from the effects at several sizes.

Every function works on many ladders at once: leading dimensions `...` are ladders. K is the number
of rungs, and x is the logarithm of a rung's training compute.

The effect is taken as a + b·u(x), where u is a straight line in x, or a curve that levels off. The
standard deviation of a seed's effect is taken as a power of compute. Neither the curve nor the
power is known, and few rungs do not show them. So the prediction averages over a grid of both,
weighted by how well each explains the runs (a Bayesian average with flat priors on a and b).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

LEVEL = 0.90      # of a prediction interval
# How fast the effect levels off per unit of log compute, and how much each is believed before any
# run is seen. At 0 it follows a straight line.
LEVELLING = np.array([0.0, 0.15, 0.3, 0.45])
BELIEVED = np.array([3, 1, 1, 1]) / 6
# The exponent of the noise: sd ~ compute^exponent, normal around 0 before any run is seen.
NOISE_EXPONENTS = np.linspace(-0.6, 0.6, 13)
NOISE_SPREAD = 0.3
BISECTIONS = 40
ROUNDING = 1e-9    # of the largest effect: differences this small are no spread


@dataclass(frozen=True)
class Prediction:
    """The effect that is expected at a compute. Each field is (...,), in the metric's unit."""
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray


def predict(x: np.ndarray, means: np.ndarray, squares: np.ndarray, counts: np.ndarray,
            target: float, runs: float, level: float = LEVEL) -> Prediction:
    """Return the interval that holds the mean effect of `runs` new seeds at log compute `target`.

    x: (K,); means: (..., K), the mean effect over seeds; squares: (..., K), the sum of squared
    deviations from that mean; counts: (K,), the number of seeds. Raises ValueError where there are
    fewer than two rungs, or no more seeds than the two coefficients.
    """
    freedom = float(counts.sum()) - 2
    if len(x) < 2 or freedom < 1:
        raise ValueError("a prediction needs two rungs and more than two runs")
    centre, spread, weight = _components(x, means, squares, counts, target, runs, freedom)
    low, middle, high = (_quantile(centre, spread, weight, freedom, q)
                         for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
    return Prediction(middle, low, high)


def _components(x: np.ndarray, means: np.ndarray, squares: np.ndarray, counts: np.ndarray,
                target: float, runs: float, freedom: float) -> tuple[np.ndarray, ...]:
    """Return (centre, spread, weight) of one Student's t per curve and noise exponent: (..., G)."""
    levelling, exponent = (grid.ravel() for grid in np.meshgrid(LEVELLING, NOISE_EXPONENTS))
    believed = np.tile(BELIEVED, len(NOISE_EXPONENTS))
    at = np.append(x, target)                                                 # (K + 1,)
    variance = np.exp(2 * exponent[:, None] * (at - x.mean()))                # (G, K + 1)
    u = _curve(levelling[:, None], at, x[0], x[-1])                           # (G, K + 1)
    w, u_new, v_new = counts / variance[:, :-1], u[:, -1], variance[:, -1]
    u = u[:, :-1]                                                             # (G, K)
    s0, s1, s2 = w.sum(-1), (w * u).sum(-1), (w * u * u).sum(-1)              # (G,)
    determinant = s0 * s2 - s1 * s1
    t0, t1 = means @ w.T, means @ (w * u).T                                   # (..., G)
    a, b = (s2 * t0 - s1 * t1) / determinant, (s0 * t1 - s1 * t0) / determinant
    residual = means[..., None, :] - a[..., None] - b[..., None] * u          # (..., G, K)
    total = squares @ (1 / variance[:, :-1]).T + (w * residual**2).sum(-1)    # (..., G)
    total = np.maximum(total, 1e-300)
    log_weight = (np.log(believed) - 0.5 * (exponent / NOISE_SPREAD) ** 2
                  - 0.5 * (counts * np.log(variance[:, :-1])).sum(-1)
                  - 0.5 * np.log(determinant) - 0.5 * freedom * np.log(total))
    weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
    lever = (s2 - 2 * s1 * u_new + s0 * u_new**2) / determinant               # (G,)
    return (a + b * u_new, np.sqrt(total / freedom * (lever + v_new / runs)),
            weight / weight.sum(-1, keepdims=True))


def _curve(levelling: np.ndarray, at: np.ndarray, first: float, last: float) -> np.ndarray:
    """Return the curve of every levelling at the log computes `at`: 0 at `first`, 1 at `last`, so
    that no curve has more room for its slope than another."""
    bends = np.where(levelling == 0, 1.0, levelling)
    bent = np.expm1(-bends * (at - first)) / np.expm1(-bends * (last - first))
    return np.where(levelling == 0, (at - first) / (last - first), bent)


def _quantile(centre: np.ndarray, spread: np.ndarray, weight: np.ndarray, freedom: float,
              q: float) -> np.ndarray:
    """Return the quantile of the weighted mixture of Student's t: (...,). It lies between the
    smallest and the largest quantile of the single ones."""
    single = centre + special.stdtrit(freedom, q) * spread                    # (..., G)
    low, high = single.min(-1), single.max(-1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        z = (middle[..., None] - centre) / np.maximum(spread, 1e-300)
        below = (weight * special.stdtr(freedom, z)).sum(-1) < q
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Trend:
    """How the effect changes with log compute, in the metric's unit per factor e of compute. Each
    seed's own slope is a replicate. `p` is of the two-sided paired t-test."""
    slope: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    seeds: int


def trend(x: np.ndarray, effects: np.ndarray, alpha: float = 0.05) -> Trend:
    """Return the trend of effects: (..., seeds, K), with at least two seeds and two rungs. The test
    needs no assumption on how the noise changes with size, because a slope is one number per
    seed."""
    centred = x - x.mean()
    slopes = effects @ centred / (centred @ centred)                          # (..., seeds)
    n, mean = slopes.shape[-1], slopes.mean(-1)
    error = slopes.std(-1, ddof=1) / np.sqrt(n)
    half = special.stdtrit(n - 1, 1 - alpha / 2) * error
    # No spread beyond rounding: coarse or copied values. They decide nothing, as in a verdict.
    spread = error > ROUNDING * np.abs(effects).max((-2, -1)) / np.abs(centred).max()
    t = np.divide(np.abs(mean), error, out=np.zeros_like(mean), where=spread)
    return Trend(mean, mean - half, mean + half, 2 * special.stdtr(n - 1, -t), n)
