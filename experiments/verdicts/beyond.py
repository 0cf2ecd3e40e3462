"""
What the fitted law says beyond the largest rung, up to FARTHEST times its compute: an arm's loss,
and what its predicted effect is worth in compute. Both with intervals that hold if the law does.

The law is that of scaling_law.py, from four rungs on with two seeds each. Every function works on
many ladders at once: leading dimensions `...`.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from experiments.verdicts.extrapolation import LEVEL, Prediction
from experiments.verdicts.scaling_law import (
    DRAWS,
    FITTED,
    Gains,
    Law,
    curve,
    drawn_means,
    fit,
    stretched,
    within,
)


def can_go_beyond(losses: np.ndarray) -> bool:
    """Whether losses (..., K, seeds), NaN where a rung lacks a seed, show the law and its noise."""
    return losses.shape[-2] >= FITTED and bool((np.isfinite(losses).sum(-1) > 1).all())


def loss_beyond(x: np.ndarray, losses: np.ndarray, at: np.ndarray, runs: int,
                rng: np.random.Generator, draws: int = DRAWS, level: float = LEVEL) -> Prediction:
    """Return the interval that holds the mean loss of `runs` new seeds at each log compute in `at`,
    (P,): every field is (..., P). losses: (..., K, seeds), for which `can_go_beyond`.

    A bootstrap over seeds draws laws, and adds the noise of new runs, taken from the largest rung.
    """
    drawn = _laws(x, losses, rng, draws)
    top = losses[..., -1, :]
    n = np.isfinite(top).sum(-1)
    noise = special.stdtrit(n - 1, rng.uniform(size=(draws, *top.shape[:-1])))
    noise = noise * np.nanstd(top, -1, ddof=1) / np.sqrt(runs)                # (draws, ...)
    ends = [[], [], []]
    for each in np.atleast_1d(at):
        for found, q in zip(ends, _levels(level), strict=True):
            found.append(np.nanquantile(drawn.loss(each) + noise, q, axis=0))
    low, middle, high = (np.stack(each, -1) for each in ends)
    return Prediction(middle, low, high)


def gain_beyond(x: np.ndarray, losses: np.ndarray, target: float, effect: Prediction, cost: float,
                rng: np.random.Generator, draws: int = DRAWS, level: float = LEVEL) -> Gains:
    """Return the compute-equivalent gain at log compute `target` of an arm whose effect there is
    predicted: every field is (...,). x, losses: the baseline's, as for `loss_beyond`. `cost` is the
    log of the arm's compute over the baseline's.

    The interval covers both ends of the effect's under the drawn laws. A gain is 0 or infinite
    where the baseline would need less or more than FARTHEST times the rungs' compute.
    """
    def worth(law: Law, nats: np.ndarray) -> np.ndarray:
        reached = law.log_compute(law.loss(np.asarray(target)) + nats)
        return np.exp(within(reached, x) - target - cost)
    drawn, (low, _, high) = _laws(x, losses, rng, draws), _levels(level)
    ends = (np.nanquantile(worth(drawn, nats), q, axis=0, method="nearest")
            for nats, q in ((effect.high, low), (effect.low, high)))
    return Gains(worth(curve(x, np.nanmean(losses, -1)), effect.effect), *ends)


def _laws(x: np.ndarray, losses: np.ndarray, rng: np.random.Generator, draws: int) -> Law:
    n = int(np.isfinite(losses).sum(-1).min())
    return fit(x, drawn_means(losses, stretched(rng, (draws, losses.shape[-1]), n)))


def _levels(level: float) -> tuple[float, float, float]:
    return (1 - level) / 2, 0.5, (1 + level) / 2
