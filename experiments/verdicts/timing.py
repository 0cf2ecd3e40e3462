"""
Find the runs whose times were measured while something else used their machine. Other work only
ever slows a run down, so such times say little about an arm.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from experiments.records.record import at, moment
from experiments.records.runs import RecordedRun
from experiments.verdicts.results import Results
from experiments.verdicts.study_runs import once
from experiments.verdicts.verdict import listed

# Where the fastest seed of an arm is faster than the slowest by more than this factor, something
# else was using the machine.
SPREAD = 1.25


@dataclass(frozen=True)
class Timing:
    """Why the times of some arms cannot be trusted. `arms` maps such an arm to the reason. Times of
    all arms are in doubt where the baseline's are, because they are compared with it."""
    together: frozenset[Path]    # the runs that trained beside another run of the study
    spreads: dict[str, tuple[float, float]]   # arm → slowest and fastest seed, in tokens/s
    arms: dict[str, str]
    all: bool

    def busy(self, arm: str) -> bool:
        """Return whether an arm's times, or their ratio to the baseline's, are in doubt."""
        return self.all or arm in self.arms

    @property
    def column(self) -> str:
        """What the title of a column of times adds: nothing unless all arms are in doubt."""
        return ", busy machine" if self.all else ""

    def mark(self, arm: str) -> str:
        """What a time of one arm adds, where the title of its column says nothing."""
        return " (busy machine)" if arm in self.arms and not self.all else ""

    def lines(self) -> list[str]:
        """Return what was seen, one line each; nothing where no time is in doubt."""
        count = len(self.together)
        return ([f"{count} runs trained while another run of this study used the same machine"]
                if count else []) + [
            f"{arm}: {slow:,.0f} to {fast:,.0f} tokens/s over its seeds"
            for arm, (slow, fast) in self.spreads.items()]

    def summary(self) -> list[str]:
        """Return the same as one line; nothing where no time is in doubt."""
        parts = [f"{len(self.together)} runs trained beside another run of the study"] \
            if self.together else []
        parts += [f"seeds of {listed(list(self.spreads))} differ in speed by more than "
                  f"{100 * (SPREAD - 1):.0f} %"] if self.spreads else []
        return [f"times were measured on a busy machine: {'; '.join(parts)}"] if parts else []


@once
def timing(results: Results) -> Timing:
    """Return which times of a study's runs cannot be trusted."""
    runs = list(results.runs)
    together = frozenset(runs[number].path for number in _together(runs))
    spreads = {arm: spread for arm in results.arms if (spread := _spread(results.runs_of(arm)))}
    beside = {run.arm for run in runs if run.path in together}
    reasons = {arm: "trained beside other runs" if arm in beside else "seeds differ in speed"
               for arm in results.arms if arm in beside or arm in spreads}
    return Timing(together, spreads, reasons,
                  results.baseline in reasons or 0 < len(reasons) == len(results.arms))


def _spread(runs: list[RecordedRun]) -> tuple[float, float] | None:
    """Return the slowest and the fastest of an arm's seeds in tokens/s, where they differ by more
    than SPREAD."""
    rates = [rate for run in runs if run.complete
             and isinstance(rate := at(run.record, "result", "tokens_per_second"), int | float)
             and rate > 0]
    return (min(rates), max(rates)) if rates and max(rates) > SPREAD * min(rates) else None


def overlapping(runs: list[RecordedRun]) -> int:
    """Return how many of the runs trained while another of them trained on the same machine."""
    return len(_together(runs))


def _together(runs: list[RecordedRun]) -> set[int]:
    spans = defaultdict(list)
    for number, run in enumerate(runs):
        start, end = moment(at(run.record, "start")), moment(at(run.record, "end"))
        host = at(run.record, "process", "host")
        if start and end and isinstance(host, str):
            spans[host].append((start, end, number))
    found = set()
    for host in spans.values():
        open_: list[tuple[datetime, int]] = []
        for start, end, number in sorted(host):
            open_ = [(until, other) for until, other in open_ if until > start]
            open_.append((end, number))
            at_once = [other for _, other in open_]
            if len(at_once) > 1 and not _have_cores([runs[other] for other in at_once]):
                found |= {*at_once}
    return found


def _have_cores(runs: list[RecordedRun]) -> bool:
    """Return whether each thread of runs that train at once has a core of its own, by their
    records. They then still share the memory, which slows all arms alike."""
    threads = [at(run.record, "environment", "threads") for run in runs]
    cores = [at(run.record, "environment", "cores") for run in runs]
    return (all(isinstance(n, int) for n in [*threads, *cores]) and sum(threads) <= min(cores)
            and all(at(run.record, "environment", "device") == "cpu" for run in runs))
