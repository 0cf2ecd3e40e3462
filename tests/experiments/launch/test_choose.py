"""How many runs of a study train at once: which numbers are compared, which one wins, and that a
study keeps what it chose."""

import dataclasses

import pytest

from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from experiments.launch import choose as chooser
from experiments.launch.choose import Choice, best, candidates, choice_for, choose, speeds
from experiments.launch.plan import Job, Request, write_order


@pytest.fixture
def request_(tmp_path):
    return Request(load_study("smoke"), tmp_path)


def jobs(seconds=600.0):
    return [Job(arm, seed, seconds=seconds, memory_mb=100.0)
            for arm in ("baseline", "rope", "swiglu") for seed in (0, 1)]


def test_powers_of_two_are_compared_as_far_as_there_are_cores_runs_and_memory(monkeypatch):
    monkeypatch.setattr(chooser, "free_memory_mb", lambda: 10_000.0)
    assert candidates(16, 100, 100) == [1, 2, 4, 8, 16]
    assert candidates(6, 100, 100) == [1, 2, 4]
    assert candidates(16, 3, 100) == [1, 2]        # three runs are left
    assert candidates(16, 100, 1900) == [1, 2, 4]  # 8,000 MB hold four
    assert candidates(16, 100, 20_000) == [1]


def test_the_fastest_wins_and_a_small_gain_is_not_worth_more_memory():
    threads = {1: 8, 2: 4, 4: 2, 8: 1}
    won = best(threads, {1: 1.0, 2: 1.2, 4: 1.6, 8: 1.5}, None)
    assert (won.jobs, won.threads, won.slowdown) == (4, 2, pytest.approx(2.5))
    assert "1.60 times" in won.why
    assert best(threads, {1: 1.0, 2: 1.03, 4: 0.9, 8: 0.8}, None).jobs == 1


def test_a_measurement_trains_the_arms_themselves(monkeypatch):
    monkeypatch.setattr(chooser, "WINDOW", 0.05)
    arms = [make_spec("nano").settings, make_spec("nano", flags=["rope"]).settings]
    found = speeds(arms, [1, 2], None)
    assert found[1] == 1.0 and 0 < found[2] < float("inf")


def test_a_short_study_is_not_measured(monkeypatch):
    monkeypatch.setattr(chooser, "cores", lambda: 2)
    monkeypatch.setattr(chooser, "speeds", lambda *_: pytest.fail("measured"))
    assert choose([make_spec("nano").settings], 6, 20.0, 100.0).jobs == 1


def test_what_the_first_launch_chose_is_kept_on_that_machine(request_, monkeypatch):
    asked = []
    monkeypatch.setattr(chooser, "choose", lambda *_: asked.append(1) or Choice(2, 1, 1.6, "fast"))
    first = choice_for(request_, jobs())
    write_order(request_, jobs(), first.jobs, chosen=first.to_dict())
    second = choice_for(request_, jobs())
    assert (second.jobs, second.threads, len(asked)) == (2, 1, 1) and "first launch" in second.why
    write_order(request_, jobs(), second.jobs, chosen=second.to_dict())
    assert choice_for(request_, jobs()).why == second.why
    monkeypatch.setattr(chooser, "cores", lambda: 64)
    choice_for(request_, jobs())
    assert len(asked) == 2


def test_the_command_line_forces_it_and_nothing_is_measured(request_, monkeypatch):
    monkeypatch.setattr(chooser, "choose", lambda *_: pytest.fail("measured"))
    assert choice_for(request_, jobs(), forced=3).jobs == 3
    ended = [dataclasses.replace(job, state="done") for job in jobs()]
    assert choice_for(request_, ended).jobs == 1
