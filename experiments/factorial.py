"""
Factorial designs: what each factor does on average over the others, and what factors do together beyond their sum.

Every effect is a contrast: a fixed weighted sum over the cells, computed for each seed, so that seeds are the
replicates here as in every verdict, and a t-test on them is the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.stats import Verdict

Levels = tuple[str | None, ...]   # of a factor: None is without it


@dataclass(frozen=True)
class Design:
    """The cells of a factorial: a factor is its levels, the first of which is None; a cell is one level of each."""
    factors: tuple[Levels, ...]
    cells: Mapping[str, Levels]       # arm → its level of every factor

    def arm(self, levels: Levels) -> str:
        """The arm at these levels."""
        return next(name for name, cell in self.cells.items() if cell == levels)


@dataclass(frozen=True)
class Term:
    """One effect of a factorial, in the metric's unit: below 0 lowers the loss.

    Of one factor: with it minus without it, averaged over all combinations of the others. Of several: what they do
    together beyond the sum of what they do apart, averaged over the others (a difference of differences, not halved).
    """
    name: str                     # "rope", "rope × swiglu"
    factors: tuple[str, ...]      # the levels that are switched on
    verdict: Verdict              # its difference is the effect; Holm over all terms of the design

    @property
    def order(self) -> int:
        """1: a main effect, 2 and more: an interaction."""
        return len(self.factors)


@dataclass(frozen=True)
class Sum:
    """An arm of several parts against the sum of what its parts do alone, each measured from the baseline."""
    arm: str
    parts: tuple[str, ...]
    observed: float | None        # arm − baseline, mean over seeds
    expected: float | None        # the sum of its parts' differences
    word: str                     # "adds up", "more than the sum", "less than the sum", "undecided"
    verdict: Verdict              # on observed − expected; Holm over all arms of several parts

    def line(self, width: int = 0) -> str:
        """One readable line."""
        v = self.verdict
        text = f"{self.arm:{width}s}  {self.word}"
        if v.difference is None:
            return f"{text}: {v.reason}"
        return (f"{text}: {self.observed:+.4f} {v.unit} where its parts alone sum to {self.expected:+.4f}"
                + (f" (difference 95 % CI [{v.ci[0]:+.4f}, {v.ci[1]:+.4f}])" if v.ci else "")).replace("-", "−")


@dataclass(frozen=True)
class FactorialAnalysis:
    """All effects of one design. `seeds`: those on which every cell has a finite value; only they are used."""
    design: Design
    terms: tuple[Term, ...]       # main effects first, then interactions by order
    sums: tuple[Sum, ...]         # one for every cell with two factors or more
    seeds: tuple[int, ...]
    missing: tuple[str, ...]      # what is missing, a line each: "rope.s2", "rope: no runs"

    @property
    def main(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.order == 1)

    @property
    def interactions(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.order > 1)
