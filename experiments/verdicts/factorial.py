"""
Factorial designs: what each factor does on average over the others, and what factors do together
beyond their sum.

Every effect is a contrast: a fixed weighted sum over the cells, computed for each seed. The seeds
are the replicates, as in every verdict, and each effect is tested by a t-test over them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from experiments.declare.designs import Design, Levels
from experiments.verdicts.stats import (
    RESAMPLES,
    Values,
    Verdict,
    compare,
    holm,
    not_comparable,
    signed,
)
from experiments.verdicts.verdict import NOT_COMPARABLE

__all__ = ["Design", "FactorialAnalysis", "Levels", "Sum", "Term", "analyse", "sums"]

ADDS_UP, LOWER, HIGHER = "adds up", "lower than the sum", "higher than the sum"
# the word for a verdict on an effect
EFFECTS = {"better": "lowers it", "worse": "raises it", "equivalent": "within the margin"}
WORDS = {"equivalent": ADDS_UP, "better": LOWER, "worse": HIGHER, "undecided": "undecided",
         NOT_COMPARABLE: NOT_COMPARABLE}   # the word for a verdict on observed − expected


@dataclass(frozen=True)
class Term:
    """One effect of a factorial, in the metric's unit. An effect below 0 lowers the loss.

    The effect of one factor is the metric with it minus the metric without it, averaged over all
    combinations of the other factors. The effect of several factors is what they do together beyond
    the sum of what each does alone, averaged over the others (a difference of differences, not
    halved).
    """
    name: str                     # "rope", "rope × swiglu"
    factors: tuple[str, ...]      # the levels that are switched on
    verdict: Verdict              # its difference is the effect; Holm over all terms of the design

    @property
    def order(self) -> int:
        """1 for a main effect, 2 or more for an interaction."""
        return len(self.factors)

    @property
    def word(self) -> str:
        """What the effect does to the metric: "lowers it", "raises it", "within the margin",
        "undecided"."""
        return EFFECTS.get(self.verdict.word, self.verdict.word)

    def line(self) -> str:
        """Return the effect as one readable line."""
        v = self.verdict
        ends = f" [{signed(v.ci_holm[0])}, {signed(v.ci_holm[1])}]" if v.ci_holm else ""
        return f"{self.name}: {self.word}" + (
            f" {signed(v.difference, v.unit)}{ends}" if v.difference is not None
            else f"; {v.reason}")


@dataclass(frozen=True)
class Sum:
    """An arm of several parts, compared with the sum of what its parts do alone. Every difference
    is measured from the baseline."""
    arm: str
    parts: tuple[str, ...]
    observed: float | None        # arm − baseline, mean over seeds; None if not comparable
    expected: float | None        # the sum of its parts' differences
    word: str  # "adds up", "lower than the sum", "higher than the sum", "undecided", …
    verdict: Verdict              # on observed − expected; Holm over all arms of several parts

    def line(self, width: int = 0) -> str:
        """Return the comparison as one readable line; `width` aligns the arms' names."""
        v = self.verdict
        text = f"{self.arm:{width}s}  {self.word}"
        if v.difference is None:
            return f"{text}: {v.reason}"
        ends = (f" (difference {100 * (1 - v.alpha):g} % CI, Holm-adjusted "
                f"[{signed(v.ci_holm[0])}, {signed(v.ci_holm[1])}])" if v.ci_holm else "")
        return (f"{text}: {signed(self.observed, v.unit)} where its parts alone sum to "
                f"{signed(self.expected)}{ends}" + (f"; {v.reason}" if v.reason else ""))


@dataclass(frozen=True)
class FactorialAnalysis:
    """All effects of one design. `seeds` are those on which every cell has a finite value; only
    these enter the terms."""
    design: Design
    terms: tuple[Term, ...]       # main effects first, then interactions by order
    sums: tuple[Sum, ...]         # one for every cell with two factors or more
    seeds: tuple[int, ...]
    missing: tuple[str, ...]      # what is missing, such as "rope.s2" or "rope: no value"

    def lines(self) -> list[str]:
        """Return one line per main effect and per decided interaction, then one line for all other
        terms. Intervals are at Holm's level."""
        told = [term for term in self.terms if term.order == 1
                or term.word in ("lowers it", "raises it")]
        rest = [f"{term.name} ({term.word})" for term in self.terms if term not in told]
        return [term.line() for term in told] + ([", ".join(rest)] if rest else [])

    def line(self) -> str:
        """Return one line that names the arms that differ from the sum of their parts."""
        off = [f"{each.arm} ({each.word})" for each in self.sums if each.word in (LOWER, HIGHER)]
        open_ = [each.arm for each in self.sums if each.word == "undecided"]
        told = [f"not the sum of their parts: {', '.join(off)}" if off else
                "no arm is shown to differ from the sum of its parts"]
        told += [f"undecided: {', '.join(open_)}"] if open_ else []
        told += [f"{each.arm}: {each.word}" for each in self.sums if each.word == NOT_COMPARABLE]
        return "; ".join(told + ([f"without {', '.join(self.missing)}"] if self.missing else []))

    @property
    def main(self) -> tuple[Term, ...]:
        """The main effects."""
        return tuple(term for term in self.terms if term.order == 1)

    @property
    def interactions(self) -> tuple[Term, ...]:
        """The interactions, by order."""
        return tuple(term for term in self.terms if term.order > 1)


def analyse(design: Design, values: Mapping[str, Values], *, margin: float, alpha: float,
            unit: str = "nats", resamples: int = RESAMPLES,
            barred: Mapping[str, str] | None = None) -> FactorialAnalysis:
    """Return the main effects, interactions and sums of a design, from arm → seed → value.

    Every effect is a mean over all cells. So if one cell is `barred` as not comparable, no effect
    gets a verdict.
    """
    seeds, missing = _complete_seeds(design, values)
    options = {"margin": margin, "alpha": alpha, "unit": unit, "resamples": resamples,
               "barred": barred}
    chosen = [levels for levels in itertools.product(*design.factors) if any(levels)]
    chosen.sort(key=lambda levels: sum(level is not None for level in levels))
    contrasts = {levels: {seed: _effect(design, values, levels, seed) for seed in seeds}
                 for levels in chosen}
    zero = dict.fromkeys(seeds, 0.0)
    why = _withheld(design.cells, values, seeds)
    bars = dict.fromkeys(map(_name, chosen), _barred(design.cells, barred))
    tested = _family({_name(levels): (contrast, zero) for levels, contrast in contrasts.items()},
                     dict.fromkeys(map(_name, chosen), why), **options | {"barred": bars})
    terms = tuple(Term(_name(levels), tuple(filter(None, levels)), tested[_name(levels)])
                  for levels in chosen)
    parts = {arm: tuple(filter(None, cell)) for arm, cell in design.cells.items()}
    alone = {level: design.arm(tuple(level if level in factor else None
                                     for factor in design.factors))
             for levels in chosen for level in filter(None, levels)}
    composed = {arm: tuple(alone[level] for level in levels) for arm, levels in parts.items()}
    baseline = design.arm(tuple(None for _ in design.factors))
    return FactorialAnalysis(design, terms, sums(composed, values, baseline, **options),
                             tuple(seeds), missing)


def sums(parts: Mapping[str, Sequence[str]], values: Mapping[str, Values], baseline: str, *,
         margin: float, alpha: float, unit: str = "nats", resamples: int = RESAMPLES,
         barred: Mapping[str, str] | None = None) -> tuple[Sum, ...]:
    """Compare every arm of two or more parts with the sum of what its parts do alone, seed by
    seed."""
    rows = {arm: [values.get(name, {}) for name in (arm, baseline, *own)]
            for arm, own in parts.items() if len(own) > 1}
    pairs, why = {}, {}
    for arm, (whole, base, *alone) in rows.items():
        seeds = [s for s in sorted(set(whole) - {None})
                 if all(math.isfinite(v.get(s, math.nan)) for v in rows[arm])]
        pairs[arm] = ({s: whole[s] - base[s] for s in seeds},
                      {s: sum(part[s] - base[s] for part in alone) for s in seeds})
        why[arm] = _withheld((arm, baseline, *parts[arm]), values, seeds)
    bars = {arm: _barred((arm, *parts[arm]), barred) for arm in rows}
    tested = _family(pairs, why, margin=margin, alpha=alpha, unit=unit, resamples=resamples,
                     barred=bars)
    return tuple(Sum(arm, tuple(parts[arm]), *(fmean(side.values()) if side and not bars[arm]
                                               else None for side in pairs[arm]),
                     WORDS[v.word], v) for arm, v in tested.items())


def _family(pairs: Mapping[str, tuple[Values, Values]], why: Mapping[str, str], *, margin: float,
            alpha: float, unit: str, resamples: int,
            barred: Mapping[str, str]) -> dict[str, Verdict]:
    """Return the verdicts on pairs of values that are tested together. A pair with a reason in
    `why` is undecided whatever its numbers; a pair with a reason in `barred` is not comparable."""
    tested = {name: pair for name, pair in pairs.items() if not barred[name]}
    found = holm({name: replace(compare(a, b, margin=margin, alpha=alpha, family=len(tested),
                                        resamples=resamples),
                                arm=name, unit=unit) for name, (a, b) in tested.items()})
    found = {name: replace(v, word="undecided", reason=why[name], seeds_needed=None) if why[name]
             else v
             for name, v in found.items()}
    return {name: found.get(name) or not_comparable(name, barred[name], margin, alpha, unit)
            for name in pairs}


def _barred(arms: Iterable[str], barred: Mapping[str, str] | None) -> str:
    """Return which of these arms are not comparable, and why; empty where all are comparable."""
    return "; ".join(f"{arm}: {barred[arm]}" for arm in arms if arm in (barred or {}))


def _withheld(arms: Iterable[str], values: Mapping[str, Values], seeds: Sequence[int]) -> str:
    """Return why a contrast of these arms gets no verdict: one of them diverged, so that only its
    surviving seeds are left, or no seed has a value for all arms. Empty where neither is so."""
    lost = [f"{arm}.s{seed}" for arm in arms for seed, value in values.get(arm, {}).items()
            if seed is not None and not math.isfinite(value)]
    if lost:
        return f"diverged: {', '.join(lost)}"
    return "" if seeds else f"no seed on which all have a value: {', '.join(arms)}"


def _complete_seeds(design: Design,
                    values: Mapping[str, Values]) -> tuple[list[int], tuple[str, ...]]:
    """Return the seeds on which every cell has a value, and what is missing on the others."""
    seeds = sorted(set().union(*(values.get(arm, {}) for arm in design.cells)) - {None})
    gaps = {seed: [arm for arm in design.cells
                   if not math.isfinite(values.get(arm, {}).get(seed, math.nan))]
            for seed in seeds}
    absent = [arm for arm in design.cells if all(arm in gap for gap in gaps.values())]
    told = [f"{arm}: no value" for arm in absent]
    told += [f"{arm}.s{seed}" for seed, gap in gaps.items() for arm in gap if arm not in absent]
    return [seed for seed in seeds if not gaps[seed]], tuple(told)


def _effect(design: Design, values: Mapping[str, Values], levels: Levels, seed: int) -> float:
    """Return the contrast of one seed: the difference with − without over every factor that is on,
    averaged over all levels of the other factors."""
    total, others = 0.0, 1
    for factor, level in zip(design.factors, levels, strict=True):
        others *= 1 if level else len(factor)
    choices = [((level, 1), (None, -1)) if level else tuple((each, 1) for each in factor)
               for factor, level in zip(design.factors, levels, strict=True)]
    for cell in itertools.product(*choices):
        total += (math.prod(sign for _, sign in cell)
                  * values[design.arm(tuple(level for level, _ in cell))][seed])
    return total / others


def _name(levels: Levels) -> str:
    return " × ".join(filter(None, levels))
