"""experiments/verdicts/unpaired.py: the verdict on runs that no seed pairs."""

import numpy as np
import pytest
from scipy import stats as sp

from experiments.verdicts.stats import compare_unpaired, tost_interval, verdicts
from experiments.verdicts.unpaired import evidence, shares_seeds
from experiments.verdicts.verdict import Verdict

RNG = np.random.default_rng(7)
SD = 0.0011        # of the runs of one configuration of a public benchmark


def runs(values):
    return dict(enumerate(map(float, values)))


def test_it_is_welchs_test_where_that_is_the_wider():
    a, b = RNG.normal(0, 3, 6), RNG.normal(1, 1, 6)
    found = compare_unpaired(runs(a), runs(b), margin=0.1)
    welch = sp.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert found.ci == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert (found.n, found.n_baseline, found.paired) == (6, 6, False)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_false_words_are_rare_in_every_split_of_one_configuration(n):
    """20 runs, split at random; Welch alone gives 12 % false words at 2 to 18."""
    rng, trials, false = np.random.default_rng(n), 1500, 0
    bare = Verdict("undecided", "", 0, 0.0005, 0.05)
    for _ in range(trials):
        values = rng.normal(3.28, SD, 20)
        false += evidence(runs(values[:n]), runs(values[n:]), bare).p < 0.05
    assert false / trials <= 0.05 + 1.64 * (0.05 * 0.95 / trials) ** 0.5


def test_holm_adjusts_over_paired_and_unpaired_arms_alike():
    base = {0: 3.21, 1: 3.24, 2: 3.2155, 3: 3.2301}
    values = {"base": base, "paired": {s: v - 0.05 - 0.001 * s for s, v in base.items()},
              "other": runs([3.15, 3.16, 3.14, 3.1553])}
    found = verdicts(values, "base", margin=0.01, unpaired={"other"})
    assert found["paired"].paired and not found["other"].paired
    assert found["other"].p_holm == pytest.approx(max(found["other"].p,
                                                      2 * found["paired"].p, found["other"].p))
    assert found["other"].line().startswith("other  better (unpaired)")
    assert (found["other"].ci_holm[1] < 0) == (found["other"].word == "better")


def test_equivalent_is_two_one_sided_tests_on_the_same_error():
    a, b = RNG.normal(3.0, 0.001, 9), RNG.normal(3.0, 0.001, 12)
    found = compare_unpaired(runs(a), runs(b), margin=0.01)
    low, high = tost_interval(found)
    assert found.word == "equivalent" and -0.01 < low < high < 0.01


def test_one_run_or_a_diverged_run_decides_nothing():
    assert compare_unpaired({0: 3.0}, runs([3.1, 3.2]), margin=0.01).word == "undecided"
    assert compare_unpaired({}, runs([3.1, 3.2]), margin=0.01).reason.startswith("no run")
    lost = compare_unpaired(runs([1.0, 1.01, np.nan]), runs([3.1, 3.2, 3.15]), margin=0.01)
    assert lost.word == "undecided" and "diverged" in lost.reason


def test_arms_are_paired_where_they_share_seeds():
    assert shares_seeds({0, 1, 2}, {0, 1, 2, 3})
    assert not shares_seeds({0, 1, 2}, {2, 3, 4})
    assert not shares_seeds({None}, {None})
