"""Signs of life: a process of this machine, a number that was used again, and the last write."""

import os
import socket
import subprocess
import sys
import time

import pytest

from experiments.launch.alive import FIRST, LEAST, is_alive, quiet_for, status_of
from experiments.system import began_at
from tests.helpers.machine import linux

HERE = {"host": socket.gethostname(), "pid": os.getpid()}
ELSEWHERE = {"host": "another", "pid": 1}


@linux
def test_a_process_that_began_after_the_last_write_has_only_the_same_number():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = {"status": "running", "process": HERE | {"pid": process.pid}}
        assert abs(began_at(process.pid) - time.time()) < 30
        assert is_alive(record, written=time.time()) is True
        assert status_of(record, written=time.time() - 3600) == "killed"
        assert is_alive(record) is True            # without the time of the write nothing is known
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize("process", [HERE, ELSEWHERE])
def test_a_run_that_writes_nothing_for_long_is_silent_wherever_it_is(process, monkeypatch):
    monkeypatch.setattr("experiments.system.began_at", lambda pid: None)
    record = {"status": "running", "process": process, "progress": {"longest_wait": 10.0}}
    now = time.time()
    assert status_of(record, now - 5) == "running"
    assert status_of(record, now - LEAST - 5) == "silent"
    assert quiet_for(record, now - LEAST - 5) == pytest.approx(LEAST + 5, abs=1)


def test_a_run_may_be_as_quiet_as_it_was_before_and_longer_at_its_start():
    slow = {"status": "running", "process": ELSEWHERE, "progress": {"longest_wait": 300.0}}
    new = {"status": "running", "process": ELSEWHERE, "progress": {"iteration": 0}}
    now = time.time()
    assert status_of(slow, now - 1400) == "running" and status_of(slow, now - 1600) == "silent"
    assert status_of(new, now - FIRST + 60) == "running" and status_of(new, now - FIRST - 60) \
        == "silent"


def test_only_a_run_that_says_running_can_be_silent():
    assert status_of({"status": "done", "process": ELSEWHERE}, 0.0) == "done"
    assert status_of({}, 0.0) == "missing"
