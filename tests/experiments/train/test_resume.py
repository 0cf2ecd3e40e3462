"""A run continues only from its own past, and from every moment at which it can be killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import experiments.train.writer
from experiments.corpus import open_corpus
from experiments.declare.spec import make_spec
from experiments.records.record import RunFiles
from experiments.train import account
from experiments.train.run import Run
from experiments.weights import checkpoint
from mingpt.optimizers import adamw
from mingpt.utils import BadInput, CfgNode

ROOT = Path(__file__).resolve().parents[3]
SIZE = ["--model.n_layer=1", "--model.block_size=32", "--trainer.max_iters=12",
        "--trainer.batch_size=2",
        "--trainer.device=cpu", "--run.log_every=3", "--run.eval_every=6",
        "--run.checkpoint_every=4",
        "--run.keep_best=true", "--data.val_tokens=512", "--run.rehearsals=0",
        "--model.resid_pdrop=0.1"]
TIMINGS = ("seconds", "tokens_per_second", "peak_memory_mb")


class Killed(BaseException):
    """Stands in for SIGKILL: no code handles it."""


class Told:
    """An observer that keeps all messages."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def start(self, run, resumed_at):
        self.lines.append(f"from {resumed_at}")

    def ready(self, run): ...

    def row(self, row, evaluation): ...

    def end(self, run, status, message): ...


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng, path = random.Random(0), tmp_path_factory.mktemp("text") / "words.jsonl"
    words = ["red", "green", "blue", "one", "two", "three", "runs", "sleeps", "and", "then"]
    path.write_text("".join(json.dumps({"text": f"{n} " + " ".join(rng.choices(words, k=30))})
                            + "\n"
                            for n in range(200)))
    return path


@pytest.fixture
def go(text, tmp_path, monkeypatch):
    """go(*overrides, resume=…, out=…) runs the baseline in this process.

    It returns (exit code, messages).
    """
    monkeypatch.setenv("ABLATE_CACHE", str(text.parent / "cache"))

    def run(*overrides, resume="auto", out="a", data=text):
        # the learning rate must continue as well, so it is not constant
        curve = ["--trainer.lr_schedule=cosine", "--trainer.warmup_steps=3"]
        spec = make_spec(preset="nano", data=[str(data)], overrides=[*SIZE, *curve, *overrides])
        told = Told()
        run = Run(spec, 0, tmp_path / out, open_corpus(spec.settings.data), observer=told,
                  name="baseline")
        code = run.execute(resume)
        return code, told.lines
    return run


def files(tmp_path, out="a") -> RunFiles:
    return RunFiles(tmp_path / out, None, "baseline", 0)


def outcome(tmp_path, out="a"):
    """The rows and the result without timings, and the bits of the final weights."""
    run = files(tmp_path, out)
    record = json.loads(run.json.read_text())
    assert record["status"] == "done"
    table = [line.split(",")[:7] for line in run.csv.read_text().splitlines()]
    result = {k: v for k, v in record["result"].items() if k not in TIMINGS}
    return table, result, {k: v.tolist()
                           for k, v in checkpoint.load_tensors(run.checkpoint).items()}


def killed_at(monkeypatch, operation):
    """Raise Killed before the nth change of a file's name. Returns the counter of such changes."""
    count = [0]

    def counted(real):
        def change(*args, **kwargs):
            count[0] += 1
            if count[0] == operation:
                raise Killed
            return real(*args, **kwargs)
        return change
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    return count


def interrupted(go, monkeypatch, *overrides, saves=1, **options):
    """Kill a run at the first row after `saves` checkpoints. That row is already in the CSV."""
    count = [0]

    def save(*args, real=checkpoint.save):
        count[0] += 1
        return real(*args)

    def write(path, record, real=experiments.train.writer.write_record):
        if count[0] >= saves and record["progress"].get("iteration"):
            raise Killed
        return real(path, record)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save", save)
        patch.setattr(experiments.train.writer, "write_record", write)
        go(*overrides, **options)


def test_killed_before_any_change_of_a_file_it_goes_on_to_the_same_bits(go, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count = killed_at(patch, 0)
        go(out="whole")
    for operation in random.Random(0).sample(range(1, count[0] + 1), 12):
        out = f"killed{operation}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at(patch, operation)
            go(out=out)
        assert go(out=out)[0] == 0, operation
        assert outcome(tmp_path, out) == outcome(tmp_path, "whole"), operation


def test_a_restart_never_meets_the_weights_of_the_run_that_it_replaces(go, tmp_path, monkeypatch):
    go(out="fresh")
    interrupted(go, monkeypatch, "--trainer.learning_rate=0.5")
    assert checkpoint.read_state(files(tmp_path).checkpoint)["iteration"] == 4
    interrupted(go, monkeypatch, resume="restart", saves=0)
    assert checkpoint.read_state(files(tmp_path).checkpoint) is None
    code, said = go()
    assert code == 0 and "from None" in said
    assert outcome(tmp_path) == outcome(tmp_path, "fresh")


def test_another_runs_checkpoint_is_refused_by_the_settings_that_differ(go, tmp_path, monkeypatch):
    interrupted(go, monkeypatch, "--trainer.learning_rate=0.5")
    (tmp_path / "a/losses").rename(tmp_path / "moved")
    with pytest.raises(
        BadInput, match=r"another run \(trainer.learning_rate 0.5 → 0.003\).*--resume restart"
    ):
        go()
    assert not files(tmp_path).json.exists() and not files(tmp_path).csv.exists()
    assert go(resume="restart")[0] == 0


@pytest.mark.parametrize("record_is_there", [True, False])
def test_other_data_is_refused_by_its_path(go, text, tmp_path, monkeypatch, record_is_there):
    interrupted(go, monkeypatch)
    if not record_is_there:
        (tmp_path / "a/losses").rename(tmp_path / "moved")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(text.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(BadInput, match=rf"data changed: {text} → {other}[;)]"):
        go(data=other)
    whole = text.read_text()
    try:
        text.write_text(other.read_text())
        with pytest.raises(BadInput, match=f"data changed: {text} → the same name, with other "):
            go()
    finally:
        text.write_text(whole)
    with pytest.raises(BadInput) as error:     # the tokenizer tells why the tokens differ
        go("--data.tokenizer=gpt2")
    assert "data.tokenizer" in str(error.value) and "data changed" not in str(error.value)
    assert go()[0] == 0


def test_with_its_losses_gone_a_run_goes_on_from_its_own_checkpoint(go, tmp_path, monkeypatch):
    go(out="whole")
    interrupted(go, monkeypatch)
    (tmp_path / "a/losses").rename(tmp_path / "moved")
    code, said = go()
    assert code == 0 and "from 4" in said and any("is missing: it is written again" in line
                                                  for line in said)
    assert outcome(tmp_path) == outcome(tmp_path, "whole")
    (tmp_path / "a/losses").rename(tmp_path / "moved again")          # the same for a finished run
    assert go()[0] == 0
    assert outcome(tmp_path) == outcome(tmp_path, "whole")


def test_a_checkpoint_of_another_start_is_refused(go, tmp_path, monkeypatch):
    interrupted(go, monkeypatch)
    record = json.loads(files(tmp_path).json.read_text())
    files(tmp_path).json.write_text(json.dumps(record | {"id": "0" * 12}))
    with pytest.raises(BadInput, match="another start of it"):
        go()


def test_a_checkpoint_from_before_checksums_still_serves(go, tmp_path, monkeypatch):
    go(out="whole")
    interrupted(go, monkeypatch)
    folder = files(tmp_path).checkpoint
    state = json.loads((folder / "state.json").read_text())
    size = len((folder / state["files"].pop("log")).read_bytes())
    for key in ("checksum", "sha256", "run", "tokens", "row_tokens", "result", "message"):
        state.pop(key)
    (folder / "state.json").write_text(json.dumps(state | {"csv_bytes": size}))
    (folder / "state-previous.json").unlink(missing_ok=True)
    csv = files(tmp_path).csv.read_bytes()
    for broken in (b"", csv[:size - 5], csv[:size - 5] + b"\0" * 100,
                   csv.replace(b"\n", b"\r\n")[:size]):
        files(tmp_path).csv.write_bytes(broken)
        with pytest.raises(BadInput, match="missing, cut or changed"):
            go()
    files(tmp_path).csv.write_bytes(csv)
    assert go()[0] == 0
    assert outcome(tmp_path) == outcome(tmp_path, "whole")


@pytest.mark.parametrize("how", ["missing", "short", "torn", "crlf", "nul", "other"])
def test_a_changed_csv_is_written_again_from_what_the_checkpoint_knows(
        go, tmp_path, monkeypatch, how):
    go(out="whole")
    interrupted(go, monkeypatch)
    path = files(tmp_path).csv
    data = path.read_bytes()
    changed = {"short": data[:120], "torn": data[:150], "crlf": data.replace(b"\n", b"\r\n"),
               "nul": data[:120] + b"\0" * 99, "other": b"iteration,loss\n1,2\n"}
    path.unlink() if how == "missing" else path.write_bytes(changed[how])
    code, said = go()
    assert code == 0 and any("written again from the checkpoint" in line for line in said)
    assert outcome(tmp_path) == outcome(tmp_path, "whole") and b"\0" not in path.read_bytes()


def test_a_csv_without_rows_or_record_is_no_obstacle_and_one_with_rows_is_not_overwritten(
        go, tmp_path):
    path = files(tmp_path).csv
    path.parent.mkdir(parents=True)
    path.write_text("iteration,loss\n5,1.0\n")
    with pytest.raises(BadInput, match="holds rows"):
        go()
    assert path.read_text() == "iteration,loss\n5,1.0\n"
    path.write_text("iteration,loss,val_loss\n")
    assert go()[0] == 0


def test_a_full_disk_at_the_first_record_leaves_nothing_in_the_way(go, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("experiments.train.writer.write_record", full)
        go()
    assert go()[0] == 0


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(go, tmp_path):
    run = files(tmp_path)
    ours = [run.csv.parent / ".baseline.s0.json.a1b2c3d4",
            run.csv.parent / ".baseline.s0.csv.a1b2c3d4", run.checkpoint / ".state.json.a1b2c3d4",
            run.checkpoint / ".model-000004.tmp", run.checkpoint / "model-000003.safetensors"]
    others = [run.csv.parent / ".baseline.s01.json.a1b2c3d4",
              run.csv.parent / ".baseline.s0.json.mine", run.checkpoint / "notes.txt",
              run.csv.parent / "thesis.tmp"]
    for path in [*ours, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    assert go()[0] == 0
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)


def test_a_restart_that_slurm_requeues_goes_on(go, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    interrupted(go, monkeypatch, resume="restart")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert "from 4" in go(resume="restart")[1]
    monkeypatch.setenv("SLURM_JOB_ID", "78")  # another job with the same command
    assert "from None" in go(resume="restart")[1]
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert "from None" in go(resume="restart")[1]


def test_a_real_kill_during_a_restart(text, tmp_path):
    """The whole sequence with real processes: learning rate 0.5, SIGKILL, a restart at another
    rate, SIGKILL, and continue."""
    def start(*args):
        command = [sys.executable, str(ROOT / "lab.py"), "-b", "--preset", "nano", *SIZE,
                   "--trainer.max_iters=400",
                   "--data", str(text), "--out", str(tmp_path / "a"), *args]
        env = {**os.environ, "ABLATE_CACHE": str(text.parent / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    def killed(child, ready):
        while not ready():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
    state = files(tmp_path).checkpoint / "state.json"
    killed(start("--trainer.learning_rate=0.5"), state.exists)
    killed(start("--resume", "restart"), lambda: not state.exists())
    third = start()
    told = third.communicate()[1]
    assert third.returncode == (2 if "0.5 → 0.003" in told else 0), told
    assert "resuming" not in told


def test_the_optimizers_state_lies_where_torch_puts_it(tmp_path):
    """A fused AdamW needs `step` on the parameter's device. The meta device stands in for a GPU."""
    config = CfgNode(learning_rate=1e-3, betas=(0.9, 0.95))
    model = torch.nn.Linear(3, 2)
    named = list(model.named_parameters())
    optimizer = adamw([{"params": named, "weight_decay": 0.0}], config)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, 1, checkpoint.model_tensors(model),
                    checkpoint.optimizer_tensors(model, optimizer), {})
    there = torch.nn.Linear(3, 2, device="meta")
    loaded, expected = (torch.optim.AdamW(list(there.named_parameters()), lr=1e-3)
                        for _ in range(2))
    for each in (loaded, expected):
        each.param_groups[0]["fused"] = True
    checkpoint.load_optimizer(tmp_path, checkpoint.read_state(tmp_path), there, loaded)
    expected.load_state_dict(optimizer.state_dict())
    for p in there.parameters():
        kinds = {entry: (t.device, t.dtype, t.shape) for entry, t in loaded.state[p].items()}
        assert kinds == {entry: (t.device, t.dtype, t.shape)
                         for entry, t in expected.state[p].items()}
        assert {t.device.type for t in loaded.state[p].values()} == {"meta"}


@pytest.mark.parametrize("changes, told", [
    ({"seconds": "1"}, "seconds is '1'"), ({"best": {"val_loss": []}}, "best is"),
    ({"row_seconds": None}, "row_seconds is None"), ({"loss_count": True}, "loss_count is True")])
def test_counts_of_another_kind_are_refused_and_missing_evaluations_are_none(changes, told):
    stored = account.Counters(seconds=2.5).to_dict()
    with pytest.raises(BadInput, match=told):
        account.Counters.from_state(stored | changes)
    del stored["evaluation"], stored["best"], stored["tokens"]
    assert account.Counters.from_state(stored) == account.Counters(seconds=2.5, tokens=None)


# -- corruption ------------------------------------------------------------------------------------

DAMAGES = {
    "flipped bit": lambda data, rng: flipped(data, rng.randrange(len(data) * 8)),
    "zeroed page": lambda data, rng: zeroed(data, rng.randrange(len(data))),
    "cut": lambda data, rng: data[:rng.randrange(len(data))],
    "longer": lambda data, rng: data + bytes(rng.randrange(1, 99)),
    "empty": lambda data, rng: b"",
}


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def zeroed(data, start):
    return data[:start] + b"\0" * len(data[start:start + 512]) + data[start + 512:]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16)
    optimizer = torch.optim.AdamW(list(model.named_parameters()))
    for iteration in (7, 14):
        model(torch.randn(2, 16)).sum().backward()
        optimizer.step()
        checkpoint.save(folder, iteration, checkpoint.model_tensors(model),
                        checkpoint.optimizer_tensors(model, optimizer),
                        {"best": None, "seconds": 1.5}, b"iteration\n7\n")
    return folder


def test_files_that_no_state_names_are_removed_and_no_others(two_checkpoints, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_checkpoints, folder)
    before = {path.name for path in folder.iterdir()}
    others = {"mine.safetensors", "model-final.safetensors", "log.csv", "thesis.tmp"}
    for name in (*others, "model-000001.safetensors", "best-000009.safetensors", "log-000001.csv",
                 ".optimizer-000009.tmp"):
        (folder / name).write_text("x")
    checkpoint.tidy(folder)
    assert {path.name for path in folder.iterdir()} == before | others


def test_every_damage_is_noticed_and_the_older_checkpoint_used(two_checkpoints, tmp_path):
    rng, trials = random.Random(0), 0
    names = sorted(path.name for path in two_checkpoints.iterdir())
    assert len(names) == 2 + 2 * 3
    for name in names:
        whole = (two_checkpoints / name).read_bytes()
        newest = name == "state.json" or "000014" in name
        for damage in DAMAGES.values():
            for _ in range(5):
                data = damage(whole, rng)
                if data == whole:
                    continue
                trials += 1
                (two_checkpoints / name).write_bytes(data)
                state, told = checkpoint.find(two_checkpoints)
                assert state["iteration"] == (7 if newest else 14), (name, damage)
                assert (told is not None) == newest and (not newest or name in told)
        (two_checkpoints / name).write_bytes(whole)
    state = json.loads((two_checkpoints / "state.json").read_text())
    # as if edited by hand
    (two_checkpoints / "state.json").write_text(json.dumps(state | {"iteration": 15}))
    assert checkpoint.find(two_checkpoints)[0]["iteration"] == 7
    # a checksum is missing that `save` will need for the older state
    fewer = {name: digest for name, digest in state["sha256"].items() if "log" not in name}
    (two_checkpoints / "state.json").write_text(checkpoint.signed(state | {"sha256": fewer}))
    assert checkpoint.find(two_checkpoints, ["model"])[0]["iteration"] == 7
    (two_checkpoints / "state-previous.json").write_text("{}")
    with pytest.raises(BadInput, match="no checkpoint in .* is whole"):
        checkpoint.find(two_checkpoints)
    assert trials > 147


@pytest.mark.parametrize("kind", ["model", "optimizer", "log"])
def test_a_run_whose_newest_checkpoint_is_damaged_says_so_and_ends_with_the_same_bits(
        go, tmp_path, monkeypatch, kind):
    go(out="whole")
    interrupted(go, monkeypatch, saves=2)
    folder = files(tmp_path).checkpoint
    state = checkpoint.read_state(folder)
    path = folder / state["files"][kind]
    path.write_bytes(flipped(path.read_bytes(), 900))
    code, said = go()
    assert code == 0 and f"from {state['iteration'] - 4}" in said and any("the older checkpoint"
                                                                          in s for s in said)
    assert outcome(tmp_path) == outcome(tmp_path, "whole")
