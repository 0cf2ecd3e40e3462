"""
The runs of one study, put together: which arms, which baseline, which values count, and the
verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev

from experiments.declare.arms import catalogue
from experiments.declare.study import (
    DEFAULT_ALPHA,
    DEFAULT_MARGIN,
    Study,
    find_study,
    load_study,
    shipped,
)
from experiments.records.runs import Run, runs_in
from experiments.verdicts.comparable import (
    TOKEN_METRICS,
    Comparison,
    common_iteration,
    compare_runs,
)
from experiments.verdicts.findings import Findings
from experiments.verdicts.stats import verdicts
from experiments.verdicts.verdict import NOT_COMPARABLE, Values, Verdict, scaled
from mingpt.utils import BadInput

ENDED = ("done", "unrecorded", "diverged", "failed")
UNITS = {"val_loss": "nats", "loss": "nats", "bits_per_byte": "bits per byte",
         "perplexity": "perplexity"}


@dataclass(frozen=True)
class Results(Findings):
    """One study's runs, with what its declaration says, or the defaults where nobody declared
    one."""
    name: str | None              # None: runs of no study
    runs: tuple[Run, ...]
    declared: Study | None
    null_runs: tuple[Run, ...] = ()   # of the study `aa` beside this one

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The arms that have runs: baseline first, then as declared, then as the catalogue has
        them, then by name."""
        order = [self.baseline, *(self.declared.arms if self.declared else ()), *known_arms()]
        rank = {name: i for i, name in reversed(list(enumerate(order)))}
        return tuple(sorted({run.arm for run in self.runs},
                            key=lambda a: (rank.get(a, len(order)), a)))

    @cached_property
    def baseline(self) -> str:
        """As declared; else the arm that changes nothing, by its record or by the catalogue's name
        for it."""
        if self.declared:
            return self.declared.baseline
        unchanged = sorted({run.arm for run in self.runs if run.record
                            and run.record.get("changes") == {}})
        plain = next(name for name, arm in catalogue().items() if not arm.settings)
        return unchanged[0] if len(unchanged) == 1 else plain

    @property
    def title(self) -> str:
        """The study's question, or what the runs are."""
        return (self.declared and self.declared.question) or (f"Study {self.name}" if self.name
                                                              else "Runs of no study")

    @property
    def margin(self) -> float:
        return self.declared.margin if self.declared else DEFAULT_MARGIN

    @property
    def alpha(self) -> float:
        """The error that the verdicts of this look may have: all of the study's, unless it looks
        several times."""
        return self.declared.level if self.declared else DEFAULT_ALPHA

    @property
    def metric(self) -> str:
        return self.declared.metric if self.declared else "val_loss"

    def runs_of(self, arm: str) -> list[Run]:
        """An arm's runs, in order of seed."""
        return [run for run in self.runs if run.arm == arm]

    @cached_property
    def values(self) -> dict[str, Values]:
        """Arm → seed → final value of the metric; NaN where a run diverged. Unfinished and failed
        runs have none.

        A file that names no seed stands under None, NaN when it has no value: a run, though it
        pairs with nothing.
        """
        table: dict[str, dict[int | None, float]] = {arm: {} for arm in self.arms}
        for run in self.runs:
            value = self._final(run) if run.complete else None
            if run.status == "diverged":
                table[run.arm][run.seed] = float("nan")
            elif value is not None or run.seed is None:
                table[run.arm][run.seed] = float("nan") if value is None else value
        return table

    def _final(self, run: Run) -> float | None:
        """A run's final value, or its value at the last common iteration where some runs have no
        record."""
        if self.common_iteration is None:
            return run.final(self.metric)
        rows = run.table.loc[run.table["iteration"] == self.common_iteration, self.metric].dropna()
        return float(rows.iloc[-1]) if len(rows) else None

    @cached_property
    def common_iteration(self) -> int | None:
        """Where runs are compared when one without a record ends at another iteration than the
        others."""
        return common_iteration(self.runs, self.metric)

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Arm → whether its runs may be judged against the baseline's, and in which unit."""
        base = self.runs_of(self.baseline)
        return {arm: compare_runs(self.runs_of(arm), base)
                for arm in self.arms if arm != self.baseline}

    @cached_property
    def barred(self) -> dict[str, str]:
        """The arms that get no word anywhere, with the reason. Every test reads this, through
        `bar`."""
        found = {arm: each.reason for arm, each in self.comparisons.items() if each.reason}
        if self.metric in TOKEN_METRICS and (self.metric != "val_loss" or not self._nats_per_bit):
            found |= {arm: f"another tokenizer: {self.metric} is per token; bits per byte would "
                           f"compare"
                      for arm, each in self.comparisons.items() if each.in_bytes}
        return found

    @property
    def in_bytes(self) -> frozenset[str]:
        """The arms of another tokenizer that are judged in bits per byte instead of nats per
        token."""
        return frozenset(arm for arm, each in self.comparisons.items()
                         if each.in_bytes and self.metric == "val_loss" and arm not in self.barred)

    @cached_property
    def _nats_per_bit(self) -> float | None:
        """The baseline's nats per token for one bit per byte: a constant of its validation set."""
        pairs = [(run.final("val_loss"), run.final("bits_per_byte"))
                 for run in self.runs_of(self.baseline)
                 if run.complete and run.record]
        return next((nats / bits for nats, bits in pairs if nats and bits
                     and isfinite(nats / bits)), None)

    def _comparable_values(self, arm: str) -> Values:
        """An arm's values. In another tokenizer's tokens they are bits per byte, told in nats per
        baseline's token."""
        if arm not in self.in_bytes:
            return self.values[arm]
        bits = {run.seed: run.final("bits_per_byte") for run in self.runs_of(arm)}
        return {seed: value if not isfinite(value) else (bits[seed] or float("nan"))
                * self._nats_per_bit
                for seed, value in self.values[arm].items()}

    @property
    def left_out(self) -> list[str]:
        """Runs whose value is not in the verdicts, by reason: nothing is dropped in silence."""
        reasons: dict[str, list[str]] = {}
        for run in self.runs:
            if why := self._why_not(run):
                reasons.setdefault(why, []).append(run.path.stem)
        return [f"{why}: {', '.join(names)}" for why, names in reasons.items()]

    def _why_not(self, run: Run) -> str | None:
        if not run.complete:
            message = (run.record or {}).get("message")
            return run.status + (f" ({message})" if message else "")
        return None if self._final(run) is not None else f"no {self.metric}"

    @property
    def unit(self) -> str:
        return UNITS.get(self.metric, self.metric)

    @cached_property
    def look(self) -> int | None:
        """The number of seeds at the last look that the study declares and has reached; None where
        it declares none."""
        if not (self.declared and self.declared.stop):
            return None
        whole = [all(seed in self._ended.get(arm, ()) for arm in self.declared.arms)
                 for seed in self._seeds]
        begun = whole.index(False) if False in whole else len(whole)
        return max((n for n in self.declared.stop if n <= begun), default=0)

    @cached_property
    def _ended(self) -> dict[str, set[int]]:
        """Arm → the seeds whose runs are over, with a value or without: one that failed does not
        hold up a look."""
        return {arm: {run.seed for run in self.runs_of(arm) if run.status in ENDED}
                for arm in self.arms}

    @property
    def _seeds(self) -> list[int]:
        """Those with a run that is over, in the order of the declaration, then any others."""
        seen = set().union(*self._ended.values()) - {None}
        declared = self.declared.seeds if self.declared else []
        return [s for s in declared if s in seen] + sorted(seen - set(declared))

    @cached_property
    def judged(self) -> dict[str, Values]:
        """The values that verdicts rest on: all, or those of the seeds up to the last look."""
        table = {arm: self._comparable_values(arm) for arm in self.values}
        if self.look is None:
            return table
        seeds = self._seeds[:self.look]
        return {arm: {seed: values[seed] for seed in seeds if seed in values} for arm,
                values in table.items()}

    @property
    def judged_runs(self) -> tuple[Run, ...]:
        """The runs of those seeds: what is not to be looked at yet is not to be found by another
        door."""
        if self.look is None:
            return self.runs
        seeds = set(self._seeds[:self.look])
        return tuple(run for run in self.runs if run.seed in seeds)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """A verdict for every arm but the baseline and the points of grids; none when the baseline
        has no run."""
        if self.baseline not in self.arms:
            return {}
        values = {arm: v for arm, v in self.judged.items() if not self.declared
                  or arm not in self.declared.grid_arms}
        found = verdicts(values, self.baseline, **self.bar)
        if self.look == 0:
            first = f"before the study's first look, at {self.declared.stop[0]} seeds"
            found = {arm: verdict if arm in self.barred else replace(verdict, reason=first)
                     for arm, verdict in found.items()}
        return {arm: self._told(verdict) for arm, verdict in found.items()}

    def _told(self, v: Verdict) -> Verdict:
        """The verdict with the budget that its arm declares, in bits per byte where its tokenizer
        is another."""
        comparison = self.comparisons[v.arm]
        if comparison.note and v.word != NOT_COMPARABLE:
            v = replace(v, reason="; ".join(filter(None, [comparison.note, v.reason])))
        return scaled(v, 1 / self._nats_per_bit,
                      UNITS["bits_per_byte"]) if v.arm in self.in_bytes else v

    def baseline_line(self, width: int = 0) -> str:
        """The baseline's line above the verdicts: its mean and spread over seeds."""
        values = [v for v in self.values.get(self.baseline, {}).values() if isfinite(v)]
        text = f"{self.baseline:{width}s}  baseline  "
        if not values:
            return f"{text} no final {self.metric}"
        spread = f" (sd {stdev(values):.4f} over seeds)" if len(values) > 1 else ""
        return (f"{text} {fmean(values):.4f} {self.unit}{spread}, n = {len(values)}; margin "
                f"±{self.margin:g}")

    def summary(self) -> dict:
        """What verdicts.json holds."""
        return {"schema": 1, "study": self.name, "study_hash": self.declared.hash if self.declared
                else None,
                "question": self.title, "baseline": self.baseline, "metric": self.metric,
                "margin": self.margin,
                "alpha": self.alpha, "left_out": self.left_out,
                "values": {arm: {str(seed): value if isfinite(value) else None for seed,
                                 value in seeds.items()}
                           for arm, seeds in self.values.items()},
                "verdicts": {arm: verdict.to_dict() for arm, verdict in self.verdicts.items()}}


def collect(runs: Iterable[Run], study_file: str | Path | None = None) -> list[Results]:
    """Runs by study, those of no study first. `study_file` declares the study of its name, shipped
    or not."""
    groups: dict[str | None, list[Run]] = {}
    for run in runs:
        if run.table.empty and run.record is None:
            continue   # some other .csv: its problems say so, and it is no arm
        groups.setdefault(run.study, []).append(run)
    given = load_study(find_study(study_file)) if study_file else None
    if given and given.name not in groups:
        groups = {given.name: _unnamed(groups, given)}
    null_runs = tuple(groups.get("aa") or _beside(groups))
    return [Results(name, tuple(group), given if given and given.name == name
                    else declaration(name), null_runs)
            for name, group in sorted(groups.items(), key=lambda item: item[0] or "")]


def _unnamed(groups: Mapping[str | None, list[Run]], given: Study) -> list[Run]:
    """The runs of no study, which a declaration that is given is then of; BadInput where there are
    others as well."""
    if set(groups) != {None}:
        there = ", ".join(sorted(name for name in groups if name)) or "none of any"
        raise BadInput(f"--study {given.name}: no runs of that study here; there are: {there}")
    return [replace(run, study=given.name) for run in groups[None]]


def _beside(groups: Mapping[str | None, list[Run]]) -> list[Run]:
    """The runs of the study `aa` in the folder beside a study's own, when one study alone is looked
    at."""
    if set(groups) == {None} or len(groups) != 1:
        return []
    folder = next(iter(groups.values()))[0].path.parent.parent / "aa"
    return runs_in(folder, "aa") if folder.is_dir() else []


def declaration(name: str | None) -> Study | None:
    """The shipped study of that name, if there is one: a folder of runs may be called anything."""
    return load_study(name) if name in shipped() else None


def known_arms() -> list[str]:
    """Every arm that the catalogue or a shipped study names, in a fixed order."""
    names = list(catalogue())
    for study in shipped():
        names += load_study(study).arms
    return list(dict.fromkeys(names))
