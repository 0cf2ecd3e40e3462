"""Learning rates: pure functions of the iteration; warm-up and curve are independent."""

import pytest

from mingpt.lr_schedules import learning_rate
from mingpt.trainer import Trainer
from mingpt.utils import BadInput

PEAK = 3e-4   # minGPT's
SHIPPED = ("constant", "cosine", "linear", "wsd")


def rates(lr_schedule="constant", max_iters=100, **changes):
    config = Trainer.get_default_config()
    config.merge_from_dict({"lr_schedule": lr_schedule, "max_iters": max_iters, **changes})
    return [learning_rate(i, config) / PEAK for i in range(max_iters or 100)]


@pytest.mark.parametrize("curve", SHIPPED)
@pytest.mark.parametrize("warmup", [1, 10, 0.1])
def test_a_warmup_climbs_straight_to_the_peak(curve, warmup):
    steps = 10 if warmup == 0.1 else warmup
    climb = rates(curve, warmup_steps=warmup)[:steps + 1]
    assert climb == pytest.approx([(i + 1) / steps for i in range(steps)] + [1.0])
    assert climb[0] > 0


@pytest.mark.parametrize("curve", SHIPPED)
def test_no_curve_passes_its_peak_or_climbs_after_the_warmup(curve):
    after = rates(curve, warmup_steps=20)[20:]
    assert after[0] == pytest.approx(1)
    assert all(later <= earlier for earlier, later in zip(after, after[1:], strict=False))


def test_a_share_is_of_max_iters():
    assert rates(warmup_steps=0.25, max_iters=40) == rates(warmup_steps=10, max_iters=40)


def test_the_curve_does_not_change_the_warmup_nor_the_warmup_the_curve():
    climbs = {tuple(rates(curve, warmup_steps=30)[:30]) for curve in SHIPPED}
    assert len(climbs) == 1
    for curve in SHIPPED:   # the curve is stretched over what is left, and no more
        assert rates(curve, 130, warmup_steps=30)[30:] == pytest.approx(rates(curve, 100))


def test_constant_never_moves_and_needs_no_end():
    assert set(rates("constant")) == {1.0}
    assert set(rates("constant", None)) == {1.0}
    assert rates("constant", None, warmup_steps=10)[10:] == [1.0] * 90


def test_cosine_passes_half_way_at_half_time_and_ends_at_its_floor():
    curve = rates("cosine", 101, min_lr_ratio=1e-4)
    assert curve[0] == 1
    assert curve[50] == pytest.approx((1 + 1e-4) / 2)
    assert curve[25] == pytest.approx(1e-4 + (1 - 1e-4) * (1 + 2 ** -0.5) / 2)
    assert curve[100] == pytest.approx(1e-4, rel=1e-9)


def test_linear_is_a_straight_line_to_its_floor():
    curve = rates("linear", 101, min_lr_ratio=0.2)
    assert curve == pytest.approx([1 - 0.8 * i / 100 for i in range(101)])


def test_wsd_is_flat_and_then_falls_to_its_floor():
    curve = rates("wsd", 101, decay_share=0.25, min_lr_ratio=0.0)
    assert curve[:76] == pytest.approx([1.0] * 76)
    assert curve[75:] == pytest.approx([1 - i / 25 for i in range(26)], abs=1e-9)


@pytest.mark.parametrize("curve", [c for c in SHIPPED if c != "constant"])
@pytest.mark.parametrize("warmup", [0, 50])
def test_a_curve_without_an_end_is_refused_at_the_first_iteration(curve, warmup):
    with pytest.raises(BadInput, match="max_iters"):
        rates(curve, None, warmup_steps=warmup)
    config = Trainer.get_default_config()
    config.merge_from_dict({"lr_schedule": curve, "warmup_steps": warmup})
    with pytest.raises(BadInput, match="max_iters"):   # at iteration 0, not after hours of warm-up
        learning_rate(0, config)


@pytest.mark.parametrize("warmup", [-1, 2.5, -0.1, "many", float("nan")])
def test_a_warmup_without_meaning_is_refused(warmup):
    with pytest.raises(BadInput, match="trainer.warmup_steps"):
        rates(warmup_steps=warmup)


def test_a_share_of_an_endless_run_is_refused():
    with pytest.raises(BadInput, match="max_iters"):
        rates(max_iters=None, warmup_steps=0.1)


@pytest.mark.parametrize("curve", SHIPPED)
def test_very_short_runs_have_rates_too(curve):
    for n in (1, 2, 3):
        for warmup in (0, 1, 5):
            assert all(0 < rate <= 1 for rate in rates(curve, n, warmup_steps=warmup))
