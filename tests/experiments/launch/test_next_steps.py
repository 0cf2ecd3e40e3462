"""What to do next: exact commands, for the runs that are left and for more seeds."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from experiments.declare.study import parse_seeds
from experiments.launch.launch import ROOT
from experiments.launch.live import find
from experiments.launch.next_steps import next_steps, seeds_text, study_steps, with_seeds
from tests.helpers.synthetic import write_run

WORDS = ["mine.toml", "--data", "some text.txt", "--seeds", "0-1", "--jobs", "2"]


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A study of two arms and two seeds that was launched from this folder and drawn."""
    monkeypatch.chdir(tmp_path)
    names = [f"{arm}.s{seed}" for seed in (0, 1) for arm in ("baseline", "rope")]
    for name in names:
        arm, _, seed = name.partition(".s")
        write_run(tmp_path / "losses", arm, int(seed), study="mine", steps=20)
    launch(tmp_path, names)
    draw(tmp_path, {"rope": {"word": "undecided", "n": 2, "seeds_needed": 5},
                    "swiglu": {"word": "undecided", "n": 2, "seeds_needed": 40},
                    "cosine": {"word": "worse", "n": 2, "seeds_needed": None}})
    return tmp_path


def launch(out, names, **more):
    (out / "logs" / "mine").mkdir(parents=True)
    (out / "logs" / "mine" / "order.json").write_text(json.dumps([{
        "launched": "2026-01-01T00:00:00+00:00", "at_once": 2, "runs": names,
        "seconds": [30.0] * len(names), "process": {"host": "x", "pid": 1}, "words": WORDS,
        "folder": str(out)} | more]))


def draw(out, verdicts):
    folder = out / "visualizations" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").touch()
    (folder / "verdicts.json").write_text(json.dumps({"verdicts": verdicts}))


def steps(out):
    return {step.text: step.command for step in next_steps(find(out), out.relative_to(out))}


def test_a_finished_study_names_its_page_and_the_seeds_that_would_decide(out):
    found = steps(out)
    assert list(found) == [
        "mine: the page with everything: visualizations/mine/report.html",
        "mine: undecided: rope (about 5 seeds would decide), swiglu (about 40 seeds would decide); "
        "for 5 seeds per arm:"]
    # one shell reads the command back into the words of the launch, with the seeds replaced
    assert shlex.split(list(found.values())[1]) == [
        "bash", str(ROOT / "run_all.sh"), "mine.toml", "--data", "some text.txt", "--jobs", "2",
        "--seeds", "0-4"]


def test_the_commands_work_from_another_folder(out, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    command = next_steps(find(out), out)[1].command
    assert command.startswith(f"cd {out} && bash ")


def test_runs_that_are_left_are_counted_and_their_command_is_the_launch_again(out):
    # no process of the launch is alive on this machine, so nothing will start what is missing
    (out / "logs" / "mine" / "order.json").unlink()
    (out / "logs" / "mine").rmdir()
    launch(out, ["baseline.s0", "rope.s0", "swiglu.s0"], process=gone())
    write_run(out / "losses", "rope", 1, study="mine", steps=20, status="failed",
              message="disk full")
    draw(out, {})
    found = steps(out)
    text, command = next(iter(found.items()))
    assert text == "mine: 1 failed, 1 missing; this command trains only those runs:"
    assert shlex.split(command)[2:] == WORDS
    assert not any("undecided" in step for step in found)


def test_figures_older_than_a_run_are_drawn_again_before_anything_is_concluded(out):
    later = time.time() + 60
    os.utime(out / "losses" / "mine" / "rope.s1.json", (later, later))
    (text, command), = steps(out).items()
    assert "older than its runs" in text and shlex.split(command)[-1] == "--plot"


def test_a_study_on_its_way_is_watched(out):
    (out / "losses" / "mine" / "rope.s1.json").unlink()
    found = steps(out)       # the launch is on another machine, so that it may still start runs
    assert list(found) == ["mine is on its way; to watch it:"]
    assert list(found.values())[0].endswith("lab.py status mine --watch")
    done = subprocess.run(list(found.values())[0].replace(" --watch", ""), shell=True, text=True,
                          capture_output=True)
    assert done.returncode == 0 and "1 waiting" in done.stdout


def gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    import socket
    return {"host": socket.gethostname(), "pid": process.pid}


def test_a_run_of_no_study_is_continued_by_its_own_command(out):
    write_run(out / "losses", "rope", 0, study=None, status="interrupted",
              command="python lab.py -r --data 'a b.txt'")
    assert steps(out)["rope.s0 interrupted; this continues it:"] == (
        "python lab.py -r --data 'a b.txt'")


def test_one_seed_or_no_estimate_suggests_five_seeds_or_twice_as_many(out):
    rows = [row for row in find(out, "mine") if row["seed"] == 0]
    draw(out, {"rope": {"word": "undecided", "n": 1, "seeds_needed": None}})
    assert study_steps(rows, "mine", out, WORDS)[-1].command.endswith("--seeds 0-4")
    more = [row | {"seed": seed} for row in rows for seed in (3, 4, 5, 7)]
    assert study_steps(more, "mine", out, WORDS)[-1].command.endswith("--seeds 0-7")


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], [0, 2, 3, 9], [5, 6]])
def test_seeds_as_text_are_read_back(seeds):
    assert parse_seeds(seeds_text(seeds)) == seeds
    assert with_seeds(["a", "--seeds", "9", "b"], seeds) == ["a", "b", "--seeds", seeds_text(seeds)]


def test_a_study_ends_with_what_to_do_next_in_words_and_as_json(out, capsys):
    from experiments.declare.study import load_study
    from experiments.launch import board
    from experiments.launch.plan import Request
    (out / "mine.toml").write_text('seeds = "0-1"\n[arms.baseline]\n[arms.rope]\n')
    write_run(out / "losses", "rope", 1, study="mine", steps=20, status="failed",
              message="disk full")
    request = Request(load_study(out / "mine.toml"), out)
    assert not board.outcome(request, words=WORDS)
    shown = capsys.readouterr().out
    assert "4 runs: 3 done, 1 failed" in shown and "rope.s1 failed: disk full" in shown
    assert "mine: 1 failed; this command trains only that run:\n" in shown.partition("next:")[2]
    assert not board.outcome(request, as_json=True, words=WORDS)
    assert shlex.split(json.loads(capsys.readouterr().out)["next"][0]["command"])[2:] == WORDS
