"""
What a reader must know before believing a study: what is missing, what failed, and what was not the
same for all runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from experiments.records.record import FREE, at
from experiments.records.runs import RecordedRun
from experiments.verdicts.outliers import scattered
from experiments.verdicts.results import Results
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import NOT_COMPARABLE, listed

SHOWN = 8           # a longer list is cut after this many names
SAME = {"python": "Python", "torch": "torch", "numpy": "numpy", "cpu": "processor",
        "threads": "threads", "device": "device", "platform": "system"}


@dataclass(frozen=True)
class Notice:
    """One thing to know. A `grave` notice can reverse a verdict; the others weaken a verdict or the
    timings."""
    title: str
    details: tuple[str, ...]
    grave: bool = True


def notices(results: Results) -> list[Notice]:
    """Return all notices on a study, the grave ones first."""
    found = [notice for check in CHECKS for notice in check(results)]
    return sorted(found, key=lambda notice: not notice.grave)


def _status(results: Results) -> Iterator[Notice]:
    by_status = defaultdict(list)
    for run in results.runs:
        if not run.complete:
            by_status[run.status].append(run)
    for status, runs in by_status.items():
        details = [run.path.stem
                   + (f": {at(run.record, 'message')}" if at(run.record, "message") else "")
                   for run in runs]
        yield Notice(f"{len(runs)} {'run is' if len(runs) == 1 else 'runs are'} {status}, not done",
                     tuple(details[:SHOWN]) + _rest(details))


def _missing(results: Results) -> Iterator[Notice]:
    if results.baseline not in results.arms:
        yield Notice(f"No run of the baseline {results.baseline}",
                     ("Without it there is nothing to compare with.",))
    seeds = {arm: {run.seed for run in results.runs_of(arm)} - {None} for arm in results.arms}
    wanted = set(results.declared.seeds) if results.declared else set().union(*seeds.values())
    if results.look and all(verdict.word != "undecided" for verdict in results.verdicts.values()):
        # the study's own stopping rule ended it here
        wanted = {run.seed for run in results.judged_runs}
    arms = list(results.declared.arms) if results.declared else list(results.arms)
    if results.unpaired:          # numbers of runs, not seeds that could be missing
        return
    absent = [f"{arm}: seeds {', '.join(map(str, sorted(gone)))}" for arm in arms
              if (gone := wanted - seeds.get(arm, set())) and (arm in seeds or results.declared)]
    if absent and any(seeds.values()):
        declared = "the study declares" if results.declared else "other arms have"
        yield Notice(f"Runs that {declared} are missing", tuple(absent[:SHOWN]) + _rest(absent))


def _barred(results: Results) -> Iterator[Notice]:
    lines = [f"{arm}: {verdict.reason}" for arm, verdict in results.verdicts.items()
             if verdict.word == NOT_COMPARABLE]
    if lines:
        yield Notice("Arms that cannot be compared with the baseline", tuple(lines[:SHOWN])
                     + _rest(lines))


def _few(results: Results) -> Iterator[Notice]:
    finished = {arm: len(values) for arm, values in results.values.items()}
    one = [arm for arm, n in finished.items() if n == 1]
    if one:
        yield Notice("One run per arm says nothing about the spread over seeds",
                     (f"{listed(one)}: undecided, whatever the curves look like.",))
    unnamed = [run.path.name for run in results.runs if run.seed is None]
    if unnamed:
        yield Notice("Files that name no seed cannot be paired", (listed(unnamed),))


def _outliers(results: Results) -> Iterator[Notice]:
    lines = [outlier.line() for outlier in results.outliers]
    if lines:
        yield Notice("A seed ended far from the others", tuple(lines[:SHOWN]) + _rest(lines),
                     grave=False)
    lines = [each.line() for each in scattered(results.judged, results.margin, results.numbered)]
    if lines:
        yield Notice("The few seeds of an arm ended far apart", tuple(lines[:SHOWN])
                     + _rest(lines), grave=False)


def _spikes(results: Results) -> Iterator[Notice]:
    lines = []
    for run in results.runs:
        spikes = at(run.record, "spikes")
        told = [(at(spike, "loss"), at(spike, "median"), at(spike, "iteration"))
                for spike in spikes or () if isinstance(spikes, list)]
        told = [each for each in told if all(type(x) in (int, float) for x in each)]
        if told:
            loss, usual, iteration = max(told)
            many = f"{len(told)} times, at most " if len(told) > 1 else ""
            lines.append(f"{run.path.stem}: {many}{loss:.4g} at iteration {iteration:g}, where the "
                         f"median before was {usual:.4g}")
    if lines:
        yield Notice("The training loss jumped to more than ten times its running median",
                     tuple(lines[:SHOWN]) + _rest(lines), grave=False)


def _hypothesis(results: Results) -> Iterator[Notice]:
    hashes = Counter(str(value) for run in results.runs if (value := at(run.record, "study_hash")))
    declared = results.declared.hash if results.declared else None
    if len(hashes) > 1 or (hashes and declared and set(hashes) != {declared}):
        counts = ", ".join(f"{n} runs under {value}" for value, n in hashes.most_common())
        details = [change.line()
                   for change in results.changed] or [f"the file had other hashes: {counts}"]
        # a run's declaration shows what changed; where every run has one, no change is hidden
        harmless = declared and not results.changed and all(
            isinstance(at(run.record, "declaration"), dict) for run in results.runs)
        yield Notice("The study's file was changed after its first run"
                     + (", but not the question, arms and settings of these "
                        "runs" if harmless else ""),
                     tuple(details[:SHOWN]) + _rest(details), grave=not harmless)
    if hashes and not declared:
        yield Notice("The study's declaration was not found",
                     ("Name it with --study FILE. The hypothesis, the margin "
                      f"({results.margin:g}) and the metric shown here are the defaults.",),
                     grave=False)


def _audit(results: Results) -> Iterator[Notice]:
    failed: dict[str, None] = {}
    for run in results.runs:
        if at(run.record, "audit", "passed") is False:
            checks = at(run.record, "audit", "checks")
            wrong = [f"{claim}: {seen}" for claim, seen in checks.items() if seen is not True] \
                if isinstance(checks, dict) else ["failed"]
            failed |= {f"{run.arm}: {what}": None for what in wrong}
    if failed:
        yield Notice("The audit failed: an arm is not what it declares to be", tuple(failed))
    bare = sorted({run.arm for run in results.runs if run.record
                   and not isinstance(at(run.record, "audit"), dict)})
    if bare:
        yield Notice("Runs without an audit", (listed(bare),), grave=False)


def _data(results: Results) -> Iterator[Notice]:
    hashes = Counter(str(value) for run in results.runs
                     if (value := at(run.record, "data", "hash")))
    if len(hashes) > 1:
        yield Notice("Runs used different data",
                     tuple(f"{n} runs: {value}" for value, n in hashes.most_common()))
    details = [line for arm in results.arms for line in _settings(arm, results.runs_of(arm))]
    if details:
        yield Notice("Runs of one arm had different settings",
                     tuple(details[:SHOWN]) + _rest(details))


def _settings(arm: str, runs: list[RecordedRun]) -> Iterator[str]:
    """Yield the settings that are not the same in all runs of an arm. Settings that change no
    number are skipped."""
    found = [config for run in runs if isinstance(config := at(run.record, "config"), dict)]
    if all(config == found[0] for config in found):
        return
    configs = [dict(leaves(config)) for config in found]
    for key in dict.fromkeys(key for config in configs for key in config if key not in FREE):
        seen = Counter(repr(config[key]) for config in configs if key in config)
        if len(seen) > 1:
            yield f"{arm}: {key} = " + ", ".join(f"{value} ({n} runs)"
                                                 for value, n in seen.most_common())


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ('section.key', value) for every leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _rest(details: list[str]) -> tuple[str, ...]:
    return (f"and {len(details) - SHOWN} more",) if len(details) > SHOWN else ()


def _code(results: Results) -> Iterator[Notice]:
    dirty = [run.path.stem for run in results.runs if at(run.record, "code", "dirty")]
    if dirty:
        yield Notice("The code had uncommitted changes",
                     (f"{len(dirty)} of {len(results.runs)} runs: {listed(dirty)}",), grave=False)
    commits = Counter(str(value)[:12] for run in results.runs
                      if (value := at(run.record, "code", "commit")
                          or at(run.record, "code", "version")))
    if len(commits) > 1:
        yield Notice("Runs used different versions of the code",
                     tuple(f"{n} runs: {commit}" for commit, n in commits.most_common()),
                     grave=False)


def _environment(results: Results) -> Iterator[Notice]:
    details = []
    for key, name in SAME.items():
        seen = Counter(str(value) for run in results.runs
                       if (value := at(run.record, "environment", key)) is not None)
        if len(seen) > 1:
            details.append(f"{name}: " + ", ".join(f"{value} ({n} runs)"
                                                   for value, n in seen.most_common()))
    if details:
        yield Notice("Runs were made in different environments", tuple(details), grave=False)


def _timing(results: Results) -> Iterator[Notice]:
    details = timing(results).lines()
    if details:
        yield Notice("Timings are unreliable: something else was using the machine",
                     tuple(details[:SHOWN]) + _rest(details), grave=False)


def _elsewhere(results: Results) -> Iterator[Notice]:
    if results.foreign and results.left_out:
        yield Notice("Runs that are not in the verdicts", tuple(results.left_out))
    if results.unknown:
        yield Notice("What these logs do not say, so nothing here rests on it", results.unknown,
                     grave=False)


def _files(results: Results) -> Iterator[Notice]:
    problems = [problem for run in results.runs for problem in run.problems]
    if problems:
        yield Notice("Files with problems", tuple(problems[:SHOWN]) + _rest(problems), grave=False)
    bare = [run.path.name for run in results.runs if run.record is None and not results.foreign]
    if bare:
        yield Notice("Curves without a record: how they were made is unknown", (listed(bare),),
                     grave=False)


CHECKS = (_status, _missing, _barred, _few, _outliers, _spikes, _hypothesis, _audit, _data, _code,
          _environment, _timing, _elsewhere, _files)
