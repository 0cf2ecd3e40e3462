"""
Find seeds that ended far from the other seeds of their arm. A mean over few seeds hides them, and
small studies misjudge most often the arms that end badly now and then (docs/statistics.md). So a
reader of a verdict should see the run behind it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from scipy import stats as sp

from experiments.verdicts.pairing import paired
from experiments.verdicts.verdict import Values, signed

FEWEST = 4          # with three values, the farthest can hardly be too far
ALPHA = 0.01        # the error of a study as a whole
FEW_ALPHA = 0.05    # the same for two or three seeds, which could show almost nothing at 1 %


@dataclass(frozen=True)
class Outlier:
    """One seed's difference from the baseline (for the baseline itself, its value), beside the mean
    and sd of the arm's other seeds."""
    arm: str
    seed: int
    value: float
    mean: float
    sd: float
    n: int
    p: float
    mark: str = ".s"        # what stands before the seed; " #" before the number of a run

    def line(self) -> str:
        """Return the outlier as one readable line."""
        return (f"{self.arm}{self.mark}{self.seed}: {signed(self.value)}, where the other "
                f"{self.n - 1} {'seeds' if self.mark == '.s' else 'runs'} have "
                f"{signed(self.mean)} (sd {self.sd:.4f})")


def outliers(values: Mapping[str, Values], baseline: str, margin: float,
             unpaired: Container[str] = (), numbered: Container[str] = ()) -> list[Outlier]:
    """Return the farthest seed of every arm where it is too far for normal noise (Grubbs' test at
    1 % over all arms) and farther from the others than the margin. The values of an `unpaired` arm
    stand for themselves, as the baseline's do. The runs of a `numbered` arm have no seeds."""
    own = values.get(baseline, {})
    found = []
    for arm, mine in values.items():
        alone = arm == baseline or arm in unpaired
        common = sorted((set(mine) if alone else set(mine) & set(own)) - {None})
        numbers = (np.array([mine[s] for s in common], dtype=float) if alone
                   else np.subtract(*paired(mine, own).T))
        finite = np.isfinite(numbers)
        outlier = _farthest(arm, np.array(common, dtype=int)[finite], numbers[finite])
        far = (outlier and outlier.p < ALPHA / len(values)
               and abs(outlier.value - outlier.mean) > margin)
        found += [replace(outlier, mark=_mark(arm, numbered))] if far else []
    return found


def _farthest(arm: str, seeds: np.ndarray, numbers: np.ndarray) -> Outlier | None:
    """Return the farthest number with its p by Grubbs' test (1950), two-sided. None where there are
    too few numbers, or no spread."""
    n = len(numbers)
    if n < FEWEST or not numbers.std() > 1e-12 * np.abs(numbers).max():
        return None
    farthest = int(np.abs(numbers - numbers.mean()).argmax())
    others = np.delete(numbers, farthest)
    g = abs(numbers[farthest] - numbers.mean()) / numbers.std(ddof=1)
    room = (n - 1) ** 2 - n * g * g         # 0, up to rounding, where all others are the same
    t = math.sqrt(n * (n - 2) * g * g / room) if room > 1e-9 else math.inf
    return Outlier(arm, int(seeds[farthest]), float(numbers[farthest]), float(others.mean()),
                   float(others.std(ddof=1)), n, min(1.0, 2 * n * float(sp.t.sf(t, n - 2))))


@dataclass(frozen=True)
class Scattered:
    """An arm of two or three seeds that ended much farther apart than the other arms' seeds. So few
    seeds cannot show which of them is unusual."""
    arm: str
    values: dict[int, float]
    usual: float                 # the sd over seeds of the other arms, pooled
    mark: str = ".s"             # as an Outlier has it

    @property
    def apart(self) -> float:
        """The distance between the best and the worst seed."""
        return max(self.values.values()) - min(self.values.values())

    def line(self) -> str:
        """Return the finding as one readable line."""
        what = "seeds" if self.mark == ".s" else "runs"
        ends = ", ".join(f"{self.mark.strip(' .')}{seed} {value:.4f}"
                         for seed, value in self.values.items())
        return (f"{self.arm}: its {len(self.values)} {what} ended {self.apart:.4f} apart ({ends}), "
                f"where the {what} of the other arms have sd {self.usual:.4f}; so few {what} "
                f"cannot show which of them is unusual")


def _mark(arm: str, numbered: Container[str]) -> str:
    return " #" if arm in numbered else ".s"


def scattered(values: Mapping[str, Values], margin: float,
              numbered: Container[str] = ()) -> list[Scattered]:
    """Return the arms of two or three seeds whose values differ far more than those of the other
    arms (an F-test at 5 % over all arms), and by more than the margin. `outliers` judges arms of
    more seeds."""
    finite = {arm: {seed: mine[seed] for seed in sorted(set(mine) - {None})
                    if math.isfinite(mine[seed])} for arm, mine in values.items()}
    finite = {arm: mine for arm, mine in finite.items() if len(mine) > 1}
    squares = {arm: len(mine) * float(np.var(list(mine.values()))) for arm, mine in finite.items()}
    freedom = {arm: len(mine) - 1 for arm, mine in finite.items()}
    # the squares before and after each arm, so that leaving one arm out needs no further sum
    sums, all_freedom = list(squares.values()), sum(freedom.values())
    before = [0.0, *accumulate(sums)]
    after = [*reversed([0.0, *accumulate(reversed(sums))])]
    found = []
    for place, (arm, mine) in enumerate(finite.items()):
        others = all_freedom - freedom[arm]
        pooled = (before[place] + after[place + 1]) / others if others else 0.0
        if len(mine) >= FEWEST or not pooled > 0:
            continue
        ratio = squares[arm] / freedom[arm] / pooled
        each = Scattered(arm, mine, math.sqrt(pooled), _mark(arm, numbered))
        if (sp.f.sf(ratio, freedom[arm], others) < FEW_ALPHA / len(finite)
                and each.apart > margin):
            found.append(each)
    return found
