"""
Verdicts on runs that other programs logged. They are the verdicts of a study, by the same tests;
what differs is what has to be guarded against, and what cannot be known.

    results = judge(["runs/"], Choices(baseline="base", margin=0.01))
    print(results.verdicts["rope"].line())
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.declare.study import DEFAULT_ALPHA, DEFAULT_MARGIN
from experiments.records.foreign.group import group
from experiments.records.foreign.log import Log
from experiments.records.foreign.read import read_logs
from experiments.records.runs import RecordedRun
from experiments.verdicts.comparable import Comparison
from experiments.verdicts.costs import Budgets
from experiments.verdicts.curves import Cleaned, cleaned
from experiments.verdicts.noise import NoiseFloor, noise_floor
from experiments.verdicts.results import Results
from experiments.verdicts.stats import resolution
from experiments.verdicts.unpaired import shares_seeds
from mingpt.utils import BadInput, did_you_mean

# Names that say that an arm is the baseline.
BASELINE = re.compile(r"(?:base(?:line)?|control|default|vanilla|ref(?:erence)?)(?:$|[._\-\s])",
                      re.I)
# Untrained models of one vocabulary start within this of each other, in nats ...
START = 0.1
# ... and with this, their vocabularies or validation sets must differ.
OTHER_START = 1.0


@dataclass(frozen=True)
class Choices:
    """What the reader of the verdicts chooses. None: by the logs themselves."""
    baseline: str | None = None
    margin: float = DEFAULT_MARGIN
    alpha: float = DEFAULT_ALPHA
    at: int | None = None               # the step at which runs are compared
    target: float | None = None         # the loss that arms are to reach
    same_validation: bool = False       # compare although the first losses say otherwise
    arms: Mapping[str, str] = field(default_factory=dict)      # name → glob
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Foreign(Results):
    """The results of runs from elsewhere. Their `runs` have no records."""
    choices: Choices = Choices()
    source: str = ""
    cleaned: Cleaned = field(kw_only=True)
    rest: tuple[str, ...] = ()          # labels that no --arm takes

    foreign = True

    @cached_property
    def baseline(self) -> str:
        """The chosen baseline, or the arm whose name says that it is one."""
        arms = list(dict.fromkeys(run.arm for run in self.runs))
        if self.choices.baseline is not None:
            if self.choices.baseline not in arms:
                raise BadInput(f"--baseline: no arm {self.choices.baseline!r}"
                               f"{did_you_mean(self.choices.baseline, arms)}")
            return self.choices.baseline
        named = [arm for arm in arms if BASELINE.match(arm)]
        if len(named) != 1 and len(arms) > 1:
            raise BadInput("which arm is the baseline? lab.py judge --baseline ARM names it; the "
                           f"arms are {', '.join(arms[:20])}")
        return (named or arms)[0]

    title = property(lambda self: f"Runs in {self.source}")
    margin = property(lambda self: self.choices.margin)
    alpha = property(lambda self: self.choices.alpha)
    unit = property(lambda self: self.cleaned.unit)

    @property
    def numbered(self) -> frozenset[str]:
        """The arms whose runs have numbers in place of seeds."""
        return frozenset(self.arms) - self.cleaned.seeded

    @property
    def replicates(self) -> str:
        """What the runs of an arm are called: seeds where all arms name them."""
        return "seeds" if set(self.arms) <= self.cleaned.seeded else "runs"

    @cached_property
    def noise_floor(self) -> NoiseFloor | None:
        """How far runs of the baseline differ from each other."""
        own = noise_floor(self.values[self.baseline], unit=self.unit)
        return replace(own, replicates=self.replicates)

    @cached_property
    def unpaired(self) -> frozenset[str]:
        """The arms whose runs no seed pairs with the baseline's."""
        def seeds(arm: str) -> list[int | None]:
            return [run.seed for run in self.runs_of(arm)]
        both = self.cleaned.seeded if self.baseline in self.cleaned.seeded else ()
        return frozenset(arm for arm in self.arms if arm != self.baseline and not (
            arm in both and shares_seeds(seeds(arm), seeds(self.baseline))))

    # -- the step of the comparison ----------------------------------------------------------------

    @cached_property
    def ends(self) -> dict[str, int]:
        """Arm → its last step with a validation loss; arms that only diverged have none."""
        found = {arm: [max(steps) for run in self.runs_of(arm)
                       if (steps := self.measured[run.path])] for arm in self.arms}
        return {arm: max(each) for arm, each in found.items() if each}

    @cached_property
    def totals(self) -> dict[str, int]:
        """Arm → the step at which its runs were to end, where all its logs say the same."""
        found = {arm: {self.log_of(run).total for run in self.runs_of(arm)} for arm in self.arms}
        return {arm: next(iter(each)) for arm, each in found.items()
                if len(each) == 1 and None not in each}

    @cached_property
    def other_schedules(self) -> frozenset[str]:
        """The arms whose runs were to end at another step than the baseline's, by their logs."""
        own = self.totals.get(self.baseline)
        return frozenset(arm for arm, total in self.totals.items() if own and total != own)

    @cached_property
    def common_iteration(self) -> int | None:
        """The step at which the arms are compared: --at, or the last one that they share."""
        steps = {arm: set.intersection(*each) for arm in self.arms
                 if (each := [set(found) for run in self.runs_of(arm) if run.status != "diverged"
                              and (found := self.measured[run.path])])}
        at = self.choices.at
        if at is not None:
            if not any(at in each for each in steps.values()):
                there = sorted(set.union(*steps.values()), key=lambda step: abs(step - at))
                raise BadInput(f"--at {at}: no arm has a validation loss at that step; the nearest "
                               f"is {there[0]}")
            return at
        compared = [each for arm, each in steps.items() if arm not in self.other_schedules]
        every = set().union(*compared)
        if any(self.ends.values()):
            every.discard(0)            # no arm has been trained there
        # as many arms as possible, and of such steps the last
        return max(every, key=lambda step: (sum(step in each for each in compared), step),
                   default=-1)

    @property
    def how(self) -> str:
        """How the arms are compared, in one line."""
        step = self.common_iteration
        return f"arms are {self.pairing}; " + (
            "they share no step, so none is compared" if step < 0 else
            "each run has one value" if not any(self.ends.values()) else
            f"compared at step {step:,}, " + ("as asked" if self.choices.at is not None
                                              else "the last that they share"))

    def step_of(self, arm: str) -> int | None:
        """Return the step whose loss stands for an arm. Arms of other lengths than the baseline's
        are not compared, so it is their own last step."""
        return (self.ends.get(arm) if self.choices.at is None and arm in self.other_schedules
                else self.common_iteration)

    def _final(self, run: RecordedRun) -> float | None:
        return self.measured[run.path].get(self.step_of(run.arm))

    @cached_property
    def measured(self) -> dict[Path, dict[int, float]]:
        """A run's path → step → validation loss, where it was measured."""
        return {run.path: {int(step): float(value) for step, value
                           in run.table[["iteration", "val_loss"]].to_numpy()
                           if value == value} for run in self.runs}

    # -- what may be compared ----------------------------------------------------------------------

    def log_of(self, run: RecordedRun) -> Log:
        """Return the log that a run was read from."""
        return self.cleaned.placed[run.path].log

    @cached_property
    def starts(self) -> dict[str, float]:
        """Arm → its mean validation loss at step 0, where it was measured."""
        found = {arm: [each[0] for run in self.runs_of(arm)
                       if 0 in (each := self.measured[run.path])] for arm in self.arms}
        return {arm: fmean(each) for arm, each in found.items()
                if each and self.ends.get(arm, 0) > 0}

    def _start_text(self, arm: str) -> str:
        return (f"at step 0 its loss is {self.starts[arm]:.4g} and the baseline's "
                f"{self.starts[self.baseline]:.4g}")

    def _apart(self, arm: str) -> float:
        """Return how far the arm's first loss is from the baseline's; 0 where one is unknown."""
        if arm not in self.starts or self.baseline not in self.starts:
            return 0.0
        return abs(self.starts[arm] - self.starts[self.baseline])

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Arm → why it is not comparable, or an empty reason."""
        return {arm: Comparison(self._barred(arm)) for arm in self.arms if arm != self.baseline}

    def foreign_start(self, arm: str) -> bool:
        """Return whether an arm's losses at step 0 cannot belong to the baseline's validation
        set."""
        return self._apart(arm) > OTHER_START and not self.choices.same_validation

    def formats(self, arm: str) -> list[str]:
        """Return the programs that logged an arm's runs."""
        return sorted({self.log_of(run).format for run in self.runs_of(arm)})

    def _barred(self, arm: str) -> str:
        if self.foreign_start(arm):
            return (f"{self._start_text(arm)}: another vocabulary or validation set, or it does "
                    "not start untrained; --same-validation judges it all the same")
        if self.choices.at is None and arm in self.other_schedules:
            return (f"its runs were to end at step {self.totals[arm]:,} and the baseline's at "
                    f"{self.totals[self.baseline]:,}: at a common step the shorter schedule is "
                    f"ahead; --at STEP compares them all the same")
        return ""

    @cached_property
    def cautions(self) -> dict[str, tuple[str, ...]]:
        """Arm → what weakens its word."""
        found = {arm: tuple(self._weak(arm)) for arm in self.arms}
        return {arm: texts for arm, texts in found.items() if texts}

    def _weak(self, arm: str):
        if arm != self.baseline and not self.barred.get(arm):
            own, theirs = (self.totals.get(a, self.ends.get(a)) for a in (arm, self.baseline))
            if own and theirs and own != theirs:
                yield (f"its runs end at step {own:,} and the baseline's at {theirs:,}: at step "
                       f"{self.common_iteration:,} a schedule that ends earlier is ahead")
            if self._apart(arm) > START:
                yield f"{self._start_text(arm)}: is it the same validation set?"
        totals = {total for run in self.runs_of(arm) if (total := self.log_of(run).total)}
        if len(totals) > 1:
            yield ("by their logs, its runs were to end at different steps: "
                   + ", ".join(f"{total:,}" for total in sorted(totals)))
        values = [value for value in self.values.get(arm, {}).values() if isfinite(value)]
        step = resolution(np.array(values)) if values else 0.0
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        if step > self.margin / 2 or 0 < spread < 3 * step:
            yield f"its losses are rounded to {step:g}"

    @property
    def left_out(self) -> list[str]:
        """The runs that are not in the verdicts, one line per reason."""
        given = [f"taken by no --arm: {', '.join(self.rest[:6])}"
                 + (f" and {len(self.rest) - 6} more" if len(self.rest) > 6 else "")] \
            if self.rest else []
        return [*given, *self.cleaned.left_out, *super().left_out]

    def _why_not(self, run: RecordedRun) -> str | None:
        if run.complete and self._final(run) is None:
            step = self.step_of(run.arm)
            return (f"no validation loss at step {step:,}" if step is not None and step >= 0
                    else "no validation loss at a common step")
        return super()._why_not(run)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the logs do not say, one line each."""
        lines = ["What each arm changes: the arms are known by name only.",
                 "Whether anything else differs between the arms: settings, code, data order.",
                 "Whether all runs were scored on the same validation tokens"
                 + (", beyond what their losses at step 0 show." if len(self.starts) > 1 else "."),
                 "Whether each model does what its name says: no audit was made."]
        if not self.cleaned.seeded:
            lines.append("Seeds: no name, log or configuration states one, so nothing is paired. "
                         "Runs that silently share a seed look more alike than they should.")
        if not any(run.table[["tokens", "seconds"]].notna().any(axis=None) for run in self.runs):
            lines.append("Cost: parameters, FLOPs, time and memory were not logged.")
        elif any(run.table["seconds"].notna().any() for run in self.runs):
            lines.append("Whether all runs had the same machine, so there is no verdict at equal "
                         "time.")
        return tuple(lines)

    @property
    def budgets(self) -> Budgets:
        """No verdicts at equal budgets: nothing says that the runs had the same machine."""
        return Budgets(())

    def grouping(self) -> list[dict[str, Any]]:
        """Return one row per arm: how many runs and seeds it has, from where, up to which step."""
        rows = []
        for arm in self.arms:
            runs = self.runs_of(arm)
            labels = [self.cleaned.placed[run.path].label for run in runs]
            rows.append({
                "arm": arm, "runs": len(runs), "from": labels,
                "seeds": [run.seed for run in runs] if arm in self.cleaned.seeded else None,
                "paired": None if arm == self.baseline else arm not in self.unpaired,
                "last_step": self.ends.get(arm), "step": self.step_of(arm),
                "format": self.formats(arm)})
        return rows


def judge(paths: Sequence[str | Path], choices: Choices | None = None) -> Foreign:
    """Read logs and return their results. Without `choices` the logs themselves decide. Raises
    BadInput where they cannot be judged."""
    choices = choices or Choices()
    given = [Path(path) for path in paths]
    logs = read_logs(given, choices.columns)
    placed, rest = group(logs, given, choices.arms)
    found = cleaned(placed)
    return Foreign(None, found.runs, None, choices=choices, cleaned=found, rest=tuple(rest),
                   source=", ".join(path.resolve().name for path in given[:4])
                   + (f" and {len(given) - 4} more" if len(given) > 4 else ""))

