"""
A verdict: the word on one arm against the baseline, and every number behind it. stats.py computes
verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

NOT_COMPARABLE = "not comparable"
WORDS = ("better", "worse", "equivalent", "undecided", NOT_COMPARABLE)
# seed → final value; the seed None is a file that names no seed, and NaN is a diverged run
Values = Mapping[int | None, float]


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline. Differences are arm − baseline in `unit`. None means "cannot be
    computed"."""
    word: str  # better, worse, equivalent, undecided, not comparable
    reason: str  # why this word, when the numbers alone do not show it
    n: int                                          # the number of seeds that both arms have
    margin: float
    alpha: float
    difference: float | None = None
    ci: tuple[float, float] | None = None  # paired t, 1 − alpha, not adjusted for the other arms
    ci_bootstrap: tuple[float, float] | None = None # BCa, 1 − alpha; needs three seeds
    sd: float | None = None                         # of the differences, over seeds
    d_z: float | None = None  # Cohen's d of paired differences: difference / sd
    p: float | None = None                          # paired t, two-sided
    p_holm: float | None = None                     # p adjusted over the study's arms
    p_sign_flip: float | None = None                # exact; never below 2 / 2^n
    p_tost: float | None = None                     # of a difference as large as the margin
    mde: float | None = None  # smallest true difference found with 80 % power at this n
    seeds_needed: int | None = None  # seeds that would decide; approximate, as sd is estimated
    family: int = 1  # arms tested together; mde and seeds_needed allow for all of them
    arm: str = ""
    unit: str = "nats"
    # at the level at which Holm tested the arm; it excludes 0 iff the arm is better or worse
    ci_holm: tuple[float, float] | None = None
    # Welch's test of two unpaired samples with unequal variances, which ignores the pairing
    p_welch: float | None = None
    ci_welch: tuple[float, float] | None = None     # of the unpaired difference of means, 1 − alpha
    cohens_d: float | None = None  # unpaired difference of means / pooled sd, as study 003 had it
    resolution: float = 0.0  # the step in which the values are written: 0.001 at 3 decimals
    n_baseline: int | None = None  # the baseline's runs where nothing pairs them; None: paired
    error: float | None = None     # standard error of the difference; None: sd / √n
    freedom: float | None = None   # its degrees of freedom; None: n − 1

    @property
    def paired(self) -> bool:
        """Whether the runs were compared seed by seed."""
        return self.n_baseline is None

    @property
    def counted(self) -> str:
        """The number of seeds, or of the arm's runs and the baseline's: "5", "10 and 20"."""
        return str(self.n) if self.paired else f"{self.n} and {self.n_baseline}"

    @property
    def said(self) -> str:
        """The word, marked where the runs were not paired: "better (unpaired)"."""
        return self.word if self.paired else f"{self.word} (unpaired)"

    def line(self, width: int = 0) -> str:
        """Return the verdict as one readable line with the Holm-adjusted interval; `width` aligns
        the arms' names."""
        if self.word == NOT_COMPARABLE:
            return f"{self.arm:{width}s}  {self.word}; {self.reason}".strip()
        parts = [f"{self.arm:{width}s}  {self.said:10s}"]
        if self.difference is not None:
            parts.append(signed(self.difference, self.unit))
        if self.ci_holm is not None:
            parts.append(f"[{signed(self.ci_holm[0])}, {signed(self.ci_holm[1])}]")
        count = (f"{self.n} seed{'s' * (self.n != 1)}" if self.paired
                 else f"{self.counted} runs")
        parts.append(f" n = {count}" + self._p_text())
        return (" ".join(parts) + (f"; {self.reason}" if self.reason else "")).strip()

    def _p_text(self) -> str:
        if self.p is None:
            return (f", {p_text('p', self.p_welch)} unpaired (Welch)"
                    if self.p_welch is not None and self.paired else "")
        text = f", {p_text('p', self.p)}" + (
            f" ({p_text('Holm', self.p_holm)})" if self.p_holm is not None else "")
        return text + (f", {p_text('TOST', self.p_tost)}" if self.word == "equivalent" else "")

    def to_dict(self) -> dict:
        """Return the fields as a dict for JSON. JSON has neither infinity nor NaN, so both become
        None."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def scaled(v: Verdict, factor: float, unit: str) -> Verdict:
    """Return the verdict in another unit: differences, intervals and margin times `factor`."""
    def times(value):
        return (tuple(factor * x for x in value) if isinstance(value, tuple)
                else value and factor * value)
    names = ("margin", "difference", "ci", "ci_bootstrap", "ci_holm", "ci_welch", "sd", "mde",
             "error")
    return replace(v, unit=unit, **{name: times(getattr(v, name)) for name in names})


def signed(x: float, unit: str = "") -> str:
    """Return x with its sign and four decimals, such as −0.0830, with a true minus sign."""
    return f"{x:+.4f}".replace("-", "−") + (f" {unit}" if unit else "")


def p_text(name: str, p: float) -> str:
    """Return a p as text: "p = 0.0007", "Holm 0.004", or "p < 0.0001" for anything smaller."""
    equals = " = " if name == "p" else " "
    digits = f"{p:.2g}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"{name} < 0.0001" if p < 1e-4 else f"{name}{equals}{digits}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names as one text, such as "a, b and c". A longer list is cut: "a, b and 5 more"."""
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
