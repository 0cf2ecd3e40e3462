"""
What a study's runs show beyond one verdict per arm: noise, outliers, factorial effects, learning
rates, costs and verdicts at equal budgets.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from experiments.declare.study import load_study
from experiments.records.record import at
from experiments.records.runs import RecordedRun
from experiments.verdicts.changed import Change, changes
from experiments.verdicts.costs import Budgets, Costs, at_pace, budgets, costs
from experiments.verdicts.factorial import FactorialAnalysis, Sum, analyse, sums
from experiments.verdicts.noise import NoiseFloor, noise_floor, null_kind, same_baseline
from experiments.verdicts.outliers import Outlier, outliers
from experiments.verdicts.sensitivity import Sensitivity, sensitivity


class Findings:
    """The part of `Results` that answers further questions about the runs. Each answer is computed
    when it is first read."""

    @property
    def bar(self) -> dict[str, Any]:
        """The options that every test here shares: margin, alpha, unit and the arms that are not
        comparable."""
        return {"margin": self.margin, "alpha": self.alpha, "unit": self.unit,
                "barred": self.barred}

    @cached_property
    def noise_floor(self) -> NoiseFloor | None:
        """How far runs of the baseline differ from each other; None when the baseline has no run.

        It is measured by this study's A/A arms. Without them, it is measured by the study `aa` if
        that has the same baseline, or else estimated from the baseline's seeds.
        """
        if self.baseline not in self.arms:
            return None
        null_arms = {arm: (kind, self.values[arm]) for arm in self.arms
                     if arm != self.baseline and arm not in self.barred
                     and (kind := null_kind(self.changes_of(arm)))}
        if not null_arms and self.null_runs:
            theirs = replace(self, name="aa", runs=self.null_runs, null_runs=(),
                             declared=replace(load_study("aa"), metric=self.metric))
            mine, other = (next(iter(r.runs_of(r.baseline)), None) for r in (self, theirs))
            if mine and other and same_baseline(mine.record, other.record):
                return theirs.noise_floor
        return noise_floor(self.values[self.baseline], null_arms, self.unit)

    @cached_property
    def outliers(self) -> list[Outlier]:
        """Seeds that ended far from the other seeds of their arm."""
        return outliers(self.judged, self.baseline, self.margin)

    @cached_property
    def factorials(self) -> tuple[FactorialAnalysis, ...]:
        """The main effects and interactions of every factorial that the study declares."""
        designs = self.declared.designs if self.declared else ()
        return tuple(analyse(design, self.judged, **self.bar) for design in designs
                     if sum(arm in self.arms for arm in design.cells) > 1)

    @cached_property
    def sums(self) -> tuple[Sum, ...]:
        """Arms that combine other arms, compared with the sum of those arms. They come from
        factorials and from `include` alike."""
        if (not self.declared or self.declared.arms[self.declared.baseline]
                or self.baseline not in self.arms):
            return ()   # parts are measured from a baseline that has none of them
        parts = {arm: parts for arm, parts in self.declared.parts.items()
                 if {arm, *parts} <= set(self.arms)}
        return sums(parts, self.judged, self.baseline, **self.bar)

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """Learning-rate sensitivity, and the verdicts with each arm at its own best rate; None
        without a grid."""
        if not self.declared or not self.declared.grids:
            return None
        rates = {arm: self._rate_of(arm) for arm in (self.baseline, *self.declared.grids)}
        grids = {arm: ({arm: rate} if rate else {}) | dict(self.declared.grids.get(arm, {}))
                 for arm, rate in rates.items()}
        return sensitivity(grids, self.judged, self.baseline,
                           selection=self.declared.selection_seeds, metric=self.metric, **self.bar)

    def _rate_of(self, arm: str) -> float | None:
        """Return an arm's own learning rate from its records; None where they do not say."""
        rates = [at(run.record, "config", "trainer", "learning_rate") for run in self.runs_of(arm)]
        return next((float(rate) for rate in rates if type(rate) in (int, float)
                     and 0 < rate < 1e3), None)

    @cached_property
    def costs(self) -> Costs:
        """Parameters, FLOPs, step time and memory of every arm."""
        return costs(self.runs, self.arms, self.baseline)

    @cached_property
    def paced(self) -> tuple[RecordedRun, ...]:
        """The runs, with their seconds recomputed at the undisturbed pace of their arm."""
        return tuple(at_pace(run, self.costs.of(run.arm)) for run in self.runs)

    @cached_property
    def budgets(self) -> Budgets:
        """The verdicts at equal tokens, FLOPs and seconds."""
        arms = [arm for arm in self.arms if not self.declared or arm not in self.declared.grid_arms]
        judged = {run.path for run in self.judged_runs}
        runs = [run for run in self.paced if run.path in judged]
        units = dict.fromkeys(self.in_bytes, "another tokenizer: its curve is per its own token")
        return budgets(runs, arms, self.baseline, metric=self.metric,
                       **self.bar | {"barred": self.barred | units})

    @cached_property
    def changed(self) -> tuple[Change, ...]:
        """What changed in the study's file after its runs began."""
        return changes(self.declared, self.runs) if self.declared else ()

    def changes_of(self, arm: str) -> dict:
        """Return what an arm changes, from its records. For an arm without records that is unknown,
        so the result is {"?": None}."""
        for run in self.runs_of(arm):
            changes = (run.record or {}).get("changes")
            if isinstance(changes, dict):
                return changes
        return {"?": None}
