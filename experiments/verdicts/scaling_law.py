"""
The baseline's loss as a function of compute, and what an arm's loss is worth in compute.

The law is L = E + A·C^−a (Hoffmann et al. 2022, arXiv 2203.15556, on compute alone). It has three
parameters, so it is fitted from four rungs on; with fewer, the loss is taken as linear in log
compute between two rungs. Every function works on many ladders at once: leading dimensions `...`.

The compute-equivalent gain of an arm is C_base(L_arm(C)) / C: the compute that the baseline needs
for the arm's loss, over the compute that the arm used. 1.2 means that the baseline needs 20 % more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.declare.ladder import FARTHEST

FITTED = 4                    # rungs from which the law is fitted
EXPONENTS = (0.003, 2.0)      # the range of a; published values are 0.03 to 0.2
GRID, ROUNDS = 33, 4          # the exponents of one round of the search; each round narrows it
DRAWS = 1_999                 # of the bootstrap over seeds
LEVEL = 0.95                  # of the interval of a gain


@dataclass(frozen=True)
class Law:
    """L = floor + scale·exp(−exponent·(x − first)), at log compute x. Each of the three is (...,);
    NaN where the losses do not fall with compute. `first` and `last` are the outer rungs' x."""
    floor: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray
    first: float
    last: float

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Return the loss at log compute x: (...,)."""
        return self.floor + self.scale * np.exp(-self.exponent * (x - self.first))

    def log_compute(self, loss: np.ndarray) -> np.ndarray:
        """Return the log compute of a loss. It is infinite for a loss at or below the floor."""
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.log((loss - self.floor) / self.scale)
        reached = self.first - above / self.exponent
        return np.where(loss <= self.floor, np.inf, reached) + 0 * self.scale   # NaN stays


@dataclass(frozen=True)
class Segments:
    """Losses that are linear in log compute between the rungs, and beyond them go on as beside
    them. x: (K,), losses: (..., K)."""
    x: np.ndarray
    losses: np.ndarray

    @property
    def first(self) -> float:
        """The smallest rung's log compute."""
        return float(self.x[0])

    @property
    def last(self) -> float:
        """The largest rung's log compute."""
        return float(self.x[-1])

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Return the loss at log compute x."""
        piece = np.searchsorted(self.x[1:-1], x)
        return self._of(piece, self.losses) + self._slope(piece) * (x - self.x[piece])

    def log_compute(self, loss: np.ndarray) -> np.ndarray:
        """Return the log compute of a loss; NaN where the losses beside it do not fall."""
        piece = (loss[..., None] < self.losses[..., 1:-1]).sum(-1)
        slope = self._slope(piece)
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = self.x[piece] + (loss - self._of(piece, self.losses)) / slope
        return np.where(slope < 0, reached, np.nan)

    def _slope(self, piece: np.ndarray) -> np.ndarray:
        return self._of(piece, np.diff(self.losses, axis=-1) / np.diff(self.x))

    def _of(self, piece: np.ndarray, values: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(np.shape(piece), values.shape[:-1])
        index = np.broadcast_to(piece, shape)[..., None]
        return np.take_along_axis(np.broadcast_to(values, (*shape, values.shape[-1])), index,
                                  -1)[..., 0]


def curve(x: np.ndarray, losses: np.ndarray) -> Law | Segments:
    """Return the curve through losses: (..., K) at log computes x: (K,), rising: the law from four
    rungs on, else straight pieces."""
    return fit(x, losses) if len(x) >= FITTED else Segments(x, losses)


def fit(x: np.ndarray, losses: np.ndarray) -> Law:
    """Fit the law by least squares. At a given exponent the other two are a linear problem, so the
    search is over the exponent alone, and no start can be a bad one. The floor is not below 0."""
    low, high = (np.full(losses.shape[:-1], np.log(end)) for end in EXPONENTS)
    for _ in range(ROUNDS):
        steps = np.linspace(0, 1, GRID)
        grid = low[..., None] + (high - low)[..., None] * steps               # (..., GRID)
        best = _linear(x, losses, np.exp(grid))[0].argmin(-1)[..., None]
        low, high = (np.take_along_axis(grid, np.clip(best + side, 0, GRID - 1), -1)[..., 0]
                     for side in (-1, 1))
    exponent = np.exp((low + high) / 2)
    error, floor, scale = (each[..., 0] for each in _linear(x, losses, exponent[..., None]))
    falls = np.where(np.isfinite(error), 1.0, np.nan)
    return Law(floor * falls, scale * falls, exponent * falls, float(x[0]), float(x[-1]))


def _linear(x: np.ndarray, losses: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return (squared error, floor, scale) of the best line at each exponent: (..., G). The error
    is infinite where the losses would have to rise."""
    f = np.exp(-exponent[..., None] * (x - x[0]))                             # (..., G, K)
    y = losses[..., None, :]
    f_mean, y_mean = f.mean(-1), y.mean(-1)
    scale = ((f - f_mean[..., None]) * y).sum(-1) / ((f - f_mean[..., None]) ** 2).sum(-1)
    floor = y_mean - scale * f_mean
    without = (f * y).sum(-1) / (f * f).sum(-1)
    scale, floor = np.where(floor < 0, without, scale), np.maximum(floor, 0.0)
    error = ((y - floor[..., None] - scale[..., None] * f) ** 2).sum(-1)
    return np.where(scale > 0, error, np.inf), floor, scale


@dataclass(frozen=True)
class Gains:
    """The compute-equivalent gain at each rung: (..., K). An end is NaN with one seed. It is 0 or
    infinite where it lies beyond FARTHEST times the rungs' compute, where no curve is known."""
    gain: np.ndarray
    low: np.ndarray
    high: np.ndarray


def gains(base_x: np.ndarray, arm_x: np.ndarray, base: np.ndarray, arm: np.ndarray,
          rng: np.random.Generator, draws: int = DRAWS, level: float = LEVEL) -> Gains:
    """Return the gains of an arm. base_x, arm_x: (K,), each one's own log compute; base, arm:
    (..., K, seeds), the losses, in the same order of seeds, NaN where a rung lacks a seed.

    The interval comes from a bootstrap over seeds. Two to five seeds are too few to draw from with
    replacement: intervals from that are far too short. So a draw gives every seed's deviation a
    normal weight, the same one in every rung and both arms, and stretches all of them as Student's
    t at one less than the number of the rung's seeds. For a mean this is the t interval itself.

    No curve is known to be the true one, so the interval covers two. Three rungs do not show how
    the curve bends between them: straight pieces, and the law. With more, the law misses the
    baseline's own losses a little: from the law, and from the baseline's loss at the rung.
    """
    have = np.isfinite(base).all(axis=tuple(range(base.ndim - 2)))            # (K, seeds)
    counts = have.sum(-1)
    gain = _by_curve(base_x, arm_x, np.nanmean(base, -1), np.nanmean(arm, -1))
    low, high = np.full_like(gain, np.nan), np.full_like(gain, np.nan)
    ways = [_by_curve, _by_law if len(base_x) == FITTED - 1 else _from_baseline]
    for n in set(counts[counts > 1].tolist()):
        drawn = _draws(ways, base_x, arm_x, base, arm, n, rng, draws)
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1, method="nearest")
        at = counts == n
        low[..., at], high[..., at] = ends[0].min(0)[..., at], ends[1].max(0)[..., at]
    return Gains(np.exp(gain), np.exp(low), np.exp(high))


def _draws(ways: Sequence[Callable], base_x: np.ndarray, arm_x: np.ndarray, base: np.ndarray,
           arm: np.ndarray, n: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Return draws of the log gain at every rung by each way to lay a curve, (ways, draws, ..., K),
    right for rungs of n seeds."""
    weights = stretched(rng, (draws, base.shape[-1]), n)
    drawn = [drawn_means(losses, weights) for losses in (base, arm)]
    found = np.stack([way(base_x, arm_x, *drawn) for way in ways])
    # A draw without a falling curve says nothing, so it counts as far off on either side in turn.
    sides = np.where(np.arange(draws) % 2, np.inf, -np.inf).reshape(-1, *[1] * (found.ndim - 2))
    return np.where(np.isnan(found), sides, found)


def stretched(rng: np.random.Generator, shape: tuple[int, int], n: int) -> np.ndarray:
    """Return weights of seeds for the draws of a bootstrap, (draws, seeds): normal, and stretched
    as Student's t of n seeds."""
    return rng.standard_normal(shape) * np.sqrt((n - 1) / rng.chisquare(n - 1, (shape[0], 1)))


def drawn_means(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean losses of every draw: losses (..., K, seeds), NaN where a rung lacks a seed,
    weights (draws, seeds) → (draws, ..., K)."""
    mean = np.nanmean(losses, -1, keepdims=True)
    counts = np.isfinite(losses).sum(-1, keepdims=True)
    away = np.nan_to_num(losses - mean) / np.sqrt(counts * np.maximum(counts - 1, 1))
    return mean[..., 0] + np.einsum("ds,...ks->d...k", weights, away)


def _by_curve(base_x: np.ndarray, arm_x: np.ndarray, base: np.ndarray,
              arm: np.ndarray) -> np.ndarray:
    """Return log gains of mean losses (..., K); ±infinity beyond FARTHEST times the rungs."""
    return _reached(curve(base_x, base), base_x, arm) - arm_x


def _by_law(base_x: np.ndarray, arm_x: np.ndarray, base: np.ndarray,
            arm: np.ndarray) -> np.ndarray:
    """The same, by the law although there are few rungs."""
    return _reached(fit(base_x, base), base_x, arm) - arm_x


def _from_baseline(base_x: np.ndarray, arm_x: np.ndarray, base: np.ndarray,
                   arm: np.ndarray) -> np.ndarray:
    """The same, counted from the baseline's loss at the rung, so that its own gain is 1."""
    known = curve(base_x, base)
    with np.errstate(invalid="ignore"):
        return (_reached(known, base_x, arm) - _reached(known, base_x, base)) + base_x - arm_x


def _reached(known: Law | Segments, x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the log compute at which a curve has each loss, (..., K)."""
    return within(np.stack([known.log_compute(losses[..., k]) for k in range(losses.shape[-1])],
                            -1), x)


def within(reached: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return log computes, ±infinity where they lie beyond FARTHEST times the rungs' compute."""
    room = np.log(FARTHEST)
    return np.where(reached > x[-1] + room, np.inf, np.where(reached < x[0] - room, -np.inf,
                                                             reached))


def misses(x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return by what factor in compute the curve through mean losses (K,) misses each of them:
    (K,), 1 or more."""
    off = _reached(curve(x, losses), x, losses) - x
    return np.exp(np.abs(np.nan_to_num(off)))
