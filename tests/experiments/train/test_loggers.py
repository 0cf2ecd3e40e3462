"""Loggers in addition to the CSV: what they write, that they change nothing, and refusals."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from experiments.train.loggers import LOGGERS, Observers, WandB, make_logger
from experiments.train.observer import Observer
from mingpt.utils import BadInput

ROOT = Path(__file__).resolve().parents[3]
RECORD = {"config_hash": "0123456789ab", "config": {"model": {"n_layer": 2}}, "changes": {},
          "data": {}, "code": {},
          "model": {"parameters": 10}, "result": {"val_loss": 2.5, "val_loss_by_set": {"A": 2.5}}}
ROW = {"iteration": 10, "loss": 3.0, "val_loss": None, "learning_rate": 0.001, "tokens": 640}


def fake_run(name="mine/rope.s1"):
    study, _, stem = name.rpartition("/")
    files = SimpleNamespace(name=name, study=study or None, arm=stem.partition(".s")[0])
    return SimpleNamespace(files=files, seed=1, record=RECORD)


def train(out, *arguments):
    command = [sys.executable, str(ROOT / "lab.py"), "train", "-r", "--preset", "nano",
               "--max-iters", "20",
               "--model.n_layer=1", "--data.val_tokens=512", "--run.log_every=5",
               "--run.eval_every=10", "--device",
               "cpu", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def scalars(folder):
    """{column: [(iteration, value)]}, read by TensorBoard itself from the event files of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_every_cell_of_the_csv(tmp_path):
    pytest.importorskip("tensorboard")
    text = tmp_path / "words.jsonl"
    text.write_text("".join(json.dumps({"text": f"document {n}: one two three four five"}) + "\n"
                            for n in range(300)))
    done = train(tmp_path, "--logger", "tensorboard", "--data", str(text))
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "losses" / "rope.s0.csv") as file:
        rows = list(csv.DictReader(file))
    seen = scalars(tmp_path / "tensorboard" / "rope.s0")
    for column in set(rows[0]) - {"iteration"}:
        expected = [(int(row["iteration"]), float(row[column])) for row in rows if row[column]]
        assert [step for step, _ in seen[column]] == [step for step, _ in expected]
        assert [value for _, value in seen[column]] == pytest.approx([
            value for _, value in expected], rel=1e-6)
    assert (
        json.loads((tmp_path / "losses" / "rope.s0.json").read_text())["config"]["run"]["logger"]
        == "tensorboard"
    )
    # a logger does not change the settings, so the run is done already
    again = train(tmp_path, "--data", str(text))
    assert again.returncode == 0 and "done already" in again.stderr


def test_what_a_resumed_run_writes_again_stands_once_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    for resumed, iterations in ((None, (0, 5, 10, 15)), (10, (15, 20))):
        logger = make_logger("tensorboard", tmp_path)
        logger.start(fake_run(), resumed)
        for iteration in iterations:
            logger.row({**ROW, "iteration": iteration, "loss": float(iteration + (resumed or 0))},
                       None)
        logger.end(fake_run(), "done", None)
    seen = scalars(tmp_path / "tensorboard" / "mine" / "rope.s1")["loss"]
    assert seen == [(0, 0.0), (5, 5.0), (15, 25.0), (20, 30.0)]


def test_wandb_is_told_the_run_its_rows_and_its_result(tmp_path, monkeypatch):
    """This uses a stand-in for the package, and checks the calls, not what the service does."""
    session = SimpleNamespace(rows=[], summary={}, ended=[])
    session.log = lambda values, step: session.rows.append((step, values))
    session.finish = lambda exit_code: session.ended.append(exit_code)
    module = ModuleType("wandb")
    module.init = lambda **options: setattr(session, "options", options) or session
    monkeypatch.setitem(sys.modules, "wandb", module)
    logger = make_logger("wandb", tmp_path)
    logger.start(fake_run("my study/rope.s1"), None)
    logger.row(ROW, None)
    logger.end(fake_run("my study/rope.s1"), "done", None)
    assert (
        session.options["project"] == "my study"
        and session.options["id"] == "my-study-rope.s1-0123456789ab"
    )
    assert (
        session.options["config"]["model"] == {"n_layer": 2}
        and session.options["config"]["seed"] == 1
    )
    assert session.rows == [(10, {"loss": 3.0, "learning_rate": 0.001, "tokens": 640})]
    assert session.summary == {"final/val_loss": 2.5} and session.ended == [0]


def test_wandb_itself_takes_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the wandb package is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandB(tmp_path)
    logger.start(fake_run(), None)
    logger.row(ROW, None)
    logger.end(fake_run(), "done", None)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_whose_package_is_absent_is_refused_in_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, LOGGERS[name].module, None)   # the import fails
    with pytest.raises(BadInput, match=f"--logger {name}: .*pip install {name}") as refused:
        make_logger(name, tmp_path)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_an_unknown_logger_is_refused_before_anything_is_written(tmp_path):
    done = train(tmp_path, "--logger", "tensorbord")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "did you mean 'tensorboard'?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_observers_are_told_in_order_and_no_logger_is_an_observer_that_does_nothing(tmp_path):
    told = []

    class Noted(Observer):
        def __init__(self, name):
            self.name = name

        def row(self, row, evaluation):
            told.append((self.name, row))
    Observers(Noted("first"), make_logger("none", tmp_path), Noted("second")).row(ROW, None)
    assert told == [("first", ROW), ("second", ROW)]


def test_a_busy_machine_is_said_once_and_again_only_after_it_was_idle(capsys):
    from experiments.train.progress import Reporter
    reporter, busy = Reporter(), "; steps take 2.0 × the rehearsed time: the machine is busy"
    reporter.statistics, reporter.max_iters, reporter.shown, reporter.busy = dict, 100, 0.0, False
    row = ROW | {"val_loss": 3.0, "tokens_per_second": 5.0, "peak_memory_mb": 1.0}
    for text in ("", busy, busy, "", busy):
        reporter.forecast = SimpleNamespace(line=lambda text=text: f"0:47 left{text}")
        reporter.row(row, {"val_loss": 3.0})
    shown = capsys.readouterr().err
    assert shown.count("the machine is busy") == 2 and shown.count("0:47 left\n") == 5


def test_a_validation_loss_from_an_earlier_row_is_marked_as_the_last_one(capsys):
    from experiments.train.progress import Reporter
    reporter = Reporter()
    reporter.statistics, reporter.max_iters, reporter.busy = dict, 100, False
    reporter.forecast = SimpleNamespace(line=lambda: "")
    for fresh in (3.0, None):
        reporter.shown = float("-inf")   # enough time has passed for a plain line
        reporter.row(ROW | {"val_loss": fresh, "tokens_per_second": 5.0, "peak_memory_mb": 1.0},
                     {"val_loss": 3.0})
    new, old = capsys.readouterr().err.splitlines()
    assert "  val 3.0000" in new and "  last val 3.0000" in old
