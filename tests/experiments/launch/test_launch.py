"""Running the plan of a study: order, retries and stops. A stand-in for lab.py plays runs that end
in every possible way."""

import argparse
import dataclasses
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import pytest

from experiments.declare.study import load_study
from experiments.launch import launch
from experiments.launch.alive import is_alive, status_of
from experiments.launch.plan import (
    Job,
    Request,
    duration,
    looks,
    make_plan,
    order,
    write_order,
)
from mingpt.utils import BadInput
from tests.helpers.synthetic import write_run

ROOT = launch.ROOT

# Plays one run. The arm's name says what happens. Every start adds a line to OUT/began.
STAND_IN = """
    import json, os, signal, sys, time
    from pathlib import Path
    args = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    out, arm = Path(args["--out"]), args["--arm"]
    record = out / "losses" / "mine" / f"{arm}.s{args['--seed']}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(out / "began", "a") as f:
        print(arm, os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"),
              time.time(), file=f)
    def end(status, code):
        record.write_text(json.dumps({"schema": 1, "status": status}))
        print("played", status, flush=True)
        sys.exit(code)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (out / f"ready.{arm}").touch()
    if arm == "slow":
        while not asked:
            time.sleep(0.01)
        time.sleep(0.3)   # saving: a second SIGTERM would be counted
        end(f"interrupted after {len(asked)}", 3)
    if arm == "deaf":
        time.sleep(60)
    if arm == "fails":
        end("failed", 1)
    if arm == "diverges":
        end("diverged", 1)
    if arm == "refused":
        sys.exit(2)
    if arm == "killed_once" and not (out / "killed").exists():
        (out / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    end("done", 0)
"""


@pytest.fixture
def request_for(tmp_path, monkeypatch):
    """A request for a study with the given arms, each run played by the stand-in."""
    lab = tmp_path / "lab.py"
    lab.write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setattr(launch, "LAB", lab)

    def make(*arms, seeds=(0,)):
        path = tmp_path / "mine.toml"
        path.write_text("".join(f'[arms.{arm}]\nmodel.n_embd = {8 + i}\n'
                                for i, arm in enumerate(arms)))
        return Request(dataclasses.replace(load_study(path), seeds=list(seeds)), tmp_path)
    return make


def run(request, arms, slots=1, **kwargs):
    heard = []
    launcher = launch.Launcher(request, slots, lambda event, job: heard.append((event, job.arm)),
                               **kwargs)
    return launcher.run([Job(arm, 0) for arm in arms]), heard


def began(request):
    return [line.split() for line in (request.out / "began").read_text().splitlines()]


# -- the order -------------------------------------------------------------------------------------

def test_runs_are_interleaved_so_that_a_study_cut_short_has_whole_pairs():
    study = dataclasses.replace(load_study("seven"), seeds=list(range(6)))
    jobs, k = order(study), len(study.arms)
    blocks = [jobs[i:i + k] for i in range(0, len(jobs), k)]
    for seed, block in enumerate(blocks):
        assert Counter(job.arm for job in block) == Counter(list(study.arms))
        assert {job.seed for job in block} == {seed}
    # the order differs between seeds: it is shuffled, not cycled
    assert len({tuple(job.arm for job in block) for block in blocks}) > 1


def test_the_order_is_the_same_every_time_and_more_seeds_only_add_to_it():
    study = load_study("seven")
    assert order(study) == order(study)
    assert order(dataclasses.replace(study, seeds=list(range(9))))[:21] == order(study)


def test_a_study_with_looks_runs_its_seeds_in_parts_and_one_without_at_once():
    study = dataclasses.replace(load_study("seven"), seeds=list(range(6)), stop=(2, 4, 6))
    request = Request(study, ROOT)
    parts = list(looks(request, order(study)))
    assert [until.study.seeds for until, _ in parts] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert [{job.seed for job in jobs} for _, jobs in parts] == [{0, 1}, {2, 3}, {4, 5}]
    whole = dataclasses.replace(request, study=dataclasses.replace(study, stop=()))
    assert [len(jobs) for _, jobs in looks(whole, order(study))] == [6 * 7]


def test_the_order_of_every_launch_is_kept(tmp_path):
    request = Request(load_study("smoke"), tmp_path)
    jobs = order(request.study)
    write_order(request, jobs, 1)
    launches = json.loads(write_order(request, jobs[2:], 2).read_text())
    assert [launch["runs"] for launch in launches] == [[job.name for job in jobs],
                                                       [job.name for job in jobs[2:]]]
    assert (
        launches[0]["shuffled_by"] == ["smoke/0", "smoke/1"]
        and launches[0]["study_hash"] == request.study.hash
    )


def test_a_study_stops_at_the_look_that_decides_every_arm(tmp_path, monkeypatch, capsys):
    """No run is trained: each start writes a record of the seed with a clear effect."""
    import commands.study as command
    import lab
    path = tmp_path / "mine.toml"
    path.write_text('seeds = "0-5"\nstop = [3, 6]\npreset = "nano"\n[arms.baseline]\n[arms.rope]\n')

    def play(self, jobs):
        for job in jobs:
            effect = (-0.5 - 0.01 * job.seed) * (job.arm == "rope")
            write_run(tmp_path / "losses", job.arm, job.seed, effect, study="mine", steps=20)
        return True
    monkeypatch.setattr(launch.Launcher, "run", play)
    monkeypatch.setattr(launch, "tokenize", lambda *_: 0)
    monkeypatch.setattr(launch, "plot", lambda *_: 0)
    assert command.__name__ and lab.main(["study", str(path), "--out", str(tmp_path),
                                          "--local"]) == 0
    assert {p.stem for p in (tmp_path / "losses" / "mine").glob("*.json")} == {
        f"{arm}.s{seed}" for arm in ("baseline", "rope") for seed in range(3)}
    assert "a look after 3 seeds: every arm is decided; no more seeds" in capsys.readouterr().err


# -- how runs end ----------------------------------------------------------------------------------

def test_a_failing_arm_is_tried_once_more_at_the_end_and_the_others_go_on(request_for):
    request = request_for("fails", "good")
    finished, heard = run(request, ["fails", "good"])
    assert finished
    assert heard == [("start", "fails"), ("again", "fails"), ("start", "good"), ("done", "good"),
                     ("start", "fails"), ("failed", "fails")]


def test_a_diverged_or_refused_run_is_not_tried_again(request_for):
    request = request_for("diverges", "refused")
    _, heard = run(request, ["diverges", "refused"])
    assert heard == [("start", "diverges"), ("diverged", "diverges"), ("start", "refused"),
                     ("refused", "refused")]


def test_a_run_killed_by_the_system_gets_another_try(request_for):
    request = request_for("killed_once")
    _, heard = run(request, ["killed_once"])
    assert heard[-1] == ("done", "killed_once") and ("again", "killed_once") in heard


def test_several_at_once_share_the_threads_and_the_gpus_and_log_apart(request_for, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    request = request_for("a", "b", "c")
    run(request, ["a", "b", "c"], slots=2)
    lines = began(request)
    assert {line[1] for line in lines} == {"3"} and {line[2] for line in lines} == {"4", "7"}
    first, second, third = (float(line[3]) for line in lines)
    assert third - min(first, second) >= 0.2     # the third waited for a free place
    for arm in "abc":
        assert (request.logs / f"{arm}.s0.log").read_text() == "played done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks the runs")
def test_a_run_starts_with_torch_imported_and_no_other_runs_memory(request_for):
    request = request_for("a", "b")
    launch.LAB.write_text(textwrap.dedent("""
        import sys
        there = [name in FORKED for name in ("torch", "experiments.train.run")]
        import json, torch
        from pathlib import Path
        args = dict(zip(sys.argv[2::2], sys.argv[3::2]))
        Path(args["--out"], args["--arm"]).write_text(json.dumps([there, hasattr(torch, "mark")]))
        torch.mark = 1
    """).replace("FORKED", "sys.modules"))
    run(request, ["a", "b"])
    for arm in "ab":
        assert json.loads((request.out / arm).read_text()) == [[True, True], False]


def test_one_at_a_time_has_the_machine_and_the_terminal_to_itself(request_for):
    request = request_for("a")
    program = (f"from pathlib import Path; from experiments.launch import launch\n"
               f"from experiments.launch.plan import Job, Request\n"
               f"from experiments.declare.study import load_study\n"
               f"launch.LAB = {str(launch.LAB)!r}\n"
               f"request = Request(load_study({str(request.study.path)!r}), "
               f"Path({str(request.out)!r}))\n"
               f"launch.Launcher(request).run([Job('a', 0)])")
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    assert began(request)[0][1] == "None", done.stderr
    assert "played done" in done.stdout


def later(path, action):
    """Run `action` in a thread as soon as the file exists."""
    def wait():
        while not path.exists():
            time.sleep(0.01)
        action()
    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_and_starts_no_more(request_for, number):
    request = request_for("slow", "good")
    later(request.out / "ready.slow", lambda: os.kill(os.getpid(), number))
    finished, heard = run(request, ["slow", "good"])
    assert not finished
    assert heard == [("start", "slow"), ("interrupted", "slow")]
    record = json.loads((request.out / "losses" / "mine" / "slow.s0.json").read_text())
    # one signal was sent, and the launcher waited
    assert record["status"] == "interrupted after 1"


def test_a_second_signal_ends_a_run_that_does_not_listen(request_for):
    request = request_for("deaf")

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
    later(request.out / "ready.deaf", twice)
    finished, heard = run(request, ["deaf"])
    assert not finished and heard[-1] == ("interrupted", "deaf")


# -- what records say ------------------------------------------------------------------------------

def test_a_record_that_says_running_is_killed_when_its_process_is_gone():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    assert status_of({"status": "running", "process": {"host": here, "pid": gone.pid}}) == "killed"
    assert status_of({"status": "running", "process": {"host": here,
                                                       "pid": os.getpid()}}) == "running"
    assert status_of({"status": "running", "process": {"host": "elsewhere",
                                                       "pid": gone.pid}}) == "running"
    assert is_alive({"process": {"host": "elsewhere", "pid": 1}}) is None
    assert status_of({}) == "missing"


def test_a_duration_reads_like_one():
    assert [duration(s) for s in (4, 89, 720, 11_100, 22_703_142)] == [
        "4 s", "89 s", "12 min", "3 h 05 min", "263 days"]


def test_tokenising_happens_once_for_each_corpus_that_the_arms_differ_in(tmp_path):
    path = tmp_path / "cut.toml"
    path.write_text('[arms.rope]\n[arms.cut]\ndata.pack = "truncate"\n[arms.swiglu]\n')
    lines = launch.tokenize_arguments(Request(load_study(path), tmp_path, "nano", ("a b.jsonl",)))
    assert [line[4] for line in lines] == ["baseline", "cut"]
    assert all(line[-4:] == ["--preset", "nano", "--data", "a b.jsonl"] for line in lines)


@pytest.mark.parametrize(("preset", "overrides", "arms"), [
    ("laptop", (), "'baseline' has the learning rate 0.002 already, and 'baseline_lr0.002'"),
    ("nano", ("--trainer.learning_rate=5e-3",), "'baseline_lr0.002' would be the same run again"),
    ("nano", (), None)])
def test_a_point_of_a_grid_that_is_the_arm_itself_is_refused_before_any_run(
        tmp_path, preset, overrides, arms):
    path = tmp_path / "mine.toml"
    path.write_text('seeds = "0-1"\nlr = [2e-3, 4e-3]\n[arms.rope]\n')
    request = Request(load_study(path), tmp_path, preset, overrides=overrides)
    if arms is None:      # nano's own rate is not among these
        assert len(make_plan(request)) == 12
        return
    with pytest.raises(BadInput, match="lr: arm .*leave that rate out") as refused:
        make_plan(request)
    assert arms in str(refused.value) and "\n" not in str(refused.value)


def test_a_study_is_read_once_so_a_later_change_of_its_file_does_not_reach_the_plan(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('seeds = [0]\npreset = "nano"\n[arms.rope]\n')
    request = Request(load_study(path), tmp_path)
    path.write_text("changed in the middle")
    assert [job.arm for job in make_plan(request)] == ["baseline", "rope"]


# -- the whole of it -------------------------------------------------------------------------------

def test_the_smoke_study_goes_from_text_to_verdicts_and_is_not_trained_twice(tmp_path):
    """Use run_all.sh as a user does: in a folder whose name has a space, with two runs at once. One
    run is already done."""
    text, out = tmp_path / "some text.txt", tmp_path / "my results"
    text.write_text(inspect.getsource(argparse))
    lab = ["train", "--study", "smoke", "--arm", "rope", "--data", text.name, "--out", "my results"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "lab.py", *lab], cwd=tmp_path, env=environment,
                   check=True, timeout=120)
    command = ["bash", ROOT / "run_all.sh", "smoke", "--seeds", "0", "--data", text.name, "--out",
               "my results",
               "--jobs", "2", "--local"]

    def start():
        done = subprocess.run([*command, "--json"], cwd=tmp_path, env=environment, text=True,
                              capture_output=True, timeout=240)
        assert done.returncode == 0, done.stderr
        files = {path: path.stat().st_mtime_ns for path in (out / "losses").rglob("*.json")}
        return json.loads(done.stdout), files, done.stderr
    first, files, told = start()
    assert first["counts"] == {"done": 3} and len(files) == 3
    assert "rope.s0 starts" not in told and "swiglu.s0 done" in told
    assert (out / "visualizations" / "smoke" / "individual_grid.png").exists()
    assert (out / "logs" / "smoke" / "swiglu.s0.log").stat().st_size > 0
    second, same, told = start()
    assert second == first and same == files and "starts" not in told


def test_a_signal_that_ends_the_server_process_too_is_an_interruption(tmp_path, monkeypatch):
    launcher = launch.Launcher(Request(load_study("smoke"), tmp_path))

    class Late:
        def __init__(self, **_):
            pass

        def start(self):
            launcher.stopping = True
            raise EOFError("unexpected EOF")
    monkeypatch.setattr(launch.CONTEXT, "Process", Late)
    job = Job("rope", 0)
    assert launcher.run([job]) is False and launcher.outcomes == {job: "interrupted"}


def test_a_fault_of_the_base_is_not_blamed_on_an_arm(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('preset = "nano"\n[base]\ntrainer.max_iter = 3\n[arms.rope]\n')
    with pytest.raises(BadInput, match=r"two.toml: \[base\]: no setting 'trainer.max_iter': did"):
        make_plan(Request(load_study(path), tmp_path))


def test_data_that_is_not_there_is_refused_with_the_plan_and_its_arm_named(tmp_path):
    (tmp_path / "text.jsonl").write_text("{}")
    path = tmp_path / "two.toml"
    path.write_text(f'preset = "nano"\n[base]\ndata.paths = ["{tmp_path}/text.jsonl"]\n'
                    f'[arms.baseline]\n[arms.other]\ndata.paths = ["{tmp_path}/txet.jsonl"]\n')
    with pytest.raises(BadInput, match="arm 'other': --data .*no such file.*text.jsonl"):
        make_plan(Request(load_study(path), tmp_path))
