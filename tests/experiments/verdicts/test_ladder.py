"""Whether an effect holds when the model grows: words, predictions and compute-equivalent gains."""

import gc
import math

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as sp

from benchmarks import ladders
from experiments.verdicts.extrapolation import predict, trend
from experiments.verdicts.ladder import Rung, judge
from experiments.verdicts.scaling_law import curve, fit, gains
from experiments.verdicts.stats import verdicts

# Bits per byte of AdamW and Muon at four budgets, published by marin
# (github.com/marin-community/marin), one seed each.
FLOPS = np.array([1.777e18, 9.990e18, 4.210e19, 2.0716e20])
ADAMW = np.array([1.18623, 1.06908, 0.99901, 0.94422])
MUON = np.array([1.16984, 1.06155, 0.99084, 0.93681])


def rungs(base: np.ndarray, arm: np.ndarray, flops: np.ndarray) -> list[Rung]:
    """Rungs from losses (K, seeds)."""
    made = []
    for k, each in enumerate(flops):
        values = {"baseline": dict(enumerate(base[k])), "arm": dict(enumerate(arm[k]))}
        made.append(Rung(str(k), 1, dict.fromkeys(values, float(each)), values, verdicts(
            values, "baseline", margin=0.01, alpha=0.05, resamples=0)))
    return made


def test_published_budgets_of_two_optimizers_give_their_published_gains_and_no_word():
    one = judge("arm", rungs(ADAMW[:, None], MUON[:, None], FLOPS), baseline="baseline",
                target=4 * FLOPS[-1], margin=None, alpha=0.05)
    assert one.word == "undecided" and one.prediction is None
    np.testing.assert_allclose(one.gains.gain, [1.23, 1.14, 1.24, 1.29], atol=0.01)
    assert np.isnan(one.gains.low).all()


def test_the_law_is_the_least_squares_fit_of_scipy():
    rng, x = np.random.default_rng(0), np.log(FLOPS)
    for _ in range(5):
        losses = 0.7 + 0.5 * np.exp(-0.15 * (x - x[0])) + 0.002 * rng.normal(size=4)
        law = fit(x, losses)

        def residual(p, losses=losses):
            return p[0] + p[1] * np.exp(-p[2] * (x - x[0])) - losses
        best = min((optimize.least_squares(residual, (losses[-1] - 0.1, 0.4, a),
                                           bounds=([0, 0, 0.003], [9, 9, 2])) for a in
                    (0.02, 0.1, 0.3)), key=lambda found: found.cost)
        ours = 0.5 * ((law.loss(x) - losses) ** 2).sum()
        assert ours <= best.cost * (1 + 1e-3) + 1e-12


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_a_curve_and_its_inverse_agree_inside_and_beyond_the_rungs(count):
    x = 40 + 1.4 * np.arange(count)
    known = curve(x, 1.7 + 1.5 * np.exp(-0.12 * (x - x[0])))
    for at in (x[0] - 1, x[0] + 0.3, x[-1], x[-1] + 2):
        assert known.log_compute(np.asarray(known.loss(at))) == pytest.approx(at, abs=1e-2)


def test_an_arm_with_twice_the_compute_has_a_gain_of_two():
    x, rng = 40 + 1.4 * np.arange(5), np.random.default_rng(0)

    def law(x):
        return 1.7 + 1.5 * np.exp(-0.12 * (x - 40))
    noise = 1e-4 * rng.normal(size=(5, 3))
    found = gains(x, x, law(x)[:, None] + noise, law(x + math.log(2))[:, None] + noise, rng)
    np.testing.assert_allclose(found.gain, 2, rtol=0.02)
    assert (found.low < 2).all() and (found.high > 2).all()


def test_the_trend_is_the_t_test_of_the_seeds_own_slopes():
    x, effects = np.array([1.0, 2, 4]), np.random.default_rng(1).normal(size=(4, 3))
    slopes = [np.polyfit(x, each, 1)[0] for each in effects]
    found = trend(x, effects)
    assert found.p == pytest.approx(sp.ttest_1samp(slopes, 0).pvalue)
    assert found.slope == pytest.approx(np.mean(slopes))


def test_effects_that_are_equal_to_rounding_have_no_trend():
    effects = np.full((3, 4), -0.1) + np.array([[1e-17], [0.0], [-1e-17]])
    assert trend(np.array([0.0, 1, 2, 3]), effects).p == 1


def test_a_prediction_is_exact_without_noise_and_wider_farther_away():
    x, counts = np.array([0.0, 1, 2, 3]), np.full(4, 3)
    means, squares = 0.1 - 0.02 * x, np.full(4, 1e-10)
    near, far = (predict(x, means, squares, counts, at, 3) for at in (4.0, 5.0))
    assert near.low < 0.02 < near.high and near.high - near.low < 1e-3
    assert far.high - far.low > near.high - near.low


@pytest.mark.parametrize("effects, word", [
    ([-0.10, -0.10, -0.10, -0.10], "holds"), ([-0.10, -0.08, -0.06, -0.04], "shrinks"),
    ([-0.10, -0.12, -0.14, -0.16], "grows"), ([-0.10, -0.03, 0.04, 0.11], "flips"),
    ([-0.05, -0.20, -0.45, -0.37], "holds"),     # it grew, and then not
    ([0.0, 0.0, 0.0, 0.0], "undecided"), ([-0.10, -0.10], "undecided")])
def test_clear_effects_get_their_word(effects, word):
    rng = np.random.default_rng(0)
    base = 3.0 - 0.2 * np.arange(len(effects))[:, None] + 0.001 * rng.normal(size=(len(effects), 5))
    arm = base + np.array(effects)[:, None] + 0.001 * rng.normal(size=base.shape)
    one = judge("arm", rungs(base, arm, 1e12 * 4.0 ** np.arange(len(effects))),
                baseline="baseline", target=1e12 * 4.0 ** len(effects), margin=0.01, alpha=0.05)
    assert one.word == word, one.reason
    assert word != "undecided" or one.reason


def test_the_words_of_the_simulation_are_those_of_the_harness():
    """`row` compares the first ladder of every number of rungs and seeds, and fails otherwise."""
    gc.freeze()     # statsmodels runs the garbage collector on every call
    try:
        ladders.row(ladders.EFFECTS[5], 0.15, 16)
    finally:
        gc.unfreeze()


def test_simulated_ladders_keep_their_promises(monkeypatch):
    """A reduced form of the table in docs/ladder.md: 48 ladders for each of 14 laws, so a share of
    90 % is seen as 87 to 93 %."""
    monkeypatch.setattr(ladders, "DRAWS", 199)
    monkeypatch.setattr(ladders, "CHECKED", 0)
    found = ladders.together(ladders.row(effect, noise, 48) for effect in ladders.EFFECTS
                             for noise in ladders.NOISES.values())
    assert found["false_holds"] <= 0.05 and found["false_flips"] <= 0.05
    assert found["gain"] >= 0.93 and 0.87 <= found["predicted"] <= 0.935
    assert 0.87 <= found["loss_ahead"] <= 0.96 and found["gain_ahead"] >= 0.9
    assert found["holds"] > 0.05 and found["shrinks"] > 0.2 and found["grows"] > 0.05
