"""The noise floor."""

import math

import pytest

from experiments.verdicts.noise import noise_floor, null_kind, same_baseline

BASE = {0: 3.0, 1: 3.1, 2: 2.9}


def test_without_an_a_a_arm_the_floor_is_root_two_times_the_spread_over_seeds():
    floor = noise_floor(BASE)
    assert (floor.source, floor.n) == ("seeds", 3)
    assert floor.spread == pytest.approx(math.sqrt(2) * 0.1)
    assert floor.of_mean(4) == pytest.approx(floor.spread / 2)
    assert floor.line().endswith("differ by about 0.1414 nats by chance (one standard deviation, "
                                 "estimated from the baseline's 3 seeds)")


def test_a_a_arms_measure_it_and_each_kind_for_itself():
    floor = noise_floor(BASE, {"again": ("nothing", dict(BASE)),
                               "rounding": ("rounding", {0: 3.001, 1: 3.099, 2: 2.9}),
                               "reseeded": ("seeds", {0: 3.3, 1: 3.0, 2: 2.9})})
    assert (floor.source, floor.n, floor.arms, floor.identical) == (
        "A/A", 3, ("reseeded",), ("again",))
    assert floor.spread == pytest.approx(math.sqrt((0.3**2 + 0.1**2) / 3))
    assert (floor.mean, floor.largest) == (pytest.approx(0.2 / 3), pytest.approx(0.3))
    assert floor.rounding == pytest.approx(math.sqrt(2e-6 / 3))
    assert "3 pairs of runs that differ in the seed alone: reseeded against" in floor.line()
    assert floor.line().endswith("repeating a seed gave the same bits (again)")


def test_one_seed_has_no_floor_and_a_diverged_run_is_not_in_it():
    assert noise_floor({0: 3.0}).spread is None and "unknown" in noise_floor({0: 3.0}).line()
    assert noise_floor(BASE | {3: math.nan}).n == 3


def test_an_arm_is_an_a_a_arm_when_it_changes_nothing_that_matters():
    assert null_kind({}) == "nothing"
    assert null_kind({"model.backend": ["auto", "banded"]}) == "rounding"
    assert null_kind({"run.seed_offset": [0, 1000]}) == "seeds"
    assert null_kind({"run.seed_offset": [0, 1], "model.norm": ["a", "b"]}) is None


def test_only_a_baseline_of_the_same_model_training_and_data_lends_its_noise():
    config = {"model": {"n_layer": 4}, "trainer": {"learning_rate": 1e-3, "device": "cpu"},
              "data": {"cache": "here"},
              "run": {"log_every": 1}}
    record = {"data": {"hash": "a"}, "config": config}

    def other(**change):
        return {"data": {"hash": "a"}, "config": config | change}
    assert same_baseline(record, other(run={"log_every": 9}, data={"cache": "there"}))
    assert same_baseline(record, other(trainer={"learning_rate": 1e-3, "device": "cuda"}))
    assert same_baseline(record, other(model={**config["model"], "added_since": 1}))
    assert not same_baseline(record, other(model={"n_layer": 5}))
    assert not same_baseline(record, {**other(), "data": {"hash": "b"}})
    assert not same_baseline(record, None)
    assert not any(same_baseline(record, {**other(), "config": odd})
                   for odd in (None, [], "x", {"model": 3}, {}))
