"""The table of all runs."""

import argparse
import json
import os
import socket
import subprocess
import sys

import pytest

from commands import status
from experiments.record import SCHEMA, write_record
from mingpt.utils import BadInput

PROGRESS = {"iteration": 25, "max_iters": 100, "seconds": 10.0, "val_loss": 2.5, "tokens_per_second": 800.0}


@pytest.fixture
def out(tmp_path):
    """A results folder with a run of every kind."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def run(name, state, pid=None, host=None, **more):
        study, _, stem = name.rpartition("/")
        arm, _, seed = stem.rpartition(".s")
        write_record(tmp_path / "losses" / f"{name}.json",
                     {"schema": SCHEMA, "study": study or None, "arm": arm, "seed": int(seed), "status": state,
                      "message": None, "progress": PROGRESS, "result": None,
                      "process": {"host": host or socket.gethostname(), "pid": pid or os.getpid()}} | more)
    run("rope.s0", "done", result={"val_loss": 2.25, "tokens_per_second": 900.0})
    run("mine/live.s1", "running")
    run("mine/gone.s2", "running", pid=gone.pid)
    run("mine/far.s3", "running", pid=gone.pid, host="another")
    run("mine/nan.s4", "diverged", message="loss nan at iteration 25")
    (tmp_path / "losses" / "mine" / "torn.s5.json").write_text('{"schema": 1, "stu')
    return tmp_path


def arguments(out, **more):
    return argparse.Namespace(**{"out": out, "study": None, "watch": False, "every": 2.0, "json": False,
                                 "overrides": []} | more)


def test_a_run_whose_process_is_gone_is_killed_unless_it_ran_on_another_machine(out):
    states = {row["arm"]: row["status"] for row in status.find(out)}
    assert states == {"rope": "done", "live": "running", "gone": "killed", "far": "running", "nan": "diverged",
                      "torn": "unreadable"}


def test_a_finished_run_shows_its_result_and_one_in_progress_what_is_left(out):
    rows = {row["arm"]: row for row in status.find(out)}
    assert rows["rope"]["val_loss"] == 2.25 and rows["rope"]["seconds_left"] is None
    assert rows["live"]["val_loss"] == 2.5 and rows["live"]["seconds_left"] == 30.0   # 75 more at 0.4 s


def test_the_table_and_the_json_say_the_same(out, capsys):
    assert status.main(arguments(out)) == 0
    shown = capsys.readouterr().out
    assert status.main(arguments(out, json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6
    for row in rows:
        line = next(line for line in shown.splitlines() if f" {row['arm']} " in f" {line} ")
        assert row["status"] in line
    assert "loss nan at iteration 25" in shown and "25/100" in shown


def test_one_study_can_be_asked_for_and_an_unknown_one_is_named(out):
    assert {row["study"] for row in status.find(out, "mine")} == {"mine"}
    with pytest.raises(BadInput, match="did you mean 'mine'"):
        status.find(out, "mime")
    with pytest.raises(BadInput, match="no folder"):
        status.find(out / "nowhere")


def test_watching_ends_quietly_with_ctrl_c(out, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt
    monkeypatch.setattr(status.time, "sleep", interrupt)
    assert status.main(arguments(out, watch=True)) == 0
    assert "killed" in capsys.readouterr().out


def test_looking_needs_no_torch(out):
    code = f"import sys; from commands import status; status.find(__import__('pathlib').Path({str(out)!r}));" \
           "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
