"""A run that uses a code file says so, goes on only with that file, and never runs the copy in its
record."""

import hashlib
import json
import signal
from pathlib import Path

import pytest

import lab
from experiments.declare import members
from experiments.report.publish import public
from experiments.train.resume import RESTART
from experiments.train.run import Run
from mingpt.utils import BadInput
from tests.helpers.planted_code import DYT, FAULTS, HEAD

SIZE = ["--preset", "nano", "--device", "cpu", "--model.n_layer=1", "--model.block_size=32",
        "--trainer.batch_size=2", "--data.val_tokens=512", "--run.rehearsals=0"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("\n\n".join(f"Line {n} of a text that has {n * n} words." for n in range(900)))
    return path


@pytest.fixture
def place(tmp_path, text):
    """(the options of a small run under tmp_path, its code file). Every command of a test begins as
    a new process does, without the members of the one before."""
    code = tmp_path / "my_norm.py"
    code.write_text(HEAD + DYT)
    yield [*SIZE, "--data", str(text), f"--data.cache={text.parent}", "--out", str(tmp_path)], code
    members.forget()


def call(*words):
    members.forget()
    return lab.main([str(word) for word in words])


def train(options, code, *more):
    return call("--code", code, "--model.norm=dyt", "--max-iters", 4, *options, *more)


def refused(*words):
    with pytest.raises(BadInput) as refusal:
        call(*words)
    return str(refusal.value)


def test_a_record_holds_the_files_hash_and_text_and_only_where_the_run_uses_it(place, tmp_path):
    options, code = place
    assert train(options, code) == 0
    record = json.loads((tmp_path / "losses" / "dyt.s0.json").read_text())
    held, = record["code_files"]
    assert held["sha256"] == hashlib.sha256(code.read_bytes()).hexdigest()
    assert (held["name"], held["text"]) == ("my_norm.py", code.read_text())
    assert held["members"] == {"model.norm": ["dyt"]}
    assert record["config"]["model"]["dyt_alpha"] == 0.5
    both = []
    for words in ([], ["--code", code]):
        assert call(*words, "--max-iters", 2, *options, "--resume", "restart") == 0
        record = json.loads((tmp_path / "losses" / "baseline.s0.json").read_text())
        assert record["code_files"] == [] and "dyt_alpha" not in record["config"]["model"]
        both.append(record["config_hash"])
    assert both[0] == both[1]        # the baseline is the same run with and without the file
    assert call("--max-iters", 2, *options) == 0


def test_a_run_goes_on_under_its_own_file_only(place, tmp_path):
    options, code = place
    short = [*options, "--run.checkpoint_every=2"]
    assert train(short, code) == 0
    record = tmp_path / "losses" / "dyt.s0.json"
    was = hashlib.sha256(code.read_bytes()).hexdigest()[:12]
    code.write_text(code.read_text() + "\n# changed\n")
    now = hashlib.sha256(code.read_bytes()).hexdigest()[:12]
    said = refused("--code", code, "--model.norm=dyt", "--max-iters", 4, *short)
    assert f"done under other code: code my_norm.py changed: {was} → {now}" in said
    record.unlink()                  # the checkpoint alone knows it too
    said = refused("--code", code, "--model.norm=dyt", "--max-iters", 4, *short)
    assert f"code my_norm.py changed: {was} → {now}" in said and RESTART in said
    assert train(short, code, "--resume", "restart") == 0


def test_an_interrupted_run_goes_on_with_its_file_to_the_same_bits(place, tmp_path, monkeypatch):
    options, code = place
    short = [*options, "--run.checkpoint_every=2", "--model.resid_pdrop=0.1"]
    assert train(short, code) == 0
    whole = (tmp_path / "checkpoints" / "dyt.s0" / "model-000004.safetensors").read_bytes()
    after = Run._after_iteration

    def stopped(run, trainer):
        if trainer.iter_num == 3:
            run._ask_to_end(signal.SIGTERM, None)
        after(run, trainer)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_after_iteration", stopped)
        assert train(short, code, "--resume", "restart") == 3
    assert train(short, code.rename(tmp_path / "renamed.py")) == 0
    again = (tmp_path / "checkpoints" / "dyt.s0" / "model-000004.safetensors").read_bytes()
    assert again == whole


def test_other_verbs_ask_for_the_file_and_compare_its_hash(place, tmp_path, capsys, monkeypatch):
    options, code = place
    assert train(options, code) == 0
    monkeypatch.chdir(tmp_path)
    verbs = [["sample", "dyt.s0", "--tokens", "4"], ["eval", "dyt.s0", "--bleu", "0"],
             ["audit", "dyt.s0"], ["analyze", "dyt.s0"], ["export", "dyt.s0", "hf"],
             ["train", "--init", "dyt.s0", "--arm", "again", "--dry-run", *options]]
    for words in verbs[:1] + verbs[2:]:
        said = refused(*words)
        assert "was trained with the code file my_norm.py (sha256" in said, words
        assert "give --code my_norm.py; the copy in the record is never run" in said
    changed = tmp_path / "changed" / "my_norm.py"
    changed.parent.mkdir()
    changed.write_text(code.read_text() + "\n# changed\n")
    assert "was trained with another my_norm.py: sha256" in refused(
        "sample", "dyt.s0", "--code", changed)
    renamed = code.rename(tmp_path / "renamed.py")      # what counts is its content
    capsys.readouterr()
    assert call("sample", "dyt.s0", "--code", renamed, "--tokens", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == "dyt.s0"
    assert call("audit", "dyt.s0", "--code", renamed) == 0
    assert "dyt" in refused("export", "dyt.s0", "hf", "--code", renamed)
    assert not Path("hf").exists()


def test_eval_measures_such_a_run_in_a_process_of_its_own(place, tmp_path, monkeypatch):
    options, code = place
    assert train(options, code) == 0
    assert call("eval", "dyt.s0", "--out", tmp_path, "--bleu", "0", "--code", code) == 0
    found, = json.loads((tmp_path / "evaluation_results.json").read_text())
    record = json.loads((tmp_path / "losses" / "dyt.s0.json").read_text())
    assert found["val_loss"] == pytest.approx(record["result"]["val_loss"], abs=1e-5)
    with pytest.raises(BadInput, match="give --code my_norm.py"):
        call("eval", "dyt.s0", "--out", tmp_path, "--bleu", "0")


def test_what_training_accepts_as_an_option_of_a_member_is_read_from_its_checkpoint(
        place, tmp_path):
    options, code = place
    code.write_text(code.read_text().replace(
        '"dyt_alpha": 0.5', '"dyt_alpha": 0.5, "a": (1, 2), "b": None, "c": 3'))
    assert train(options, code, "--model.b=[1,2]", "--model.c=2.5", "--arm", "odd") == 0
    assert call("sample", "odd.s0", "--out", tmp_path, "--code", code, "--tokens", 4) == 0
    begun = [*options, "--init", tmp_path / "checkpoints" / "odd.s0", "--arm", "begun"]
    assert train(begun, code, "--model.b=[1,2]", "--model.c=2.5") == 0


def test_the_copy_in_a_record_is_never_run(place, tmp_path):
    import plotter
    options, code = place
    assert train(options, code) == 0
    mark, path = tmp_path / "was_run", tmp_path / "losses" / "dyt.s0.json"
    record = json.loads(path.read_text())
    record["code_files"][0]["text"] = f"open({str(mark)!r}, 'w')\n"
    record["code_files"][0]["path"] = str(tmp_path / "evil.py")
    (tmp_path / "evil.py").write_text(record["code_files"][0]["text"])
    path.write_text(json.dumps(record))
    call("sample", "dyt.s0", "--out", tmp_path, "--code", code, "--tokens", 4)
    refused("sample", "dyt.s0", "--out", tmp_path)
    call("status", "--out", tmp_path)
    plotter.main([str(tmp_path / "losses"), "--out", str(tmp_path / "pictures")])
    assert not mark.exists()


def test_a_published_record_names_no_folder_and_no_text_without_its_hash(place, tmp_path):
    options, code = place
    code.write_text(HEAD + DYT + f"# from {tmp_path}/notes\n")
    for kept in (None, HEAD + DYT):
        code.write_text(kept or code.read_text())
        assert train(options, code, "--resume", "restart") == 0
        record = json.loads((tmp_path / "losses" / "dyt.s0.json").read_text())
        record["command"] = f"python lab.py --code {code} --model.norm=dyt"
        shown = public(record)
        assert shown["code_files"][0]["text"] == kept and str(tmp_path) not in json.dumps(shown)
        assert shown["code_files"][0]["sha256"] == record["code_files"][0]["sha256"]
        assert shown["command"] == "python lab.py --code my_norm.py --model.norm=dyt"
    said = refused("study", "seven", "--code", code)
    assert 'a study names its own code files: code = "FILE.py"' in said


def test_a_file_with_a_fault_is_refused_before_anything_is_written(place, tmp_path):
    options, code = place
    text, overrides, claim, words = FAULTS["a wrong scale in evaluation"]
    code.write_text(HEAD + text)
    said = refused("--code", code, *overrides, *options, "--max-iters", 4)
    assert said.startswith("audit of own: ") and claim in said and words in said
    assert not list(tmp_path.glob("losses/*"))
    code.write_text(HEAD + DYT.replace("config.dyt_alpha", "config.dyt_alfa"))
    said = refused("--code", code, "--model.norm=dyt", *options, "--max-iters", 4)
    assert f"{code}:{HEAD.count(chr(10)) + 8}: AttributeError" in said


def test_compare_and_its_study_train_such_arms_at_once_and_judge_them(place, tmp_path, capsys):
    options, code = place
    words = ["compare", "--code", code, "--arm", "dyt: --model.norm=dyt", "--seeds", "2", "--jobs",
             "2", "--local", "--max-iters", "4", *options]
    assert call(*words) == 0
    study = next((tmp_path / "studies").glob("*.toml"))
    assert f'code = ["{code}"]' in study.read_text()
    verdicts = json.loads(next(tmp_path.rglob("verdicts.json")).read_text())
    assert "dyt" in json.dumps(verdicts)
    records = [json.loads(path.read_text()) for path in (tmp_path / "losses").rglob("*.s?.json")]
    assert [r["status"] for r in records] == ["done"] * 4
    assert sorted(len(r["code_files"]) for r in records) == [0, 0, 1, 1]
    code.write_text(code.read_text() + "\n# changed\n")
    assert "done under other code: code my_norm.py changed" in refused(
        "study", study, "--local", "--out", tmp_path, "--dry-run")
