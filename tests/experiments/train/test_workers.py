"""Sides take turns, each in its own process, and a process that ends is named."""

import mmap
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from experiments.train import process, workers
from tests.helpers.machine import linux


def test_a_ratio_is_taken_within_a_round():
    slow_second_round = [1.0, 10.0, 1.0]
    assert workers.ratios([2.0, 20.0, 2.0], slow_second_round) == {"median": 2, "low": 2, "high": 2}
    with pytest.raises(ValueError):
        workers.ratios([1.0], [1.0, 2.0])


def test_a_spread_is_the_median_and_its_quartiles():
    assert workers.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {"median": 3, "low": 2, "high": 4}
    assert workers.spread([3.0]) == {"median": 3, "low": 3, "high": 3}


def test_a_round_asks_all_once_in_an_order_that_changes_and_repeats():
    orders = [workers.order(list("abcd"), number) for number in range(8)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    assert orders == [workers.order(list("abcd"), number) for number in range(8)]


@dataclass
class Side:
    """What a worker needs of a side."""
    name: str


def counting(side: Side) -> workers.Measured:
    return workers.Measured({"began": 0}, lambda steps: float(steps), lambda: 12.5)


def killed(side: Side) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ending(side: Side) -> None:
    raise SystemExit(7)


def test_a_worker_answers_once_per_request_and_ends_with_its_peak_memory():
    said = []
    with workers.workers([Side("a"), Side("b")], counting, said.append) as started:
        seconds = workers.sample({started[0]: 3, started[1]: 5}, 2, said.append)
        assert [worker.ask(0) for worker in started] == [12.5, 12.5]
    assert seconds == {"a": [3, 3], "b": [5, 5]}
    assert said == ["starting a", "starting b", "round 1 of 2", "round 2 of 2"]
    assert not any(worker.process.is_alive() for worker in started)


@pytest.mark.parametrize("build, told", [
    (ending, "'gone' ended with exit code 7$"),
    (killed, "'gone' ended with exit code -9: killed, most likely out of memory$")])
def test_a_process_that_ends_is_an_error_that_says_how(build, told):
    with pytest.raises(RuntimeError, match=told):
        workers.Worker(Side("gone"), build)


@linux
def test_a_megabyte_is_a_million_bytes():
    before = process.resident_mb()
    held = mmap.mmap(-1, 100 * 10**6)     # new pages, where malloc may give freed ones again
    np.frombuffer(held, dtype=np.uint8)[:] = 1
    assert process.resident_mb() - before == pytest.approx(100, abs=3)   # 95.4 in units of 2^20
    assert process.peak_memory_mb() >= process.resident_mb() - 3 and held[-1] == 1


@linux
def test_the_peak_of_a_process_is_not_its_parents():
    held = np.ones(400 * 10**6, dtype=np.uint8)
    code = "from experiments.train.process import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > held.nbytes
    assert 1 < float(child.stdout) < 300
