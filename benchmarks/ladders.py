"""
Check the words and intervals of ladders on simulated ladders whose laws are known.

    python -m benchmarks.ladders [--quick] [--docs docs/ladder.md]

Each row has 2,000 ladders of 3 to 6 rungs and 2 to 5 seeds. Gains and predictions are those of
experiments/verdicts, for all ladders at once. The words are chosen here for all ladders at once,
and for some ladders compared with those of experiments/verdicts/ladder.py. --docs replaces the
table in that page.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.kit import simulated
from experiments.verdicts.beyond import can_go_beyond, gain_beyond, loss_beyond
from experiments.verdicts.extrapolation import Prediction, predict, trend
from experiments.verdicts.ladder import WORDS, Rung, judge
from experiments.verdicts.scaling_law import Gains, gains, within
from experiments.verdicts.stats import verdicts

LADDERS, QUICK = 2_000, 320
RUNGS, SEEDS = (3, 4, 5, 6), (2, 3, 4, 5)
STEP = math.log(4)        # between rungs: twice the parameters and twice the tokens
ALPHA, MARGIN = 0.05, 0.01
DRAWS = 499               # of the bootstrap behind a gain
CHECKED = 2               # ladders per cell that experiments/verdicts/ladder.py judges too
FLOOR, FALL, EXPONENT = 1.7, 1.5, 0.12      # of the baseline's law, at the first rung
SIZE = 0.06               # the effect at the first rung, in nats
NOISE = 0.006             # the sd of a run in the middle of the ladder, in nats
COLUMNS = {"predicted": "90 % prediction covers", "gain": "95 % gain covers",
           "loss_ahead": "90 % loss at the target covers",
           "gain_ahead": "90 % gain at the target covers",
           "false_holds": "false holds or grows", "false_flips": "false flips"}


@dataclass(frozen=True)
class Effect:
    """How an arm's effect changes over rungs, counted from 0. `at` maps rungs to nats."""
    name: str
    at: Callable[[np.ndarray, int], np.ndarray]   # (rungs, number of rungs) → effects


EFFECTS = (
    Effect("none", lambda k, n: 0.0 * k),
    Effect("constant", lambda k, n: -SIZE + 0.0 * k),
    Effect("shrinks as the loss does", lambda k, n: -SIZE * np.exp(-EXPONENT * STEP * k)),
    Effect("shrinks fast", lambda k, n: -SIZE * np.exp(-0.4 * STEP * k)),
    Effect("grows", lambda k, n: -SIZE * (1 + 0.25 * k)),
    Effect("flips in the middle", lambda k, n: -SIZE * (1 - 2 * k / (n - 1))),
    Effect("gone at the target", lambda k, n: -SIZE * (1 - k / n)),
)
NOISES = {"grows": 0.15, "falls": -0.15}     # the exponent of the sd in compute


@dataclass(frozen=True)
class Cell:
    """Ladders of one law, number of rungs and number of seeds. base, arm: (ladders, K, seeds)."""
    x: np.ndarray             # (K,)
    base: np.ndarray
    arm: np.ndarray
    truth: np.ndarray         # (K + 1,): the effect at every rung and at the target
    held_out: np.ndarray      # (ladders,): the mean effect of as many new seeds at the target
    new_loss: np.ndarray      # (ladders,): the mean loss of these new seeds of the baseline

    @property
    def target(self) -> float:
        """The log compute one step above the largest rung."""
        return float(self.x[-1] + STEP)


def simulate(rng: np.random.Generator, effect: Effect, noise: float, rungs: int, seeds: int,
             ladders: int) -> Cell:
    """Draw ladders. A seed's luck is half its own run's, half shared with the baseline."""
    k = np.arange(rungs + 1)
    x, truth = 40 + STEP * k, effect.at(k, rungs)
    sd = NOISE * np.exp(noise * (x - x[:-1].mean()))
    shape = (ladders, rungs + 1, seeds)
    shared, mine, theirs = (rng.normal(size=shape) * sd[:, None] / math.sqrt(2) for _ in range(3))
    law = FLOOR + FALL * np.exp(-EXPONENT * STEP * k)
    base = law[:, None] + shared + theirs
    arm = (law + truth)[:, None] + shared + mine
    held_out = (arm - base)[:, -1].mean(-1)
    return Cell(x[:-1], base[:, :-1], arm[:, :-1], truth, held_out, base[:, -1].mean(-1))


@dataclass(frozen=True)
class Judged:
    """What is said of every ladder of a cell: (ladders,), the gains (ladders, K). `ahead` and
    `loss` are the gain and the baseline's loss at the target, None with too few rungs."""
    words: np.ndarray
    prediction: Prediction
    gain: Gains
    ahead: Gains | None
    loss: Prediction | None


def judge_all(cell: Cell, rng: np.random.Generator) -> Judged:
    """Compute what experiments/verdicts/ladder.py says, for all ladders of a cell at once."""
    effects = cell.arm - cell.base                                            # (ladders, K, seeds)
    n, rungs = effects.shape[-1], len(cell.x)
    mean = effects.mean(-1)
    squares = ((effects - mean[..., None]) ** 2).sum(-1)
    found = predict(cell.x, mean, squares, np.full(rungs, n), cell.target, n)
    p = 2 * special.stdtr(n - 1, -np.abs(mean) / np.sqrt(squares / (n - 1) / n))
    slope = trend(cell.x, effects.swapaxes(-1, -2), ALPHA)
    gain = gains(cell.x, cell.x, cell.base, cell.arm, rng, DRAWS)
    words = _words(mean, p, found, slope.slope, slope.p)
    if not can_go_beyond(cell.base):
        return Judged(words, found, gain, None, None)
    return Judged(words, found, gain,
                  gain_beyond(cell.x, cell.base, cell.target, found, 0.0, rng, DRAWS),
                  loss_beyond(cell.x, cell.base, np.array([cell.target]), n, rng, DRAWS))


def _words(mean: np.ndarray, p: np.ndarray, found: Prediction, slope: np.ndarray,
           p_slope: np.ndarray) -> np.ndarray:
    """Choose the words of ladders from mean effects and p: (ladders, K)."""
    sign = np.where(p < ALPHA, np.sign(mean), 0.0)
    strict = np.where(p < ALPHA / p.shape[-1], np.sign(mean), 0.0)
    ahead = np.where(found.low > 0, 1, np.where(found.high < 0, -1, 0))
    flips = ((strict > 0).any(-1) & (strict < 0).any(-1)
             | (strict[:, -1] != 0) & (ahead == -strict[:, -1]))
    beyond = np.minimum(np.abs(found.low), np.abs(found.high)) > MARGIN
    holds = (np.abs(sign.sum(-1)) == p.shape[-1]) & beyond & (ahead == sign[:, 0]) & (ahead != 0)
    onward = (mean[:, -1] - mean[:, -2]) * slope > 0
    moves = (p_slope < ALPHA) & (sign[:, 0] != 0) & onward
    return np.select([flips, moves & (slope * sign[:, 0] < 0), moves & holds, holds],
                     ["flips", "shrinks", "grows", "holds"], "undecided")


def same_as_the_harness(cell: Cell, judged: Judged, ladders: int) -> None:
    """AssertionError if experiments/verdicts/ladder.py judges the first ladders differently."""
    for i in range(min(ladders, len(cell.base))):
        rungs = []
        for k, x in enumerate(cell.x):
            values = {"baseline": dict(enumerate(cell.base[i, k])),
                      "arm": dict(enumerate(cell.arm[i, k]))}
            rungs.append(Rung(str(k), 1, dict.fromkeys(values, math.exp(x)), values, verdicts(
                values, "baseline", margin=MARGIN, alpha=ALPHA, resamples=0)))
        one = judge("arm", rungs, baseline="baseline", target=math.exp(cell.target), margin=MARGIN,
                    alpha=ALPHA)
        assert one.word == judged.words[i], (i, one, judged.words[i])
        np.testing.assert_allclose(
            [float(one.prediction.low), float(one.prediction.high)],
            [judged.prediction.low[i], judged.prediction.high[i]], rtol=1e-6, atol=1e-9)


def gains_of(cell: Cell) -> np.ndarray:
    """The true gain at every rung and at the target: (K + 1,). It is infinite or 0 where the
    baseline would need compute for which no gain is given."""
    x = np.append(cell.x, cell.target)
    law = FALL * np.exp(-EXPONENT * (x - x[0]))
    reached = x - np.log(np.maximum(law + cell.truth, 1e-9) / law) / EXPONENT
    return np.exp(within(reached, cell.x) - x)


def covers(interval: Prediction | Gains, value: np.ndarray) -> np.ndarray:
    """Whether intervals hold a value."""
    return (interval.low <= value) & (value <= interval.high)


def row(effect: Effect, noise: float, ladders: int, seed: int = 0) -> dict[str, float]:
    """One line of the table: the shares of words, of intervals that cover, and of errors."""
    counts: dict[str, list[np.ndarray]] = {}
    cells = [(rungs, seeds) for rungs in RUNGS for seeds in SEEDS]
    for rungs, seeds in cells:
        rng = np.random.default_rng([seed, rungs, seeds, EFFECTS.index(effect), noise > 0])
        cell = simulate(rng, effect, noise, rungs, seeds, max(1, ladders // len(cells)))
        judged = judge_all(cell, rng)
        same_as_the_harness(cell, judged, CHECKED)
        found = {word: judged.words == word for word in WORDS}
        at_target, signs = cell.truth[-1], set(np.sign(cell.truth))
        stays = len(signs) == 1 and 0 not in signs and abs(at_target) > MARGIN
        said = np.isin(judged.words, ("holds", "grows"))
        true = gains_of(cell)
        found |= {"predicted": covers(judged.prediction, cell.held_out),
                  "gain": covers(judged.gain, true[:-1]).ravel()}
        if judged.ahead is not None:
            found |= {"loss_ahead": covers(judged.loss, cell.new_loss[:, None]).ravel(),
                      "gain_ahead": covers(judged.ahead, true[-1])}
        found |= {
            "false_holds": said & (not stays),
            "false_flips": found["flips"] & (not {1.0, -1.0} <= signs)}
        for name, each in found.items():
            counts.setdefault(name, []).append(each)
    return {name: float(np.concatenate(counts[name]).mean()) for name in (*WORDS, *COLUMNS)}


def table(ladders: int, say: Callable[[str], None] = lambda text: None) -> str:
    """Compute the table, and return it in Markdown."""
    lines = [f"{ladders:,} ladders per row, of {RUNGS[0]} to {RUNGS[-1]} rungs and {SEEDS[0]} to "
             f"{SEEDS[-1]} seeds, alike often; in percent.", "",
             f"| effect | noise | {' | '.join((*WORDS, *COLUMNS.values()))} |",
             "|---|---|" + "--:|" * (len(WORDS) + len(COLUMNS))]
    rows = {}
    for effect in EFFECTS:
        for name, noise in NOISES.items():
            say(f"{effect.name}, noise {name}")
            rows[effect.name, name] = row(effect, noise, ladders)
    rows["**all**", ""] = together(rows.values())
    for (effect, noise), found in rows.items():
        cells = " | ".join(f"{100 * each:.1f}" for each in found.values())
        lines.append(f"| {effect} | {noise} | {cells} |")
    return "\n".join(lines) + "\n"


def together(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of each column."""
    rows = list(rows)
    return {name: float(np.mean([each[name] for each in rows])) for name in rows[0]}


def main(argv: list[str] | None = None) -> int:
    """Run this benchmark's command line."""
    return simulated.main(argv, "ladders", __doc__, "ladders", LADDERS, QUICK, table)


if __name__ == "__main__":
    sys.exit(main())
