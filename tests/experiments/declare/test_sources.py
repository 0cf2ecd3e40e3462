"""Sources and mixtures in a study's file and on the command line."""

import json

import pytest

from experiments.declare.entries import entries
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from lab import main
from mingpt.utils import BadInput

STUDY = """
baseline = "half"
preset = "nano"
metric = "val_loss_code"
[base]
data.tokenizer = "byte"
[sources.code]
paths = ["code.jsonl"]
[sources.web]
paths = "tinystories"
[arms.half]
data.mixture = {web = 0.50, code = 0.5}
[arms.most]
data.mixture = {web = 0.9, code = 0.1}
data.filter = {min_bytes = 20, set = ["x", "y"]}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "code.jsonl").write_text("".join(
        json.dumps({"text": f"def f{n}(): return {n * n}"}) + "\n" for n in range(300)))
    path = tmp_path / "mine.toml"
    path.write_text(STUDY)
    return path


def test_tables_become_settings_and_paths_beside_the_study_are_found(study):
    declared = load_study(study)
    assert declared.base["data.sources"] == [f"code={study.parent / 'code.jsonl'}",
                                             "web=tinystories"]
    assert declared.arms["half"]["data.mixture"] == ["code=0.5", "web=0.5"]
    spec = make_spec(study=declared, arm="most")
    assert spec.settings.data.filter == ["min_bytes=20", "set=x", "set=y"]
    assert spec.changes["data.mixture"] == [["code=0.5", "web=0.5"], ["code=0.1", "web=0.9"]]


def test_the_command_line_replaces_one_source(study):
    spec = make_spec(study=load_study(study), arm="half",
                     overrides=["--data.sources.web=other.txt"])
    assert spec.settings.data.sources == [f"code={study.parent / 'code.jsonl'}", "web=other.txt"]


@pytest.mark.parametrize(("given", "told"), [
    ({"data": ["x.txt"]}, "--data .*would replace the sources"),
    ({"overrides": ["--data.sources.wbe=x"]}, "no 'wbe' in data.sources: did you mean"),
    ({"overrides": ["--data.mixture=web=1"]}, "would replace what the arms half, most"),
])
def test_nothing_on_the_command_line_replaces_an_arms_own_data_silently(study, given, told):
    with pytest.raises(BadInput, match=told):
        make_spec(study=load_study(study), arm="half", **given)


@pytest.mark.parametrize(("old", "new", "told"), [
    ("web = 0.50", "web = 0.6", "sum to 1.1"), ("web = 0.50", "wbe = 0.5", "no source 'wbe'"),
    ('paths = "tinystories"', "paths = 3", "paths is a list"),
    ('paths = "tinystories"', 'path = "x"', "give paths"),
    ("[sources.web]", "[sources.web-2]", "NAME=PATH"),
    ("val_loss_code", "val_loss_cod", "no metric 'val_loss_cod'"),
    ("min_bytes = 20", "min_byte = 20", "no filter 'min_byte'")])
def test_a_malformed_declaration_is_refused(study, old, new, told):
    study.write_text(study.read_text().replace(old, new))
    with pytest.raises(BadInput, match=told):
        main(["study", str(study), "--local", "--dry-run"])


def test_a_source_that_is_not_there_is_refused_with_the_plan(study):
    study.write_text(STUDY.replace('"tinystories"', '"gone.jsonl"'))
    for words in (["study", str(study), "--local", "--dry-run"],
                  ["train", "--study", str(study), "--arm", "half", "--dry-run"]):
        with pytest.raises(BadInput, match=r"gone\.jsonl: no such file"):
            main(words)


def test_numbers_are_written_in_one_way():
    assert entries("data.mixture", "web=.7,code=0.30") == ["code=0.3", "web=0.7"]
    assert entries("data.filter", {"max_tokens": 1433600}) == ["max_tokens=1433600"]


def test_a_source_that_would_be_read_too_often_is_refused(study):
    study.write_text(STUDY.replace('"tinystories"', '["stdlib:docstrings"]')
                     .replace("[base]", "[base]\ndata.repeat_max = 2"))
    with pytest.raises(BadInput, match="data.repeat_max=2: .*would read the source code"):
        main(["train", "--study", str(study), "--arm", "half", "--out", str(study.parent),
              "--max-iters", "900"])
    assert not (study.parent / "losses").exists()
