"""Factorial effects, tested on cells with planted effects."""

import itertools
import math

import numpy as np
import pytest

from experiments.declare.study import load_study
from experiments.verdicts.factorial import analyse, sums

pytestmark = pytest.mark.usefixtures("frozen")
BAR = {"margin": 0.01, "alpha": 0.05, "resamples": 0}


def cells(design, effect, seeds=5, noise=0.002, seed=0):
    """{arm: {seed: 3 + effect(levels) + the level of the seed + noise}}."""
    rng = np.random.default_rng(seed)
    level = 0.05 * rng.normal(size=seeds)
    return {arm: {s: 3 + level[s] + effect(set(filter(None, levels))) + noise * rng.normal()
                  for s in range(seeds)}
            for arm, levels in design.cells.items()}


def arch():
    return load_study("factorial_arch").designs[0]


def test_planted_main_effects_and_an_interaction_are_found_and_nothing_else():
    def effect(on):
        return -0.2 * ("rope" in on) - 0.1 * ("swiglu" in on) + 0.06 * ({"rope", "swiglu"} <= on)
    found = analyse(arch(), cells(arch(), effect, seed=2), **BAR)
    by_name = {term.name: term.verdict for term in found.terms}
    assert len(by_name) == 7 and len(found.main) == 3 and len(found.interactions) == 4
    # the mean of the effects without and with SwiGLU
    assert by_name["rope"].difference == pytest.approx(-0.17, abs=0.005)
    assert by_name["swiglu"].difference == pytest.approx(-0.07, abs=0.005)
    assert by_name["rope × swiglu"].difference == pytest.approx(0.06, abs=0.005)
    assert found.lines()[0].startswith("rmsnorm: ") and found.lines()[2].startswith(
        "rope: lowers it −0.1"
    )
    assert found.lines()[3].startswith("rope × swiglu: raises it +0.0")
    assert "rope × rmsnorm (within the margin)" in found.lines()[4] and len(found.lines()) == 5
    assert {name for name, v in by_name.items() if v.word
            in ("better", "worse")} == {"rope", "swiglu", "rope × swiglu"}


def test_arms_that_do_not_add_up_are_named():
    def effect(on):
        return -0.2 * ("rope" in on) - 0.1 * ("swiglu" in on) + 0.06 * ({"rope", "swiglu"} <= on)
    found = analyse(arch(), cells(arch(), effect), **BAR)
    words = {each.arm: each.word for each in found.sums}
    assert words == {"swiglu_rope": "higher than the sum",
                     "swiglu_rope_rmsnorm": "higher than the sum",
                     "rope_rmsnorm": "adds up", "swiglu_rmsnorm": "adds up"}
    both = next(each for each in found.sums if each.arm == "swiglu_rope")
    assert (both.observed == pytest.approx(-0.24, abs=0.005)
            and both.expected == pytest.approx(-0.3, abs=0.005))
    assert "swiglu_rope (higher than the sum)" in found.line()


def test_effects_are_those_of_least_squares_on_the_full_factorial():
    """The reference is a regression on all products of 0/1 factors. Its coefficients are combined
    to the effects."""
    rng = np.random.default_rng(1)
    design = arch()
    values = {arm: {0: rng.normal(), 1: rng.normal()} for arm in design.cells}
    found = {term.name: term.verdict.difference for term in analyse(design, values, **BAR).terms}
    signs = np.array([[1 if level else -1 for level in levels] for levels in design.cells.values()])
    y = np.array([np.mean(list(values[arm].values())) for arm in design.cells])
    names = [factor[1] for factor in design.factors]
    for k in (1, 2, 3):
        for chosen in itertools.combinations(range(3), k):
            column = signs[:, chosen].prod(1)
            coefficient = np.linalg.lstsq(np.stack([np.ones(8), column], 1), y, rcond=None)[0][1]
            assert found[" × ".join(names[i] for i in chosen)] == pytest.approx(coefficient * 2**k)


def test_a_factor_of_three_levels_has_an_effect_for_each():
    design = load_study("factorial_full").designs[0]
    found = analyse(design, cells(design, lambda on: -0.1 * ("cosine" in on)), **BAR)
    main = {term.name: term.verdict for term in found.main}
    assert set(main) == {"rope", "swiglu", "rmsnorm", "warmup", "cosine"}
    assert main["cosine"].difference == pytest.approx(-0.1, abs=0.003)
    assert main["warmup"].word == "equivalent"
    assert len(found.terms) == 2 * 2 * 2 * 3 - 1


def test_only_seeds_on_which_every_cell_has_a_value_count_and_the_others_are_named():
    values = cells(arch(), lambda on: 0.0)
    values["rope"][3] = math.nan
    del values["swiglu"][1]
    found = analyse(arch(), values, **BAR)
    assert found.seeds == (0, 2, 4)
    assert found.missing == ("swiglu.s1", "rope.s3")
    del values["rope"]
    found = analyse(arch(), values, **BAR)
    assert found.seeds == () and "rope: no value" in found.missing
    assert {term.verdict.word for term in found.terms} == {"undecided"}


def test_false_effects_are_rare_over_the_whole_family():
    found = [analyse(arch(), cells(arch(), lambda on: 0.0, noise=0.02, seed=i), **BAR)
             for i in range(40)]
    false = sum(any(term.verdict.word in ("better", "worse") for term in f.terms) for f in found)
    assert false / 40 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 40)


def test_an_arm_of_included_parts_is_compared_with_their_sum_and_implied_parts_count_once():
    parts = load_study("seven").parts
    # cosine includes warm-up
    assert parts == {"all_modifications": ("swiglu", "rope", "rmsnorm", "cosine")}
    rng = np.random.default_rng(0)
    effects = {"baseline": 0, "swiglu": -0.1, "rope": -0.2, "rmsnorm": 0, "cosine": -0.05,
               "all_modifications": -0.45}
    values = {arm: {s: 3 + e + 0.001 * rng.normal() for s in range(5)}
              for arm, e in effects.items()}
    (found,) = sums(parts, values, "baseline", **BAR)
    assert found.word == "lower than the sum"
    assert (found.observed, found.expected) == (pytest.approx(-0.45, abs=0.003),
                                                pytest.approx(-0.35, abs=0.004))
    assert found.line().startswith("all_modifications  lower than the sum: −0.4")
    assert " nats where its parts alone sum to −0." in found.line()
    assert "95 % CI, Holm-adjusted [−0.1" in found.line()     # a hyphen here, a minus there


def test_no_effect_rests_on_the_survivors_of_an_arm_that_diverged():
    values = cells(arch(), lambda on: -0.2 * ("rope" in on))
    values["rope"] |= {3: math.nan, 4: math.nan}
    found = analyse(arch(), values, **BAR)
    assert {term.verdict.word for term in found.terms} == {"undecided"}
    assert {term.verdict.reason for term in found.terms} == {"diverged: rope.s3, rope.s4"}
    words = {each.arm: each.word for each in found.sums}
    assert words["rope_rmsnorm"] == words["swiglu_rope_rmsnorm"] == "undecided"
    assert words["swiglu_rmsnorm"] == "adds up"       # has no part that diverged
    assert "without rope.s3, rope.s4" in found.line()


def test_a_cell_without_any_run_is_named_as_the_reason():
    values = cells(arch(), lambda on: 0.0)
    del values["rope"]
    found = analyse(arch(), values, **BAR)
    assert all("no seed on which all have a value" in term.verdict.reason for term in found.terms)
    assert "without rope: no value" in found.line()
