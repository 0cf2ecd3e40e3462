"""
Verdicts: what paired seeds say about an arm against the baseline.

Seed s gives every arm the same batches and the same shared weights, so the arms of one seed are compared with each
other and the seeds are the replicates: everything here works on the differences arm − baseline, one a seed.
Lower is better in every metric a study may have.

    verdicts({"baseline": {0: 3.21, 1: 3.19, 2: 3.22}, "rope": {0: 3.12, 1: 3.11, 2: 3.13}}, "baseline", margin=0.01)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy import stats as sp
from statsmodels.stats.multitest import multipletests

from experiments.power import MAX_SEEDS, minimal_detectable_effect, seeds_that_decide
from experiments.study import DEFAULT_ALPHA, DEFAULT_MARGIN
from mingpt.utils import BadInput, did_you_mean

RESAMPLES = 9_999        # of the bootstrap; its generator is seeded, so a verdict is the same on every machine

Values = Mapping[int | None, float]   # seed → final value; seed None is a file that does not say, NaN a diverged run


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline. Differences are arm − baseline in `unit`; None is "cannot be computed"."""
    word: str                                       # better, worse, equivalent, undecided
    reason: str                                     # why this word, when the numbers alone do not tell
    n: int                                          # seeds that both arms have
    margin: float
    alpha: float
    difference: float | None = None
    ci: tuple[float, float] | None = None           # paired t, 1 − alpha, not adjusted for the other arms
    ci_bootstrap: tuple[float, float] | None = None # BCa, 1 − alpha; needs three seeds
    sd: float | None = None                         # of the differences, over seeds
    d_z: float | None = None                        # Cohen's d of paired differences: difference / sd
    p: float | None = None                          # paired t, two-sided
    p_holm: float | None = None                     # the same, adjusted over the study's arms
    p_sign_flip: float | None = None                # exact; never below 2 / 2^n
    p_tost: float | None = None                     # of a difference as large as the margin
    mde: float | None = None                        # least true difference found with 80 % power at this n
    seeds_needed: int | None = None                 # that would decide; about, as sd is estimated
    family: int = 1                                 # arms beside the baseline: mde and seeds allow for all of them
    arm: str = ""
    unit: str = "nats"

    def line(self, width: int = 0) -> str:
        """One readable line; `width` aligns the arms' names."""
        parts = [f"{self.arm:{width}s}  {self.word:10s}"]
        if self.difference is not None:
            parts.append(signed(self.difference, self.unit))
        if self.ci is not None:
            parts.append(f"[{signed(self.ci[0])}, {signed(self.ci[1])}]")
        parts.append(f" n = {self.n} seed{'s' * (self.n != 1)}" + self._p_text())
        return (" ".join(parts) + (f"; {self.reason}" if self.reason else "")).strip()

    def _p_text(self) -> str:
        if self.p is None:
            return ""
        text = f", {_p('p', self.p)}" + (f" ({_p('Holm', self.p_holm)})" if self.p_holm is not None else "")
        return text + (f", {_p('TOST', self.p_tost)}" if self.word == "equivalent" else "")

    def to_dict(self) -> dict:
        """For JSON, which knows neither infinity nor NaN: both become None."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def compare(arm: Values, baseline: Values, *, margin: float, alpha: float = DEFAULT_ALPHA, family: int = 1,
            resamples: int = RESAMPLES) -> Verdict:
    """The verdict on one arm, from two dicts seed → final value.

    `family` is the number of arms tested together: power is planned at alpha / family, while the word is decided on
    this arm's own p (`verdicts` adjusts it). `resamples=0` leaves the bootstrap out. Raises BadInput on a margin or
    alpha without meaning.
    """
    _check(margin, alpha)
    empty = Verdict("undecided", "", 0, margin, alpha, family=family)
    seeds = sorted((set(arm) & set(baseline)) - {None})
    pairs = np.array([[arm[s], baseline[s]] for s in seeds], dtype=float).reshape(-1, 2)
    finite = np.isfinite(pairs).all(axis=1)
    differences = pairs[finite, 0] - pairs[finite, 1]
    if len(differences) < 2:
        known = float(differences[0]) if len(differences) else None
        return replace(empty, n=len(differences), difference=known, reason=_too_few(arm, baseline, finite))
    lost = _lost(arm, baseline)
    scale = float(np.abs(pairs[finite]).max())
    evidence = _evidence(differences, scale, empty, resamples)
    return _decide(evidence, lost, evidence.p)


def verdicts(values: Mapping[str, Values], baseline: str, *, margin: float, alpha: float = DEFAULT_ALPHA,
             unit: str = "nats", resamples: int = RESAMPLES) -> dict[str, Verdict]:
    """A verdict for every arm but the baseline, with p adjusted by Holm (1979) over the arms that have one."""
    if baseline not in values:
        raise BadInput(f"no runs of the baseline {baseline!r}{did_you_mean(baseline, values)}")
    arms = [name for name in values if name != baseline]
    raw = {a: replace(compare(values[a], values[baseline], margin=margin, alpha=alpha, family=len(arms),
                              resamples=resamples), arm=a, unit=unit) for a in arms}
    tested = [a for a in arms if raw[a].p is not None]
    if not tested:
        return raw
    adjusted = multipletests([raw[a].p for a in tested], alpha=alpha, method="holm")[1]
    for a, p_holm in zip(tested, adjusted, strict=True):
        v = replace(raw[a], p_holm=float(p_holm), reason="", seeds_needed=None)
        raw[a] = _decide(v, _lost(values[a], values[baseline]), v.p_holm)
    return raw


def signed(x: float, unit: str = "") -> str:
    """−0.0830, with a true minus sign."""
    return f"{x:+.4f}".replace("-", "−") + (f" {unit}" if unit else "")


def _evidence(differences: np.ndarray, scale: float, verdict: Verdict, resamples: int) -> Verdict:
    """Every number of the verdict, and no word yet. differences: (n,), n ≥ 2."""
    n, mean, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    margin, alpha = verdict.margin, verdict.alpha
    if sd <= 1e-12 * max(scale, 1e-300):   # nothing but rounding
        return _no_variance(verdict, n, mean, 1e-12 * scale)
    half = float(sp.t.ppf(1 - alpha / 2, n - 1)) * sd / math.sqrt(n)
    above = sp.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = sp.ttest_1samp(differences, margin, alternative="less").pvalue
    return replace(
        verdict, n=n, difference=mean, sd=sd, d_z=mean / sd, ci=(mean - half, mean + half),
        ci_bootstrap=_bootstrap(differences, alpha, resamples), p=float(sp.ttest_1samp(differences, 0).pvalue),
        p_sign_flip=_sign_flip(differences), p_tost=float(max(above, below)),
        mde=sd * minimal_detectable_effect(n, alpha / verdict.family))


def _no_variance(verdict: Verdict, n: int, mean: float, rounding: float) -> Verdict:
    """The limits of every quantity as sd → 0: either the same numbers twice, or one constant between them."""
    same = abs(mean) <= rounding
    mean = 0.0 if same else mean
    return replace(
        verdict, n=n, difference=mean, sd=0.0, d_z=0.0 if same else math.copysign(math.inf, mean), ci=(mean, mean),
        p=1.0 if same else 0.0, p_sign_flip=1.0 if same else 2.0 / 2**n,
        p_tost=0.0 if abs(mean) < verdict.margin else 1.0, mde=0.0)


def _bootstrap(differences: np.ndarray, alpha: float, resamples: int) -> tuple[float, float] | None:
    """BCa interval (Efron 1987). Two points make no distribution to resample."""
    if len(differences) < 3 or not resamples:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.DegenerateDataWarning)   # it then answers NaN, which we pass on as None
        interval = sp.bootstrap((differences,), np.mean, confidence_level=1 - alpha, n_resamples=resamples,
                                method="BCa", random_state=np.random.default_rng(0)).confidence_interval
    return (float(interval.low), float(interval.high)) if np.isfinite(interval).all() else None


def _sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the mean under random signs: all 2^n of them up to n = 14, a seeded sample beyond."""
    zeros = np.zeros_like(differences)
    result = sp.permutation_test((differences, zeros), lambda a, b, axis: (a - b).mean(axis=axis), vectorized=True,
                                 permutation_type="samples", n_resamples=2**14, random_state=np.random.default_rng(0))
    return float(result.pvalue)


def _decide(v: Verdict, lost: _Lost, p: float | None) -> Verdict:
    """Put the word to the numbers: better or worse first, then equivalent, else undecided."""
    word, notes = "undecided", []
    inside = v.p_tost is not None and v.p_tost < v.alpha
    if p is not None and p < v.alpha:
        word = "better" if v.difference < 0 else "worse"
        notes += [f"yet within the margin of ±{v.margin:g}"] if inside else []
    elif inside:
        word = "equivalent"
    if v.sd == 0:
        notes.append("identical on every seed" if v.difference == 0 else
                     "the same difference on every seed: no variance to test against")
    word, notes = lost.temper(word, notes)
    seeds = None
    if word == "undecided" and not lost.decisive and v.sd:
        seeds = seeds_that_decide(v.difference, v.sd, v.margin, v.alpha, v.family)
        notes.append(f"about {seeds} seeds would decide" if seeds else f"not even {MAX_SEEDS:,} seeds would decide")
    return replace(v, word=word, reason="; ".join(notes), seeds_needed=seeds)


@dataclass(frozen=True)
class _Lost:
    """Seeds that could not be paired. Losing runs to divergence is no accident: survivors flatter the arm."""
    arm_only: tuple[int, ...]        # the arm diverged and the baseline did not
    baseline_only: tuple[int, ...]
    both: tuple[int, ...]
    unmatched: tuple[int, ...]       # one of the two was never run

    @property
    def decisive(self) -> bool:
        return bool(self.arm_only or self.baseline_only)

    def temper(self, word: str, notes: list[str]) -> tuple[str, list[str]]:
        """Withdraw a word that only the surviving seeds support, and say what is missing."""
        kept = {"worse"} if self.arm_only else {"better"}
        word = "undecided" if self.decisive and (word not in kept or self.arm_only and self.baseline_only) else word
        told = [(self.arm_only, "diverged on"), (self.baseline_only, "the baseline diverged on"),
                (self.both, "both diverged on"), (self.unmatched, "not paired:")]
        return word, notes + [f"{what} {_seed_list(seeds)}" for seeds, what in told if seeds]


def _lost(arm: Values, baseline: Values) -> _Lost:
    common = (set(arm) & set(baseline)) - {None}
    mine = {s for s in common if not math.isfinite(arm[s])}
    theirs = {s for s in common if not math.isfinite(baseline[s])}
    unmatched = (set(arm) ^ set(baseline)) - {None}
    return _Lost(*(tuple(sorted(seeds)) for seeds in (mine - theirs, theirs - mine, mine & theirs, unmatched)))


def _too_few(arm: Values, baseline: Values, finite: np.ndarray) -> str:
    """Why fewer than two pairs are left."""
    if not baseline:
        return "the baseline has no run with a final value"
    if not arm:
        return "no run with a final value"
    if None in arm or None in baseline:
        return "one unpaired run an arm"
    if not len(finite):
        return f"no common seeds (this arm {_seed_list(arm)}, baseline {_seed_list(baseline)})"
    note = "one pair tells nothing of the spread over seeds" if finite.any() else "no pair of finite values"
    return "; ".join(_lost(arm, baseline).temper("undecided", [note])[1])


def _check(margin: float, alpha: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise BadInput(f"margin must be above 0, not {margin}; {DEFAULT_MARGIN} nats is the default")
    if not 0 < alpha < 0.5:
        raise BadInput(f"alpha must lie between 0 and 0.5, not {alpha}; {DEFAULT_ALPHA} is the default")


def _seed_list(seeds) -> str:
    seeds = sorted(s for s in seeds if s is not None)
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _p(name: str, p: float) -> str:
    """p = 0.0007 and Holm 0.004, but p < 0.0001."""
    equals = " = " if name == "p" else " "
    digits = f"{p:.2g}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"{name} < 0.0001" if p < 1e-4 else f"{name}{equals}{digits}"


def _plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
