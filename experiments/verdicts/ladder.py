"""
Whether an arm's effect holds when the model grows: one word per arm, from the verdicts at several
sizes. docs/ladder.md defines the words.

    judge("rope", rungs, baseline="baseline", target=4.0, margin=None, alpha=0.05)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.verdicts.beyond import can_go_beyond, gain_beyond
from experiments.verdicts.extrapolation import Prediction, Trend, predict, trend
from experiments.verdicts.scaling_law import Gains, gains
from experiments.verdicts.stats import Values, Verdict, signed
from mingpt.utils import BadInput

WORDS = ("holds", "shrinks", "grows", "flips", "undecided")
FEWEST = 3         # rungs; through two, every curve passes
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Rung:
    """One size. `flops` maps arm → training compute of one run; `values` and `verdicts` are those
    of an ordinary study at this size. Rungs come smallest first."""
    name: str
    parameters: int                       # the baseline's, without embeddings
    flops: dict[str, float]
    values: dict[str, Values]             # arm → seed → final value
    verdicts: dict[str, Verdict]


@dataclass(frozen=True)
class ArmLadder:
    """What an arm's effect does over the rungs. Effects are arm − baseline, in the metric's
    unit."""
    arm: str
    word: str                             # one of WORDS
    reason: str
    verdicts: tuple[Verdict, ...]         # one per rung
    target: float                         # the compute of the prediction
    prediction: Prediction | None         # None: too few runs
    trend: Trend | None                   # None: fewer than two seeds are in all rungs
    gains: Gains | None                   # one per rung; None: an arm without values
    gain_ahead: Gains | None = None       # at the target; None: too few rungs or seeds


def judge(arm: str, rungs: Sequence[Rung], *, baseline: str, target: float,
          margin: float | None, alpha: float, runs: int | None = None) -> ArmLadder:
    """Return the word on one arm and everything behind it. `target` is the compute, in FLOPs, at
    which the effect is predicted; `runs` the seeds there, by default those of the largest rung.
    `margin` is None where the study declares none. Raises BadInput where the rungs do not grow."""
    flops = np.array([rung.flops[baseline] for rung in rungs])
    if not (np.diff(flops) > 0).all():
        raise BadInput("rungs must grow: each needs more compute than the one before it")
    x, verdicts = np.log(flops), tuple(rung.verdicts[arm] for rung in rungs)
    pairs = [_effects(rung, arm, baseline) for rung in rungs]
    prediction = foretell(x, pairs, math.log(target), runs or len(pairs[-1]))
    seeds = sorted(set.intersection(*map(set, pairs)))
    slope = (trend(x, np.array([[each[s] for each in pairs] for s in seeds]), alpha)
             if len(seeds) > 1 and len(rungs) > 1 else None)
    word, reason = decide(verdicts, prediction, slope, margin, alpha, [len(p) for p in pairs])
    return ArmLadder(arm, word, reason, verdicts, target, prediction, slope,
                     *(_gains(arm, rungs, baseline, target, prediction) if all(pairs)
                       else (None, None)))


def effects(mine: Values, theirs: Values) -> dict[int, float]:
    """Return seed → effect, for the seeds that both have and that did not diverge."""
    return {s: mine[s] - theirs[s] for s in sorted((set(mine) & set(theirs)) - {None})
            if math.isfinite(mine[s] - theirs[s])}


def _effects(rung: Rung, arm: str, baseline: str) -> dict[int, float]:
    return effects(rung.values.get(arm, {}), rung.values.get(baseline, {}))


def foretell(x: np.ndarray, pairs: Sequence[dict[int, float]], target: float,
             runs: int) -> Prediction | None:
    """Return the prediction from effects by seed, one dict per rung; None where there are too few
    of them to tell noise from change: every rung needs two."""
    if len(pairs) < 2 or min(map(len, pairs)) < 2:
        return None
    effects = [np.array(list(each.values())) for each in pairs]
    return predict(x, np.array([e.mean() for e in effects]),
                   np.array([((e - e.mean()) ** 2).sum() for e in effects]),
                   np.array(list(map(len, effects))), target, runs)


def decide(verdicts: Sequence[Verdict], prediction: Prediction | None, slope: Trend | None,
           margin: float | None, alpha: float, seeds: Sequence[int]) -> tuple[str, str]:
    """Return (word, reason). `seeds` are the pairs of seeds per rung."""
    if len(verdicts) < FEWEST:
        return "undecided", f"{len(verdicts)} rungs; a trend needs {FEWEST}"
    if prediction is None:
        return "undecided", "a rung has fewer than two pairs of seeds, so noise cannot be told " \
                            "from change"
    signs = [settled(v) for v in verdicts]
    strict = [settled(v, alpha / len(verdicts)) for v in verdicts]
    low, high = float(prediction.low), float(prediction.high)
    ahead = 1 if low > 0 else -1 if high < 0 else 0
    if {1, -1} <= set(strict):
        return "flips", f"better at {_rungs(strict, -1)}, worse at {_rungs(strict, 1)}"
    if strict[-1] and ahead == -strict[-1]:
        return "flips", "predicted beyond the largest rung, not seen yet"
    kept = bool(ahead) and min(abs(low), abs(high)) > (margin or 0.0)
    same = all(signs) and len(set(signs)) == 1
    # where the last step goes back, the slope over all rungs is no longer the trend
    steps = [v.difference for v in verdicts[-2:] if v.difference is not None]
    onward = len(steps) == 2 and slope is not None and (
        (steps[1] - steps[0]) * float(slope.slope) > 0)
    if slope is not None and slope.p < alpha and signs[0] and onward:
        if float(slope.slope) * signs[0] < 0:
            return "shrinks", _left(kept and ahead == signs[0], prediction, margin)
        if same and kept and ahead == signs[0]:
            return "grows", ""
    if same and kept and ahead == signs[0]:
        return "holds", ""
    return "undecided", _wanted(verdicts, signs, prediction, margin, seeds)


def settled(v: Verdict, level: float | None = None) -> int:
    """Return −1 where the verdict is better, 1 where it is worse, else 0; with `level`, only where
    its adjusted p is below that."""
    sign = {"better": -1, "worse": 1}.get(v.word, 0)
    return sign if level is None or (v.p_holm is not None and v.p_holm < level) else 0


def _rungs(signs: Sequence[int], sign: int) -> str:
    return "rung " + ", ".join(str(i + 1) for i, each in enumerate(signs) if each == sign)


def _left(kept: bool, prediction: Prediction, margin: float | None) -> str:
    beyond = "beyond the margin" if margin else "of the same sign"
    return (f"predicted to be still {beyond} at the target" if kept else
            f"not predicted to be {beyond} at the target: {interval(prediction)}")


def _wanted(verdicts: Sequence[Verdict], signs: Sequence[int], prediction: Prediction,
            margin: float | None, seeds: Sequence[int]) -> str:
    """Return what it would take to decide."""
    needs = []
    for i, (v, sign) in enumerate(zip(verdicts, signs, strict=True)):
        if not sign:
            more = f", about {v.seeds_needed} seeds would decide" if v.seeds_needed else ""
            needs.append(f"rung {i + 1} is {v.word}{more}")
    if len(set(signs) - {0}) > 1:
        needs.append("the rungs disagree in sign, not clearly enough for a flip")
    effect, room = float(prediction.effect), margin or 0.0
    if not (float(prediction.low) > room or float(prediction.high) < -room):
        far = abs(effect) - room
        half = max(float(prediction.high) - effect, effect - float(prediction.low))
        many = math.ceil(min(seeds) * (half / far) ** 2) if far > 0 else MOST_SEEDS + 1
        reach = "the margin" if margin else "0"
        needs.append(f"the prediction {interval(prediction)} reaches {reach}: "
                     + (f"about {many} seeds per rung, or a larger rung, would decide"
                        if many <= MOST_SEEDS else "only a larger rung would decide"))
    return "; ".join(needs)


def interval(prediction: Prediction) -> str:
    """Return a prediction as text: −0.0300 [−0.0400, −0.0200]."""
    effect, low, high = (signed(float(each)) for each in (prediction.effect, prediction.low,
                                                          prediction.high))
    return f"{effect} [{low}, {high}]"


def _gains(arm: str, rungs: Sequence[Rung], baseline: str, target: float,
           prediction: Prediction | None) -> tuple[Gains, Gains | None]:
    """Return the compute-equivalent gain at each rung, from the seeds that are paired there, and
    at the target."""
    seeds = sorted({s for rung in rungs for s in _effects(rung, arm, baseline)})
    losses = np.full((2, len(rungs), len(seeds)), np.nan)
    for k, rung in enumerate(rungs):
        for s in _effects(rung, arm, baseline):
            losses[:, k, seeds.index(s)] = rung.values[baseline][s], rung.values[arm][s]
    x = [np.log([rung.flops[name] for rung in rungs]) for name in (baseline, arm)]
    found = gains(*x, *losses, np.random.default_rng(0))
    if prediction is None or not can_go_beyond(losses[0]):
        return found, None
    return found, gain_beyond(x[0], losses[0], math.log(target), prediction, x[1][-1] - x[0][-1],
                              np.random.default_rng(0))
