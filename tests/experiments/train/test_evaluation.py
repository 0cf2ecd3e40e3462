"""A finished run is found again, loaded, measured and sampled from."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from commands.eval import QUALITY
from experiments.corpus import open_corpus
from experiments.declare.spec import make_spec
from experiments.train.evaluation import evaluate_run
from experiments.train.run import Run
from experiments.train.sample import continue_text
from experiments.weights import checkpoint
from experiments.weights.begin import find_source
from experiments.weights.saved import find_run, load_run
from mingpt.utils import BadInput

LAB = Path(__file__).resolve().parents[3] / "lab.py"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder with two short runs, baseline and rope."""
    folder, rng = tmp_path_factory.mktemp("runs"), random.Random(0)
    data = folder / "words.jsonl"
    texts = (f"{n}: " + " ".join(rng.choices(["red", "green", "blue"], k=40)) for n in range(200))
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for flags in ((), ("rope",)):
        spec = make_spec(preset="nano", flags=flags, data=[str(data)], overrides=[
            "--trainer.max_iters=30", "--trainer.device=cpu", "--run.keep_best=true",
            "--run.eval_every=15",
            "--data.val_tokens=1024", f"--data.cache={folder / 'cache'}"])
        assert Run(spec, 0, folder, open_corpus(spec.settings.data)).execute() == 0
    return folder


def test_the_evaluation_of_a_saved_run_is_what_its_record_says(out):
    files = find_run("rope.s0", out)
    result, record = evaluate_run(files, device="cpu"), json.loads(files.json.read_text())
    assert result["val_loss"] == pytest.approx(record["result"]["val_loss"], abs=1e-6)
    assert result["bits_per_byte"] == pytest.approx(record["result"]["bits_per_byte"], abs=1e-6)
    assert result["parameters"] == record["model"]["parameters"]
    ms = result["latency_ms"]["64"]   # 64 is the block size: none of the usual four lengths fits
    assert 0 < ms["min"] <= ms["median"] <= ms["p95"] <= ms["p99"] <= ms["max"]


def test_the_best_weights_are_those_of_the_best_evaluation(out):
    files = find_run("rope.s0", out)
    best = json.loads(files.json.read_text())["result"]["best"]["val_loss"]
    assert evaluate_run(files, device="cpu", which="best")["val_loss"] == pytest.approx(
        best, abs=1e-6)


@pytest.mark.parametrize("text", ["rope.s0", "rope", "losses/rope.s0.csv", "losses/rope.s0.json",
                                  "checkpoints/rope.s0"])
def test_a_run_is_found_by_its_name_its_arm_or_a_file_of_it(out, text):
    assert find_run(str(out / text) if "/" in text else text, out).name == "rope.s0"


def test_a_run_of_a_study_is_found_without_the_studys_name_where_it_is_the_only_one(out, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for study, run in (("seven", "rope.s0"), ("seven", "rope.s1"), ("aa", "rope.s1")):
        shutil.copytree(out / "checkpoints/rope.s0", checkpoints / study / run)
    assert find_run("rope.s0", tmp_path).name == "seven/rope.s0"
    with pytest.raises(BadInput, match="'rope.s1' could be any of aa/rope.s1, seven/rope.s1"):
        find_run("rope.s1", tmp_path)
    assert find_run("aa/rope", tmp_path).name == "aa/rope.s1"
    assert find_source("rope.s0", tmp_path) == str(checkpoints / "seven/rope.s0")
    shutil.copytree(out / "checkpoints/rope.s0", checkpoints / "rope.s1")
    assert find_run("rope.s1", tmp_path).name == "rope.s1"     # its whole name


def test_an_unknown_run_names_the_nearest(out):
    with pytest.raises(BadInput, match="did you mean 'rope.s0'"):
        find_run("rpoe.s0", out)


def test_a_seed_gives_the_same_samples_and_several_differ(out):
    model, tokenizer, _ = load_run(find_run("baseline.s0", out), "cpu")
    first = continue_text(model, tokenizer, "red ", 40, samples=3, seed=1)
    assert first == continue_text(model, tokenizer, "red ", 40, samples=3, seed=1)
    assert len(set(first)) == 3 and all(text.startswith("red ") for text in first)


def test_temperature_0_is_greedy(out):
    model, tokenizer, _ = load_run(find_run("baseline.s0", out), "cpu")
    texts = continue_text(model, tokenizer, "red ", 20, temperature=0, samples=2, seed=5)
    assert texts[0] == texts[1] == continue_text(model, tokenizer, "red ", 20, temperature=0,
                                                 seed=6)[0]


def test_the_command_compares_runs_and_writes_what_it_found(out):
    done = subprocess.run([sys.executable, str(LAB), "eval", "baseline.s0", "rope.s0", "--compare",
                           "--device", "cpu",
                           "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rope.s0" in done.stdout and "%)" in done.stdout
    written = json.loads((out / "evaluation_results.json").read_text())
    assert [r["run"] for r in written] == ["baseline.s0", "rope.s0"]


@pytest.fixture(scope="module")
def measured(out) -> dict:
    """What eval measures of the two runs, by name."""
    return {name: evaluate_run(find_run(name, out), device="cpu", bleu_rows=0)
            | {"bleu": {"score": 10.0}} for name in ("baseline.s0", "rope.s0")}


def longer(record):
    record["config"]["trainer"]["max_iters"] = 60


def declared(record):
    longer(record)
    record["changes"]["trainer.max_iters"] = [30, 60]
    record["result"]["tokens"] *= 2


REFUSED = "rope.s0: its loss is not comparable with baseline.s0: "


@pytest.mark.parametrize(("change", "told"), [
    (lambda record: record["data"].update(hash="f" * 16), REFUSED + "the data's hash "),
    (longer, REFUSED + "trainer.max_iters 30 (baseline.s0) and 60"),
    ("another set", REFUSED + "it scored another validation set"),
    (declared, "rope.s0: with 2× the tokens"), (lambda record: None, "")],
    ids=["data", "budget", "validation set", "declared budget", "nothing"])
@pytest.mark.parametrize("turned", [False, True], ids=["baseline first", "arm first"])
def test_no_quality_is_compared_of_runs_that_differ_in_more_than_they_declare(
        out, measured, change, told, turned, monkeypatch, capsys):
    """Whichever of the two comes first. Their sizes are always compared."""
    names = ["rope.s0", "baseline.s0"] if turned else ["baseline.s0", "rope.s0"]
    results, file = json.loads(json.dumps(measured)), out / "losses" / "rope.s0.json"
    before = file.read_text()
    if change == "another set":
        results["rope.s0"]["data"]["validation"] = {"hash": "b", "text_hash": "b"}
    else:
        change(record := json.loads(before))
        file.write_text(json.dumps(record))
    monkeypatch.setattr("experiments.train.evaluation.evaluate_runs",
                        lambda *_, **__: [results[name] for name in names])
    try:
        assert lab.main(["eval", *names, "--compare", "--out", str(out)]) == 0
    finally:
        file.write_text(before)
    said = capsys.readouterr().out
    lines = {line[:28].strip(): line for line in said.splitlines()}
    shown = {"%)" in lines[label] for label in QUALITY}
    assert shown == {not told.startswith(REFUSED)} and "%)" in lines["parameters"]
    if turned:
        assert ("not comparable with rope.s0" in said) == told.startswith(REFUSED)
    else:
        assert told in said and (told or "comparable" not in said)


def test_a_draft_changes_no_greedy_text_and_says_what_it_brought(out, capsys):
    request = ["sample", "rope.s0", "--prompt", "red ", "--tokens", "30", "--temperature", "0",
               "--out", str(out),
               "--device", "cpu", "--json"]
    told = []
    for more in ([], ["--draft", "baseline.s0", "--drafted", "3"]):
        assert lab.main([*request, *more]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["samples"] == told[1]["samples"] and "draft" not in told[0]
    brought = told[1]["draft"]
    assert (
        0 <= brought["acceptance"] <= 1 <= brought["tokens_per_pass"] <= 4
        and brought["drafted"] > 0
    )
    assert brought["speed_up"] == pytest.approx(brought["seconds_without"] / brought["seconds"])
    assert lab.main([*request[:-1], "--draft", "rope.s0", "--samples", "2"]) == 0
    text = capsys.readouterr().out
    assert (
        "rope.s0 drafted 46 tokens, 100.0% were kept: 4.83 tokens per pass" in text
        and "times as fast" in text
    )


def test_a_draft_in_other_tokens_or_without_heads_is_refused(out):
    request = ["sample", "rope.s0", "--tokens", "3", "--out", str(out), "--device", "cpu",
               "--draft"]
    state = out / "checkpoints/baseline.s0/state.json"
    before = state.read_text()
    try:
        state.write_text(checkpoint.signed(json.loads(before) | {"tokenizer": "gpt2"}))
        with pytest.raises(BadInput, match="its tokenizer is 'gpt2', that of rope.s0 'byte'"):
            lab.main([*request, "baseline.s0"])
    finally:
        state.write_text(before)
    with pytest.raises(BadInput, match="train it with --model.n_future=4"):
        lab.main([*request, "heads"])
    with pytest.raises(BadInput, match="--drafted 0: from 1 to 1,000,000"):
        lab.main([*request, "baseline.s0", "--drafted", "0"])
