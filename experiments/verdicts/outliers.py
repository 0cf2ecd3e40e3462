"""
Seeds that ended far from an arm's others. A mean of few seeds hides them, and an arm that now and
then ends badly is what small studies misjudge most (docs/statistics.md): who reads a verdict should
see the run behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats as sp

from experiments.verdicts.pairing import paired
from experiments.verdicts.verdict import Values, signed

FEWEST = 4          # of three values the farthest can hardly be too far
ALPHA = 0.01        # of a study as a whole


@dataclass(frozen=True)
class Outlier:
    """One seed's difference from the baseline (for the baseline: its value) against the mean and sd
    of the others."""
    arm: str
    seed: int
    value: float
    mean: float
    sd: float
    n: int
    p: float

    def line(self) -> str:
        """One readable line."""
        return (
            f"{self.arm}.s{self.seed}: {signed(self.value)}, where the other {self.n - 1} seeds "
            f"have {signed(self.mean)} (sd {self.sd:.4f})"
        )


def outliers(values: Mapping[str, Values], baseline: str, margin: float) -> list[Outlier]:
    """The farthest seed of every arm in which it is too far for normal noise, by Grubbs' test over
    all arms at 1 %, and by more than the margin."""
    own = values.get(baseline, {})
    found = []
    for arm, mine in values.items():
        common = sorted((set(mine) if arm == baseline else set(mine) & set(own)) - {None})
        numbers = np.array([mine[s] for s
                            in common]) if arm == baseline else np.subtract(*paired(mine, own).T)
        finite = np.isfinite(numbers)
        outlier = _farthest(arm, np.array(common, dtype=int)[finite], numbers[finite])
        far = outlier and outlier.p < ALPHA / len(values) and abs(outlier.value
                                                                  - outlier.mean) > margin
        found += [outlier] if far else []
    return found


def _farthest(arm: str, seeds: np.ndarray, numbers: np.ndarray) -> Outlier | None:
    """Grubbs 1950, two-sided. None where there are too few numbers, or no spread."""
    n = len(numbers)
    if n < FEWEST or not numbers.std() > 1e-12 * np.abs(numbers).max():
        return None
    farthest = int(np.abs(numbers - numbers.mean()).argmax())
    others = np.delete(numbers, farthest)
    g = abs(numbers[farthest] - numbers.mean()) / numbers.std(ddof=1)
    room = (n - 1) ** 2 - n * g * g         # 0 where the others are all alike, but for rounding
    t = math.sqrt(n * (n - 2) * g * g / room) if room > 1e-9 else math.inf
    return Outlier(arm, int(seeds[farthest]), float(numbers[farthest]), float(others.mean()),
                   float(others.std(ddof=1)), n, min(1.0, 2 * n * float(sp.t.sf(t, n - 2))))
