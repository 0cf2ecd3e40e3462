"""A seed that ends far from the others is named. Normal noise names one in a hundred studies."""

import math

import numpy as np
import pytest

from experiments.verdicts.outliers import outliers, scattered


def study(seeds=5, arms=4, seed=0):
    draw = np.random.default_rng(seed)
    shared = draw.normal(2.0, 0.02, seeds)
    return {f"arm{a}": dict(enumerate((shared + draw.normal(0, 0.01, seeds)).tolist()))
            for a in range(arms)}


def test_a_planted_bad_run_is_named_with_its_arm_seed_and_size():
    values = study()
    values["arm2"][3] += 0.4
    [found] = outliers(values, "arm0", 0.001)
    assert (found.arm, found.seed, found.n) == ("arm2", 3, 5)
    assert found.value == pytest.approx(values["arm2"][3] - values["arm0"][3])
    assert found.line().startswith("arm2.s3: +0.4")
    # far from the others, but by less than the margin
    assert outliers(values, "arm0", margin=0.5) == []


def test_a_bad_run_of_the_baseline_is_its_own_and_shows_in_every_difference():
    values = study()
    values["arm0"][1] += 1.0
    assert [(o.arm, o.seed) for o in outliers(values, "arm0", 0.001)] == [
        (f"arm{a}", 1) for a in range(4)]


def test_of_seeds_that_are_otherwise_identical_the_one_that_is_not_is_named():
    again = dict(study()["arm0"])
    again[2] += 0.001
    [found] = outliers({"b": study()["arm0"], "again": again}, "b", 1e-9)
    assert (found.arm, found.seed, found.p) == ("again", 2, 0.0)


def test_among_normal_studies_one_in_a_hundred_has_an_outlier():
    named = sum(bool(outliers(study(seeds=6, seed=s), "arm0", 1e-9)) for s in range(2000)) / 2000
    assert named <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 2000)
    assert named > 0


def test_p_is_grubbs_critical_value():
    """At the critical value of Grubbs' table (2.020 for n = 7, two-sided, 5 %), p is 5 %."""
    rest = np.array([-1.0, -0.5, 0.1, 0.2, 0.5, 1.0])
    low, high = 1.0, 50.0
    for _ in range(60):      # bisect for the seventh value whose statistic is that of the table
        middle = (low + high) / 2
        seven = np.append(rest, middle)
        low, high = ((middle, high) if (middle - seven.mean()) / seven.std(ddof=1) < 2.020
                     else (low, middle))
    import experiments.verdicts.outliers as module
    assert module._farthest("x", np.arange(7), np.append(rest, low)).p == pytest.approx(
        0.05, rel=0.02)


@pytest.mark.parametrize("values", [
    {0: 1.0, 1: 1.0, 2: 9.0}, {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, {None: 1.0}, {},
    {0: 1.0, 1: math.nan, 2: 1.1, 3: 9.0}])
def test_where_there_is_nothing_to_judge_nothing_is_said(values):
    assert outliers({"b": values}, "b", 1e-9) == []
    assert outliers({"b": study()["arm0"], "a": {s: v for s, v in values.items() if s != 3}}, "b",
                    1e-9) == []




# --- two or three seeds ---

@pytest.mark.parametrize("seeds", [2, 3])
def test_of_few_seeds_an_arm_far_apart_is_named_with_its_values_and_no_seed_is_blamed(seeds):
    values = study(seeds=seeds)
    values["arm2"][1] += 0.8
    [found] = scattered(values, 0.001)
    assert (found.arm, found.apart) == ("arm2", pytest.approx(0.8, abs=0.1))
    assert found.line().startswith(f"arm2: its {seeds} seeds ended 0.") and "s1 2." in found.line()
    assert "cannot show which" in found.line()
    assert scattered(values, margin=1.0) == [] == scattered(study(seeds=seeds), 0.001)
    assert scattered({"arm2": values["arm2"]}, 0.001) == []       # nothing to compare it with
    values["arm1"][0] = math.nan                                  # a diverged run is told elsewhere
    assert [each.arm for each in scattered(values, 0.001)] == ["arm2"]


@pytest.mark.parametrize("seeds", [2, 3])
def test_among_normal_studies_of_few_seeds_one_in_twenty_names_an_arm(seeds):
    def drawn(seed):
        draw = np.random.default_rng(seed)
        return {f"arm{a}": dict(enumerate(draw.normal(2.0, 0.01, seeds))) for a in range(4)}
    named = sum(bool(scattered(drawn(s), 1e-9)) for s in range(2000)) / 2000
    assert 0 < named <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
