"""What a record says was unusual: resumed, without the GPU, a clock behind, a loss that jumped."""

import json
import os
import time

from experiments.records.record import RunFiles
from experiments.train.unusual import Spikes, beginning

CPU = {"schema": 1, "notes": ["a note"], "environment": {"device": "cpu"}, "status": "running"}


def test_a_finite_jump_above_ten_times_the_running_median_is_found_and_no_other():
    def found(losses, csv=None):
        spikes = Spikes(csv)
        for n, loss in enumerate(losses, 100 if csv else 0):
            spikes.add(n, loss)
        return [(each["iteration"], each["loss"]) for each in spikes.found]
    usual = [None, 6.0, 3.0, 2.0, 2.0, 2.0, 2.0]
    assert found([*usual, 25.0, 2.0]) == [(7, 25.0)]
    assert found([*usual, 19.0]) == found([1.0, 50.0]) == []
    assert found([*usual, float("inf"), float("nan")]) == []
    csv = "iteration,loss,val_loss\n" + "".join(f"{n},{'' if x is None else x},1\n"
                                              for n, x in enumerate([*usual, 25.0]))
    assert found([30.0], csv.encode()) == [(7, 25.0), (100, 30.0)]     # resumed: nothing is lost


def test_every_time_a_run_was_resumed_is_kept_with_its_host(tmp_path):
    files, record = RunFiles(tmp_path, None, "a", 0), dict(CPU)
    assert beginning(files, record, None) == {"notes": ["a note"]}
    files.json.parent.mkdir(parents=True)
    for iteration in (4, 8):
        record |= beginning(files, record, {"iteration": iteration})
        files.json.write_text(json.dumps(record))
    assert [each["iteration"] for each in record["resumed"]] == [4, 8]
    assert all(each["host"] for each in record["resumed"]) and record["notes"] == ["a note"]


def test_a_clock_behind_the_last_write_and_a_gpu_that_is_not_there_are_noted(tmp_path,
                                                                             monkeypatch):
    files = RunFiles(tmp_path, None, "a", 0)
    files.json.parent.mkdir(parents=True)
    files.json.write_text(json.dumps(CPU | {"process": {"host": "node7"}}))
    os.utime(files.json, (time.time() + 3600,) * 2)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    notes = beginning(files, CPU, {"iteration": 4})["notes"]
    assert "SLURM_JOB_GPUS=0" in notes[1] and "behind the last write of node7" in notes[2]
    on_gpu = CPU | {"environment": {"device": "NVIDIA"}}
    assert beginning(files, on_gpu, None)["notes"] == ["a note"]
