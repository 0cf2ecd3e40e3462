"""lab.py compare: the study that a few flags amount to, and its run."""

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lab
from commands import compare as verb
from commands import train
from commands._arguments import spec_from
from experiments.declare.arms import catalogue
from experiments.declare.compare import (
    Declared,
    read_arms,
    read_back,
    same_question,
    study_name,
    study_text,
)
from experiments.declare.settings import walk
from experiments.declare.spec import make_spec, parse_override
from experiments.declare.study import load_study
from mingpt.attention.heads import ATTENTIONS
from mingpt.patterns.schedule import NAMED
from mingpt.utils import BadInput

ROOT = Path(__file__).resolve().parents[2]
SIZE = ["--model.n_layer=4", "--model.n_head=4", "--model.n_embd=64"]
LETTERS = "srnwc"


def declare(*words, base=(), preset="nano", seeds=(0, 1), margin=0.01, name="mine"):
    """(arms, study) of the words that give arms, such as '-rs' or '--arm=x: -r'."""
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    asked = parser.parse_args(verb.spell_out(list(words))).arms
    base = [*SIZE, *base]
    arms = read_arms(map(verb._asked, asked), preset, None, base)
    shared = dict(map(parse_override, base))
    return arms, read_back(study_text(arms, shared, preset, list(seeds), margin), name, arms,
                           shared)


def spec_of(study, text, arm, folder):
    """The Spec that a run of the study's arm gets."""
    path = folder / f"{study.name}.toml"
    path.write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(["--study", str(path), "--arm", arm])
    args.overrides = []
    return spec_from(args)


# -- from flags to verdicts ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the folder, the words, the finished process) of a small comparison."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "text.txt").write_text("\n\n".join(
        f"Line {n} of a text that has {n * n} words." for n in range(900)))
    words = ["-b", "-r", "--max-iters", "4", "--data", "text.txt", "--data.val_tokens=512",
             f"--data.cache={folder / 'cache'}", "--device", "cpu", "--local"]
    command = [sys.executable, str(ROOT / "lab.py"), "compare", "--preset", "nano", *words]
    return folder, words, subprocess.run([*command, "--seeds", "2"], capture_output=True, text=True,
                                         cwd=folder)


def test_two_arms_and_two_seeds_lead_to_a_verdict_and_a_page(finished):
    folder, _, done = finished
    assert done.returncode == 0, done.stderr
    pictures = folder / "visualizations" / "compare_rope"
    found = json.loads((pictures / "verdicts.json").read_text())
    assert found["margin"] == 0.01 and list(found["verdicts"]) == ["rope"]
    assert {arm: list(seeds) for arm, seeds in found["values"].items()} == {
        "baseline": ["0", "1"], "rope": ["0", "1"]}
    assert found["study_hash"] == load_study(folder / "studies" / "compare_rope.toml").hash
    assert (pictures / "report.html").is_file()
    # the printed study is the file's
    text = (folder / "studies" / "compare_rope.toml").read_text()
    assert text in done.stdout and "[arms.rope]" in text


def test_the_file_alone_is_the_whole_study(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished[0])
    assert lab.main(["study", "--dry-run", "--json", "studies/compare_rope.toml"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {run["state"] for run in plan["runs"]} == {"done"}
    assert plan["seeds"] == [0, 1] and plan["arms"] == {
        "baseline": {}, "rope": {"model.position": "rope"}}


def test_more_seeds_go_on_and_another_study_of_that_name_is_refused(
        finished, monkeypatch, capsys):
    folder, words, _ = finished
    monkeypatch.chdir(folder)
    text = (folder / "studies" / "compare_rope.toml").read_text()
    words = ["compare", "--preset", "nano", "--dry-run", *words]
    assert lab.main([*words, "--seeds", "3", "--json"]) == 0
    more = capsys.readouterr()
    assert json.loads(more.out)["seeds"] == [0, 1, 2] and "[arms.rope]" in more.err
    for other in (["--margin", "0.5"], ["--model.bias=false"], ["--name", "compare_rope", "-s"]):
        with pytest.raises(BadInput, match="runs of another study of that name"):
            lab.main([*words, *other])
    assert (folder / "studies" / "compare_rope.toml").read_text() == text


# -- the text of the study -------------------------------------------------------------------------

CLUSTERS = ["".join(each) for n in range(1, 6) for each in itertools.combinations(LETTERS, n)
            if not ("c" in each and "w" in each)]      # -c includes -w
KINDS = [kind for kind in list(ATTENTIONS)[1:] if kind != "msla_published"]
SCHEDULES = [name for name in NAMED if name != "full"] + ["f 16*", "16/2*", "(8|s4)&b8x2*",
                                                          "study000.json:half"]
OTHERS = ["model.bias=false", "model.qk_norm=true", "model.n_future=2", "model.norm_eps=1e-06",
          "model.mlp_hidden=8/3d", "model.rope_fraction=0.25", "model.mlp=geglu",
          "trainer.warmup_steps=5", "model.nope_layers=1,2"]


@pytest.mark.parametrize("words", [[f"-{each}" for each in CLUSTERS],
                                   [f"--attention={kind}" for kind in KINDS],
                                   [f"--schedule={text}" for text in SCHEDULES],
                                   ["--window=8", "--window=9", "-a"],
                                   [f"--arm=-r --{other}" for other in OTHERS]],
                         ids=["catalogue", "attention", "schedules", "windows", "overrides"])
def test_every_arm_survives_the_file_with_the_settings_and_the_name_that_train_gives(
        words, tmp_path):
    words = [word for word in words if not _idle(word)]
    arms, study = declare(*words)
    text = study_text(arms, study.base, "nano", study.seeds, study.margin)
    assert list(arms) == list(study.arms) and len(arms) == len(words) + 1
    for word, name in zip(words, list(arms)[1:], strict=True):
        trained, run = _trained(word), spec_of(study, text, name, tmp_path)
        assert (run.arm, run.changes) == (trained.arm, trained.changes)
        assert dict(walk(run.settings)) == dict(walk(trained.settings))    # tuples are lists


def _trained(word):
    """The Spec that `train` builds of the word alone."""
    asked = verb._asked(word.removeprefix("--arm=").replace("--schedule=", "--schedule ")
                        if word.startswith("--arm") else _quoted(word))
    return make_spec(preset="nano", flags=asked.flags, overrides=[*SIZE, *asked.overrides])


def _quoted(word):
    option, equals, value = word.partition("=")
    return f"{option} '{value}'" if equals else word


def _idle(word):
    return not _trained(word).changes


VALUES = st.one_of(st.booleans(), st.integers(-2**70, 2**70), st.text(),
                   st.floats(allow_nan=False))


@settings(max_examples=150, deadline=None)
@given(value=st.one_of(VALUES, st.lists(VALUES)))
def test_every_value_keeps_its_type_in_the_file(value):
    arms = {"baseline": Declared(), "rope": Declared(("rope",))}
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        with pytest.raises(BadInput, match="not Unicode"):
            study_text(arms, {"data.separator": value}, None, [0], 0.01)
        return
    base = {"data.separator": value, "run.sample_prompt": "\r\n"}
    study = read_back(study_text(arms, base, None, [3, 1], 1e-300), "mine", arms, base)
    found = study.base["data.separator"]
    assert _typed(found) == _typed(value)
    assert (study.seeds, study.margin, study.preset) == ([3, 1], 1e-300, None)


def _typed(value):
    return [*map(_typed, value)] if isinstance(value, list) else (type(value), value)


@pytest.mark.parametrize("value", [None, {"a": 1}, b"x", 1j, ...])
def test_a_value_that_toml_lacks_is_refused(value):
    with pytest.raises(BadInput, match="data.separator=.*: a study's file cannot hold this value"):
        study_text({"rope": Declared(("rope",))}, {"data.separator": value}, None, [0], 0.01)


def test_a_member_that_a_preset_gives_more_values_is_that_arm():
    arms, study = declare("--arm=--model.mlp=swiglu", preset="paper")
    assert list(study.arms) == ["baseline", "swiglu"] and arms["swiglu"].includes == ("swiglu",)


def test_what_holds_for_all_arms_is_no_part_of_their_names():
    arms, study = declare("-r", "--attention=mqa", base=["--model.norm=rmsnorm",
                                                         "--trainer.betas=(0.9, 0.99)"])
    assert list(arms) == ["baseline", "rope", "mqa"]
    assert study.base["model.norm"] == "rmsnorm" and study.base["trainer.betas"] == [0.9, 0.99]


def test_the_default_name_of_the_study_is_made_from_its_arms():
    arms, _ = declare("-b", "-rs", "--arm=deep.er: -n", "--arm=no.1: --trainer.learning_rate=1e-4")
    assert list(arms) == ["baseline", "swiglu_rope", "deep.er", "no.1"]
    assert study_name(arms) == "compare_swiglu_rope_deep.er_no.1"
    assert len(study_name([f"arm{n}" for n in range(99)])) <= 120


def test_only_seeds_and_words_may_differ_in_the_same_question():
    _, a = declare("-r")
    _, more = declare("-r", seeds=range(9))
    _, other = declare("-r", margin=0.02)
    worded = dataclasses.replace(a, hypothesis="It helps.")
    assert same_question(a, more) and same_question(a, worded) and not same_question(a, other)


def test_seeds_are_a_number_or_a_list():
    assert [verb._seeds(text) for text in ("3", "1", "0-4", "0,5")] == [
        [0, 1, 2], [0], [0, 1, 2, 3, 4], [0, 5]]
    with pytest.raises(BadInput, match="at least 1"):
        verb._seeds("0")
    with pytest.raises(BadInput, match="more than 10,000"):
        verb._seeds("99999999")


# -- refusals --------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, said", [
    ([], "no arms beside the baseline"),
    (["-b"], "no arms beside the baseline"),
    (["-b", "-r", "-b"], "'-b' is the same as the baseline"),
    (["-r", "--rope"], "'-r' is the same as '-r'"),
    (["-rs", "-sr"], "'-s -r' is the same as '-r -s'"),
    (["-c", "--arm", "-w --trainer.lr_schedule=cosine"], "is the same as '-c'"),
    (["-r", "--arm", "x: --model.position=rope"], "is the same as '-r'"),
    (["--arm", "x: --model.mlp=gelu"], "is the same as the baseline"),
    (["--schedule", "f*"], "is the same as the baseline"),
    (["-rb"], "-b changes nothing"),
    (["-rx"], "no arm's flag -x"),
    (["--rop"], "did you mean '--rope'"),
    (["--attention", "gqq"], "did you mean 'gqa'"),
    (["--schedule", "hafl"], "did you mean 'half'"),
    (["--arm", "x: --rop"], "did you mean '--rope'"),
    (["--arm", "x: --model.postion=rope"], "did you mean 'model.position'"),
    (["--arm", "x -r"], 'write it as --arm "NAME: FLAGS"'),
    (["--arm"], 'write it as --arm "NAME: FLAGS"'),
    (["--arm", "x: -r 'k"], "No closing quotation"),
    (["--arm", "x: --study seven -r"], "do not belong inside an arm"),
    (["--arm", "a/b: -r"], "cannot name files"),
    (["--arm", "rope: -s"], "its own name is 'swiglu'"),
    (["--arm", "baseline: -s"], "its own name is 'swiglu'"),
    (["--arm", "rope: -r --trainer.learning_rate=1e-4"], "give the arm a name of its own"),
    (["--arm", "--trainer.learning_rate=1e-4"], "give the arm a name of its own"),
    (["--arm", "One: -r", "--arm", "one: -s"], "another arm is called 'one' too"),
    (["-r", "--model.position=alibi"], "holds for all arms, and arm '-r' sets it to 'rope'"),
    (["-r", "--model.postion=alibi"], "did you mean 'model.position'"),
    (["-r", "--preset", "nanno"], "did you mean 'nano'"),
    (["-r", "--margin", "nan"], "give a number above 0"),
    (["-r", "--name", "seven"], "comes with the project"),
    (["-r", "--name", "../x"], "letters, digits"),
])
def test_bad_input_is_one_line_and_exit_2_and_leaves_nothing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = [] if "--preset" in words else ["--preset", "nano"]
    with pytest.raises(BadInput) as error:
        lab.main(["compare", *preset, "--dry-run", *words])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_only_the_plan_refuses_leaves_no_study_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="at least 1"):
        lab.main(["compare", "-r", "--preset", "nano", "--jobs", "0"])
    assert not list(tmp_path.iterdir())


def test_every_letter_of_the_catalogue_can_stand_in_a_cluster():
    letters = {flag[1] for arm in catalogue().values() for flag in arm.flags if len(flag) == 2}
    assert set(LETTERS) < letters
    assert verb.spell_out(["-sr", "-r", "--arm", "-rs", "--data", "a.txt"]) == [
        "--arm=-s -r", "-r", "--arm=-rs", "--data", "a.txt"]


def test_an_impossible_number_of_jobs_is_refused_before_anything_is_printed(
        tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="--jobs 0: at least 1"):
        lab.main(["compare", "-r", "--jobs", "0"])
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())
