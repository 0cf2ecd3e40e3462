"""
Hostile input, kills and failing writes, in the reduced form that fits into the test suite. The
whole form is `make fuzz`, `python -m tests.faults.kills` and `python -m tests.faults.writes`.
"""

import random
import sys
import time

import pytest

from tests.faults import kills, writes
from tests.faults.fuzz import TARGETS, drawn, strike
from tests.faults.sandbox import attempt, sandbox
from tests.faults.seeds import write_seeds

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch"),
              pytest.mark.timeout(600)]
SECONDS = 20       # for all targets together, in turns


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return write_seeds(tmp_path_factory.mktemp("seeds") / "a" / "b" / "w")


def test_hostile_input_is_refused_in_a_few_lines_and_touches_nothing(seeds):
    # always the same inputs, as far as the time reaches: `make fuzz` draws new ones
    chance, until, tried = random.Random(1), time.monotonic() + SECONDS, 0
    names = [*TARGETS]
    chance.shuffle(names)
    while time.monotonic() < until or tried < len(names):
        name = names[tried % len(names)]
        for argv, file, content in drawn(name, seeds, chance, 2):
            outcome = strike(name, argv, file, content, seeds)
            assert not outcome.faults, (name, argv, file, content[:3000], outcome)
        tried += 1
        if time.monotonic() > until + 60:      # a busy machine
            break
    assert tried


def test_the_seeds_themselves_are_accepted(seeds):
    """Else every damaged one would be refused for another reason than its damage."""
    for name in ("tokenize parquet", "a study's values", "a Hugging Face config",
                 "a state's values, sample", "a schedule's values", "tokenize bin",
                 "a state's values, resume"):
        with sandbox(seeds) as folder:
            outcome = attempt([*TARGETS[name].argv], folder, (0,))
            assert not outcome.faults, (name, outcome)


def test_a_fault_is_found(seeds):
    """The sandbox sees a change outside the folders of results, and a wrong exit code."""
    with sandbox(seeds) as folder:
        outcome = attempt(["status", "--out", "out", "--html", "elsewhere.html"], folder, (1,))
        assert [fault.split()[0] for fault in outcome.faults] == ["exit", "changed"]


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    counts = kills.kill_runs(8, random.Random(), tmp_path)
    assert counts["kills"] >= 8 and counts["ends"]


def test_a_write_that_fails_costs_nothing(tmp_path):
    counts = writes.try_all(17, tmp_path)
    assert counts["went on"] and counts["started again"]
