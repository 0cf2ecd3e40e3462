"""
Check the verdicts on simulated studies whose truth is known, 10,000 per line of the tables.

    python -m benchmarks.verdicts [--quick] [--docs docs/statistics.md]

The tests are computed here with scipy, for all studies at once. For some studies of each line, the
words and numbers are compared with those of experiments/verdicts/stats.py, and must be the same.
--docs replaces the tables in that page.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats as sp

from benchmarks.kit import simulated
from experiments.verdicts.power import minimal_detectable_effect, power_of_t, power_of_tost
from experiments.verdicts.sensitivity import split
from experiments.verdicts.stats import verdicts

STUDIES, QUICK = 10_000, 1_000
SEEDS = (3, 4, 5, 10, 20)
ARMS = 6                  # arms per study besides the baseline, as in the study `seven`
ALPHA = 0.05
CHECKED = 20              # studies per line that experiments/verdicts/stats.py judges too
RESAMPLES = 999           # resamples of the bootstrap; 0 leaves it out
RATES = 5
LOOKS = (3, 5, 10)
WORDS = np.array(["undecided", "equivalent", "better", "worse"])


@dataclass(frozen=True)
class Noise:
    """How runs scatter. `arm` and `baseline` draw values with mean 0.

    The difference of the two has standard deviation 1.
    """
    name: str
    arm: Callable[[np.random.Generator, tuple], np.ndarray]
    baseline: Callable[[np.random.Generator, tuple], np.ndarray]


def _normal(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.normal(size=shape) / np.sqrt(2)


def _exponential(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    # skewness 2: a few runs end badly
    return (rng.exponential(size=shape) - 1) / np.sqrt(2)


def _lopsided(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.exponential(size=shape) - 1


NOISES = (Noise("normal", _normal, _normal), Noise("skewed", _exponential, _exponential),
          Noise("skewed, arm only", _lopsided, lambda rng, shape: np.zeros(shape)))


def differences(rng: np.random.Generator, noise: Noise, n: int, effects: np.ndarray,
                studies: int) -> np.ndarray:
    """Draw arm − baseline for every seed: (studies, arms, seeds).

    All arms share the baseline's runs, as they do in a study.
    """
    arms = noise.arm(rng, (studies, len(effects), n)) + effects[:, None]
    return arms - noise.baseline(rng, (studies, 1, n))


@dataclass(frozen=True)
class Judged:
    """The verdict of every arm of every study. Each array is (studies, arms)."""
    p: np.ndarray
    p_holm: np.ndarray
    p_tost: np.ndarray
    low: np.ndarray
    high: np.ndarray
    words: np.ndarray


def judge(d: np.ndarray, margin: float, alpha: float = ALPHA) -> Judged:
    """Compute what experiments/verdicts/stats.py says, for all studies at once."""
    n, mean, se = d.shape[-1], d.mean(-1), sp.sem(d, axis=-1)
    p = sp.ttest_1samp(d, 0, axis=-1).pvalue
    p_tost = sp.t.sf(np.minimum(margin - mean, margin + mean) / se, n - 1)
    half, p_holm = sp.t.ppf(1 - alpha / 2, n - 1) * se, holm(p)
    words = np.where(p_holm < alpha, np.where(mean < 0, 2, 3), np.where(p_tost < alpha, 1, 0))
    return Judged(p, p_holm, p_tost, mean - half, mean + half, WORDS[words])


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values along the last axis."""
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, -1), 1), -1)
    return adjusted


def same_as_the_harness(d: np.ndarray, judged: Judged, margin: float,
                        studies: int = CHECKED) -> None:
    """AssertionError if experiments/verdicts/stats.py judges the first studies differently."""
    for i, study in enumerate(d[:studies]):
        values = {f"a{k}": dict(enumerate(arm)) for k, arm in enumerate(study)}
        values["baseline"] = dict.fromkeys(range(d.shape[-1]), 0.0)
        found = verdicts(values, "baseline", margin=margin, alpha=ALPHA, resamples=0)
        for k, v in enumerate(found.values()):
            assert v.word == judged.words[i, k], (i, k, v, judged.words[i, k])
            ours = (v.p, v.p_holm, v.p_tost, *v.ci)
            theirs = (getattr(judged, name)[i, k]
                      for name in ("p", "p_holm", "p_tost", "low", "high"))
            np.testing.assert_allclose(ours, list(theirs), rtol=1e-6, atol=1e-12)


def errors(noise: Noise, n: int, studies: int, seed: int = 0,
           resamples: int = RESAMPLES) -> dict[str, float]:
    """One line of the first table: how often words are wrong and intervals hold the truth."""
    rng = np.random.default_rng([seed, n, len(noise.name)])
    d = differences(rng, noise, n, np.zeros(ARMS), studies)
    none = judge(d, margin=1.0)
    same_as_the_harness(d, none, 1.0)
    effect = minimal_detectable_effect(n, ALPHA / ARMS)
    truth = effect * np.array([0, 0, 0, 1, 1, -1])   # `small` has small effects
    some = judge(differences(rng, noise, n, truth, studies), margin=effect)
    small = judge(differences(rng, noise, n, np.full(ARMS, 0.5), studies), margin=1e-9)
    wrong = {"better": truth >= 0, "worse": truth <= 0}
    return {"null": _any(none.words, better=True, worse=True),
            "mixed": float(np.mean(sum((some.words == word) & those
                                       for word, those in wrong.items()).any(-1))),
            "sign": _any(small.words, better=True),
            "equivalent": max(falsely_equivalent(rng, noise, n, margin, studies)
                              for margin in (1.0, 3.0)),
            "coverage": float(((none.low <= 0) & (none.high >= 0)).mean()),
            "bca": bootstrap_coverage(rng, noise, n, studies // 10, resamples) if resamples
            else math.nan}


def falsely_equivalent(rng: np.random.Generator, noise: Noise, n: int, margin: float,
                       studies: int) -> float:
    """How often an arm whose effect is exactly ± the margin is found equivalent."""
    d = differences(rng, noise, n, np.array([margin, -margin]), studies)
    return float((judge(d, margin).p_tost < ALPHA).mean())


def _any(words: np.ndarray, **which: bool) -> float:
    """The share of studies in which any arm has one of these words."""
    return float(np.isin(words, list(which)).any(-1).mean())


def bootstrap_coverage(rng: np.random.Generator, noise: Noise, n: int, studies: int,
                       resamples: int) -> float:
    """How often the BCa interval holds the truth.

    A verdict shows this interval beside the t interval, but does not use it.
    """
    d = differences(rng, noise, n, np.zeros(1), studies)[:, 0]
    with np.errstate(all="ignore"):
        found = sp.bootstrap((d,), np.mean, axis=-1, n_resamples=resamples, method="BCa", batch=50,
                             random_state=rng).confidence_interval
    return float(((found.low <= 0) & (found.high >= 0)).mean())


def power(noise: Noise, n: int, studies: int, seed: int = 1) -> dict[str, float]:
    """One line of the second table: how often effects are found, and what power.py predicts."""
    rng = np.random.default_rng([seed, n, len(noise.name)])
    line = {}
    for name, share in (("small", 0.5), ("large", 1.0)):
        effect = share * minimal_detectable_effect(n, ALPHA)
        found = judge(differences(rng, noise, n, np.array([-effect]), studies), margin=1e-9)
        line |= {name: effect, f"{name}_said": power_of_t(effect, n, ALPHA),
                 f"{name}_found": float((found.words == "better").mean())}
    margin = 4.0 / np.sqrt(n)
    none = judge(differences(rng, noise, n, np.zeros(1), studies), margin=margin)
    return line | {"margin": margin, "tost_said": power_of_tost(0.0, 1.0, n, margin, ALPHA),
                   "tost_found": float((none.p_tost < ALPHA).mean())}


def tuned(n: int, studies: int, seed: int = 2) -> dict[str, float]:
    """The share of false words if the best of five equal learning rates meets the baseline.

    The baseline has one rate. The keys say which runs choose the arm's rate: "same" (the judged
    runs), "one_out" (all seeds but the judged one) or "split" (seeds of their own).
    """
    rng = np.random.default_rng([seed, n])
    runs, base = _normal(rng, (studies, RATES, n)), _normal(rng, (studies, n))
    every = np.arange(n)
    best = runs.mean(-1).argmin(-1)
    naive = np.take_along_axis(runs, best[:, None, None], 1)[:, 0]
    # (studies, seeds): each seed's rate is chosen by all other seeds
    others = (runs.sum(-1, keepdims=True) - runs).argmin(1)
    left_out = np.take_along_axis(runs, others[:, None, :], 1)[:, 0]
    choosing, judging = map(list, split(every))
    chosen = runs[..., choosing].mean(-1).argmin(-1)
    apart = np.take_along_axis(runs, chosen[:, None, None], 1)[:, 0][:, judging]
    pairs = {"same": naive - base, "one_out": left_out - base, "split": apart - base[:, judging]}
    return {name: float((sp.ttest_1samp(d, 0, axis=-1).pvalue < ALPHA).mean())
            for name, d in pairs.items()}


def looking(studies: int, seed: int = 3) -> dict[str, float]:
    """The share of false words if a null study of one arm looks at 3, 5 and 10 seeds.

    It stops at the first look with a significant difference. "each" tests each look at α, "shared"
    at α divided by the number of looks.
    """
    d = differences(np.random.default_rng(seed), NOISES[0], LOOKS[-1], np.zeros(1), studies)[:, 0]
    p = np.stack([sp.ttest_1samp(d[:, :n], 0, axis=-1).pvalue for n in LOOKS])
    return {
        "each": float((p < ALPHA).any(0).mean()),
        "shared": float((p < ALPHA / len(LOOKS)).any(0).mean()),
    }


def tables(studies: int, say: Callable[[str], None] = lambda text: None) -> str:
    """Compute all tables, and return them in Markdown."""
    lines = [f"{studies:,} studies per row, each with a baseline and {ARMS} arms; in percent.", "",
             "| noise | seeds | any false better or worse: no effects | three real effects of six "
             "| wrong sign, small effects | false equivalent | t interval covers | BCa covers |",
             "|---|--:|--:|--:|--:|--:|--:|--:|"]
    cells = [(noise, n) for noise in NOISES for n in SEEDS]
    for noise, n in cells:
        say(f"errors: {noise.name}, {n} seeds")
        e = errors(noise, n, studies)
        lines.append(_row(noise.name, n, *e.values()))
    lines += ["",
              "| noise | seeds | small effect (sd) | found | predicted | large effect (sd) | found "
              "| predicted | equivalent found | predicted |",
              "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for noise, n in cells:
        w = power(noise, n, studies)
        lines.append(_row(noise.name, n, f"{w['small']:.2f}", w["small_found"], w["small_said"],
                          f"{w['large']:.2f}", w["large_found"], w["large_said"], w["tost_found"],
                          w["tost_said"]))
    lines += ["",
              f"| seeds | best of {RATES} rates chosen by the judged runs "
              "| by all seeds but the judged one | by seeds of its own |", "|--:|--:|--:|--:|"]
    lines += [_row(n, t["same"], t["one_out"], t["split"]) for n in SEEDS
              for t in [tuned(n, studies)]]
    look = looking(studies)
    lines += ["", f"| looks at {', '.join(map(str, LOOKS))} seeds | any false better or worse |",
              "|---|--:|", _row("each at 5 %", look["each"]),
              _row(f"each at 5 % / {len(LOOKS)}, as `stop` has it", look["shared"])]
    return "\n".join(lines) + "\n"


def _row(*cells: str | int | float) -> str:
    return "| " + " | ".join(f"{100 * c:.1f}" if isinstance(c, float) else str(c)
                             for c in cells) + " |"


def main(argv: list[str] | None = None) -> int:
    """Run this benchmark's command line."""
    return simulated.main(argv, "verdicts", __doc__, "studies", STUDIES, QUICK, tables)


if __name__ == "__main__":
    sys.exit(main())
