"""What weakens a word stands beside it: in the terminal, in summary.md and in the report."""

import json

import pytest

from experiments.figures.panel import Panel
from experiments.records.runs import find_runs
from experiments.report.answer import care
from experiments.report.draw import report
from experiments.report.page import render
from experiments.verdicts.caveats import caveats
from experiments.verdicts.results import collect
from experiments.verdicts.summary import table
from tests.helpers.synthetic import write_study

ARMS = {"baseline": 0, "rope": -0.1, "swiglu": -0.2}


def changed(losses, runs, **more):
    for run in runs:
        path = losses / "mine" / f"{run}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))


def results_of(losses, study_file=None):
    (results,) = collect(find_runs(losses), study_file)
    return results


@pytest.fixture
def losses(tmp_path):
    return write_study(tmp_path / "losses", ARMS, study="mine", seeds=range(3), steps=50)


@pytest.mark.parametrize(("more", "said"), [
    ({"status": "failed"}, "seed 1 failed"),
    ({"status": "interrupted"}, "seed 1 interrupted"),
    ({"audit": {"passed": False, "checks": {}}}, "its audit failed"),
    ({"audit": None}, "not audited"),
    ({"code": {"commit": "f" * 40, "dirty": False}}, "another code than baseline"),
    ({"environment": {"torch": "2.11.0", "device": "cuda"}}, "another torch and device than "
                                                             "baseline"),
    ({"result": {"val_loss": 9.0}}, "its 3 seeds ended"),
])
def test_a_weakness_of_one_arm_stands_beside_its_word_and_no_other(losses, more, said):
    assert caveats(results_of(losses)).all == () == caveats(results_of(losses)).of("rope")
    assert "Caution" not in render(Panel(results_of(losses)))
    changed(losses, ["rope.s1"], **more)
    results = results_of(losses)
    found = caveats(results)
    assert len(found.of("rope")) == 1 and found.of("rope")[0].startswith(said)
    assert found.of("swiglu") == found.all == ()
    (line,) = [line for line in report(results) if line.startswith("rope ")]
    assert f"; caution: {said}" in line
    (row,) = [row for row in table(results).splitlines() if row.startswith("| rope ")]
    assert said in row.split("|")[2] and results.verdicts["rope"].word in row.split("|")[2]
    page = render(Panel(results)).partition('id="exports"')[0]
    # below the answer, in the table of verdicts, and in the one at equal cost; the picture points
    # to it
    assert page.count(said) >= 3 and page.count('class="mark"') == 1
    assert "Read with care:" in page and '<th scope="col">Caution</th>' in page


def test_cautions_of_many_arms_are_counted_below_the_answer(tmp_path):
    write_study(tmp_path, {"baseline": 0} | {f"arm{i}": 0 for i in range(9)}, study="mine",
                seeds=range(3), steps=50)
    changed(tmp_path, [f"arm{i}.s1" for i in range(5)], audit={"passed": False})
    assert care(results_of(tmp_path), ["first"]) == [
        "first", "a caution stands beside 5 of 9 verdicts"]


def test_what_weakens_the_baseline_or_every_arm_is_said_once_for_all_verdicts(losses):
    changed(losses, ["baseline.s2"], status="failed")
    assert caveats(results_of(losses)).all == ("baseline: seed 2 failed",)
    changed(losses, [f"{arm}.s0" for arm in ARMS], code={"commit": "e" * 40, "dirty": True})
    found = caveats(results_of(losses))
    assert found.all == ("every arm: the code had uncommitted changes", "baseline: seed 2 failed")
    assert found.of("rope") == ()
    assert "caution, all verdicts: baseline: seed 2 failed" in report(results_of(losses))
    changed(losses, ["rope.s0", "swiglu.s0"], audit={"passed": False})
    assert "every arm but baseline: its audit failed" in caveats(results_of(losses)).all


def test_seeds_that_the_study_declares_and_lacks_and_a_changed_declaration_are_told(
        losses, tmp_path):
    study = tmp_path / "mine.toml"
    study.write_text('seeds = "0-3"\nmargin = 0.02\n[arms.baseline]\n[arms.rope]\n[arms.swiglu]\n')
    declared = results_of(losses, study).declared
    assert caveats(results_of(losses, study)).all == ("every arm: seed 3 missing",)
    changed(losses, ["rope.s0"], study_hash="0" * 12,
            declaration=declared.declaration("rope") | {"margin": 0.5})
    assert caveats(results_of(losses, study)).all[0] == (
        "the study's file was changed after its first run (margin)")
    changed(losses, ["rope.s0"], study_hash="0" * 12,
            declaration=declared.declaration("rope") | {"arm": {"model.norm": "rmsnorm"}})
    assert caveats(results_of(losses, study)).of("rope") == (
        "its declaration was changed after runs began",)
