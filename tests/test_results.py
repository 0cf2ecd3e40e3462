"""Claims about which runs make a verdict."""

from __future__ import annotations

import json

import pytest
from synthetic import EFFECTS, write_run, write_study, write_two_columns

from experiments.curves import find_runs
from experiments.results import collect
from experiments.study import DEFAULT_MARGIN, load_study


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
    assert (results.baseline, results.arms, results.margin) == ("zeta", ("zeta", "alpha"), DEFAULT_MARGIN)


def test_a_study_file_can_be_given(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('question = "Is it?"\nmargin = 0.5\n[arms.baseline]\n[arms.rope]\n')
    results = only(write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, study="mine", steps=20),
                   study_file=file)
    assert (results.title, results.margin) == ("Is it?", 0.5)
    assert results.verdicts["rope"].margin == 0.5


def test_planted_effects_get_their_words(tmp_path):
    results = only(write_study(tmp_path, {"baseline": 0, "rope": -0.2, "cosine": 0.2}, seeds=range(5), steps=100))
    assert {arm: v.word for arm, v in results.verdicts.items()} == {"rope": "better", "cosine": "worse"}


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


def test_two_column_files_are_undecided_one_unpaired_run_an_arm(tmp_path):
    results = only(write_two_columns(tmp_path, EFFECTS))
    assert {(v.word, v.reason) for v in results.verdicts.values()} == {("undecided", "one unpaired run an arm")}
    assert len(results.verdicts) == 6


def test_a_csv_that_is_no_run_is_no_arm(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.2}, study=None, steps=20)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert only(tmp_path).arms == ("baseline", "rope")


def test_without_a_baseline_there_are_no_verdicts(tmp_path):
    results = only(write_study(tmp_path, {"rope": -0.2}, study=None, steps=20))
    assert results.verdicts == {}
