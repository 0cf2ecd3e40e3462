"""Studies on a real SLURM: two nodes on this machine, from the distribution's packages
(tests/slurm-sandbox)."""

import argparse
import csv
import dataclasses
import inspect
import json
import os
import shlex
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from experiments.declare.study import load_study
from experiments.launch import slurm
from experiments.launch.plan import Job, Request, make_plan
from experiments.train.several import hosts_of_job
from mingpt.utils import BadInput
from tests.helpers.cluster import ROOT, Cluster, until

TIMINGS = ("seconds", "tokens_per_second", "peak_memory_mb")
STUDY = """
    seeds = [0]
    preset = "nano"
    [base]
    trainer.max_iters = 50
    run.log_every = 10
    run.eval_every = 500
    run.checkpoint_every = 400
    [arms.baseline]
    [arms.long]              # enough seconds for a signal to meet it half-way
    include = ["rope"]
    trainer.max_iters = 700
    [arms.explodes]
    trainer.learning_rate = 1e30
"""


# -- without a cluster -----------------------------------------------------------------------------

def test_a_time_limit_is_read_as_slurm_reads_it():
    seconds = {"90": 5400, "1:30": 90, "2:00:00": 7200, "1-0": 86400, "1-2:30": 95400, "0-0:0:5": 5}
    assert {text: slurm.parse_walltime(text) for text in seconds} == seconds
    with pytest.raises(BadInput, match="H:MM:SS"):
        slurm.parse_walltime("12h")


def test_the_walltime_leaves_room_and_the_warning_comes_before_a_short_one_is_over(monkeypatch):
    monkeypatch.setattr(slurm, "cluster_has_gpus", lambda partition: False)
    assert slurm.walltime(60) >= 10 and slurm.walltime(1e9) == slurm.LONGEST
    assert "--signal=B:USR1@120" in slurm.Resources().run(60)
    assert "--signal=B:USR1@20" in slurm.Resources(time="1").run(60)
    assert not any(option.startswith("--gres") for option in slurm.Resources().run(60))
    monkeypatch.setattr(slurm, "cluster_has_gpus", lambda partition: True)
    assert "--gres=gpu:1" in slurm.Resources().run(60)
    assert not any(option.startswith("--gres") for option in slurm.Resources(gres="none").run(60))


def test_processes_and_nodes_of_a_run_are_passed_on_and_checked_before_anything_is_submitted(
        tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "cluster_has_gpus", lambda partition: False)
    steps = ("--trainer.accumulation_steps=4",)
    request = Request(load_study("smoke"), tmp_path, overrides=steps, processes=2, nodes=2)
    assert {job.state for job in make_plan(request)} == {"todo"}
    assert request.arguments(Job("rope", 1))[-2:] == ["--processes", "2"]
    assert "--nodes=2" in slurm.Resources(nodes=2).run(60)
    assert not any("--nodes" in option for option in slurm.Resources(nodes=2).common())
    with pytest.raises(BadInput, match="8 processes cannot share"):
        make_plan(dataclasses.replace(request, processes=4))


def test_srun_tells_each_node_where_all_of_them_meet(monkeypatch):
    for name in ("RANK", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    assert hosts_of_job().count == 1
    told = {"SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_ID": "41", "SLURM_NODEID": "1",
            "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_RESTART_COUNT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    second = hosts_of_job()
    assert (second.count, second.meeting, second.job, second.first) == (
        2, "10.0.0.7:20041", "41.1", False)
    monkeypatch.setenv("SLURM_NODEID", "0")
    assert hosts_of_job() == dataclasses.replace(second, first=True)


def test_a_task_is_the_run_that_the_plan_of_its_submission_says(tmp_path):
    request = Request(load_study("seven"), tmp_path, "nano", ("my data.jsonl",),
                      ("--model.n_layer=2",))
    plan = slurm._write_plan(request, [Job("rope", 1), Job("swiglu", 0)])
    arguments = slurm.task_arguments(plan, 0)
    assert arguments[:7] == ["train", "--study", str(request.study.path), "--arm", "rope",
                             "--seed", "1"]
    assert arguments[7:] == ["--out", str(tmp_path), "--preset", "nano", "--data", "my data.jsonl",
                             "--model.n_layer=2"]
    with pytest.raises(BadInput, match="no task 2; it has 0 to 1"):
        slurm.task_arguments(plan, 2)


@pytest.mark.parametrize("array_max", [None, 20])
def test_a_study_of_thousands_is_several_arrays_that_keep_to_the_number_at_once(
        tmp_path, monkeypatch, array_max):
    commands = []

    def sbatch(*command):
        commands.append(command)
        return f"{len(commands)}\n"
    monkeypatch.setattr(slurm, "_slurm", sbatch)
    request = Request(load_study("seven"), tmp_path, "nano")
    jobs = [Job("rope", seed) for seed in range(2500)]
    ids = slurm.submit(request, jobs, slurm.Resources(gres="none", array_max=array_max),
                       tokenize_here=True)
    assert ids == {"runs": "1:2:3", "plot": "4"}
    found = [[word for word in command if word.startswith(("--array", "--dependency"))]
             for command in commands]
    most = f"%{array_max}" if array_max else ""
    chained = [[], ["--dependency=afterany:1"], ["--dependency=afterany:2"]]
    assert found == [*([*(wait if array_max else []), f"--array=0-{last}{most}"]
                       for wait, last in zip(chained, (999, 999, 499), strict=True)),
                     ["--dependency=afterany:1:2:3"]]
    plans = [command[-1] for command in commands[:3]]
    assert [slurm.task_arguments(Path(plan), 499)[6] for plan in plans] == ["499", "1499", "2499"]
    # a task that is still queued is not submitted again, whichever array holds it
    answers = {"1": BadInput("slurm_load_jobs error: Invalid job id specified"), "2": "7\n",
               "3": "0\n1\n"}

    def squeue(*command):
        if isinstance(answer := answers[command[4]], BadInput):
            raise answer
        return answer
    monkeypatch.setattr(slurm, "_slurm", squeue)
    assert slurm.queued(request) == {("rope", 1007): "2", ("rope", 2000): "3", ("rope", 2001): "3"}
    # a controller that does not answer is no reason to submit them once more
    answers["1"] = BadInput("slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(BadInput, match="controller"):
        slurm.queued(request)


@pytest.mark.parametrize("words, cluster", [("slurm 22.05.8", True),
                                            ("sbatch: fatal: Could not establish a configuration "
                                             "source", False),
                                            ("sbatch: error: Unable to contact slurm controller",
                                             True)])
def test_slurms_programs_without_a_cluster_are_no_reason_to_submit(
        tmp_path, monkeypatch, words, cluster):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho '{words}' >&2\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert slurm.available() == cluster


# -- with one --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cluster():
    folder = tempfile.mkdtemp(prefix="ablate-slurm-")
    cluster = Cluster(folder)
    why = cluster.start()
    if why and "CI" in os.environ:
        pytest.fail(f"SLURM does not start: {why}")
    if why:
        pytest.skip(f"SLURM does not start: {why}")
    try:
        yield cluster
    finally:
        cluster.sandbox("stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study and a corpus. Its name has a space."""
    folder = tmp_path_factory.mktemp("slurm") / "some where"
    folder.mkdir()
    (folder / "tiny.toml").write_text(textwrap.dedent(STUDY))
    parts = inspect.getsource(argparse).split("\n\n")
    texts = ["\n\n".join(parts[i:i + 8]) for i in range(0, len(parts), 8)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n"
                                                 for text in texts))
    return folder


def record(path):
    return json.loads(path.read_text()) if path.exists() else {}


def numbers(path):
    """The rows of a CSV without its columns of time and memory."""
    with open(path) as f:
        return [{key: value for key, value in row.items() if key not in TIMINGS}
                for row in csv.DictReader(f)]


@pytest.fixture(scope="module")
def submitted(cluster, place):
    """The study, trained by SLURM. One run gets the signal in the middle that its time is nearly
    up."""
    out = place / "out"
    args = [place / "tiny.toml", "--data", place / "corpus.jsonl", "--out", out]
    ids = cluster.study(*args, "--array-max", 2)["jobs"]
    long = out / "losses" / "tiny" / "long.s0.json"
    until(lambda: record(long).get("progress", {}).get("iteration", 0) >= 5, 90,
          lambda: cluster("squeue") + "".join(p.read_text() for p in out.glob("logs/tiny/*.out")))
    plan = json.loads(next((out / "logs" / "tiny").glob("plan-*.json")).read_text())
    task = next(i for i, run in enumerate(plan["runs"]) if run["arm"] == "long")
    cluster("scancel", "--batch", "--signal=USR1", f"{ids['runs']}_{task}")
    again = cluster.study(*args)   # while the first submission is still running
    cluster.wait()
    return argparse.Namespace(out=out, args=args, ids=ids, task=task, again=again)


@pytest.mark.slurm
def test_one_array_trains_every_run_and_the_last_job_plots_though_an_arm_failed(submitted):
    losses = submitted.out / "losses" / "tiny"
    statuses = {path.stem: record(path)["status"] for path in losses.glob("*.json")}
    assert statuses == {"baseline.s0": "done", "long.s0": "done", "explodes.s0": "diverged"}
    last = (submitted.out / "logs" / "tiny" / f"plot_{submitted.ids['plot']}.out").read_text()
    assert "explodes.s0 diverged" in last
    assert (
        submitted.out / "visualizations" / "tiny" / "training_comparison.png"
    ).stat().st_size > 1000


@pytest.mark.slurm
def test_a_run_told_that_its_time_is_up_is_queued_again_and_ends_as_if_nothing_had_been(
        submitted, place, cluster):
    log = (
        submitted.out / "logs" / "tiny" / f"{submitted.ids['runs']}_{submitted.task}.out"
    ).read_text()
    assert log.count("queueing job") == 1   # one log has what came before and after the requeue
    restarts = [cluster("scontrol", "show", "job",
                        f"{submitted.ids['runs']}_{task}").split("Restarts=")[1].split()[0]
                for task in range(3)]
    # only this task restarts, not the whole array
    assert restarts == ["1" if task == submitted.task else "0" for task in range(3)]
    undisturbed = place / "undisturbed"
    cluster(sys.executable, str(ROOT / "lab.py"), "train", "--study", str(place / "tiny.toml"),
            "--arm", "long",
            "--out", str(undisturbed), "--data", str(place / "corpus.jsonl"))
    name = Path("losses") / "tiny" / "long.s0"
    assert numbers(submitted.out / f"{name}.csv") == numbers(undisturbed / f"{name}.csv")
    ours, theirs = (record(folder / f"{name}.json")["result"]
                    for folder in (submitted.out, undisturbed))
    assert {k: v for k, v in ours.items() if k not in TIMINGS} == {
        k: v for k, v in theirs.items() if k not in TIMINGS}


@pytest.mark.slurm
def test_submitting_again_leaves_out_what_is_queued_and_what_is_done(submitted, cluster):
    assert submitted.again == {"jobs": {}, "runs": 0}     # all three runs were queued or running
    losses = submitted.out / "losses" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in losses.iterdir()}
    for path in (losses / "baseline.s0.csv", losses / "baseline.s0.json"):
        path.unlink()
    assert cluster.study(*submitted.args)["runs"] == 1
    cluster.wait()
    after = {path: path.stat().st_mtime_ns for path in losses.iterdir()}
    assert set(after) == set(before)
    assert {path.stem for path in after if after[path] != before[path]} == {"baseline.s0"}


@pytest.mark.slurm
def test_flag_and_sbatch_run_one_arm_as_in_study_002(cluster, place):
    flag = "-r --preset nano --max-iters 10 --seed 3 --data corpus.jsonl"
    # with the header of run_single.sh unchanged
    cluster("sbatch", str(ROOT / "run_single.sh"), cwd=place, env={"FLAG": flag})
    cluster.wait()
    assert record(place / "losses" / "rope.s3.json")["status"] == "done", \
        "".join(path.read_text() for path in place.glob("ablate_*.out"))


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_two_nodes_train_one_run_to_the_bits_of_one_process(cluster, place):
    run = ["-b", "--preset", "nano", "--max-iters", "40", "--trainer.batch_size=2",
           "--trainer.accumulation_steps=4", "--run.threads=1", "--run.checkpoint_every=5",
           "--run.rehearsals=0", "--data", "corpus.jsonl"]
    job = cluster("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", "--mem=1G",
                  str(ROOT / "run_single.sh"), *run, "--processes", "2", "--out", "nodes",
                  cwd=place).strip()
    state, log = place / "nodes/checkpoints/baseline.s0/state.json", place / f"ablate_{job}.out"
    until(state.exists, 120, lambda: log.read_text() if log.exists() else cluster("squeue"))
    cluster("scancel", "--batch", "--signal=USR1", job)     # as if its time were nearly up
    cluster.wait(240)
    assert log.read_text().count("queueing job") == 1, log.read_text()
    ended = record(place / "nodes/losses/baseline.s0.json")
    assert ended["status"] == "done" and ended["processes"] == {"count": 4,
                                                                "hosts": {"n1": 2, "n2": 2}}
    cluster(sys.executable, str(ROOT / "lab.py"), *run, "--out", "one", cwd=place)
    nodes, one = ((place / folder / "checkpoints/baseline.s0/model-000040.safetensors").read_bytes()
                  for folder in ("nodes", "one"))
    assert nodes == one


@pytest.mark.slurm
def test_an_array_tokenises_a_corpus_and_each_task_its_own_pieces(cluster, place):
    (place / "shards").mkdir()
    for n in range(2):     # two pieces: each is 64 MB or more
        text = f"file {n}: " + "the same words again and again " * 2000
        (place / f"shards/{n}.txt").write_text((text + "\n\n") * 1100)
    command = [sys.executable, str(ROOT / "lab.py"), "tokenize", "--data", "shards",
               "--data.tokenizer=byte", "--data.cache=tokens"]
    cluster("sbatch", "--array=0-1", "--cpus-per-task=1", "--mem=1G", "--output=part_%a.out",
            "--wrap", shlex.join(command) + " --part $SLURM_ARRAY_TASK_ID/2", cwd=place)
    cluster.wait()
    logs = [(place / f"part_{part}.out").read_text() for part in range(2)]
    assert all(f"part {part}/2: 1 pieces, 4,400 documents" in log
               for part, log in enumerate(logs)), logs
    made = {path: path.stat().st_mtime_ns for path in (place / "tokens").rglob("*.json")}
    whole = json.loads(cluster(*command, "--json", cwd=place))
    assert whole["documents"] == 8800
    assert made.items() <= {path: path.stat().st_mtime_ns
                            for path in (place / "tokens").rglob("*.json")}.items()


@pytest.mark.slurm
def test_what_slurm_refuses_is_one_line_in_its_own_words(cluster, place, monkeypatch):
    for key in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(key, cluster.env[key])
    request = Request(load_study(place / "tiny.toml"), place / "refused")
    with pytest.raises(BadInput, match="sbatch.*partition") as error:
        slurm.submit(request, [Job("rope", 0)], slurm.Resources(partition="nowhere", gres="none"))
    assert "\n" not in str(error.value) and "--local" in str(error.value)
    assert not cluster("squeue", "-h")
