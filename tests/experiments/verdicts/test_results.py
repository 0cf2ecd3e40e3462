"""Which runs make a verdict."""

from __future__ import annotations

import json
import sys

import pytest

from experiments.declare.study import DEFAULT_MARGIN, load_study
from experiments.figures.panel import Panel
from experiments.records.runs import find_runs
from experiments.report.draw import report, write_tables
from experiments.report.notices import notices
from experiments.report.page import render
from experiments.verdicts.results import collect
from experiments.verdicts.trials import gather
from mingpt.utils import BadInput
from tests.helpers.synthetic import EFFECTS, write_run, write_study, write_two_columns


def only(losses, **kwargs):
    (results,) = collect(find_runs(losses), **kwargs)
    return results


def test_a_shipped_study_brings_its_question_its_order_and_its_margin(tmp_path):
    results = only(write_study(tmp_path, dict(reversed(EFFECTS.items())), steps=20))
    study = load_study("seven")
    assert results.title == study.question
    assert results.arms == tuple(study.arms)
    assert (results.baseline, results.margin) == (study.baseline, study.margin)


def test_an_unknown_study_gets_the_defaults_and_finds_its_baseline_by_the_records(tmp_path):
    write_study(tmp_path, {"zeta": 0.0, "alpha": 0.1}, study="mine", steps=20)
    record = tmp_path / "mine" / "zeta.s0.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"changes": {}}))
    results = only(tmp_path)
    assert (results.baseline, results.arms, results.margin) == (
        "zeta", ("zeta", "alpha"), DEFAULT_MARGIN)


def test_a_study_file_can_be_given(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('question = "Is it?"\nmargin = 0.5\n[arms.baseline]\n[arms.rope]\n')
    results = only(write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, study="mine",
                               steps=20),
                   study_file=file)
    assert (results.title, results.margin) == ("Is it?", 0.5)
    assert results.verdicts["rope"].margin == 0.5


def test_the_study_that_compare_wrote_beside_the_losses_is_found(tmp_path):
    for arm in ("baseline", "rope"):
        write_run(tmp_path / "losses", arm, 0, study="mine")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.toml").write_text("margin = 0.04\n[arms.rope]\n")
    assert collect(find_runs(tmp_path / "losses"))[0].margin == 0.04
    assert collect(find_runs(tmp_path / "losses" / "mine"))[0].margin == 0.04
    (tmp_path / "studies" / "mine.toml").unlink()
    assert collect(find_runs(tmp_path / "losses"))[0].margin == 0.01


def test_planted_effects_get_their_words(tmp_path):
    results = only(write_study(tmp_path, {"baseline": 0, "rope": -0.2, "cosine": 0.2},
                               seeds=range(5), steps=100))
    assert {arm: v.word for arm, v in results.verdicts.items()} == {
        "rope": "better", "cosine": "worse"}


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_that_is_not_done_is_named_and_not_counted(tmp_path, status):
    write_study(tmp_path, {"baseline": 0, "rope": -0.2}, seeds=(0, 1, 2), steps=100)
    write_run(tmp_path, "rope", 2, 9.0, study="seven", status=status, steps=50)
    results = only(tmp_path)
    assert results.left_out == [f"{status}: rope.s2"]
    assert results.verdicts["rope"].n == 2
    assert "not paired: seed 2" in results.verdicts["rope"].reason


def test_a_diverged_run_takes_better_back(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.2}, seeds=(0, 1, 2, 3), steps=100)
    assert only(tmp_path).verdicts["rope"].word == "better"
    write_run(tmp_path, "rope", 3, study="seven", status="diverged", steps=50)
    verdict = only(tmp_path).verdicts["rope"]
    assert verdict.word == "undecided"
    assert "diverged on seed 3" in verdict.reason


def test_the_points_of_a_grid_are_no_arms_of_the_verdicts_and_the_best_rates_are_judged_apart(
    tmp_path,
):
    effects = {"baseline": 0, "rope": -0.1, "baseline_lr0.004": -0.05, "rope_lr0.004": -0.3}
    for k, (arm, effect) in enumerate(effects.items()):
        for seed in range(5):
            write_run(tmp_path, arm, seed, effect, study="lr_grid", steps=100, slot=k)
    results = only(tmp_path)
    assert set(results.verdicts) == {"rope"} and results.verdicts["rope"].family == 1
    baseline, rope = results.sensitivity.arms[:2]
    assert (baseline.best.rate, rope.best.rate) == (4e-3, 4e-3)
    assert [point.rate for point in rope.points][0] == 5e-4   # not run yet, and shown as such
    assert rope.verdict.n == 3 and rope.verdict.difference == pytest.approx(-0.25, abs=0.02)


@pytest.mark.parametrize("config", ["text", [1], None, {"trainer": None}, {"trainer": [1]},
                                    *({"trainer": {"learning_rate": rate}}
                                      for rate in ("fast", [1], -1, 1e400))])
def test_a_record_without_a_learning_rate_costs_that_point_of_the_grid_alone(tmp_path, config):
    for slot, arm in enumerate(("baseline", "baseline_lr0.004")):
        for seed in range(3):
            write_run(tmp_path, arm, seed, study="lr_grid", steps=20, slot=slot, config=config)
    (baseline, *_) = only(tmp_path).sensitivity.arms
    assert [point.arm for point in baseline.points if point.n] == ["baseline_lr0.004"]


def test_a_study_with_looks_is_judged_at_the_last_one_reached_with_its_share_of_the_error(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('seeds = "0-4"\nstop = [2, 4, 5]\n[arms.baseline]\n[arms.rope]\n')
    for seeds, look in ((1, 0), (3, 2), (4, 4)):
        write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.2}, seeds=range(seeds),
                    study="mine", steps=50)
        results = only(tmp_path / "losses", study_file=path)
        assert results.look == look and results.alpha == pytest.approx(0.05 / 3)
        verdict = results.verdicts["rope"]
        assert (
            verdict.n == look
            if look
            else "before the study's first look, at 2 seeds" in verdict.reason
        )


def test_the_noise_of_aa_is_that_of_the_studies_beside_it_that_have_its_baseline(tmp_path):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, steps=50)
    for seed in range(3):
        write_run(tmp_path / "losses", "baseline", seed, study="aa", steps=50)
        write_run(tmp_path / "losses", "reseeded", seed, 0.02, study="aa", steps=50, slot=1,
                  changes={"run.seed_offset": [0, 1000]})
    by_name = {results.name: results for results in collect(find_runs(tmp_path / "losses"))}
    floor = by_name["seven"].noise_floor
    assert (floor.source, floor.arms) == ("A/A", ("reseeded",
                                          )) and floor == by_name["aa"].noise_floor
    # a study read alone finds the A/A study beside it
    assert only(tmp_path / "losses" / "seven").noise_floor == floor
    for path in (tmp_path / "losses" / "aa").glob("*.json"):
        record = json.loads(path.read_text())
        record["config"]["model"]["n_layer"] = 12
        path.write_text(json.dumps(record))
    assert only(tmp_path / "losses" / "seven").noise_floor.source == "seeds"


def test_two_column_files_are_undecided_with_one_unpaired_run_per_arm(tmp_path):
    results = only(write_two_columns(tmp_path, EFFECTS))
    assert {(v.word, v.reason) for v in results.verdicts.values()} == {("undecided",
                                                                        "one unpaired run per arm")}
    assert len(results.verdicts) == 6


def test_a_csv_that_is_no_run_is_no_arm(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.2}, study=None, steps=20)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert only(tmp_path).arms == ("baseline", "rope")


def test_without_a_baseline_there_are_no_verdicts(tmp_path):
    results = only(write_study(tmp_path, {"rope": -0.2}, study=None, steps=20))
    assert results.verdicts == {}


def test_a_declaration_is_of_the_runs_that_are_there_or_refused(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("margin = 0.5\n[arms.baseline]\n[arms.rope]\n")
    write_study(tmp_path / "bare", {"baseline": 0, "rope": -0.1}, study=None, steps=20)
    results = only(tmp_path / "bare", study_file=file)
    assert (results.name, results.margin) == ("mine", 0.5)
    write_study(tmp_path / "other", {"baseline": 0, "rope": -0.1}, study="theirs", steps=20)
    with pytest.raises(BadInput,
                       match="--study mine: no runs of that study here; there are: theirs"):
        only(tmp_path / "other", study_file=file)


def looking(tmp_path, stop, seeds):
    """A study that looks at the numbers of seeds in `stop`, with runs of `seeds` seeds."""
    file = tmp_path / "mine.toml"
    file.write_text(f'seeds = "0-4"\nstop = {stop}\n[arms.baseline]\n[arms.rope]\n')
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.2}, seeds=range(seeds),
                study="mine", steps=100)
    return file


def test_a_run_that_failed_does_not_hold_up_a_look(tmp_path):
    file = looking(tmp_path, [3, 5], 5)
    write_run(tmp_path / "losses", "rope", 0, study="mine", status="failed", steps=50)
    results = only(tmp_path / "losses", study_file=file)
    assert results.look == 5
    assert results.verdicts["rope"].n == 4
    assert results.left_out == ["failed: rope.s0"]


def test_seeds_beyond_a_look_are_in_nothing_that_is_judged(tmp_path):
    results = only(tmp_path / "losses", study_file=looking(tmp_path, [3, 5], 4))
    assert {run.seed for run in results.judged_runs} == {0, 1, 2}
    assert results.verdicts["rope"].n == 3
    assert {budget.verdict.n for budget in results.budgets.on("tokens")} == {3}
    assert {trial.seed for trial in gather(results).all} == {0, 1, 2}


def test_a_study_that_its_own_rule_ended_lacks_no_runs(tmp_path):
    results = only(tmp_path / "losses", study_file=looking(tmp_path, [3, 5], 3))
    assert results.verdicts["rope"].word == "better"
    assert not [each for each in notices(results) if "missing" in each.title]
    (tmp_path / "losses" / "mine" / "rope.s1.json").unlink()
    (tmp_path / "losses" / "mine" / "rope.s1.csv").unlink()
    again = only(tmp_path / "losses", study_file=tmp_path / "mine.toml")
    assert [each for each in notices(again) if "missing" in each.title]


def test_the_work_grows_no_faster_than_the_number_of_runs(tmp_path):
    """From reading to the page, four times the arms take at most a little more than four times the
    function calls. Calls are counted, so the load of the machine does not matter."""
    def calls(arms: int) -> int:
        losses = write_study(tmp_path / f"{arms}", dict.fromkeys(
            ["baseline", *(f"arm_{k}" for k in range(1, arms))], 0.0), study="many", seeds=(0, 1),
            steps=20, every=10)
        count = 0

        def counted(*_):
            nonlocal count
            count += 1
        sys.setprofile(counted)
        try:
            (results,) = collect(find_runs(losses))
            report(results)
            write_tables(results, tmp_path)
            render(Panel(results))
        finally:
            sys.setprofile(None)
        return count
    calls(50)         # imports, and files that are read once
    few, many = calls(50), calls(200)
    assert many <= 4.4 * few
