"""Figures of findings: they show what is declared, no text leaves the page, and what cannot be
drawn says why."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.declare.study import load_study
from experiments.figures import FIGURES, Panel, Skip
from experiments.figures.arm import arm_figure
from experiments.figures.comparison import TEN
from experiments.figures.forest import interval, reach, tost_interval
from experiments.figures.pictures import Pictures
from experiments.figures.style import DPI, PALE
from experiments.records.runs import find_runs
from experiments.report.page import render
from experiments.verdicts.results import collect
from experiments.verdicts.trials import gather
from tests.helpers.synthetic import write_run, write_study

PARTS = {"rope": -0.08, "swiglu": -0.03, "rmsnorm": 0.0}


def panel(losses: Path) -> Panel:
    (results,) = collect(find_runs(losses))
    return Panel(results)


@pytest.fixture(scope="module")
def factorial(tmp_path_factory) -> Panel:
    """2³ arms whose effects add up, except for RoPE with SwiGLU."""
    losses = tmp_path_factory.mktemp("factorial") / "losses"
    effects = {arm: sum(effect for part, effect in PARTS.items() if part in arm) + 0.05
               * ("swiglu_rope" in arm)
               for arm in load_study("factorial_arch").arms}
    return panel(write_study(losses, effects, study="factorial_arch", seeds=range(4), steps=60,
                             noise=0.002))


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Panel:
    """Arms with five learning rates. The greatest rate diverges for one seed."""
    losses = tmp_path_factory.mktemp("grid") / "losses"
    study = load_study("lr_grid")
    rates = dict.fromkeys(study.arms, 2e-3)
    rates |= {name: rate for each in study.grids.values() for name, rate in each.items()}
    for slot, (arm, rate) in enumerate(rates.items()):
        effect = 0.06 * math.log(rate / 2e-3) ** 2 - 0.08 * arm.startswith("rope")
        for seed in range(4):
            write_run(losses, arm, seed, effect, study="lr_grid", steps=60, slot=slot, noise=0.002,
                      status="diverged" if rate > 7e-3 and seed == 1 else "done",
                      config={"trainer": {"learning_rate": rate}})
    return panel(losses)


def on_page(figure) -> None:
    """Assert that no text leaves the page."""
    figure.canvas.draw()
    texts = [*figure.texts, *(text for axes in figure.axes for text in (
        *axes.texts, *axes.get_yticklabels(), axes.title, axes.xaxis.label, axes.yaxis.label))]
    boxes = {text.get_text(): text.get_window_extent() for text in texts if text.get_text()
             and text.get_visible()}
    assert len(boxes) > 5
    for words, box in boxes.items():
        assert (
            box.x0 >= -1
            and box.x1 <= figure.bbox.x1 + 1
            and box.y0 >= -1
            and box.y1 <= figure.bbox.y1 + 1
        ), words


def test_effects_stay_on_the_page_and_name_every_arm(factorial):
    figure = FIGURES["effects"](factorial)
    on_page(figure)
    assert [label.get_text()
            for label in figure.axes[0].get_yticklabels()] == list(factorial.results.verdicts)


@pytest.mark.parametrize(("count", "scale"), [(2, 0.001), (2, 1.0), (16, 0.001), (40, 1.0)])
def test_marks_and_words_of_the_effects_stay_apart_and_many_arms_are_ranked(tmp_path, count, scale):
    names = ["baseline", "swiglu_rope_rmsnorm_warmup_cosine_window96", *(
        f"arm{i}" for i in range(count - 2))]
    losses = write_study(tmp_path, {name: scale * math.cos(3 * i) * (i > 0)
                                    for i, name in enumerate(names)}, seeds=(0, 1, 2), steps=60)
    figure = FIGURES["effects"](panel(losses))
    on_page(figure)
    (axes,) = figure.axes
    words = [text.get_window_extent() for text in (*axes.texts, *axes.get_yticklabels())]
    marks = [line.get_window_extent() for line in axes.lines if line.get_marker() not in (None,
                                                                                          "None")]
    assert len(marks) >= count - 1
    assert not any(word.overlaps(other) for i, word in enumerate(words) for other in words[i + 1:])
    assert not any(word.overlaps(mark) for word in words for mark in marks)
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert len(points) == count - 1 and (count < 10 or points == sorted(points))


@pytest.mark.parametrize(("effect", "seeds", "seen"), [(0.2, 5, True), (0.95, 10, False)])
def test_the_thick_bar_is_higher_than_its_mark_and_a_noise_floor_too_thin_to_see_is_not_listed(
        tmp_path, effect, seeds, seen):
    figure = FIGURES["effects"](panel(write_study(
        tmp_path, {"baseline": 0, "a": effect, "b": effect}, seeds=range(seeds), steps=60)))
    (axes,) = figure.axes
    floors = [bar for bar in axes.patches if bar.get_hatch()]
    assert ("noise floor" in [text.get_text() for text in figure.legends[0].get_texts()]) == seen
    caption = figure.texts[-1].get_text().replace("\n", " ")
    assert ("noise floor" in caption) == seen == (len(floors) == 2)
    assert all(bar.get_window_extent().width > 5 for bar in floors)
    thick = [bar for bar in axes.patches if bar.get_alpha() == 0.5]
    mark = next(line.get_markersize() for line in axes.lines if line.get_marker() == "o") * DPI / 72
    assert len(thick) == 2 and all(bar.get_window_extent().height > mark for bar in thick)


def test_of_many_arms_the_best_the_worst_and_the_baseline_are_named_and_the_others_pale(tmp_path):
    effects = {"baseline": 0.0} | {f"arm{i:02d}": 0.01 * (i - 20) for i in range(40)}
    shown = panel(write_study(tmp_path, effects, seeds=(0, 1), steps=60, noise=1e-5))
    for name in ("training_comparison", "loss_minus_baseline", "loss_against_seconds"):
        axes = FIGURES[name](shown).axes[-1]
        assert {text.get_text() for text in axes.texts} == {
            "baseline", "arm00", "arm01", "arm02", "arm37", "arm38", "arm39"}
        assert sum(line.get_color() == PALE for line in axes.lines) == 34


def test_every_crossing_that_is_listed_has_a_ring_inside_the_frame(tmp_path):
    losses = write_study(tmp_path, {"baseline": 0, "a": -0.1, "b": 0.3, "c": -0.2},
                         seeds=range(3), steps=200)
    figure = FIGURES["loss_against_seconds"](panel(losses))
    whole = figure.axes[0]
    rings = [line for line in whole.lines if line.get_markersize() == 10]
    said = figure.texts[-1].get_text().replace("\n", " ").partition("crosses baseline's, at ")[2]
    assert rings and len(rings) == len(said.split(";")[0].split(","))
    low, high = whole.get_ylim()
    assert all(low < ring.get_ydata()[0] < high for ring in rings)


def test_every_figure_that_shows_time_says_when_the_machine_was_busy(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, seeds=(0, 1), steps=60)
    quiet = panel(tmp_path)
    for seed in (0, 1):   # both seeds at once, on one machine
        write_run(tmp_path, "rope", seed, -0.1, study="seven", steps=60, slot=1,
                  start="2026-03-02T00:00:00+00:00", end="2026-03-02T00:09:00+00:00")
    busy = panel(tmp_path)
    for shown, marked in ((quiet, False), (busy, True)):
        by_time = Panel(shown.results, x="seconds")
        pictures = Pictures(gather(shown.results))
        figures = [FIGURES["loss_against_seconds"](shown), *(FIGURES[name](by_time) for name in (
            "training_comparison", "individual_grid", "loss_minus_baseline", "validation_curves")),
            arm_figure(by_time, "rope"), *(TEN[name](pictures) for name in (
                "3_metrics_comparison", "4_speedup_quality", "6_memory_speed", "7_distributions",
                "8_per_run", "9_summary"))]
        for figure in figures:
            labels = " ".join(text for axes in figure.axes for text in (
                axes.get_xlabel(), axes.get_ylabel(), axes.get_title()))
            caption = " ".join(text.get_text() for text in figure.texts)
            assert ("busy machine" in labels) == marked, labels
            assert ("busy machine: something else used it while rope trained"
                    in caption.replace("\n", " ")) == marked
        for name in ("loss_against_flops", "effects"):
            text = " ".join(each.get_text() for each in FIGURES[name](shown).texts)
            assert "busy" not in text


def test_a_factorial_shows_main_effects_first_and_the_planted_interaction_apart(factorial):
    figure = FIGURES["factorial_effects"](factorial)
    on_page(figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 7 and set(names[:3]) == set(PARTS)
    term = next(t for t in factorial.results.factorials[0].terms
                if set(t.factors) == {"rope", "swiglu"})
    assert term.verdict.word == "worse" and "raises it" in [text.get_text()
                                                            for text in figure.axes[0].texts]


def test_learning_rates_show_the_best_and_where_seeds_diverged(grid):
    figure = FIGURES["learning_rates"](grid)
    on_page(figure)
    marks = [line.get_marker() for line in figure.axes[0].lines]
    assert marks.count("*") == 4 and marks.count("x") == 4
    assert "seeds 0, 1 alone and judged on seeds 2, 3" in figure.texts[-1].get_text().replace("\n",
                                                                                              " ")


def test_places_are_changed_where_the_budgets_say(factorial):
    # crossings exist only for the metric of the verdicts
    assert factorial.crossings("tokens", "loss") == {}
    for axis in ("tokens", "flops", "seconds"):
        told = {b.arm: b.crossing for b in factorial.results.budgets.on(axis)
                if b.crossing is not None}
        assert {arm: x for arm, (x, _) in factorial.crossings(axis, "val_loss").items()} == told


def test_the_thick_bar_lies_inside_the_margin_exactly_where_an_arm_is_equivalent(tmp_path):
    effects = {"baseline": 0, "a": 0.0, "b": 0.001, "c": 0.02, "d": 0.2}
    results = panel(write_study(tmp_path, effects, seeds=range(5), steps=60)).results
    words = set()
    for verdict in results.verdicts.values():
        low, high = tost_interval(verdict)
        inside = -results.margin < low and high < results.margin
        assert inside == (verdict.p_tost < verdict.alpha)
        excluded = not interval(verdict)[0] <= 0 <= interval(verdict)[1]
        assert excluded == (verdict.word in ("better", "worse"))
        low, high = reach(results)
        assert low < min(0, verdict.difference) <= max(0, verdict.difference) < high
        words.add(verdict.word)
    assert {"equivalent", "worse"} <= words


@pytest.mark.parametrize("large", [0.05, 2.0])
def test_words_and_numbers_of_a_factorial_stay_apart_and_small_effects_are_seen(tmp_path, large):
    effects = {arm: large * ("rope" in arm) + 0.02 * ("swiglu" in arm)
               for arm in load_study("factorial_arch").arms}
    figure = FIGURES["factorial_effects"](panel(write_study(
        tmp_path, effects, study="factorial_arch", seeds=range(4), steps=60, noise=0.001)))
    renderer, axes = figure.canvas.get_renderer(), figure.axes[0]
    boxes = [text.get_window_extent(renderer) for text in axes.texts
             if text.get_position()[0] > 1 and "→" not in text.get_text()]
    assert len(boxes) == 14 and all(box.x1 < figure.bbox.x1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert ("logarithmic beyond" in axes.get_xlabel()) == (large == 2.0)
    places = axes.transData.transform([(v, 0) for v in (-0.01, 0, 0.01, 0.02, large)])[:, 0]
    assert (np.diff(places) > 12).all()     # pixels


def test_the_star_of_a_learning_rate_is_explained_on_the_picture(grid):
    figure = FIGURES["learning_rates"](grid)
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == [
        "mean over seeds", "an arm's best rate", "a seed diverged"]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    top = figure.axes[0].bbox.y1
    assert crosses and all(cross.get_transform().transform(cross.get_xydata())[0, 1] > top
                           for cross in crosses)      # above the frame, where no line is


@pytest.mark.parametrize(("name", "why"), [("factorial_effects", "declares no factorial"),
                                           ("learning_rates", "declares no learning-rate grid"),
                                           ("effects", "no arm shares a seed")])
def test_what_the_study_does_not_declare_is_left_out_with_the_reason(tmp_path, name, why):
    write_run(tmp_path, "baseline", 0, steps=50)
    with pytest.raises(Skip, match=why):
        FIGURES[name](panel(tmp_path))


def test_the_page_tells_factorials_rates_cost_and_equal_budgets(factorial, grid):
    text = render(factorial)
    for words in ("What adds up", "rope × swiglu", "raises it", "At equal FLOPs",
                  "curves cross at", "Peak memory"):
        assert words in text
    text = render(grid)
    assert (
        "Every arm at its own best learning rate" in text
        and "0.008: " in text
        and "(1 diverged)" in text
    )


def test_of_many_arms_only_the_extremes_have_curves_and_the_forest_has_pages(tmp_path, monkeypatch):
    from experiments.figures import forest
    arms = {"baseline": 0.0} | {f"arm_{k:02d}": 0.01 * (k - 20) for k in range(54)}
    study = panel(write_study(tmp_path, arms, study="many", seeds=(0, 1), steps=40, noise=1e-4))
    best, worst = [f"arm_{k:02d}" for k in range(8)], [f"arm_{k:02d}" for k in range(50, 54)]
    assert study.drawn == ("baseline", *best, *worst)
    assert set(study.lines("iteration", "loss")) == set(study.drawn)
    assert set(study.differences("iteration", "loss")[0]) == {*best, *worst}
    figure = FIGURES["training_comparison"](study)
    assert "of 55 arms, baseline, the 8 best and the 4 worst are drawn" in " ".join(
        " ".join(text.get_text() for text in figure.texts).split())
    monkeypatch.setattr(forest, "PAGE", 20)
    assert forest.pages(study.results) == 3
    figures = [forest.effects(study, part) for part in range(3)]
    rows = [[label.get_text() for label in each.axes[0].get_yticklabels()] for each in figures]
    assert sum(rows, []) == sorted(set(arms) - {"baseline"})          # ranked, none left out
    assert len({each.axes[0].get_xlim() for each in figures}) == 1    # on one scale
    for each in figures:
        on_page(each)
    monkeypatch.setattr(forest, "PAGE", 8)       # more rows than the pages hold
    rows = [label.get_text() for part in range(4)
            for label in forest.effects(study, part).axes[0].get_yticklabels()]
    assert rows == [f"arm_{k:02d}" for k in (*range(16), *range(38, 54))]
