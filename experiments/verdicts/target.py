"""
Does an arm reach a target loss, and after how many steps? A mean below the target can be luck, so a
one-sided t-test over the runs decides, adjusted by Holm over the arms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats as sp
from statsmodels.stats.multitest import multipletests

from experiments.verdicts.foreign import Foreign
from experiments.verdicts.verdict import p_text

# The rules of the modded-nanogpt benchmark. They rest on a spread of 0.0013 that is taken as known,
# and on 0.0045 nats being worth 100 steps at the end of its runs.
RULE = 0.004
NATS_PER_STEP = 0.0045 / 100
BENCHMARK = "modded-nanogpt"


@dataclass(frozen=True)
class Target:
    """One arm against a target loss. Intervals are at 1 − alpha. None: cannot be computed."""
    arm: str
    target: float
    n: int
    mean: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None              # one-sided: of a mean below the target by chance
    p_holm: float | None = None
    word: str = "undecided"             # reached, missed or undecided
    reached: int = 0                    # the runs whose curve comes down to the target
    curves: int = 0                     # the runs with a curve
    steps: float | None = None          # mean steps to the target, where all runs reach it
    steps_ci: tuple[float, float] | None = None
    rule: bool | None = None            # the benchmark's own rule, on its own logs

    def line(self, width: int = 0) -> str:
        """Return the finding as one readable line."""
        parts = [f"{self.arm:{width}s}  {self.word:9s}  n = {self.n}"]
        if self.mean is not None:
            ends = f" [{self.ci[0]:.4f}, {self.ci[1]:.4f}]" if self.ci else ""
            parts.append(f"mean {self.mean:.4f}{ends}")
        if self.p_holm is not None:
            parts.append(f"{p_text('p', self.p)} ({p_text('Holm', self.p_holm)})")
        if self.steps is not None:
            ends = f" [{self.steps_ci[0]:,.0f}, {self.steps_ci[1]:,.0f}]" if self.steps_ci else ""
            parts.append(f"{self.steps:,.0f}{ends} steps to it")
        elif self.curves:
            parts.append(f"{self.reached} of {self.curves} runs come down to it")
        if self.rule is not None:
            parts.append(f"benchmark's rule: {'met' if self.rule else 'not met'}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(self).items()}


def targets(results: Foreign, target: float) -> list[Target]:
    """Return one finding per arm, the baseline first."""
    found = [_target(results, arm, target) for arm in results.arms]
    tested = [each.p for each in found if each.p is not None]
    adjusted = iter(multipletests(tested, method="holm")[1]) if tested else iter(())
    return [replace(each, p_holm=(p := float(next(adjusted))),
                    word=_word(each, p, results.alpha)) if each.p is not None else each
            for each in found]


def _word(each: Target, p_holm: float, alpha: float) -> str:
    if p_holm < alpha:
        return "reached"
    return "missed" if 1 - each.p < alpha else "undecided"


def _target(results: Foreign, arm: str, target: float) -> Target:
    values = np.array([v for v in results.values.get(arm, {}).values() if math.isfinite(v)])
    lost = sum(not math.isfinite(v) for v in results.values.get(arm, {}).values())
    found = Target(arm, target, len(values))
    if not len(values):
        return found
    found = replace(found, mean=float(values.mean()), **_steps(results, arm, target))
    if results.formats(arm) == [BENCHMARK]:
        found = replace(found, rule=bool(rule_of_target(values.mean(), len(values), target)))
    if len(values) < 2 or values.std() == 0 or lost:
        return found
    test = sp.ttest_1samp(values, target, alternative="less")
    return replace(found, p=float(test.pvalue), ci=_interval(values, results.alpha))


def _steps(results: Foreign, arm: str, target: float) -> dict[str, Any]:
    """Return how many runs reach the target, and the mean of their steps if all do."""
    curves = [curve for run in results.runs_of(arm)
              if len(curve := results.measured[run.path]) > 1]
    steps = [step for curve in curves if (step := steps_to(curve, target)) is not None]
    found: dict[str, Any] = {"reached": len(steps), "curves": len(curves)}
    if steps and len(steps) == len(curves):
        found["steps"] = float(np.mean(steps))
        if len(steps) > 1 and np.std(steps) > 0:
            found["steps_ci"] = _interval(np.array(steps), results.alpha)
    return found


def steps_to(curve: Mapping[int, float], target: float) -> float | None:
    """Return the step at which a curve first comes down to the target, on the chord between the two
    evaluations around it; None where it never does."""
    before: tuple[int, float] | None = None
    for step, value in sorted(curve.items()):
        if value <= target:
            if before is None or before[1] == value:
                return float(step)
            share = (before[1] - target) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = step, value
    return None


def _interval(values: np.ndarray, alpha: float) -> tuple[float, float]:
    half = sp.t.ppf(1 - alpha / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


# -- the benchmark's own rules ---------------------------------------------------------------------

def rule_of_target(mean: float, n: int, target: float) -> bool:
    """Return whether the benchmark counts a target as met by n runs of this mean."""
    return bool((target - mean) * math.sqrt(n) >= RULE)


def rule_of_pair(arm: tuple[float, int, int], other: tuple[float, int, int]) -> bool:
    """Return whether the benchmark counts an arm as better than another. Each is (mean, n, step of
    the mean); fewer steps count as a lower loss."""
    (mean, n, step), (their_mean, their_n, their_step) = arm, other
    gain = their_mean - mean + NATS_PER_STEP * (their_step - step)
    return bool(gain / math.sqrt(1 / n + 1 / their_n) >= RULE)


def rules(results: Foreign) -> Iterable[str]:
    """Yield what the benchmark's rule for pairs says of each arm against the baseline, where all
    logs are the benchmark's."""
    points = {arm: (float(np.mean(values)), len(values), results.step_of(arm))
              for arm in results.arms if results.formats(arm) == [BENCHMARK]
              and (values := [v for v in results.values[arm].values() if math.isfinite(v)])}
    if results.baseline not in points:
        return
    base = points[results.baseline]
    for arm, point in points.items():
        if arm != results.baseline and not results.foreign_start(arm):
            better, worse = rule_of_pair(point, base), rule_of_pair(base, point)
            word = "better" if better else "worse" if worse else "no difference"
            yield (f"benchmark's rule, {arm} at step {point[2]:,} against {results.baseline} at "
                   f"{base[2]:,}: {word}")
