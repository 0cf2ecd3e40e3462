"""
What is wrong with logs from elsewhere before anything is judged: copied logs, one seed repeated,
training losses only, runs that ended early. Each is named and left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.records.foreign.group import Placed
from experiments.records.runs import RecordedRun
from mingpt.utils import BadInput

FEWEST = 3          # rows of losses that two runs hardly share by chance


@dataclass(frozen=True)
class Cleaned:
    """The runs that count, and what became of the others. `seeded` are the arms of which every run
    names its seed; `numbered` runs have numbers in place of seeds."""
    runs: tuple[RecordedRun, ...]
    placed: dict[Path, Placed]           # by the path of the run
    left_out: tuple[str, ...]
    seeded: frozenset[str]
    unit: str


def cleaned(placed: Sequence[Placed]) -> Cleaned:
    """Return the runs that count, as RecordedRuns. Raises BadInput where none has a validation
    loss, or where they have different units."""
    judged = [each for each in placed if each.log.table["val_loss"].notna().any()
              or each.log.blown_up]
    bare = [each for each in placed if each not in judged]
    if not any(each.log.table["val_loss"].notna().any() for each in judged):
        raise BadInput(f"no validation loss in {len(placed)} run{'s' * (len(placed) != 1)}: a "
                       "training loss is never judged in its place; log one, or name its column "
                       "(--columns)")
    units = {each.log.unit for each in judged}
    if len(units) > 1:
        raise BadInput(f"some runs log {' and some '.join(sorted(units))}: judge them apart")
    told = [f"training loss only, which is not judged: {_names(bare)}"] if bare else []
    copies, judged = _copies(judged)
    repeated, judged = _repeated(judged)
    early, judged = _early(judged)
    runs, seeded = _numbered(judged)
    return Cleaned(tuple(runs), {run.path: each for run, each in zip(runs, judged, strict=True)},
                   (*told, *copies, *repeated, *early), seeded, units.pop())


def _names(placed: Iterable[Placed]) -> str:
    names = [each.label for each in placed]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _copies(placed: list[Placed]) -> tuple[list[str], list[Placed]]:
    """Return (one line per curve that stands in several logs, the logs with each curve once)."""
    kept: dict[str, list[Placed]] = defaultdict(list)
    again: dict[Placed, list[Placed]] = defaultdict(list)
    for each in placed:
        losses = each.log.table[["iteration", "val_loss"]].dropna().to_numpy()
        if len(losses) < FEWEST:
            losses = each.log.table[["iteration", "loss", "val_loss"]].to_numpy()
            losses = losses[~np.isnan(losses[:, 1:]).all(axis=1)]
        same = kept[hashlib.sha256(losses.tobytes()).hexdigest()]
        first = next((other for other in same if len(losses) >= FEWEST
                      and _one_training(each, other)), None)
        (same if first is None else again[first]).append(each)
    gone = {id(each) for those in again.values() for each in those}
    lines = [f"the same curve as {first.label} ({first.arm}), to the last digit, so counted once: "
             f"{_names(those)}" for first, those in again.items()]
    return lines, [each for each in placed if id(each) not in gone]


def _one_training(one: Placed, other: Placed) -> bool:
    """Return whether the training losses of two logs agree at every step that both have. A copy
    may lack those lines."""
    mine, theirs = (each.log.table.set_index("iteration")["loss"].dropna() for each in (one, other))
    both = mine.index.intersection(theirs.index)
    return bool((mine[both].to_numpy() == theirs[both].to_numpy()).all())


def _repeated(placed: list[Placed]) -> tuple[list[str], list[Placed]]:
    """Return (one line per seed that an arm ran again, the runs with each seed once). The first
    counts, unless it was stopped before a later one was: a run that diverged was not stopped."""
    runs: dict[tuple[str, int], list[Placed]] = defaultdict(list)
    for each in placed:
        if each.seed is not None:
            runs[each.arm, each.seed].append(each)
    counted = {key: some[0] if some[0].log.blown_up else max(some, key=_end)
               for key, some in runs.items()}
    again = {key: [each for each in some if each is not counted[key]]
             for key, some in runs.items() if len(some) > 1}
    gone = {id(each) for those in again.values() for each in those}
    lines = [f"{arm} ran seed {seed} again, which is no other replicate: {_names(those)}"
             for (arm, seed), those in again.items()]
    return lines, [each for each in placed if id(each) not in gone]


def _early(placed: list[Placed]) -> tuple[list[str], list[Placed]]:
    """Return (one line per run that ended before its arm's others, the rest). Where no more than
    half of an arm's runs reach its last step, none of them counts as ended early."""
    ends = {id(each): _end(each) for each in placed}
    last = {arm: max(ends[id(each)] for each in placed if each.arm == arm)
            for arm in {each.arm for each in placed}}
    whole = Counter(each.arm for each in placed if ends[id(each)] == last[each.arm])
    runs = Counter(each.arm for each in placed)
    early = [each for each in placed if not each.log.blown_up
             and ends[id(each)] < last[each.arm] and 2 * whole[each.arm] > runs[each.arm]]
    lines = [f"its last validation loss is at step {ends[id(each)]:,} of {last[each.arm]:,}: "
             f"{each.label}" for each in early]
    return lines, [each for each in placed if each not in early]


def _end(each: Placed) -> int:
    table = each.log.table
    steps = table.loc[table["val_loss"].notna(), "iteration"]
    return int(steps.iloc[-1]) if len(steps) else -1


def _numbered(placed: list[Placed]) -> tuple[list[RecordedRun], frozenset[str]]:
    """Return (the runs, the arms of which every run has a seed). Runs without a seed are numbered
    within their arm."""
    seeded = {each.arm for each in placed} - {each.arm for each in placed if each.seed is None}
    count: Counter[str] = Counter()
    runs = []
    for each in placed:
        count[each.arm] += 1
        named = each.arm in seeded
        number = each.seed if named else count[each.arm]
        name = f"{each.arm}.s{number}" if named else f"{each.arm} #{number}"
        # the ending keeps dots of the name out of Path.stem
        runs.append(RecordedRun(Path(f"{name}.log"), None, each.arm, number, each.log.table, None,
                                [f"{name}: {text}" for text in each.log.problems],
                                each.log.blown_up))
    return runs, frozenset(seeded)
