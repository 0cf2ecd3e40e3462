"""The time left in a study, on a made-up clock: no run is trained."""

import os
from types import SimpleNamespace

import pytest

from experiments.declare.study import load_study
from experiments.launch import progress
from experiments.launch.plan import Job, Request, makespan
from experiments.records.record import SCHEMA, write_record

PREDICTED = 30.0


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "gpus", lambda: [])
    return clock


def study(tmp_path, clock, slots=1):
    jobs = [Job("baseline", seed, seconds=PREDICTED) for seed in range(6)]
    return progress.Progress(jobs, Request(load_study("smoke"), tmp_path), slots), jobs


@pytest.mark.parametrize("actual", [27.0, 30.0, 34.0])
def test_one_at_a_time_the_estimate_is_within_15_per_cent_from_the_first_run_on(
        tmp_path, clock, actual):
    shown, jobs = study(tmp_path, clock)
    end = clock.now + 6 * actual
    for job in jobs:
        shown.report("start", job)
        assert abs(shown.left() - (end - clock.now)) < 0.15 * (end - clock.now)
        clock.now += actual
        shown.report("done", job)
    assert shown.left() == 0


def test_two_runs_on_one_processor_take_twice_as_long_each(tmp_path, clock):
    shown, jobs = study(tmp_path, clock, slots=2)
    for first, second in zip(jobs[::2], jobs[1::2], strict=True):
        shown.report("start", first)
        shown.report("start", second)
        truth = 3 * 60.0 - (clock.now - 1000.0)
        assert shown.left() == pytest.approx(truth)
        assert "busy" not in shown.line()
        clock.now += 60.0
        shown.report("done", first)
        shown.report("done", second)


def test_the_line_counts_the_runs_by_how_they_ended_and_names_a_busy_machine(
        tmp_path, clock, capsys):
    shown, jobs = study(tmp_path, clock)
    for job, outcome in zip(jobs, ("done", "failed", "done"), strict=False):
        shown.report("start", job)
        clock.now += 57.0
        shown.report(outcome, job)
    shown.report("start", jobs[3])
    assert capsys.readouterr().err.splitlines()[-1] == (
        "[3/6] baseline.s3 starts; 2 done, 1 failed, 1 running; about 3 min left; "
        "runs take 1.9 × the predicted time: the machine is busy")


def test_a_run_in_progress_is_believed_about_its_time_left_and_an_earlier_attempt_is_not(
        tmp_path, clock):
    shown, jobs = study(tmp_path, clock)
    path = shown.request.files(jobs[0]).json
    write_record(path, {"schema": SCHEMA, "status": "running", "progress": {"seconds_left": 50.0}})
    shown.report("start", jobs[0])
    os.utime(path, (990.0, 990.0))           # the record of an attempt before this launch
    clock.now += 10.0
    shown.tick([SimpleNamespace(job=jobs[0])])
    assert shown.left() == 6 * PREDICTED - 10
    os.utime(path, (1010.0, 1010.0))
    clock.now += 10.0
    shown.tick([SimpleNamespace(job=jobs[0])])
    # 20 s are over and 40 are left, so that the others should take 60 s each, too
    assert shown.left() == pytest.approx(40 + 5 * 60.0)
    assert "runs take 2.0 ×" in shown.line()


def test_a_run_that_is_tried_again_counts_from_its_new_start(tmp_path, clock):
    shown, jobs = study(tmp_path, clock)
    shown.report("start", jobs[0])
    clock.now += 20.0
    shown.report("again", jobs[0])
    assert shown.left() == 6 * PREDICTED and "0 running" not in shown.line()


def test_runs_start_when_a_place_is_free():
    assert makespan([5.0], [10.0, 10.0], 2) == 15.0
    assert makespan([], [30.0, 20.0, 10.0], 2) == 30.0
    assert makespan([], [], 3) == 0.0 and makespan([4.0, 7.0], [], 1) == 7.0


def test_an_arm_with_a_finished_run_is_expected_to_evaluate_as_well(tmp_path):
    """Seconds in a result are those of training alone."""
    from experiments.declare.spec import make_spec
    from experiments.launch.plan import _costs
    from experiments.train.predict import START_SECONDS
    settings = make_spec(preset="laptop").settings
    result = {"seconds": 28.0, "peak_memory_mb": 1.0}
    seconds, _ = _costs(None, {"baseline": settings}, {"baseline": [result]})["baseline"]
    # eleven evaluations of 65,536 tokens, each token at 0.4 of a trained one
    assert seconds == pytest.approx(START_SECONDS + 28.0 + 11 * 0.4 * 65536 / 2048 * 0.04)
