"""
The rungs of a ladder put together: one word per arm over all sizes, and which predictions held.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from experiments.declare.ladder import Place, Predicted
from experiments.verdicts.ladder import ArmLadder, Rung, effects, interval, judge
from experiments.verdicts.results import Results
from experiments.verdicts.scaling_law import FITTED, misses
from experiments.verdicts.verdict import NOT_COMPARABLE, signed

MISSED = 1.1     # a factor in compute, beyond which a curve's miss is told


@dataclass(frozen=True)
class Foretold:
    """What was predicted of an arm before a rung was trained, and what was found there. `held` is
    None until then."""
    arm: str
    study: str
    predicted: Predicted
    found: float | None

    @property
    def held(self) -> bool | None:
        """Whether the mean effect lies in the predicted interval."""
        return None if self.found is None else (
            self.predicted.low <= self.found <= self.predicted.high)

    @property
    def word(self) -> str:
        """held, missed, or not trained yet."""
        return {None: "not trained yet", True: "held", False: "missed"}[self.held]

    def line(self) -> str:
        """Return it as one line."""
        found = f", found {signed(self.found)}" if self.found is not None else ""
        return (f"{self.arm}: predicted {interval(self.predicted)} before {self.study} was trained"
                f"{found}: {self.word}")


@dataclass(frozen=True)
class LadderResults:
    """The rungs of one ladder that have runs, smallest first."""
    name: str
    rungs: tuple[Results, ...]

    @property
    def title(self) -> str:
        """The ladder's question."""
        return self.rungs[-1].title

    @property
    def baseline(self) -> str:
        """The baseline of all rungs."""
        return self.rungs[-1].baseline

    @property
    def unit(self) -> str:
        """The metric's unit."""
        return self.rungs[-1].unit

    @property
    def margin(self) -> float | None:
        """The margin that the study declares; None where it declares none."""
        declared = self.rungs[-1].declared
        return declared.margin if "margin" in declared.table else None

    @property
    def places(self) -> tuple[Place, ...]:
        """Where each rung stands."""
        return tuple(rung.declared.place for rung in self.rungs)

    @cached_property
    def measured(self) -> tuple[Rung, ...]:
        """The rungs as numbers."""
        return tuple(_rung(each) for each in self.rungs)

    @property
    def target(self) -> float:
        """The compute at which every arm is predicted, in FLOPs."""
        return self.places[-1].target * self.measured[-1].flops[self.baseline]

    @cached_property
    def arms(self) -> dict[str, ArmLadder]:
        """Arm → its word over the rungs, for the arms that have a verdict in nats at every rung."""
        known = [arm for arm in self.rungs[0].verdicts
                 if all(arm in each.verdicts and each.verdicts[arm].word != NOT_COMPARABLE
                        and each.verdicts[arm].unit == each.unit
                        and arm in rung.flops for each, rung in zip(self.rungs, self.measured,
                                                                    strict=True))]
        known = known if all(self.baseline in rung.flops for rung in self.measured) else []
        return {arm: self._doubted(judge(
            arm, self.measured, baseline=self.baseline, target=self.target, margin=self.margin,
            alpha=self.rungs[-1].alpha)) for arm in known}

    def _doubted(self, each: ArmLadder) -> ArmLadder:
        """The arm's word, with a doubt where an earlier prediction of it missed."""
        missed = [told.study for told in self.foretold if told.arm == each.arm
                  and told.held is False]
        doubt = [f"the prediction of {', '.join(missed)} missed, so doubt this one too"]
        return replace(each, reason="; ".join(filter(None, [each.reason, *doubt]))
                       ) if missed else each

    @cached_property
    def left_out(self) -> list[str]:
        """The arms without a word, with the reason."""
        every = dict.fromkeys(arm for each in self.rungs for arm in each.verdicts)
        return [f"{arm}: {_why(arm, self.rungs)}" for arm in every if arm not in self.arms]

    @cached_property
    def foretold(self) -> tuple[Foretold, ...]:
        """Every prediction that a rung's records hold."""
        found = []
        for place, rung in zip(self.places, self.rungs, strict=True):
            base = rung.values.get(self.baseline, {})
            for arm, predicted in place.prediction.items():
                pairs = effects(rung.values.get(arm, {}), base)
                found.append(Foretold(arm, rung.name, predicted,
                                      fmean(pairs.values()) if pairs else None))
        return tuple(found)

    @cached_property
    def remarks(self) -> list[str]:
        """What a reader must know: rungs that are not trained, arms without a word, and
        predictions that rest on other runs than there are now."""
        remarks = []
        missing = [name for name in self.places[-1].studies
                   if name not in {each.name for each in self.rungs}]
        if missing:
            remarks.append(f"not trained yet: {', '.join(missing)}")
        for place, rung in zip(self.places, self.rungs, strict=True):
            below = [each for each in self.rungs if each.declared.place.number < place.number
                     and not each.declared.place.held_out]
            if place.rests_on and place.rests_on != rests_on(below):
                remarks.append(f"the prediction of {rung.name} rests on other runs than there are "
                               f"below it now")
        remarks += self._missed()
        return remarks + [f"without a word: {each}" for each in self.left_out]

    def _missed(self) -> list[str]:
        """Where the curve of the baseline misses the baseline by more than a little."""
        if not self.arms or len(self.rungs) < FITTED:
            return []
        x = np.log([rung.flops[self.baseline] for rung in self.measured])
        losses = np.array([fmean(v for v in rung.values[self.baseline].values() if math.isfinite(v))
                           for rung in self.measured])
        return [f"the baseline's curve misses its loss at {rung.name} by a factor of {factor:.2f} "
                f"in compute, and so may the gains there"
                for rung, factor in zip(self.rungs, misses(x, losses), strict=True)
                if factor > MISSED]

    def lines(self) -> list[str]:
        """Return the answer in lines, for a terminal."""
        place = self.places[-1]
        sizes = [f"{each.parameters:,}" for each in self.places]
        head = (f"{len(self.rungs)} of {place.of} rungs, {sizes[0]} to {sizes[-1]} parameters, "
                f"{place.tokens_per_parameter:g} tokens per parameter; effects are arm − "
                f"{self.baseline}, {self.unit}, per rung")
        width = max(map(len, self.arms), default=0)
        rows = []
        for arm, each in self.arms.items():
            seen = " ".join(signed(v.difference) if v.difference is not None else "–"
                            for v in each.verdicts)
            rows.append(f"{arm:{width}}  {each.word:<9}  {seen}"
                        + (f"; predicted {interval(each.prediction)} at {place.target:g} × the "
                           f"largest rung's compute" if each.prediction else "")
                        + (f"; {each.reason}" if each.reason else ""))
        return [head, *rows, *(each.line() for each in self.foretold), *self.remarks]


def ladders(studies: Iterable[Results]) -> list[LadderResults]:
    """Return the ladders whose rungs are among the studies."""
    groups: dict[str, list[Results]] = {}
    for each in studies:
        if each.declared and each.declared.place and any(run.complete for run in each.runs):
            groups.setdefault(each.declared.place.ladder, []).append(each)
    return [LadderResults(name, tuple(sorted(group, key=lambda r: r.declared.place.number)))
            for name, group in groups.items()]


def ladder_table(ladder: LadderResults) -> str:
    """Return the words of a ladder as a Markdown table."""
    place = ladder.places[-1]
    head = ["arm", "word", *(f"{each.parameters:,}" for each in ladder.places),
            f"predicted at {place.target:g} × the largest rung's compute [90 %]"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for arm, each in ladder.arms.items():
        seen = (f"{signed(v.difference)} {v.word}" if v.difference is not None else v.word
                for v in each.verdicts)
        told = interval(each.prediction) if each.prediction else "–"
        word = f"**{each.word}**" if each.word != "undecided" else each.word
        lines.append(f"| {' | '.join([arm, word, *seen, told])} |")
    return "\n".join(lines)


def ladder_notes(ladder: LadderResults) -> str:
    """Return what was predicted, why words are undecided, and what to know, as a Markdown list."""
    reasons = [f"{arm}: {each.reason}" for arm, each in ladder.arms.items() if each.reason]
    return "\n".join(f"- {text}" for text in [*(each.line() for each in ladder.foretold), *reasons,
                                              *ladder.remarks])


def rests_on(results: Sequence[Results]) -> str:
    """Return the hash of the values from which a prediction is made."""
    told = [[each.name, arm, str(seed), repr(value)] for each in results
            for arm, values in sorted(each.values.items())
            for seed, value in sorted(values.items(), key=str)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _rung(results: Results) -> Rung:
    flops = {}
    for arm in results.arms:
        spent = [float(column.iloc[-1]) for run in results.runs_of(arm)
                 if run.complete and len(column := run.table["flops"].dropna())]
        if spent and math.isfinite(spent[0]) and fmean(spent) > 0:
            flops[arm] = fmean(spent)
    return Rung(results.name, results.declared.place.parameters, flops, results.judged,
                results.verdicts)


def _why(arm: str, rungs: Sequence[Results]) -> str:
    for each in rungs:
        if arm not in each.verdicts:
            return f"no runs at {each.name}"
        if each.verdicts[arm].word == NOT_COMPARABLE:
            return f"not comparable at {each.name}: {each.verdicts[arm].reason}"
        if each.verdicts[arm].unit != each.unit:
            return f"judged in {each.verdicts[arm].unit} at {each.name}"
    return "its training compute is not in the records"
