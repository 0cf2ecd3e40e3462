"""A study whose file is not found is judged as its records declare it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from experiments.declare.study import DEFAULT_MARGIN, load_study
from experiments.records.runs import find_runs
from experiments.verdicts.results import collect
from tests.helpers.synthetic import write_run

TEXT = """question = "Is it?"
hypothesis = "It is."
expect = {rope = "better", late = "worse"}
baseline = "zero"
seeds = "0-2"
metric = "perplexity"
margin = 0.5
lr = [1e-3, 4e-3]
pictures = ["comparison"]
[base]
model.n_layer = 1
[arms.zero]
include = ["baseline"]
[arms.late]
model.mlp = "geglu"
[arms.pair]
factorial = ["rope", ["warmup", "cosine"]]
"""


def trained(tmp_path, arms, text=TEXT, **record):
    """The declaration of a study whose `arms` have a run, and the study that its runs show."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    study = load_study(file)
    for arm in arms:
        write_run(tmp_path / "losses", arm, 0, study="mine", steps=20, study_hash=study.hash,
                  **{"declaration": study.declaration(arm)} | record)
    (results,) = collect(find_runs(tmp_path / "losses"))
    return study, results.declared


def test_a_study_without_its_file_is_what_its_records_declare(tmp_path):
    study, found = trained(tmp_path, ["zero", "rope"])
    assert dataclasses.replace(found, path=study.path, table=study.table) == study
    assert found.designs and found.grids and "late" in found.arms    # not only what has a run


def test_the_latest_run_decides_and_what_earlier_ones_declared_is_told(tmp_path):
    early, late = "2026-03-01T01:10:00+09:00", "2026-03-01T00:30:00+00:00"   # in UTC: 16:10, 00:30
    trained(tmp_path, ["rope"], start=late)
    trained(tmp_path, ["zero"], TEXT.replace("0.5", "0.7"), start=early)
    (results,) = collect(find_runs(tmp_path / "losses"))
    assert results.margin == 0.5
    assert [(each.key, each.was, each.now) for each in results.changed] == [("margin", 0.7, 0.5)]


def test_an_older_record_gives_all_but_how_the_arms_were_made(tmp_path):
    study, _ = trained(tmp_path, ["zero", "rope", "rope_lr0.004"])
    for path in (tmp_path / "losses").rglob("*.json"):
        record = json.loads(path.read_text())
        del record["declaration"]["file"]
        path.write_text(json.dumps(record))
    (results,) = collect(find_runs(tmp_path / "losses"))
    found = results.declared
    assert (found.question, found.expect, found.baseline, found.seeds, found.metric,
            found.margin) == ("Is it?", study.expect, "zero", [0, 1, 2], "perplexity", 0.5)
    assert found.arms == {"rope": study.arms["rope"], "late": {}, "zero": {},
                          "rope_lr0.004": study.arms["rope_lr0.004"]}
    assert not found.designs and not found.grids


@pytest.mark.parametrize("declaration", [
    None, [], "text", {}, {"file": 3}, {"file": {"margin": -1, "arms": {"rope": {}}}},
    {"file": {"arms": {"x": 3}}}, {"margin": "much", "arm": {}}, {"arm": 3}])
def test_what_is_no_declaration_leaves_the_defaults(tmp_path, declaration):
    _, found = trained(tmp_path, ["rope"], declaration=declaration)
    assert found is None
    (results,) = collect(find_runs(tmp_path / "losses"))
    assert results.margin == DEFAULT_MARGIN
