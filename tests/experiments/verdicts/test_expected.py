"""Whether a hypothesis held is said in one sentence, from the verdicts that the study expects."""

import json

import pytest

from experiments.records.runs import find_runs
from experiments.report.draw import report
from experiments.verdicts.expected import held, state
from experiments.verdicts.results import collect
from tests.helpers.synthetic import write_study

EFFECTS = {"baseline": 0, "rope": -0.2, "cosine": 0.2, "same": 0.001}
FILE = 'hypothesis = "So it is."\nseeds = "0-4"\n{}[arms.baseline]\n[arms.rope]\n[arms.cosine]\n' \
       '[arms.same]\nmodel.qk_norm = true\n'


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("runs"), EFFECTS, study="mine", seeds=range(5),
                       steps=100)


def results_of(losses, tmp_path, expect):
    file = tmp_path / "mine.toml"
    file.write_text(FILE.format(f"expect = {{{expect}}}\n" if expect else ""))
    (results,) = collect(find_runs(losses), file)
    return results


@pytest.mark.parametrize(("expect", "said"), [
    ('rope = "better", cosine = "worse"', "It held: rope and cosine are as expected."),
    ('rope = "better", cosine = "better"',
     "It did not hold: cosine is worse (expected: better); rope is as expected."),
    ('rope = "not better"', "It did not hold: rope is better (expected: not better)."),
    ('cosine = "not better", same = "not worse"', None),
    ("", "Whether it held is not decided here: the study file names no expected verdicts "
         "(expect = {…}), so compare it with the verdicts."),
])
def test_the_sentence_says_held_or_not_and_why(losses, tmp_path, expect, said):
    results = results_of(losses, tmp_path, expect)
    assert results.verdicts["same"].word in ("equivalent", "undecided")
    text = held(results)
    word = results.verdicts["same"].word
    assert text == (said or {"equivalent": "It held: cosine and same are as expected.",
                             "undecided": "It is open: same is undecided; cosine is as expected."
                             }[word])
    line = f"hypothesis: So it is. {text}"
    assert (line in report(results)) == bool(expect)


@pytest.mark.parametrize(("expected", "word", "found"), [
    ("better", "better", "met"), ("better", "equivalent", "refuted"), ("better", "", "open"),
    ("equivalent", "worse", "refuted"), ("not better", "equivalent", "met"),
    ("not worse", "worse", "refuted"), ("not worse", "undecided", "open"),
    ("better", "not comparable", "open")])
def test_only_a_decided_word_can_meet_or_refute(expected, word, found):
    assert state(expected, word) == found


def test_without_a_declaration_nothing_is_said_and_late_expectations_are_called_late(
        losses, tmp_path):
    (bare,) = collect(find_runs(losses))
    assert held(bare) == ""
    results = results_of(losses, tmp_path, 'rope = "better"')
    assert "added" not in held(results)
    run = results.runs_of("rope")[0]
    older = {key: value for key, value in results.declared.declaration("rope").items()
             if key != "expect"}
    path = tmp_path / "mine" / run.path.name
    path.parent.mkdir()
    for each in results.runs:
        (path.parent / each.path.name).write_bytes(each.path.read_bytes())
        record = each.record | ({"declaration": older, "study_hash": "0" * 12}
                                if each.path == run.path else {})
        (path.parent / f"{each.path.stem}.json").write_text(json.dumps(record))
    late = results_of(tmp_path, tmp_path, 'rope = "better"')
    assert held(late).endswith("(These expected verdicts were added to the study file after its "
                               "first run.)")
