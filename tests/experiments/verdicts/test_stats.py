"""Verdicts, mostly checked on simulated studies whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as sp

import benchmarks.verdicts as simulated
from experiments.verdicts.power import (
    MAX_SEEDS,
    minimal_detectable_effect,
    power_of_t,
    power_of_tost,
    seeds_that_decide,
)
from experiments.verdicts.stats import compare, verdicts
from mingpt.utils import BadInput

MARGIN = 0.01
BASE = {0: 3.21, 1: 3.19, 2: 3.22, 3: 3.20}


def shifted(by, noise=(0.0, 0.002, -0.001, 0.0005)):
    return {seed: value + by + noise[seed] for seed, value in BASE.items()}


def study(rng, effects, seeds=4, spread=0.02, noise=0.005):
    """{arm: {seed: value}}. The arms share the level of each seed, which pairing removes."""
    level = {s: 3.2 + spread * rng.normal() for s in range(seeds)}
    arms = {"baseline": 0.0} | {f"arm{i}": effect for i, effect in enumerate(effects)}
    return {arm: {s: v + effect + noise * rng.normal() for s, v in level.items()}
            for arm, effect in arms.items()}


def judge(rng, effects, **kwargs):
    return verdicts(study(rng, effects, **kwargs), "baseline", margin=MARGIN, resamples=0)


# --- simulated studies ---

pytestmark = pytest.mark.usefixtures("frozen")


@pytest.mark.parametrize("noise", [simulated.NOISES[0], simulated.NOISES[1]],
                         ids=lambda noise: noise.name)
@pytest.mark.parametrize("n", [3, 5, 20])
def test_words_are_false_in_at_most_five_percent_of_studies_and_intervals_cover(noise, n):
    """A short form of benchmarks/verdicts.py, which also compares some of its studies with
    `verdicts` itself."""
    studies = 1500
    found = simulated.errors(noise, n, studies, resamples=0)
    slack = 3 * math.sqrt(0.05 * 0.95 / studies)
    assert max(found["null"], found["mixed"], found["sign"], found["equivalent"]) <= 0.05 + slack
    # the effects are exactly at the margin, so the test must err sometimes
    assert found["equivalent"] > 0.02
    assert abs(found["coverage"] - 0.95) <= 0.03


def test_a_skewed_arm_against_a_steady_baseline_errs_as_the_page_says():
    assert 0.15 < simulated.errors(simulated.NOISES[2], 5, 1500, resamples=0)["null"] < 0.35


@pytest.mark.parametrize("n", [3, 10])
def test_power_is_found_as_it_is_predicted(n):
    found = simulated.power(simulated.NOISES[0], n, 4000)
    for what in ("small", "large", "tost"):
        assert found[f"{what}_found"] == pytest.approx(found[f"{what}_said"], abs=0.025)


def test_several_looks_have_the_error_of_one():
    found = simulated.looking(4000)
    assert found["shared"] <= 0.05 + 0.011 < found["each"]


def test_the_pages_tables_are_those_of_the_full_simulation():
    page = (Path(simulated.__file__).parent.parent / "docs" / "statistics.md").read_text()
    assert "10,000 studies per row" in page
    row = next(line for line in page.splitlines() if line.startswith("| 5 | 7.6"))
    # the simulation is seeded, so it gives the same again
    assert row == simulated._row(5, *simulated.tuned(5, simulated.STUDIES).values())


def test_a_real_effect_is_found_and_a_shift_of_two_standard_errors_is_not():
    rng = np.random.default_rng(2)
    for _ in range(20):
        assert judge(rng, [-0.08, 0.0, 0.08])["arm0"].word == "better"
        assert judge(rng, [-0.08, 0.0, 0.08])["arm2"].word == "worse"
    noise = np.array([1.0, -1.0, 0.5, -0.5])
    differences = 2 * noise.std(ddof=1) / 2 + noise   # mean = two standard errors at n = 4
    arm = {s: 3.2 + 0.05 * d for s, d in enumerate(differences)}
    assert compare(arm, dict.fromkeys(range(4), 3.2), margin=MARGIN).word == "undecided"


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6, 0.001])
def test_the_minimal_detectable_effect_is_detected_with_80_percent_power(n, alpha):
    assert power_of_t(minimal_detectable_effect(n, alpha), n, alpha) == pytest.approx(0.8, abs=1e-3)


def test_the_seeds_that_decide_are_the_fewest_that_do():
    n = seeds_that_decide(0.5, 1.0, 0.01, 0.05)
    assert power_of_t(0.5, n, 0.05) >= 0.8 > power_of_t(0.5, n - 1, 0.05)
    n = seeds_that_decide(0.0, 1.0, 1.0, 0.05)
    assert power_of_tost(0.0, 1.0, n, 1.0, 0.05) >= 0.8 > power_of_tost(0.0, 1.0, n - 1, 1.0, 0.05)
    assert seeds_that_decide(0.0, 1.0, 1e-3, 0.05) is None
    # 12,000 seeds would decide, but MAX_SEEDS is 10,000
    assert seeds_that_decide(0.0256, 1.0, 1e-3, 0.05) is None
    assert 9_000 < seeds_that_decide(0.0290, 1.0, 1e-3, 0.05) < MAX_SEEDS


# --- the numbers ---

def test_the_numbers_are_scipys_on_the_paired_differences():
    arm = shifted(-0.02)
    v = compare(arm, BASE, margin=MARGIN)
    result = sp.ttest_rel(list(arm.values()), list(BASE.values()))
    assert v.p == pytest.approx(result.pvalue)
    assert v.ci == pytest.approx(tuple(result.confidence_interval(0.95)))
    differences = np.array(list(arm.values())) - np.array(list(BASE.values()))
    assert v.d_z == pytest.approx(differences.mean() / differences.std(ddof=1))
    # all four signs agree: the smallest p that four seeds can give
    assert v.p_sign_flip == pytest.approx(2 / 2**4)
    assert v.ci_bootstrap[0] < v.difference < v.ci_bootstrap[1]
    assert compare(arm, BASE, margin=MARGIN) == v     # it is seeded, so it gives the same again


@pytest.mark.parametrize("n", [3, 9, 20])
def test_the_quick_forms_give_scipys_numbers_to_the_last_digit(n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        arm, base = rng.normal(1.6, 0.01, (2, n))
        v = compare(dict(enumerate(arm)), dict(enumerate(base)), margin=MARGIN)
        paired, welch = sp.ttest_1samp(arm - base, 0), sp.ttest_ind(arm, base, equal_var=False)
        above = sp.ttest_1samp(arm - base, -MARGIN, alternative="greater").pvalue
        below = sp.ttest_1samp(arm - base, MARGIN, alternative="less").pvalue
        assert (v.p, v.p_tost, v.p_welch) == (paired.pvalue, max(above, below), welch.pvalue)
        assert v.ci_welch == tuple(welch.confidence_interval(0.95))
    flips = sp.permutation_test((arm - base, np.zeros(n)), lambda a, b, axis: (a - b).mean(axis),
                                vectorized=True, permutation_type="samples", n_resamples=2**14,
                                random_state=np.random.default_rng(0))
    assert v.p_sign_flip == flips.pvalue


def test_holm_multiplies_the_smallest_p_by_the_number_of_arms_and_the_next_by_one_less():
    values = {"baseline": BASE, "a": shifted(-0.05),
              "b": shifted(0.02, (0.01, -0.005, 0.01, -0.01)),
              "c": shifted(0.001, (0.02, -0.02, 0.01, -0.015))}
    judged = verdicts(values, "baseline", margin=MARGIN)
    assert list(judged) == ["a", "b", "c"]
    by_p = sorted(judged.values(), key=lambda v: v.p)
    stepped = np.maximum.accumulate([k * v.p for k, v in zip((3, 2, 1), by_p, strict=True)])
    assert [v.p_holm for v in by_p] == pytest.approx(np.minimum(stepped, 1).tolist())


def test_holm_can_take_a_word_back():
    arm = shifted(-0.006, (0.0, 0.003, -0.002, 0.003))
    assert compare(arm, BASE, margin=0.001).word == "better"
    crowd = {f"n{i}": shifted(0.0, (0.01, -0.02, 0.03, -0.01)) for i in range(20)}
    judged = verdicts({"baseline": BASE, "arm": arm} | crowd, "baseline", margin=0.001)
    assert judged["arm"].word == "undecided"
    assert judged["arm"].seeds_needed > 4


def test_significant_but_inside_the_margin_is_better_and_says_so():
    v = compare(shifted(-0.004, (0, 1.37e-4, -1.37e-4, 0)), BASE, margin=MARGIN)
    assert v.word == "better"
    assert "within the margin" in v.reason


def test_values_written_in_steps_as_wide_as_their_spread_get_no_word():
    rng, judged = np.random.default_rng(0), set()
    for _ in range(60):
        values = {arm: {s: float(x) for s, x in enumerate(rng.normal(mean, 3e-4, 4))}
                  for arm, mean in (("b", 3), ("a", 2.99))}
        fine = compare(values["a"], values["b"], margin=1e-4)
        assert fine.word == "better"
        coarse = compare(*({s: round(x, 3) for s, x in values[arm].items()} for arm in "ab"),
                         margin=1e-4)
        if 0 < coarse.sd < 1e-3:
            assert (
                coarse.word == "undecided"
                and "written in steps of 0.001, coarse against" in coarse.reason
            )
        judged.add(coarse.word)
    assert judged == {"undecided"}


def test_the_interval_at_holms_level_leaves_zero_out_exactly_when_the_word_is_better_or_worse():
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(40):
        for v in judge(rng, [-0.02, -0.008, 0.0, 0.01], noise=0.006).values():
            without_zero = v.ci_holm[0] > 0 or v.ci_holm[1] < 0
            assert without_zero == (v.word in ("better", "worse")) == (v.p_holm < 0.05)
            assert v.ci_holm[0] <= v.ci[0] and v.ci[1] <= v.ci_holm[1]
            seen.add(without_zero)
    assert seen == {True, False}


def test_arms_without_common_seeds_are_undecided_and_get_welchs_test():
    arm, base = {0: 3.1, 1: 3.12, 2: 3.11}, {5: 3.2, 6: 3.21, 7: 3.19, 8: 3.2}
    v = compare(arm, base, margin=MARGIN)
    reference = sp.ttest_ind(list(arm.values()), list(base.values()), equal_var=False)
    assert (v.word, v.p) == ("undecided", None)
    assert v.p_welch == pytest.approx(reference.pvalue)
    assert v.ci_welch == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert v.cohens_d == pytest.approx(-9.8, abs=1.5)
    assert "unpaired (Welch)" in v.line()


# --- what cannot be tested ---

def test_an_arm_identical_on_every_seed_is_equivalent_with_difference_zero():
    v = verdicts({"baseline": BASE, "same": dict(BASE)}, "baseline", margin=MARGIN)["same"]
    assert (v.word, v.difference, v.p, v.p_tost) == ("equivalent", 0.0, 1.0, 0.0)
    assert "identical on every seed" in v.reason


def test_a_constant_shift_gets_no_word_and_says_that_there_was_no_variance():
    v = compare({s: x + 0.1 for s, x in BASE.items()}, BASE, margin=MARGIN)
    assert (v.word, v.p, v.p_tost) == ("undecided", None, None)
    assert "no variance" in v.reason
    json.loads(json.dumps(v.to_dict(), allow_nan=False))


@pytest.mark.parametrize(("arm", "base", "why"), [
    ({0: 3.1}, {0: 3.2}, "one pair"),
    ({0: 3.1, 1: 3.1}, {2: 3.2, 3: 3.2}, "no common seeds"),
    ({None: 3.1}, {None: 3.2}, "one unpaired run per arm"),
    ({0: 3.1}, {None: 3.2, 0: 3.2}, "one pair says nothing about the spread over seeds"),
    ({None: math.nan}, {None: math.nan}, "one unpaired run per arm"),
    ({}, {0: 3.2, 1: 3.2}, "no run with a final value"),
    ({0: 3.1, 1: 3.1}, {}, "the baseline has no run"),
])
def test_what_cannot_be_paired_is_undecided_and_says_why(arm, base, why):
    v = compare(arm, base, margin=MARGIN)
    assert v.word == "undecided"
    assert why in v.reason
    assert v.p is None
    assert why in v.line()


def test_an_arm_that_diverged_on_a_seed_is_never_better_by_its_survivors():
    arm = shifted(-0.1) | {3: math.nan}
    v = compare(arm, BASE, margin=MARGIN)
    assert v.word == "undecided"
    assert "diverged on seed 3" in v.reason
    assert v.n == 3
    assert compare(shifted(0.1) | {3: math.inf}, BASE, margin=MARGIN).word == "worse"


def test_a_baseline_that_diverged_on_a_seed_cannot_make_an_arm_worse():
    v = compare(shifted(0.1), BASE | {0: math.nan}, margin=MARGIN)
    assert v.word == "undecided"
    assert "the baseline diverged on seed 0" in v.reason


def test_seeds_that_only_one_arm_has_are_named():
    v = compare({s: x for s, x in shifted(-0.1).items() if s != 2}, BASE, margin=MARGIN)
    assert v.word == "better"
    assert "not paired: seed 2" in v.reason


# --- the line, and bad input ---

def test_the_line_reads_as_the_documentation_shows():
    v = verdicts({"baseline": BASE, "rope": shifted(-0.083)}, "baseline", margin=MARGIN)["rope"]
    assert v.line(6).startswith("rope    better     −0.0826 nats [−0.0846, −0.0806]  n = 4 seeds, "
                                "p < 0.0001 (Holm ")


@pytest.mark.parametrize("kwargs", [{"margin": 0.0}, {"margin": -1}, {"margin": math.nan},
                                    {"margin": 1, "alpha": 0.0}])
def test_a_margin_or_alpha_without_meaning_is_refused(kwargs):
    with pytest.raises(BadInput, match="default"):
        compare(BASE, BASE, **kwargs)


def test_an_unknown_baseline_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'baseline'"):
        verdicts({"baseline": BASE}, "basline", margin=MARGIN)


def test_seeds_that_all_differ_alike_decide_nothing_however_many():
    """With values of two decimals, both differences are equal in a tenth of the studies without
    effect."""
    for shift in (-0.01, 0.001):
        v = compare({0: 3.21 + shift, 1: 3.19 + shift}, {0: 3.21, 1: 3.19}, margin=MARGIN)
        assert (v.word, v.p) == ("undecided", None)
        assert "no variance" in v.reason
    same = {0: 3.21, 1: 3.19}
    assert compare(same, same, margin=MARGIN).word == "equivalent"
    assert compare({s: 3.1 + s for s in range(3)}, {s: 3.2 + s for s in range(3)},
                   margin=MARGIN).word == "undecided"
