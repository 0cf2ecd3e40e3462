"""
The runs of one study put together: its arms, its baseline, and the values that verdicts rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from math import isfinite
from types import MappingProxyType
from typing import ClassVar, TypeVar

from experiments.declare.arms import catalogue
from experiments.declare.study import DEFAULT_ALPHA, DEFAULT_MARGIN, Study, load_study, shipped
from experiments.records.runs import RecordedRun, by_arm
from experiments.verdicts.comparable import (
    TOKEN_METRICS,
    Comparison,
    common_iteration,
    compare_runs,
)
from experiments.verdicts.verdict import Values

Told = TypeVar("Told")
ENDED = ("done", "unrecorded", "diverged", "failed")
UNITS = {"val_loss": "nats", "loss": "nats", "bits_per_byte": "bits per byte",
         "perplexity": "perplexity"}


@dataclass(frozen=True)
class StudyRuns:
    """One study's runs with its declaration, or with the defaults where none is declared."""
    name: str | None              # None: the runs belong to no study
    runs: tuple[RecordedRun, ...]
    declared: Study | None

    # What runs from elsewhere override (verdicts/foreign.py): whether they are such runs, what an
    # arm's runs are called, the arms that no seed pairs with the baseline, what weakens the word of
    # an arm, and what is unknown.
    foreign: ClassVar[bool] = False
    replicates: ClassVar[str] = "seeds"
    unpaired: ClassVar[frozenset[str]] = frozenset()
    numbered: ClassVar[frozenset[str]] = frozenset()    # arms whose runs have no seeds
    cautions: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    unknown: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The arms that have runs: the baseline first, then in the order of the declaration, then
        in the catalogue's order, then by name."""
        order = [self.baseline, *(self.declared.arms if self.declared else ()), *known_arms()]
        rank = {name: i for i, name in reversed(list(enumerate(order)))}
        return tuple(sorted({run.arm for run in self.runs},
                            key=lambda a: (rank.get(a, len(order)), a)))

    @cached_property
    def baseline(self) -> str:
        """The declared baseline; without a declaration, the arm that changes nothing by its record,
        or else by the catalogue."""
        if self.declared:
            return self.declared.baseline
        unchanged = sorted({run.arm for run in self.runs if run.record
                            and run.record.get("changes") == {}})
        plain = next(name for name, arm in catalogue().items() if not arm.settings)
        return unchanged[0] if len(unchanged) == 1 else plain

    @property
    def title(self) -> str:
        """The study's question; without one, the study's name."""
        return (self.declared and self.declared.question) or (f"Study {self.name}" if self.name
                                                              else "Runs of no study")

    @property
    def margin(self) -> float:
        """The declared margin of equivalence, or the default, in the metric's unit."""
        return self.declared.margin if self.declared else DEFAULT_MARGIN

    @property
    def alpha(self) -> float:
        """The error that the verdicts of this look may have. It is the study's whole error, unless
        the study looks several times."""
        return self.declared.level if self.declared else DEFAULT_ALPHA

    @property
    def metric(self) -> str:
        """The metric that verdicts are about: as declared, or the validation loss."""
        return self.declared.metric if self.declared else "val_loss"

    @property
    def unit(self) -> str:
        """The metric's unit."""
        return UNITS.get("val_loss" if self.metric.startswith("val_loss_") else self.metric,
                         self.metric)

    @property
    def pairing(self) -> str:
        """How the arms are compared: "paired by seed", or that some or all are not."""
        others = set(self.arms) - {self.baseline}
        return ("paired by seed" if not self.unpaired else "not paired (Welch's test)"
                if self.unpaired >= others else "paired by seed where an arm shares the baseline's "
                "seeds, else not paired (Welch's test)")

    def runs_of(self, arm: str) -> list[RecordedRun]:
        """Return an arm's runs, in order of seed."""
        return list(self._by_arm.get(arm, ()))

    @cached_property
    def _by_arm(self) -> dict[str, list[RecordedRun]]:
        return by_arm(self.runs)

    @cached_property
    def values(self) -> dict[str, Values]:
        """Arm → seed → final value of the metric; NaN where a run diverged. Unfinished and failed
        runs have no entry.

        A run whose file names no seed has the key None, and the value NaN when it has no final
        value. It counts as a run although it pairs with nothing.
        """
        table: dict[str, dict[int | None, float]] = {arm: {} for arm in self.arms}
        for run in self.runs:
            value = self._final(run) if run.complete else None
            if run.status == "diverged":
                table[run.arm][run.seed] = float("nan")
            elif value is not None or run.seed is None:
                table[run.arm][run.seed] = float("nan") if value is None else value
        return table

    def _final(self, run: RecordedRun) -> float | None:
        """Return a run's final value, or its value at the last common iteration where some runs
        have no record."""
        if self.common_iteration is None:
            return run.final(self.metric)
        rows = run.table.loc[run.table["iteration"] == self.common_iteration, self.metric].dropna()
        return float(rows.iloc[-1]) if len(rows) else None

    @cached_property
    def common_iteration(self) -> int | None:
        """The iteration at which runs are compared when some have no record and end at different
        iterations; None when each run's final value counts."""
        return common_iteration(self.runs, self.metric)

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Arm → whether its runs may be judged against the baseline's, and in which unit."""
        base = self.runs_of(self.baseline)
        return {arm: compare_runs(self.runs_of(arm), base)
                for arm in self.arms if arm != self.baseline}

    @cached_property
    def barred(self) -> dict[str, str]:
        """The arms that are not comparable, with the reason. Every test reads this through
        `Results.bar`."""
        found = {arm: each.reason for arm, each in self.comparisons.items() if each.reason}
        if self.metric in TOKEN_METRICS and (self.metric != "val_loss" or not self.nats_per_bit):
            found |= {arm: f"another tokenizer: {self.metric} is per token; bits per byte would "
                           "compare"
                      for arm, each in self.comparisons.items() if each.in_bytes}
        return found

    @cached_property
    def in_bytes(self) -> frozenset[str]:
        """The arms with another tokenizer, which are judged in bits per byte instead of nats per
        token."""
        return frozenset(arm for arm, each in self.comparisons.items()
                         if each.in_bytes and self.metric == "val_loss" and arm not in self.barred)

    @cached_property
    def nats_per_bit(self) -> float | None:
        """The baseline's nats per token for one bit per byte, a constant of its validation set."""
        pairs = [(run.final("val_loss"), run.final("bits_per_byte"))
                 for run in self.runs_of(self.baseline)
                 if run.complete and run.record]
        return next((nats / bits for nats, bits in pairs if nats and bits
                     and isfinite(nats / bits)), None)

    def _comparable_values(self, arm: str) -> Values:
        """Return an arm's values. For an arm with another tokenizer they are its bits per byte,
        converted to nats per token of the baseline."""
        if arm not in self.in_bytes:
            return self.values[arm]
        bits = {run.seed: run.final("bits_per_byte") for run in self.runs_of(arm)}
        return {seed: value if not isfinite(value)
                else (bits[seed] or float("nan")) * self.nats_per_bit
                for seed, value in self.values[arm].items()}

    @cached_property
    def left_out(self) -> list[str]:
        """The runs whose value is not in the verdicts, one line per reason, so that nothing is
        dropped silently."""
        reasons: dict[str, list[str]] = {}
        for run in self.runs:
            if why := self._why_not(run):
                reasons.setdefault(why, []).append(run.path.stem)
        return [f"{why}: {', '.join(names)}" for why, names in reasons.items()]

    def _why_not(self, run: RecordedRun) -> str | None:
        if not run.complete:
            message = (run.record or {}).get("message")
            return run.status + (f" ({message})" if message else "")
        return None if self._final(run) is not None else f"no {self.metric}"

    def changes_of(self, arm: str) -> dict:
        """Return what an arm changes, from its records. For an arm without records that is unknown,
        so the result is {"?": None}."""
        for run in self.runs_of(arm):
            changes = (run.record or {}).get("changes")
            if isinstance(changes, dict):
                return changes
        return {"?": None}

    @cached_property
    def look(self) -> int | None:
        """The number of seeds at the last look that the study declares and has reached; None where
        it declares no looks."""
        if not (self.declared and self.declared.stop):
            return None
        whole = [all(seed in self._ended.get(arm, ()) for arm in self.declared.arms)
                 for seed in self._seeds]
        begun = whole.index(False) if False in whole else len(whole)
        return max((n for n in self.declared.stop if n <= begun), default=0)

    @cached_property
    def _ended(self) -> dict[str, set[int]]:
        """Arm → the seeds whose runs are over, with or without a value, so that a failed run does
        not hold up a look."""
        return {arm: {run.seed for run in self.runs_of(arm) if run.status in ENDED}
                for arm in self.arms}

    @property
    def _seeds(self) -> list[int]:
        """The seeds with a run that is over: the declared ones in their order, then any others."""
        seen = set().union(*self._ended.values()) - {None}
        declared = self.declared.seeds if self.declared else []
        return [s for s in declared if s in seen] + sorted(seen - set(declared))

    @cached_property
    def judged(self) -> dict[str, Values]:
        """The values that verdicts rest on: all of them, or those of the seeds up to the last
        look."""
        table = {arm: self._comparable_values(arm) for arm in self.values}
        if self.look is None:
            return table
        seeds = self._seeds[:self.look]
        return {arm: {seed: values[seed] for seed in seeds if seed in values}
                for arm, values in table.items()}

    @property
    def judged_runs(self) -> tuple[RecordedRun, ...]:
        """The runs of those same seeds, so that no other result uses a run that the study may not
        look at yet."""
        if self.look is None:
            return self.runs
        seeds = set(self._seeds[:self.look])
        return tuple(run for run in self.runs if run.seed in seeds)


def once(tell: Callable[..., Told]) -> Callable[..., Told]:
    """Decorate a function of a study's results, so that it is computed once per study although many
    figures and tables ask for it."""
    @wraps(tell)
    def told(study: StudyRuns) -> Told:
        known = study.__dict__.setdefault("told", {})
        if tell not in known:
            known[tell] = tell(study)
        return known[tell]
    return told


def known_arms() -> list[str]:
    """Return every arm that the catalogue or a shipped study names, in a fixed order."""
    names = list(catalogue())
    for study in shipped():
        names += load_study(study).arms
    return list(dict.fromkeys(names))
