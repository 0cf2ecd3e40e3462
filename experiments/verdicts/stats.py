"""
Verdicts: what paired seeds say about an arm against the baseline.

Seed s gives every arm the same batches and the same shared weights. So arms are compared within one
seed, and the seeds are the replicates: everything here works on the differences arm − baseline, one
per seed. Lower is better in every metric that a study may have.

    verdicts({"baseline": {0: 3.2114, 1: 3.1902, 2: 3.2231},
              "rope": {0: 3.1208, 1: 3.1097, 2: 3.1349}}, "baseline", margin=0.01)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache

import numpy as np
from scipy import special
from scipy import stats as sp
from statsmodels.stats.multitest import multipletests

from experiments.declare.study import DEFAULT_ALPHA, DEFAULT_MARGIN
from experiments.verdicts.pairing import Lost, lost_seeds, paired, too_few
from experiments.verdicts.power import MAX_SEEDS, minimal_detectable_effect, seeds_that_decide
from experiments.verdicts.unpaired import diverged, evidence
from experiments.verdicts.verdict import NOT_COMPARABLE, Values, Verdict, signed
from mingpt.utils import BadInput, did_you_mean

__all__ = ["RESAMPLES", "Values", "Verdict", "compare", "compare_unpaired", "holm", "signed",
           "verdicts"]

# Resamples of the bootstrap. Its generator is seeded, so a verdict is the same on every machine.
RESAMPLES = 9_999


def compare(arm: Values, baseline: Values, *, margin: float, alpha: float = DEFAULT_ALPHA,
            family: int = 1, resamples: int = RESAMPLES) -> Verdict:
    """Return the verdict on one arm, from two dicts seed → final value.

    `family` is the number of arms tested together. Power is planned at alpha / family, while the
    word is decided on this arm's own p (`verdicts` adjusts it). `resamples=0` leaves out the
    bootstrap and the sign flips. Raises BadInput on a margin or alpha out of range.
    """
    _check(margin, alpha)
    empty = _unpaired(Verdict("undecided", "", 0, margin, alpha, family=family), arm, baseline)
    pairs = paired(arm, baseline)
    finite = np.isfinite(pairs).all(axis=1)
    differences = pairs[finite, 0] - pairs[finite, 1]
    if len(differences) < 2:
        known = float(differences[0]) if len(differences) else None
        return replace(empty, n=len(differences), difference=known, reason=too_few(arm, baseline))
    scale = float(np.abs(pairs[finite]).max())
    evidence = replace(_evidence(differences, scale, empty, resamples),
                       resolution=resolution(pairs[finite]))
    return _decide(evidence, lost_seeds(arm, baseline), evidence.p)


def compare_unpaired(arm: Values, baseline: Values, *, margin: float,
                     alpha: float = DEFAULT_ALPHA, family: int = 1) -> Verdict:
    """Return the verdict on one arm whose runs share no seeds with the baseline's. The keys of the
    two dicts only number the runs. Raises BadInput on a margin or alpha out of range."""
    _check(margin, alpha)
    empty = _unpaired(Verdict("undecided", "", 0, margin, alpha, family=family), arm, baseline)
    found = evidence(arm, baseline, empty)
    if found.sd is None:
        return replace(found, reason="; ".join(
            diverged(arm, baseline).temper("undecided", [found.reason])[1]))
    finite = [v for values in (arm, baseline) for v in values.values() if math.isfinite(v)]
    found = replace(found, resolution=resolution(np.array(finite)))
    return _decide(found, diverged(arm, baseline), found.p)


def verdicts(values: Mapping[str, Values], baseline: str, *, margin: float,
             alpha: float = DEFAULT_ALPHA, unit: str = "nats", resamples: int = RESAMPLES,
             barred: Mapping[str, str] | None = None,
             unpaired: Container[str] = ()) -> dict[str, Verdict]:
    """Return a verdict for every arm except the baseline, with p adjusted by Holm (1979) over the
    arms that have a p.

    `barred` names the arms that are not comparable, with the reason. They get no numbers and do not
    count in the family. `unpaired` names the arms whose runs no seed pairs with the baseline's.
    Raises BadInput where the baseline has no runs.
    """
    barred = barred or {}
    if baseline not in values:
        raise BadInput(f"no runs of the baseline {baseline!r}{did_you_mean(baseline, values)}")
    names = [name for name in values if name != baseline]
    arms = [name for name in names if name not in barred]
    own = values[baseline]
    raw = {a: replace(compare_unpaired(values[a], own, margin=margin, alpha=alpha,
                                       family=len(arms)) if a in unpaired else
                      compare(values[a], own, margin=margin, alpha=alpha, family=len(arms),
                              resamples=resamples), arm=a, unit=unit)
           for a in arms}
    judged = holm(raw, {a: diverged(values[a], own) if a in unpaired
                        else lost_seeds(values[a], own) for a in arms})
    return {a: judged[a] if a in judged else not_comparable(a, barred[a], margin, alpha, unit)
            for a in names}


def not_comparable(arm: str, reason: str, margin: float, alpha: float, unit: str) -> Verdict:
    """Return the verdict on an arm whose runs differ from the baseline's in more than the arm. It
    has no numbers."""
    return Verdict(NOT_COMPARABLE, reason, 0, margin, alpha, arm=arm, unit=unit, family=0)


def holm(raw: Mapping[str, Verdict], lost: Mapping[str, Lost] | None = None) -> dict[str, Verdict]:
    """Decide the verdicts of one family again, with p adjusted over those that have a p (Holm
    1979)."""
    tested = [a for a in raw if raw[a].p is not None]
    decided = dict(raw)
    if not tested:
        return decided
    p, alpha = [raw[a].p for a in tested], raw[tested[0]].alpha
    adjusted = multipletests(p, alpha=alpha, method="holm")[1]
    for a, p_holm, level in zip(tested, adjusted, holm_levels(p, alpha), strict=True):
        v = replace(raw[a], p_holm=float(p_holm), ci_holm=_interval(raw[a], level), reason="",
                    seeds_needed=None)
        decided[a] = _decide(v, (lost or {}).get(a, Lost()), v.p_holm)
    return decided


def holm_levels(p: Sequence[float], alpha: float) -> list[float]:
    """Return the level at which Holm tests each p: alpha / m for the smallest, alpha / (m − 1) for
    the next, and so on up to the first that fails. The level of the first that fails applies to all
    larger p. A p is below its level exactly where its adjusted p is below alpha."""
    levels, level, failed = [alpha] * len(p), alpha, False
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        level = level if failed else alpha / (len(p) - rank)
        levels[i], failed = level, failed or p[i] >= level
    return levels


def _evidence(differences: np.ndarray, scale: float, verdict: Verdict, resamples: int) -> Verdict:
    """Return the verdict with all its numbers, and no word yet. differences: (n,), n ≥ 2."""
    n, mean, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    margin, alpha = verdict.margin, verdict.alpha
    if sd <= 1e-12 * max(scale, 1e-300):   # only rounding
        return _no_variance(verdict, n, mean, 1e-12 * scale)
    above, below, apart = (_t(differences, at) for at in (-margin, margin, 0.0))
    known = replace(verdict, n=n, difference=mean, sd=sd, d_z=mean / sd)
    return replace(
        known, ci=_interval(known, alpha), ci_bootstrap=_bootstrap(differences, alpha, resamples),
        p=2 * _tail(n - 1, abs(apart)), p_tost=max(_tail(n - 1, above), _tail(n - 1, -below)),
        p_sign_flip=_sign_flip(differences) if resamples else None,
        mde=sd * minimal_detectable_effect(n, alpha / verdict.family))


def _t(differences: np.ndarray, at: float) -> float:
    """Return the paired t of the differences against a true mean of `at`."""
    error = math.sqrt(_variance(differences) / len(differences))
    return float((differences.mean() - at) / error)


def _variance(x: np.ndarray) -> float:
    """Return the variance, rounded as in scipy's t-tests, whose numbers these are to the last
    digit. They are written out here because scipy takes 50 times as long, most of it to check its
    arguments."""
    return float(x.var() * (len(x) / (len(x) - 1)))


def _tail(freedom: float, t: float) -> float:
    """Return the chance that Student's t is above `t`."""
    return float(special.stdtr(freedom, -t))


def resolution(values: np.ndarray) -> float:
    """Return the step in which the values are written: 0.001 where none has more than three
    decimals."""
    return 10.0 ** min(Decimal(repr(float(v))).as_tuple().exponent for v in values.flat)


def _interval(v: Verdict, alpha: float) -> tuple[float, float]:
    """Return the confidence interval of the t test behind the verdict, at 1 − alpha."""
    freedom = v.n - 1 if v.freedom is None else v.freedom
    error = v.sd / math.sqrt(v.n) if v.error is None else v.error
    half = float(special.stdtrit(freedom, 1 - alpha / 2)) * error
    return v.difference - half, v.difference + half


def tost_interval(v: Verdict) -> tuple[float, float] | None:
    """Return the interval at 1 − 2 alpha, which lies inside the margin exactly where two one-sided
    tests find the arm equivalent. None where it cannot be computed."""
    return None if v.sd is None or v.difference is None or v.n < 2 else _interval(v, 2 * v.alpha)


def _no_variance(verdict: Verdict, n: int, mean: float, rounding: float) -> Verdict:
    """Return the limit of every quantity as sd → 0: both arms have the same numbers, or differ by
    one constant. Differences that are all the same and not 0 decide nothing, however many there
    are: values written with few decimals have them by chance in a tenth of all studies of three
    seeds."""
    same = abs(mean) <= rounding
    mean = 0.0 if same else mean
    found = replace(verdict, n=n, difference=mean, sd=0.0, ci=(mean, mean),
                    p_sign_flip=1.0 if same else 2.0 / 2**n)
    if not same:
        return found
    return replace(found, d_z=0.0, p=1.0, p_tost=0.0, mde=0.0)


def _bootstrap(differences: np.ndarray, alpha: float, resamples: int) -> tuple[float, float] | None:
    """Return the BCa interval of the mean (Efron 1987); None for fewer than three differences,
    which are too few to resample."""
    if len(differences) < 3 or not resamples:
        return None
    with warnings.catch_warnings():
        # on degenerate data scipy returns NaN, which becomes None below
        warnings.simplefilter("ignore", sp.DegenerateDataWarning)
        interval = sp.bootstrap((differences,), np.mean, confidence_level=1 - alpha,
                                n_resamples=resamples, method="BCa",
                                random_state=np.random.default_rng(0)).confidence_interval
    return (float(interval.low), float(interval.high)) if np.isfinite(interval).all() else None


def _sign_flip(differences: np.ndarray) -> float:
    """Return the two-sided p of the mean under random signs. All 2^n sign patterns are used up to
    n = 14, a seeded sample of them beyond."""
    signs, whole = _signs(len(differences))
    means, mean = (signs * differences).mean(axis=-1), differences.mean()
    near = 100 * np.finfo(float).eps * abs(mean)     # means that differ by rounding alone are equal
    tails = [int((means <= mean + near).sum()), int((means >= mean - near).sum())]
    p = min((tail + (not whole)) / (len(means) + (not whole)) for tail in tails)
    return min(1.0, 2 * p)


@cache
def _signs(n: int) -> tuple[np.ndarray, bool]:
    """Return ((patterns, n) of −1 and 1, whether these are all patterns), as scipy draws them. Arms
    with the same number of seeds share them."""
    drawn = []

    def keep(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        drawn.append((a - b).reshape(-1, n))
        return (a - b).mean(axis=axis)
    sp.permutation_test((np.ones(n), np.zeros(n)), keep, vectorized=True, n_resamples=2**14,
                        permutation_type="samples", random_state=np.random.default_rng(0))
    signs = np.concatenate(drawn[1:])        # the first call is for the values as they are
    return signs.astype(np.int8), len(signs) == 2**n


def _unpaired(verdict: Verdict, arm: Values, baseline: Values) -> Verdict:
    """Return the verdict with the numbers of two independent samples (Welch, Cohen's d), where both
    have a variance. No word depends on them."""
    a, b = (np.array([v for v in values.values() if math.isfinite(v)])
            for values in (arm, baseline))
    if (min(len(a), len(b)) < 2
            or min(a.std(), b.std()) <= 1e-12 * max(abs(a.mean()), abs(b.mean()))):
        return verdict
    apart, errors = float(a.mean() - b.mean()), [_variance(x) / len(x) for x in (a, b)]
    error = math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(e**2 / (len(x) - 1)
                                     for e, x in zip(errors, (a, b), strict=True))
    tail = (1 - (1 - verdict.alpha)) / 2        # rounded as scipy's ttest_ind rounds it
    low, high = special.stdtrit(freedom, (tail, 1 - tail)) * error + apart
    pooled = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1))
                       / (len(a) + len(b) - 2))
    return replace(verdict, p_welch=2 * _tail(freedom, abs(apart / error)),
                   ci_welch=(float(low), float(high)), cohens_d=apart / pooled)


def _decide(v: Verdict, lost: Lost, p: float | None) -> Verdict:
    """Choose the word for the numbers: better or worse first, then equivalent, else undecided."""
    word, notes = "undecided", []
    inside = v.p_tost is not None and v.p_tost < v.alpha
    if p is not None and p < v.alpha:
        word = "better" if v.difference < 0 else "worse"
        notes += [f"but within the margin of ±{v.margin:g}"] if inside else []
    elif inside:
        word = "equivalent"
    if v.sd == 0:
        where = "on every seed" if v.paired else "in every run"
        notes.append(f"identical {where}" if v.difference == 0 else
                     f"the same difference {where}: no variance to test against, as happens with "
                     "coarse values")
    coarse = 0 < (v.sd or 0) < v.resolution
    if coarse:
        word = "undecided"
        notes = [f"the values are written in steps of {v.resolution:g}, coarse against their "
                 f"spread of {v.sd:.2g}"]
    word, notes = lost.temper(word, notes)
    seeds = None
    if word == "undecided" and not lost.decisive and v.sd and not coarse:
        seeds = seeds_that_decide(v.difference, v.sd, v.margin, v.alpha, v.family)
        what = "seeds" if v.paired else "runs per arm"
        notes.append(f"about {seeds} {what} would decide" if seeds
                     else f"not even {MAX_SEEDS:,} {what} would decide")
    return replace(v, word=word, reason="; ".join(notes), seeds_needed=seeds)


def _check(margin: float, alpha: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise BadInput(
            f"margin must be above 0, not {margin}; {DEFAULT_MARGIN} nats is the default"
        )
    if not 0 < alpha < 0.5:
        raise BadInput(f"alpha must lie between 0 and 0.5, not {alpha}; {DEFAULT_ALPHA} is the "
                       f"default")
