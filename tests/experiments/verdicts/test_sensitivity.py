"""Learning-rate grids: which runs choose the rate, which runs judge it, and what is shown."""

import math

import numpy as np
import pytest

from experiments.declare.study import load_study
from experiments.verdicts.sensitivity import sensitivity, split

pytestmark = pytest.mark.usefixtures("frozen")
BAR = {"margin": 0.01, "alpha": 0.05, "resamples": 0}
GRIDS = {"baseline": {"baseline": 2e-3, "baseline_lr0.001": 1e-3, "baseline_lr0.004": 4e-3},
         "rope": {"rope": 2e-3, "rope_lr0.001": 1e-3, "rope_lr0.004": 4e-3}}
BEST = {"baseline_lr0.001": 0.0, "baseline": 0.05, "baseline_lr0.004": 0.2, "rope_lr0.001": -0.02,
        "rope": -0.05,
        "rope_lr0.004": -0.2}


def runs(effects=BEST, seeds=6, noise=0.003):
    rng = np.random.default_rng(0)
    return {name: {s: 3 + effect + noise * rng.normal() for s in range(seeds)}
            for name, effect in effects.items()}


def test_each_arm_is_judged_at_its_own_best_rate_on_seeds_that_did_not_choose_it():
    found = sensitivity(GRIDS, runs(), "baseline", **BAR)
    baseline, rope = found.arms
    assert (found.selection_seeds, found.judging_seeds) == ((0, 1), (2, 3, 4, 5))
    assert (baseline.best.rate, rope.best.rate) == (1e-3, 4e-3)
    assert baseline.at_edge and rope.at_edge and baseline.verdict is None
    assert rope.verdict.word == "better" and rope.verdict.n == 4
    assert rope.verdict.difference == pytest.approx(-0.2, abs=0.01)
    assert [point.rate for point in rope.points] == [1e-3, 2e-3, 4e-3]
    assert rope.range == pytest.approx(0.18, abs=0.01)


def test_a_lucky_judging_seed_does_not_choose_the_rate():
    values = runs()
    values["rope_lr0.001"] |= dict.fromkeys((2, 3, 4, 5), 2.0)
    assert sensitivity(GRIDS, values, "baseline", **BAR).arms[1].best.rate == 4e-3


def test_a_rate_that_diverges_while_choosing_is_never_chosen_and_is_counted():
    values = runs()
    values["rope_lr0.004"][0] = math.nan
    rope = sensitivity(GRIDS, values, "baseline", **BAR).arms[1]
    assert rope.best.rate == 2e-3 and not rope.at_edge
    assert rope.points[-1].diverged == 1 and rope.points[-1].n == 5


def test_a_rate_that_diverges_while_judging_takes_better_back():
    values = runs()
    values["rope_lr0.004"][5] = math.nan
    rope = sensitivity(GRIDS, values, "baseline", **BAR).arms[1]
    assert rope.best.rate == 4e-3
    assert rope.verdict.word == "undecided" and "diverged on seed 5" in rope.verdict.reason


def test_an_arm_that_is_not_comparable_says_so_where_no_rate_is_chosen_too():
    values = runs() | {name: dict.fromkeys(range(6), math.nan) for name in GRIDS["rope"]}
    baseline, rope = sensitivity(GRIDS, values, "baseline", barred={"rope": "other data"},
                                 **BAR).arms
    assert rope.best is None and baseline.verdict is None
    assert (rope.verdict.word, rope.verdict.reason) == ("not comparable", "rope: other data")


def test_without_a_declared_split_the_first_third_chooses():
    assert split(range(3)) == ((0,), (1, 2))
    assert split(range(10)) == ((0, 1, 2), (3, 4, 5, 6, 7, 8, 9))
    assert split([4, 5, 6], [6, 9]) == ((6,), (4, 5))


def test_more_rates_do_not_make_an_arm_better():
    """The arm has nine rates without effect, the baseline has one. If the judged runs choose the
    rate, the arm often looks better."""
    rng, false, studies = np.random.default_rng(0), 0, 150
    grids = {"baseline": {"baseline": 1.0}, "x": {f"x{i}": 1.0 + i for i in range(9)}}
    for _ in range(studies):
        values = {name: dict(enumerate(3 + 0.02 * rng.normal(size=6)))
                  for name in [*grids["baseline"], *grids["x"]]}
        false += sensitivity(grids, values, "baseline", **BAR).arms[1].verdict.word in (
            "better", "worse")
    assert false / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_the_shipped_grid_has_each_arm_at_its_own_rate_and_four_more():
    study = load_study("lr_grid")
    assert study.selection_seeds == (0, 1)
    assert {arm: len(points) for arm, points in study.grids.items()} == dict.fromkeys(
        ["baseline", "rope", "swiglu", "cosine"], 4)
    assert study.arms["rope_lr0.004"] == {"model.position": "rope", "trainer.learning_rate": 4e-3}
