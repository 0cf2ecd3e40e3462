"""
Say, for each arm, what weakens its verdict: seeds that failed or are missing, seeds that ended far
off, an audit that failed, another code or machine. The table, the terminal and the report show
these beside the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from experiments.records.record import at
from experiments.records.runs import RecordedRun
from experiments.verdicts.outliers import Scattered, scattered
from experiments.verdicts.pairing import seed_list
from experiments.verdicts.results import Results
from experiments.verdicts.study_runs import ENDED, once

# What all runs of a comparison should share, as parts of a record, with the word for it.
SHARED = ((("code", "commit"), "code"), (("environment", "torch"), "torch"),
          (("environment", "device"), "device"), (("environment", "cpu"), "processor"))


@dataclass(frozen=True)
class Caveats:
    """`arms` maps an arm to what weakens its verdict alone; `all` weakens every verdict."""
    arms: dict[str, tuple[str, ...]]
    all: tuple[str, ...]

    def of(self, arm: str) -> tuple[str, ...]:
        """Return what weakens the verdict of one arm and not every verdict."""
        return self.arms.get(arm, ())

    def to_dict(self) -> dict[str, Any]:
        """Return the caveats for verdicts.json; only arms that have some are named."""
        return {"all": list(self.all),
                "arms": {arm: list(texts) for arm, texts in self.arms.items() if texts}}


@once
def caveats(results: Results) -> Caveats:
    """Return what weakens the verdicts of a study. What weakens the baseline weakens every
    verdict, and so does what is true of every arm."""
    apart = {each.arm: each
             for each in scattered(results.judged, results.margin, results.numbered)}
    changed = {change.key for change in results.changed}
    far = {each.arm: each.seed for each in results.outliers}     # at most one per arm
    every = {arm: list(dict.fromkeys(_of_arm(results, arm, apart.get(arm), far.get(arm),
                                             f"arm {arm}" in changed)))
             for arm in results.arms}
    own, judged = every.get(results.baseline, []), [a for a in every if a in results.verdicts]
    common = [text for text in every[judged[0]] if all(text in every[arm] for arm in judged)] \
        if judged else []
    everywhere = [text for text in common if text in own]
    others = [text for text in common if text not in own] if len(judged) > 1 else []
    shared = [*_of_study(results), *(f"every arm: {text}" for text in everywhere),
              *(f"{results.baseline}: {text}" for text in own if text not in everywhere),
              *(f"every arm but {results.baseline}: {text}" for text in others)]
    return Caveats({arm: tuple(text for text in every[arm] if text not in (*everywhere, *others))
                    for arm in judged}, tuple(shared))


def _of_study(results: Results) -> Iterator[str]:
    """Yield what weakens every verdict: a declaration that was changed after runs began."""
    keys = dict.fromkeys(change.key for change in results.changed
                         if not change.key.startswith("arm "))
    if keys:
        yield f"the study's file was changed after its first run ({', '.join(keys)})"


def _of_arm(results: Results, arm: str, apart: Scattered | None, far: int | None,
            changed: bool) -> Iterator[str]:
    runs = results.runs_of(arm)
    yield from _seeds(results, arm, runs)
    yield from results.cautions.get(arm, ())
    word = results.replicates
    if far is not None:
        yield f"{seed_list([far], word[:-1])} ended far from the others"
    if apart:
        yield (f"its {len(apart.values)} {word} ended {apart.apart:.4f} apart, far more than those "
               f"of the other arms")
    if changed:
        yield "its declaration was changed after runs began"
    yield from _audit(runs)
    if any(at(run.record, "code", "dirty") for run in runs):
        yield "the code had uncommitted changes"
    yield from _elsewhere(results, arm, runs)


def _seeds(results: Results, arm: str, runs: list[RecordedRun]) -> Iterator[str]:
    """Yield which seeds have no value. Diverged seeds are told by the verdict's own reason."""
    for status in dict.fromkeys(run.status for run in runs if run.status not in ("diverged", "done",
                                                                                "unrecorded")):
        seeds = [run.seed for run in runs if run.status == status and run.seed is not None]
        yield f"{seed_list(seeds) if seeds else 'a run'} {status}"
    if results.declared and results.look is None:
        gone = set(results.declared.seeds) - {run.seed for run in runs}
        if gone and any(run.status in ENDED for run in runs):
            yield f"{seed_list(gone)} missing"


def _audit(runs: list[RecordedRun]) -> Iterator[str]:
    if any(at(run.record, "audit", "passed") is False for run in runs):
        yield "its audit failed"
    elif any(run.record and not isinstance(at(run.record, "audit"), dict) for run in runs):
        yield "not audited"


def _elsewhere(results: Results, arm: str, runs: list[RecordedRun]) -> Iterator[str]:
    """Yield what the arm's runs do not share with the baseline's."""
    base = results.runs_of(results.baseline)
    other = [word for keys, word in SHARED
             if arm != results.baseline and (mine := _values(runs, keys))
             and (theirs := _values(base, keys)) and mine != theirs]
    if other:
        yield f"another {' and '.join(other)} than {results.baseline}"


def _values(runs: Iterable[RecordedRun], keys: tuple[str, ...]) -> set[Any]:
    return {str(value) for run in runs if (value := at(run.record, *keys)) is not None}
