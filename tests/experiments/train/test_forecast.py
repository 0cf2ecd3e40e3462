"""The time left in a run, on a made-up clock and in one real run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.train.forecast import Forecast, busy_text, clock_text

ROOT = Path(__file__).resolve().parents[3]
STEP, EVALUATION, SAVE = 0.06, 2.0, 0.5


class Play:
    """Plays a run on a made-up clock: `estimates` are pairs (estimate, truth), one per row."""

    def __init__(self, iters=700, rehearsed=STEP, slow=lambda n: 1.0, begin=0):
        self.now, trained, seen = 0.0, 30.0 * (begin > 0), []
        self.forecast = Forecast(iters, 70, 350, begin, trained, clock=lambda: self.now)
        if not begin:
            self.now += EVALUATION
            self.forecast.row(0, 0.0, True)
        self.now += 5.0                       # rehearsing is no part of a step or an evaluation
        self.forecast.rehearsed(rehearsed)
        seen.append((self.forecast.left(), self.now))
        self.first, self.lines = self.forecast.first_line(), []
        for n in range(begin + 1, iters + 1):
            self.now += STEP * slow(n)
            trained += STEP * slow(n)
            evaluated = n % 70 == 0 or n == iters
            self.now += EVALUATION * evaluated
            if evaluated or n % 10 == 0:
                self.forecast.row(n, trained, evaluated)
                seen.append((self.forecast.left(), self.now))
                self.lines.append(self.forecast.line())
            self.now += SAVE * (n % 350 == 0)
        self.estimates = [(left, self.now - then) for left, then in seen]


@pytest.mark.parametrize("begin", [0, 350])
def test_on_an_idle_machine_every_estimate_is_within_15_per_cent_or_the_last_seconds(begin):
    # a resumed run has not evaluated yet: its estimates count from the first evaluation on
    estimates = Play(rehearsed=0.95 * STEP, begin=begin).estimates[9 if begin else 0:]
    assert len(estimates) > 20
    for left, truth in estimates:
        assert abs(left - truth) < max(0.15 * truth, 1.5)


def test_before_the_first_step_the_parts_of_the_estimate_are_named():
    assert Play().first == "about 1:02: 700 steps of 60 ms, 10 evaluations of 2.0 s"
    short = Forecast(30, 70, 350, 0, 0.0)
    short.rehearsed(0.0082)
    assert short.first_line() == "under a second: 30 steps of 8.2 ms"
    assert Play(iters=5).first == "about 0:02: 5 steps of 60 ms, 1 evaluation of 2.0 s"
    assert Play(rehearsed=None).first is None and Play(rehearsed=None).estimates[0][0] is None


def test_a_busy_machine_is_named_and_an_idle_one_is_not():
    idle, busy = Play(), Play(slow=lambda n: 1.9 if n > 300 else 1.0)
    assert not any("busy" in line for line in idle.lines + busy.lines[:30])
    assert busy.lines[-5].endswith(
        "left; steps take 1.9 × the rehearsed time: the machine is busy")
    left, truth = busy.estimates[-20]                # at the present pace, not at the rehearsed one
    assert abs(left - truth) < 0.15 * truth
    assert busy_text(None) == busy_text(1.4) == ""


def test_a_few_slow_steps_at_the_start_do_not_make_a_busy_machine():
    assert not any("busy" in line for line in Play(slow=lambda n: 3.0 if n < 10 else 1.0).lines)


def test_times_read_like_a_clock():
    assert [clock_text(s) for s in (0.4, 47, 93, 3750)] == ["0:00", "0:47", "1:33", "1:02:30"]


def test_a_run_says_its_time_before_its_first_step_and_its_record_keeps_it(tmp_path):
    command = [sys.executable, str(ROOT / "lab.py"), "-b", "--preset", "nano", "--max-iters", "10",
               "--device", "cpu", "--data.val_tokens=512", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    before, _, after = done.stderr.partition("steps of")
    assert "iter      0/10" in before
    assert before.endswith(("  under a second: 10 ", "  about 0:01: 10 ", "  about 0:02: 10 "))
    assert "1 evaluation of" in after and " left" not in after    # the only row is the last
    progress = json.loads((tmp_path / "losses" / "baseline.s0.json").read_text())["progress"]
    assert progress["seconds_left"] == 0 and progress["iteration"] == 10
