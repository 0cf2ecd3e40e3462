"""A run records what it does, and continues exactly where it was stopped."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.corpus import open_corpus
from experiments.records import record as record_module
from mingpt.utils import IGNORE_INDEX, CfgNode

ROOT = Path(__file__).resolve().parents[3]
TIMINGS = ("seconds", "tokens_per_second", "peak_memory_mb")
SMALL = ["--preset", "nano", "--max-iters", "45", "--run.log_every=3",
         "--run.eval_every=10", "--run.checkpoint_every=7", "--model.n_layer=2",
         "--data.val_tokens=2048",
         "--device", "cpu"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Small text with structure, so that a loss can fall."""
    rng = random.Random(0)
    words = ["red", "green", "blue", "one", "two", "three", "runs", "sleeps", "and", "then"]
    path = tmp_path_factory.mktemp("text") / "words.jsonl"
    with open(path, "w") as f:
        for n in range(400):
            text = f"document {n}: " + " ".join(rng.choices(words, k=40)) + "."
            f.write(json.dumps({"text": text, "meta": {"pile_set_name": "A" if n % 2 else "B"}})
                    + "\n")
    return path


def lab(corpus, out, *args, check=0, env=None, **kwargs):
    command = [sys.executable, str(ROOT / "lab.py"), "train", *SMALL, "--data", str(corpus),
               "--out", str(out), *args]
    cache = {"ABLATE_CACHE": str(corpus.parent / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, **cache, **(env or {})}, **kwargs)
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def rows(out, name):
    with open(Path(out) / "losses" / f"{name}.csv") as f:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(f)]


def result(out, name):
    record = json.loads((Path(out) / "losses" / f"{name}.json").read_text())
    return {k: v for k, v in record["result"].items() if k not in TIMINGS}


def record(out, name):
    return json.loads((Path(out) / "losses" / f"{name}.json").read_text())


def weights(out, name):
    folder = Path(out) / "checkpoints" / name
    return load_file(folder / json.loads((folder / "state.json").read_text())["files"]["model"])


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """An uninterrupted run of the arm rope, with dropout."""
    out = tmp_path_factory.mktemp("whole")
    lab(corpus, out, "-r", "--model.resid_pdrop=0.1")
    return out


def assert_same(a, b, name):
    assert rows(a, name) == rows(b, name)
    assert result(a, name) == result(b, name)
    ours, theirs = weights(a, name), weights(b, name)
    assert ours.keys() == theirs.keys() and all((ours[k] == theirs[k]).all() for k in ours)


def test_a_run_records_what_it_did(whole):
    record = json.loads((whole / "losses/rope.s0.json").read_text())
    assert (record["status"], record["arm"], record["seed"]) == ("done", "rope", 0)
    assert record["changes"] == {"model.position": ["learned", "rope"]}
    assert (
        record["result"]["val_loss_by_set"].keys() == {"A", "B"}
        and record["result"]["bits_per_byte"] > 0
    )
    assert (
        record["audit"]["passed"]
        and record["model"]["parameters"] > record["model"]["non_embedding"]
    )
    table = rows(whole, "rope.s0")
    assert [int(r["iteration"]) for r in table] == sorted({*range(0, 46, 3), *range(0, 46, 10)})
    assert float(table[-1]["val_loss"]) < float(table[0]["val_loss"]) - 0.5, "the loss falls"
    assert {r["iteration"] for r in table if r["val_loss"]} == {"0", "10", "20", "30", "40", "45"}


def test_a_finished_run_keeps_a_sample_drawn_from_its_seed_and_says_how(corpus, whole, tmp_path):
    """The same prompt and seed for every arm, so that samples can be compared."""
    kept = record(whole, "rope.s0")["sample"]
    assert {key: kept[key] for key in ("prompt", "tokens", "temperature", "top_k", "seed")} == {
        "prompt": "\n", "tokens": 40, "temperature": 0.8, "top_k": 50, "seed": 0}
    assert kept["text"].startswith("\n") and len(kept["text"]) > 20
    lab(corpus, tmp_path, "--max-iters", "3", "--run.sample_prompt=red ", "--run.sample_tokens=2",
        "--seed", "4")
    other = record(tmp_path, "baseline.s4")["sample"]
    assert other["seed"] == 4 and other["text"].startswith("red ")


def test_a_sample_that_cannot_be_drawn_costs_no_result(monkeypatch):
    import experiments.train.run as module
    said = []
    run = SimpleNamespace(trainer=SimpleNamespace(model=None), limits=None, seed=0,
                          processes=SimpleNamespace(sharded=False),
                          corpus=SimpleNamespace(tokenizer=None),
                          observer=SimpleNamespace(say=said.append))

    def failing(*args):
        raise RuntimeError("out of memory")
    monkeypatch.setattr(module, "final_sample", failing)
    assert module.Run._sample(run) is None
    assert said == ["no sample of text: RuntimeError: out of memory"]


def test_the_result_is_the_last_row(whole):
    assert float(rows(whole, "rope.s0")[-1]["val_loss"]) == pytest.approx(
        result(whole, "rope.s0")["val_loss"]
    )


def test_killed_at_any_moment_and_started_again_gives_the_same_bits(corpus, whole, tmp_path):
    command = [sys.executable, str(ROOT / "lab.py"), "train", *SMALL, "--data", str(corpus),
               "--out", str(tmp_path),
               "-r", "--model.resid_pdrop=0.1"]
    env = {**os.environ, "ABLATE_CACHE": str(corpus.parent / "cache"), "OMP_NUM_THREADS": "1"}
    rng, path, kills = random.Random(os.getpid()), tmp_path / "losses/rope.s0.csv", 0
    for _ in range(3):
        before = path.stat().st_size if path.exists() else 0
        child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        while child.poll() is None and (not path.exists() or path.stat().st_size == before):
            time.sleep(0.005)   # wait until the run has written something new
        time.sleep(rng.random() * 0.3)
        kills += child.poll() is None
        child.kill()
        child.wait()
    lab(corpus, tmp_path, "-r", "--model.resid_pdrop=0.1")
    assert kills, "the run was too fast to be killed"
    assert_same(whole, tmp_path, "rope.s0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_exits_3_and_the_run_goes_on_exactly(corpus, whole, tmp_path, number):
    command = [sys.executable, str(ROOT / "lab.py"), "train", *SMALL, "--data", str(corpus),
               "--out", str(tmp_path),
               "-r", "--model.resid_pdrop=0.1"]
    env = {**os.environ, "ABLATE_CACHE": str(corpus.parent / "cache"), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             text=True)
    path = tmp_path / "losses/rope.s0.csv"
    while not (path.exists() and path.read_text().count("\n") >= 3):
        time.sleep(0.005)
        assert child.poll() is None, child.stderr.read()
    child.send_signal(number)
    assert child.wait(60) == 3
    assert json.loads((tmp_path / "losses/rope.s0.json").read_text())["status"] == "interrupted"
    lab(corpus, tmp_path, "-r", "--model.resid_pdrop=0.1")
    assert_same(whole, tmp_path, "rope.s0")


def test_a_finished_run_is_not_repeated(corpus, whole):
    before = (whole / "losses/rope.s0.csv").stat().st_mtime_ns
    done = lab(corpus, whole, "-r", "--model.resid_pdrop=0.1")
    assert (
        "done already" in done.stderr
        and (whole / "losses/rope.s0.csv").stat().st_mtime_ns == before
    )


def test_other_settings_are_refused_by_name(corpus, whole):
    done = lab(corpus, whole, "-r", "--model.resid_pdrop=0.2", check=2)
    assert (
        "model.resid_pdrop 0.1 → 0.2" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    )


def test_a_diverging_run_stops_keeps_its_rows_and_exits_1(corpus, tmp_path):
    lab(corpus, tmp_path, "-b", "--trainer.learning_rate=1e30", "--trainer.grad_norm_clip=1e30",
        check=1)
    record = json.loads((tmp_path / "losses/baseline.s0.json").read_text())
    assert record["status"] == "diverged" and record["result"] is None and rows(
        tmp_path, "baseline.s0")


def test_progress_is_on_stderr_and_the_result_once_on_stdout(corpus, tmp_path):
    done = lab(corpus, tmp_path, "-b", "--resume", "restart")
    first, *_ = done.stdout.splitlines()
    assert first.startswith("baseline.s0: val loss ") and "sample: " in done.stdout
    assert "iter " in done.stderr and "iter " not in done.stdout
    assert "perplexity" not in done.stderr and "sample" not in done.stderr
    as_json = lab(corpus, tmp_path, "-b", "--resume", "restart", "--json")
    assert json.loads(as_json.stdout)["status"] == "done" and "perplexity" in as_json.stderr


def test_the_audit_of_the_dry_run_trains_nothing(corpus, tmp_path):
    done = lab(corpus, tmp_path, "-s", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert plan["audit"]["passed"] and plan["predicted_seconds"] > 0 and plan["arm"] == "swiglu"
    assert abs(plan["parameters_vs_baseline"]) < 0.01 and not (tmp_path / "losses").exists()


def test_a_schedule_trains_and_its_record_says_what_it_leaves_out(corpus, tmp_path):
    done = lab(corpus, tmp_path, "-r", "--schedule", "lms_main", "--model.block_size=512",
               "--model.n_layer=4",
               "--trainer.batch_size=2", "--max-iters", "6")
    record = json.loads((tmp_path / "losses/rope_lms_main.s0.json").read_text())
    assert done.stderr.count("written for 12 layers") == 1
    assert record["model"]["schedule"] == "f*2 128 256"
    assert record["model"]["sparsity"] > record["model"]["compute_sparsity"] > 0
    assert record["changes"] == {"model.position": ["learned", "rope"],
                                 "model.schedule": ["full", "lms_main"]}


@pytest.mark.parametrize("pack", ["stream", "truncate"])
def test_tokens_are_targets_and_flops_count_padding(corpus, tmp_path, monkeypatch, pack):
    """Rows have 300 positions, more than any document. The expected count is taken from the batches
    themselves."""
    lab(corpus, tmp_path, "-b", "--max-iters=6", f"--data.pack={pack}", "--model.block_size=300",
        "--trainer.accumulation_steps=2", "--trainer.batch_size=2")
    settings = CfgNode(**record(tmp_path, "baseline.s0")["config"]["data"])
    monkeypatch.setenv("ABLATE_CACHE", str(corpus.parent / "cache"))
    batches = open_corpus(settings).train(300, 2, 0)
    counted = sum(int((batches.batch(t)[1] != IGNORE_INDEX).sum()) for t in range(12))
    measured = record(tmp_path, "baseline.s0")
    assert measured["result"]["tokens"] == counted == int(rows(
        tmp_path, "baseline.s0")[-1]["tokens"])
    assert (counted == 12 * 600) == (pack == "stream")
    assert measured["result"]["flops"] == measured["model"]["flops_per_token"] * 12 * 600


def test_an_arm_of_a_study_of_schedules_trains(corpus, tmp_path):
    lab(corpus, tmp_path, "--study", "schedules", "--arm", "quarter",
        "--model.n_layer=6", "--model.block_size=64", "--max-iters", "6")
    record = json.loads((tmp_path / "losses/schedules/quarter.s0.json").read_text())
    assert (record["status"], record["model"]["schedule"]) == ("done", "f*2 256 64 16 4")
    assert record["model"]["sparsity"] > 0.2
    assert record["audit"]["passed"], record["audit"]


def test_a_schedule_file_that_has_changed_is_noticed_and_so_is_another_backend(corpus, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"schedules": {"a": {"type": "progressive", "start_window": 8, "end_window": '
                    '4, "n_layer": 2}}}')
    run = "--schedule", f"{path}:a", "--max-iters", "6"
    lab(corpus, tmp_path, *run)
    assert "done already" in lab(corpus, tmp_path, *run).stderr
    assert "model.backend 'auto' → 'dense'" in lab(corpus, tmp_path, *run, "--backend", "dense",
                                                   check=2).stderr
    path.write_text(path.read_text().replace("8", "6"))
    assert "model.schedule '8 4' → '6 4'" in lab(corpus, tmp_path, *run, check=2).stderr


def test_early_stopping_keeps_the_best_weights(corpus, tmp_path):
    lab(corpus, tmp_path, "-b", "--run.patience=1", "--run.keep_best=true",
        "--trainer.learning_rate=0.5",
        "--run.eval_every=2")
    record = json.loads((tmp_path / "losses/baseline.s0.json").read_text())
    assert record["status"] == "done" and "stopped early" in record["message"]
    assert record["result"]["best"]["val_loss"] <= record["result"]["val_loss"]
    assert list((tmp_path / "checkpoints/baseline.s0").glob("best-*.safetensors"))


def test_the_seconds_recorded_are_those_of_all_steps(corpus, tmp_path, monkeypatch):
    from experiments.corpus import open_corpus
    from experiments.declare.spec import make_spec
    from experiments.train.run import Run
    from experiments.train.seeded import SeededTrainer
    spec = make_spec(preset="nano", data=[str(corpus)],
                     overrides=[f"--data.cache={corpus.parent / 'cache'}", *(
        ["--trainer.max_iters=20", "--run.log_every=7", "--run.checkpoint_every=9",
         "--trainer.device=cpu"])])
    step = SeededTrainer.step
    monkeypatch.setattr(SeededTrainer, "step", lambda *args: (time.sleep(0.02), step(*args)))
    run = Run(spec, 0, tmp_path, open_corpus(spec.settings.data))
    begun = time.perf_counter()
    assert run.execute() == 0
    assert 20 * 0.02 <= run.record["result"]["seconds"] <= time.perf_counter() - begun


def test_an_arm_and_the_baseline_share_batches_and_common_weights():
    from experiments.declare.spec import make_spec
    from experiments.train.seeded import SeededTrainer, build_model

    class Corpus:
        vocab_size, eot = 257, 256
    base = build_model(make_spec(preset="nano").settings, Corpus, seed=1).state_dict()
    arm = build_model(make_spec(preset="nano", flags=["all_modifications"]).settings, Corpus,
                      seed=1).state_dict()
    common = [k for k in base if k in arm and base[k].shape == arm[k].shape and base[k].any()]
    assert len(common) > 8 and all((base[k] == arm[k]).all() for k in common)
    def batches(*flags):
        settings = make_spec(preset="nano", flags=flags,
                             overrides=["--trainer.device=cpu"]).settings
        source = SimpleNamespace(batch=lambda t: (np.full((2, 3), t), np.full((2, 3), t)))
        trainer = SeededTrainer(settings.trainer, build_model(settings, Corpus, seed=1), source,
                                seed=1)
        stream, seen = trainer.batches(), []
        for trainer.iter_num in range(3):
            x, _ = next(stream)
            trainer.before_forward(0)
            # the batch, and the random numbers that dropout would draw
            seen.append((x.tolist(), torch.rand(4).tolist()))
        assert len({str(drawn) for _, drawn in seen}) == 3
        return seen
    assert batches() == batches("rope", "swiglu")
    other = build_model(make_spec(preset="nano").settings, Corpus, seed=2).state_dict()
    assert not (base["transformer.wte.weight"] == other["transformer.wte.weight"]).all()


def test_a_record_takes_no_lock_in_the_repository_that_a_killed_run_would_leave(
        tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)
    git("init")
    (tmp_path / "a.py").write_text("")
    git("add", "a.py")
    os.utime(tmp_path / "a.py", (1, 1))     # which `git status` would write into its index
    index = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(record_module, "ROOT", tmp_path)
    assert record_module.code_version.__wrapped__()["dirty"]
    assert (tmp_path / ".git" / "index").read_bytes() == index
