"""
What a study's runs show: a verdict per arm, noise, outliers, factorial effects, learning rates,
costs and verdicts at equal budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.declare.study import Study, find_study, load_study
from experiments.records.record import at
from experiments.records.runs import RecordedRun, runs_in
from experiments.verdicts.changed import Change, changes
from experiments.verdicts.costs import Budgets, Costs, at_pace, budgets, costs
from experiments.verdicts.declared import declaration
from experiments.verdicts.factorial import FactorialAnalysis, Sum, analyse, sums
from experiments.verdicts.noise import NoiseFloor, noise_floor, null_kind, same_baseline
from experiments.verdicts.outliers import Outlier, outliers
from experiments.verdicts.sensitivity import Sensitivity, sensitivity
from experiments.verdicts.stats import verdicts
from experiments.verdicts.study_runs import UNITS, StudyRuns
from experiments.verdicts.verdict import NOT_COMPARABLE, Verdict, scaled
from mingpt.utils import BadInput


@dataclass(frozen=True)
class Results(StudyRuns):
    """The answers that a study's runs give. Each is computed when it is first read."""
    null_runs: tuple[RecordedRun, ...] = ()   # the runs of the study `aa` beside this one

    @property
    def bar(self) -> dict[str, Any]:
        """The options that every test here shares: margin, alpha, unit and the arms that are not
        comparable."""
        return {"margin": self.margin, "alpha": self.alpha, "unit": self.unit,
                "barred": self.barred}

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """Arm → verdict, for every arm except the baseline and the points of learning-rate grids;
        empty when the baseline has no run."""
        if self.baseline not in self.arms:
            return {}
        values = {arm: v for arm, v in self.judged.items() if not self.declared
                  or arm not in self.declared.grid_arms}
        found = verdicts(values, self.baseline, unpaired=self.unpaired, **self.bar)
        if self.look == 0:
            first = f"before the study's first look, at {self.declared.stop[0]} seeds"
            found = {arm: verdict if arm in self.barred else replace(verdict, reason=first)
                     for arm, verdict in found.items()}
        return {arm: self._told(verdict) for arm, verdict in found.items()}

    def _told(self, v: Verdict) -> Verdict:
        """Return the verdict with a note of the budget that its arm declares, and in bits per byte
        where the arm has another tokenizer."""
        comparison = self.comparisons[v.arm]
        if comparison.note and v.word != NOT_COMPARABLE:
            v = replace(v, reason="; ".join(filter(None, [comparison.note, v.reason])))
        return (scaled(v, 1 / self.nats_per_bit, UNITS["bits_per_byte"])
                if v.arm in self.in_bytes else v)

    @cached_property
    def by_source(self) -> dict[str, Results]:
        """The same runs judged on the text of each source alone, by source; empty where the runs
        have no sources, and where the study's metric is not the loss on all of them."""
        if not self.declared or self.metric != "val_loss":
            return {}
        given = next((paths for run in self.runs if isinstance(
            paths := at(run.record, "config", "data", "sources"), list)), [])
        names = dict.fromkeys(str(entry).partition("=")[0] for entry in given)
        judged = {name: replace(self, null_runs=(), declared=replace(
            self.declared, metric=f"val_loss_{name}", expect={})) for name in names}
        return {name: each for name, each in judged.items() if any(each.values.values())}

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
        return outliers(self.judged, self.baseline, self.margin, self.unpaired,
                        self.numbered)

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
        return budgets(runs, arms, self.baseline, metric=self.metric,
                       **self.bar | {"barred": self.without_budget})

    @cached_property
    def without_budget(self) -> dict[str, str]:
        """Arm → why it has no verdict at equal budgets."""
        return self.barred | dict.fromkeys(
            self.in_bytes, "another tokenizer: its curve is per its own token")

    @cached_property
    def changed(self) -> tuple[Change, ...]:
        """What changed in the study's file after its runs began."""
        return changes(self.declared, self.runs) if self.declared else ()

    def baseline_line(self, width: int = 0) -> str:
        """Return the line above the verdicts: the baseline's mean and its spread over seeds."""
        values = [v for v in self.values.get(self.baseline, {}).values() if isfinite(v)]
        text = f"{self.baseline:{width}s}  baseline  "
        if not values:
            return f"{text} no final {self.metric}"
        spread = f" (sd {stdev(values):.4f} over {self.replicates})" if len(values) > 1 else ""
        return (f"{text} {fmean(values):.4f} {self.unit}{spread}, n = {len(values)}; margin "
                f"±{self.margin:g}")

    def summary(self) -> dict:
        """Return the content of verdicts.json."""
        return {"schema": 1, "study": self.name,
                "study_hash": self.declared.hash if self.declared else None,
                "question": self.title, "baseline": self.baseline, "metric": self.metric,
                "margin": self.margin, "alpha": self.alpha, "left_out": self.left_out,
                "values": {arm: {str(seed): value if isfinite(value) else None
                                 for seed, value in seeds.items()}
                           for arm, seeds in self.values.items()},
                "verdicts": {arm: verdict.to_dict() for arm, verdict in self.verdicts.items()}}


def collect(runs: Iterable[RecordedRun], study_file: str | Path | None = None) -> list[Results]:
    """Return one Results per study, runs of no study first. `study_file` is the declaration of the
    study that it names, whether or not that study is shipped."""
    groups: dict[str | None, list[RecordedRun]] = {}
    for run in runs:
        if run.table.empty and run.record is None:
            continue   # some other .csv, not an arm; the run's problems report it
        groups.setdefault(run.study, []).append(run)
    given = load_study(find_study(study_file)) if study_file else None
    if given and given.name not in groups:
        groups = {given.name: _unnamed(groups, given)}
    null_runs = tuple(groups.get("aa") or _beside(groups))
    return [Results(name, tuple(group), given if given and given.name == name
                    else declaration(name, group), null_runs)
            for name, group in sorted(groups.items(), key=lambda item: item[0] or "")]


def _unnamed(groups: Mapping[str | None, list[RecordedRun]], given: Study) -> list[RecordedRun]:
    """Return the runs of no study as runs of the given study. Raises BadInput where there are runs
    of other studies, or no runs at all."""
    if set(groups) != {None}:
        there = ", ".join(sorted(name for name in groups if name)) or "none"
        raise BadInput(f"--study {given.name}: no runs of that study here; there are: {there}")
    return [replace(run, study=given.name) for run in groups[None]]


def _beside(groups: Mapping[str | None, list[RecordedRun]]) -> list[RecordedRun]:
    """Return the runs of the study `aa` from the folder beside the study's own, when only one study
    is given."""
    if set(groups) == {None} or len(groups) != 1:
        return []
    folder = next(iter(groups.values()))[0].path.parent.parent / "aa"
    return runs_in(folder, "aa") if folder.is_dir() else []
