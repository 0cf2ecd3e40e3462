"""
Pair an arm's seeds with the baseline's, and report what could not be paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from experiments.verdicts.verdict import Values


@dataclass(frozen=True)
class Lost:
    """Seeds that could not be paired. Runs are not lost to divergence by accident: the surviving
    seeds make the arm look better than it is."""
    arm_only: tuple[int, ...] = ()        # the arm diverged and the baseline did not
    baseline_only: tuple[int, ...] = ()   # the baseline diverged and the arm did not
    both: tuple[int, ...] = ()            # both diverged
    unmatched: tuple[int, ...] = ()       # one of the two was never run
    word: str = "seed"                    # what the numbers count: "run" where no seed pairs them

    @property
    def decisive(self) -> bool:
        """Whether only one of the two diverged on some seed."""
        return bool(self.arm_only or self.baseline_only)

    def temper(self, word: str, notes: list[str]) -> tuple[str, list[str]]:
        """Return (word, notes): a word that only the surviving seeds support becomes "undecided",
        and the notes say which seeds are missing."""
        kept = {"worse"} if self.arm_only else {"better"}
        word = "undecided" if self.decisive and (word not in kept or self.arm_only
                                                 and self.baseline_only) else word
        told = [(self.arm_only, "diverged on"), (self.baseline_only, "the baseline diverged on"),
                (self.both, "both diverged on"), (self.unmatched, "not paired:")]
        return word, notes + [f"{what} {seed_list(seeds, self.word)}" for seeds, what in told
                              if seeds]


def paired(arm: Values, baseline: Values) -> np.ndarray:
    """Return (seeds, 2): the arm's and the baseline's value of every seed that both have, in order
    of seed. A value is not finite where the run diverged."""
    seeds = sorted((set(arm) & set(baseline)) - {None})
    return np.array([[arm[s], baseline[s]] for s in seeds], dtype=float).reshape(-1, 2)


def lost_seeds(arm: Values, baseline: Values) -> Lost:
    """Return the seeds that pairing leaves out."""
    common = (set(arm) & set(baseline)) - {None}
    mine = {s for s in common if not math.isfinite(arm[s])}
    theirs = {s for s in common if not math.isfinite(baseline[s])}
    unmatched = (set(arm) ^ set(baseline)) - {None}
    return Lost(*(tuple(sorted(seeds)) for seeds in (mine - theirs, theirs - mine, mine & theirs,
                                                     unmatched)))


def too_few(arm: Values, baseline: Values) -> str:
    """Return why fewer than two pairs are left."""
    if not baseline:
        return "the baseline has no run with a final value"
    if not arm:
        return "no run with a final value"
    pairs = paired(arm, baseline)
    if not len(pairs) and (None in arm or None in baseline):
        return "one unpaired run per arm"
    if not len(pairs):
        return f"no common seeds (this arm {seed_list(arm)}, baseline {seed_list(baseline)})"
    note = ("one pair says nothing about the spread over seeds"
            if np.isfinite(pairs).all(axis=1).any() else "no pair of finite values")
    return "; ".join(lost_seeds(arm, baseline).temper("undecided", [note])[1])


def seed_list(seeds: Iterable[int | None], word: str = "seed") -> str:
    """Return 'seed 3' or 'seeds 0, 2'."""
    seeds = sorted(s for s in seeds if s is not None)
    return f"{word}{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
