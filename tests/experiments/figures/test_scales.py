"""Scales: small effects, the margin and the others are seen although one arm dwarfs them."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import FIGURES, Panel
from experiments.figures.scales import (
    Bent,
    bent,
    dwarfing,
    linear_part,
    rounded_up,
    scale_differences,
    share,
)
from experiments.figures.style import page
from experiments.records.runs import find_runs
from experiments.verdicts.results import collect
from tests.helpers.synthetic import write_study

DWARFED = {"baseline": 0, "a": 0.004, "b": -0.006, "c": 0.003, "dwarf": 1.0}


def panel(losses, **chosen) -> Panel:
    (results,) = collect(find_runs(losses))
    return Panel(results, **chosen)


def test_a_scale_turns_logarithmic_only_where_one_arm_or_the_margin_would_be_hidden():
    assert linear_part([0.004, -0.006, 0.003, 1.0], 0.01) == 0.01
    assert linear_part([0.43, 0.12, 0.01, 0.005, 0.09, 0.56], 0.01) is None
    assert linear_part([0.5], 0.01) is None
    assert linear_part([0.5], 0.001) == 0.001    # the margin would be thinner than a line
    assert linear_part([0.5, -0.8, 1.2, -0.9], 0.01) == 0.05
    assert linear_part([], 0.01) is None
    assert [rounded_up(v) for v in (0.01, 0.0101, 0.3, 7)] == pytest.approx([0.01, 0.02, 0.5, 10])


def test_dwarfs_are_few_and_far():
    def found(spread, **values):
        return dwarfing({arm: [v - spread, v + spread] for arm, v in values.items()})
    assert found(0, **DWARFED) == found(0.01, **DWARFED) == {"dwarf"}
    assert found(0.1, **DWARFED) == set()      # the spread over seeds is seen beside it
    assert found(0, baseline=2.4, a=2.0, b=2.3, c=1.9, d=2.5) == set()
    assert found(0, baseline=0.0, a=1.0) == set()
    assert found(0, a=0.0, b=0.0, c=5.0, d=9.0) == set()   # half of the arms are no exception


@pytest.mark.parametrize("linear", [None, 0.01])
def test_the_share_of_a_band_is_the_share_that_is_drawn(linear):
    _, (axes,) = page(4, "", "")
    scale_differences(axes, "x", linear, 1.0)
    axes.set_xlim(-0.05, 1.0)
    on_axes = axes.transData + axes.transAxes.inverted()
    left, right = on_axes.transform([(-0.02, 0), (0.02, 0)])[:, 0]
    assert share(0.02, -0.05, 1.0, linear) == pytest.approx(right - left)


@pytest.mark.parametrize(("name", "along"), [("effects", 0), ("loss_minus_baseline", 1)])
def test_small_effects_and_the_margin_are_seen_beside_a_dwarf_and_the_axis_says_how(
        tmp_path, name, along):
    axes = FIGURES[name](panel(write_study(tmp_path, DWARFED, seeds=range(3), steps=60,
                                           noise=0.0005))).axes[0]
    assert "linear within ±0.01, logarithmic beyond" in (axes.get_xlabel(), axes.get_ylabel())[
        along].replace("\n", " ")
    places = axes.transData.transform([(v, v) for v in (-0.01, 0.0, 0.004, 0.01, 1.0)])[:, along]
    assert (np.diff(places) > 12).all()     # pixels
    inside = axes.bbox.intervalx if along == 0 else axes.bbox.intervaly
    assert inside[0] < places.min() and places.max() < inside[1]


def test_a_bent_scale_is_linear_inside_and_its_inverse_holds_beyond():
    scale, values = Bent(5.0, 6.0), np.array([-3.0, 4.9, 5.0, 5.4, 6.0, 6.3, 40.0])
    places = scale.place(values)
    assert (np.diff(places) > 0).all() and places[2:5] == pytest.approx(values[2:5])
    assert scale.value(places) == pytest.approx(values)
    assert places[-1] < 7           # a value 34 times the linear part away takes less than it
    ticks = scale.ticks(4.9, 40.0)
    assert ticks == sorted(ticks) and len([t for t in ticks if t > 6]) == 2
    assert bent((5, 7), (5, 6)) == Bent(5, 6) and bent((5, 6.1), (5, 6)) is None


@pytest.mark.parametrize("name", ["individual_grid", "training_comparison", "validation_curves"])
def test_curves_of_the_whole_run_are_seen_below_a_dwarf_and_the_axis_says_how(tmp_path, name):
    effects = {"baseline": 0, "a": 0.004, "b": -0.006, "c": 0.003, "d": 0.001}
    plain = FIGURES[name](panel(write_study(tmp_path / "plain", effects, seeds=(0, 1), steps=200)))
    dwarfed = panel(write_study(tmp_path / "dwarfed", effects | {"dwarf": 9.0}, seeds=(0, 1),
                                steps=200))
    figure = FIGURES[name](dwarfed)

    def share_of_half_a_nat(axes):
        heights = axes.transData.transform([(0, 5.3), (0, 5.8)])[:, 1]
        return (heights[1] - heights[0]) / axes.bbox.height
    assert share_of_half_a_nat(figure.axes[0]) > 0.6 * share_of_half_a_nat(plain.axes[0])
    end = figure.axes[0].transData.transform((0, 14.1))[1]
    assert end < figure.axes[0].bbox.y1                      # the dwarf is on the page too

    def told(figure):
        return " ".join([*(axes.get_ylabel() for axes in figure.axes),
                         *(text.get_text() for text in figure.texts)])
    assert "logarithmic beyond" in told(figure) and "logarithmic" not in told(plain)


def test_a_text_of_any_length_leaves_room_for_the_axes():
    words = "a value of ten thousand letters " * 300
    figure, (axes,) = page(4.6, words, words, subtitle=words)
    assert axes.get_position().height > 0.25
    figure.canvas.draw()
    assert all(text.get_text().endswith(" …") for text in figure.texts)
