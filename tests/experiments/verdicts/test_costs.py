"""Costs, and verdicts at points where the arms have spent the same."""

import json
import math

import numpy as np
import pytest

from experiments.records.runs import find_runs
from experiments.verdicts.costs import at_pace, budgets, costs
from tests.helpers.synthetic import HEADER, write_run

pytestmark = pytest.mark.usefixtures("frozen")
BAR = {"margin": 0.01, "alpha": 0.05}


def write(folder, arm, seed, loss, slower=1.0, steps=100, **result):
    """Write a run whose val_loss falls as 3 + loss + 2·exp(−step/20).

    It is measured every tenth step. A step takes `slower` seconds.
    """
    noise = 0.001 * np.random.default_rng([seed, len(arm)]).normal()
    rows = [HEADER]
    for step in range(0, steps + 1, 10):
        value = 3 + loss + noise + 2 * math.exp(-step / 20)
        rows.append(f"{step},,{value:.9g},,,{step * 1000},{step * 1e9 * slower},{step * slower},,")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arm}.s{seed}.csv"
    path.write_text("\n".join(rows) + "\n")
    path.with_suffix(".json").write_text(json.dumps({
        "schema": 1, "study": None, "arm": arm, "seed": seed, "status": "done", "changes": {},
        "message": None,
        "model": {"parameters": 1000, "flops_per_token": 6e6 * slower},
        "result": {"val_loss": value, "perplexity": math.exp(value),
                   "bits_per_byte": value / math.log(2) / 4,
                   "iterations": steps, "seconds": steps * slower,
                   "tokens_per_second": 1000 / slower,
                   "peak_memory_mb": 50 * slower, **result}}))


@pytest.fixture
def study(tmp_path):
    """A study with an arm that is better at equal tokens and twice as slow."""
    for seed in range(5):
        write(tmp_path, "baseline", seed, 0.0)
        write(tmp_path, "wide", seed, -0.05, slower=2.0)
    return tmp_path


def test_a_slow_arm_is_better_at_equal_tokens_and_worse_at_equal_seconds(study):
    found = budgets(find_runs(study), ["baseline", "wide"], "baseline", **BAR)
    words = {b.axis: b.verdict.word for b in found.table}
    assert words == {"tokens": "better", "flops": "worse", "seconds": "worse"}
    at = found.of("wide", "seconds")
    assert at.at == 100.0     # the whole run of the baseline, and half of the slow arm's
    assert at.verdict.difference == pytest.approx(-0.05 + 2 * math.exp(-2.5) - 2 * math.exp(-5),
                                                  abs=3e-3)
    assert found.of("wide", "tokens").crossing is None
    assert len(found.on("flops")) == 1


def test_the_crossing_is_where_the_curves_change_places(tmp_path):
    for seed in range(3):
        write(tmp_path, "baseline", seed, 0.0)
        write(tmp_path, "wide", seed, -0.2, slower=2.0)
    at = budgets(find_runs(tmp_path), ["baseline", "wide"], "baseline", **BAR).of("wide", "seconds")
    assert at.verdict.word == "better"
    # the loss that the slow arm has not yet gained at this point
    halves = 2 * (math.exp(-at.crossing / 40) - math.exp(-at.crossing / 20))
    assert halves == pytest.approx(0.2, abs=0.01)


def test_untrained_models_cross_nowhere(tmp_path):
    """Before training all arms have nearly one loss, and which is lower there is chance."""
    for arm, first, then in (("baseline", 5.0, 3.0), ("rope", 5.001, 2.9)):
        path = write_run(tmp_path, arm, 0, steps=50)
        rows = [f"{step},,{first if step == 0 else then - step / 1e3},,,{step},,{step},,"
                for step in range(0, 51, 10)]
        path.write_text("\n".join([HEADER, *rows]) + "\n")
    found = budgets(find_runs(tmp_path), ["baseline", "rope"], "baseline", **BAR)
    assert found.table and all(budget.crossing is None for budget in found.table)


def test_the_metric_of_the_study_is_the_metric_of_the_budget(study):
    for metric in ("perplexity", "bits_per_byte"):
        found = budgets(find_runs(study), ["baseline", "wide"], "baseline", metric=metric,
                        **BAR).of("wide", "tokens")
        finals = {run.arm: run.final(metric) for run in find_runs(study) if run.seed == 0}
        assert found.verdict.difference == pytest.approx(finals["wide"] - finals["baseline"],
                                                         abs=0.05)


def test_a_run_that_diverged_takes_better_back_here_too(study):
    write_run(study, "wide", 9, status="diverged", steps=50)
    write(study, "baseline", 9, 0.0)
    found = budgets(find_runs(study), ["baseline", "wide"], "baseline", **BAR).of(
        "wide", "tokens").verdict
    assert found.word == "undecided" and "diverged on seed 9" in found.reason


def test_files_without_seeds_or_columns_have_no_budget(tmp_path):
    (tmp_path / "baseline.csv").write_text("iteration,loss\n1,2\n")
    (tmp_path / "wide.csv").write_text("iteration,loss\n1,2\n")
    assert budgets(find_runs(tmp_path), ["baseline", "wide"], "baseline", **BAR).table == ()


def test_costs_are_means_over_finished_runs_and_ratios_to_the_baseline(study):
    write_run(study, "wide", 9, status="failed", steps=50)
    found = costs(find_runs(study), ["wide", "baseline"], "baseline")
    assert [cost.arm for cost in found.arms] == ["baseline", "wide"]
    assert found.of("wide").n == 5
    assert found.of("baseline").step_seconds == pytest.approx(1.0)
    ratios = {key: found.ratio("wide", key) for key in ("parameters", "flops_per_token",
                                                        "step_seconds",
                                                        "tokens_per_second", "peak_memory_mb")}
    assert ratios == {"parameters": 1.0, "flops_per_token": 2.0, "step_seconds": 2.0,
                      "tokens_per_second": 0.5,
                      "peak_memory_mb": 2.0}
    assert found.ratio("nobody", "parameters") is None


def test_what_else_used_the_machine_does_not_change_the_step_time(tmp_path):
    """Other work slows two of five runs from start to end and a third in its second half. The mean
    would be 1.5 times as long."""
    for seed in range(5):
        write(tmp_path, "baseline", seed, 0.0)
        write(tmp_path, "wide", seed, -0.05, slower=2.0 if seed < 2 else 1.0)
    path = tmp_path / "wide.s2.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows[6:]:
        row[7] = str(50 + 2 * (int(row[0]) - 50))
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    runs = find_runs(tmp_path)
    found = costs(runs, ["wide", "baseline"], "baseline")
    paced = [at_pace(run, found.of(run.arm)) for run in runs]
    at_equal = [budgets(each, ["baseline", "wide"], "baseline", **BAR).of("wide", "seconds")
                for each in (runs, paced)]
    assert at_equal[0].verdict.word != "better" == at_equal[1].verdict.word
    assert at_equal[1].verdict.difference == pytest.approx(-0.05, abs=3e-3)
    assert found.ratio("wide", "step_seconds") == pytest.approx(1.0)
    assert found.ratio("wide", "tokens_per_second") == pytest.approx(1.0)


def thin(folder, keep):
    """Keep only the rows of these iterations."""
    for path in folder.glob("*.csv"):
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([head, *(row for row in rows if int(row.split(",")[0]) in keep)])
                        + "\n")


@pytest.mark.parametrize("keep", [{0, 100}, {100}, {90, 100}, {0, 50, 100}])
def test_between_evaluations_too_far_apart_nothing_is_made_up(tmp_path, keep):
    """At equal tokens all arms were measured. At equal FLOPs the more expensive arm was not, so its
    curve is unknown there."""
    for seed in range(5):
        write(tmp_path, "baseline", seed, 0.0)
        write(tmp_path, "wide", seed, -0.05, slower=1.3)
    thin(tmp_path, keep)
    found = {b.axis: b for b in budgets(find_runs(tmp_path), ["baseline", "wide"], "baseline",
                                        **BAR).table}
    assert found["tokens"].verdict.word == "better"
    for axis in ("flops", "seconds"):
        assert (found[axis].verdict.word, found[axis].verdict.p,
                found[axis].crossing) == ("undecided", None, None)
        assert "too far apart" in found[axis].verdict.reason


def test_one_arm_that_cannot_be_read_does_not_silence_the_others(tmp_path):
    for seed in range(5):
        write(tmp_path, "baseline", seed, 0.0)
        write(tmp_path, "near", seed, -0.05, slower=1.02)
        write(tmp_path / "more", "far", seed, -0.05, slower=1.3)
    thin(tmp_path / "more", {0, 100})
    runs = find_runs(tmp_path)
    found = budgets(runs, ["baseline", "near", "far"], "baseline", **BAR)
    assert found.of("near", "flops").verdict.word == "better"
    assert found.of("far", "flops").verdict.word == "undecided"
