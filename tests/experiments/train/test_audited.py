"""When a run carries the audit of another seed, and when it is audited itself."""

import copy
import json

import pytest

from experiments.records.record import SCHEMA, RunFiles
from experiments.train.audited import carried

RECORD = {"schema": SCHEMA, "study": "mine", "arm": "rope", "seed": 0, "config_hash": "c",
          "code": {"version": "1", "commit": "abc", "dirty": False}, "data": {"hash": "d"},
          "environment": {"python": "3.11", "torch": "2.13", "numpy": "2", "platform": "Linux",
                          "cpu": "x", "device": "cpu", "threads": 1},
          "audit": {"passed": True, "checks": {"claim": True}}}


def changed(**sections):
    record = copy.deepcopy(RECORD)
    for key, value in sections.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    return record


def carried_by(folder, first, second):
    """What seed 1 carries, where `first` is the record of seed 0."""
    files = [RunFiles(folder, "mine", "rope", seed) for seed in (0, 1)]
    files[0].json.parent.mkdir(parents=True, exist_ok=True)
    files[0].json.write_text(json.dumps(first))
    return carried({**second, "seed": 1}, files[1])


def test_another_seed_of_the_same_arm_carries_the_audit_and_says_whose_it_is(tmp_path):
    assert carried_by(tmp_path, RECORD, RECORD) == {**RECORD["audit"], "carried_from": "rope.s0"}
    # the number of threads changes rounding, and nothing that an audit asks
    assert carried_by(tmp_path, RECORD, changed(environment={"threads": 2}))


@pytest.mark.parametrize("other", [
    {"config_hash": "e"}, {"code": {"commit": "abd"}}, {"data": {"hash": "e"}}, {"study": None},
    {"arm": "rope2"}, {"environment": {"torch": "2.12"}}, {"environment": {"device": "cuda"}},
    {"environment": {"cpu": "y"}},
])
def test_nothing_is_carried_to_a_run_that_differs(tmp_path, other):
    assert carried_by(tmp_path, RECORD, changed(**other)) is None


@pytest.mark.parametrize("first", [
    changed(audit={"passed": False}), changed(code={"dirty": True}), changed(audit=None),
    {}, [], None,
])
def test_nothing_is_carried_from_a_run_that_failed_or_cannot_be_relied_on(tmp_path, first):
    assert carried_by(tmp_path, first, RECORD) is None


@pytest.mark.parametrize("code", [{"dirty": True}, {"dirty": None}, {"commit": None}])
def test_code_that_is_no_clean_commit_is_audited_every_time(tmp_path, code):
    record = changed(code=code)
    assert carried_by(tmp_path, record, record) is None


def test_a_run_is_not_its_own_witness(tmp_path):
    files = RunFiles(tmp_path, "mine", "rope", 0)
    files.json.parent.mkdir(parents=True)
    files.json.write_text(json.dumps(RECORD))
    assert carried(RECORD, files) is None
