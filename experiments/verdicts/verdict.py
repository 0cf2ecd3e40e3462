"""
A verdict: the word on one arm against the baseline, and every number behind it. stats.py makes
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

NOT_COMPARABLE = "not comparable"
# seed → final value; seed None is a file that does not say, NaN a diverged run
Values = Mapping[int | None, float]


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline. Differences are arm − baseline in `unit`; None is "cannot be
    computed"."""
    word: str  # better, worse, equivalent, undecided, not comparable
    reason: str  # why this word, when the numbers alone do not tell
    n: int                                          # seeds that both arms have
    margin: float
    alpha: float
    difference: float | None = None
    ci: tuple[float, float] | None = None  # paired t, 1 − alpha, not adjusted for the other arms
    ci_bootstrap: tuple[float, float] | None = None # BCa, 1 − alpha; needs three seeds
    sd: float | None = None                         # of the differences, over seeds
    d_z: float | None = None  # Cohen's d of paired differences: difference / sd
    p: float | None = None                          # paired t, two-sided
    p_holm: float | None = None                     # the same, adjusted over the study's arms
    p_sign_flip: float | None = None                # exact; never below 2 / 2^n
    p_tost: float | None = None                     # of a difference as large as the margin
    mde: float | None = None  # least true difference found with 80 % power at this n
    seeds_needed: int | None = None                 # that would decide; about, as sd is estimated
    family: int = 1  # arms beside the baseline: mde and seeds allow for all of them
    arm: str = ""
    unit: str = "nats"
    # at the level Holm tested the arm at: without 0 iff better or worse
    ci_holm: tuple[float, float] | None = None
    # two samples, unpaired, variances unequal: as if seeds did not pair
    p_welch: float | None = None
    ci_welch: tuple[float, float] | None = None     # of the unpaired difference of means, 1 − alpha
    cohens_d: float | None = None  # unpaired difference of means / pooled sd, as study 003 had it
    resolution: float = 0.0  # the step in which the values are written: 0.001 at 3 decimals

    def line(self, width: int = 0) -> str:
        """One readable line with the Holm-adjusted interval; `width` aligns the arms' names."""
        if self.word == NOT_COMPARABLE:
            return f"{self.arm:{width}s}  {self.word}; {self.reason}".strip()
        parts = [f"{self.arm:{width}s}  {self.word:10s}"]
        if self.difference is not None:
            parts.append(signed(self.difference, self.unit))
        if self.ci_holm is not None:
            parts.append(f"[{signed(self.ci_holm[0])}, {signed(self.ci_holm[1])}]")
        parts.append(f" n = {self.n} seed{'s' * (self.n != 1)}" + self._p_text())
        return (" ".join(parts) + (f"; {self.reason}" if self.reason else "")).strip()

    def _p_text(self) -> str:
        if self.p is None:
            return (f", {p_text('p', self.p_welch)} unpaired (Welch)" if self.p_welch is not None
                    else "")
        text = f", {p_text('p', self.p)}" + (f" ({p_text('Holm', self.p_holm)})"
                                             if self.p_holm is not None else "")
        return text + (f", {p_text('TOST', self.p_tost)}" if self.word == "equivalent" else "")

    def to_dict(self) -> dict:
        """For JSON, which knows neither infinity nor NaN: both become None."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def scaled(v: Verdict, factor: float, unit: str) -> Verdict:
    """The same verdict in another unit: differences, intervals and margin times `factor`."""
    def times(value):
        return tuple(factor * x for x in value) if isinstance(value,
                                                              tuple) else value and factor * value
    names = ("margin", "difference", "ci", "ci_bootstrap", "ci_holm", "ci_welch", "sd", "mde")
    return replace(v, unit=unit, **{name: times(getattr(v, name)) for name in names})


def signed(x: float, unit: str = "") -> str:
    """−0.0830, with a true minus sign."""
    return f"{x:+.4f}".replace("-", "−") + (f" {unit}" if unit else "")


def p_text(name: str, p: float) -> str:
    """p = 0.0007 and Holm 0.004, but p < 0.0001."""
    equals = " = " if name == "p" else " "
    digits = f"{p:.2g}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"{name} < 0.0001" if p < 1e-4 else f"{name}{equals}{digits}"


def _plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
