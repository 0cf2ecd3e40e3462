"""What does not fit into memory is refused before it is trained, with what would fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.declare.spec import make_spec
from experiments.train import fit
from experiments.train.fit import Room, state_mb
from experiments.train.predict import RandomTokens
from experiments.train.seeded import build_model
from mingpt.parallel.processes import Processes
from mingpt.utils import BadInput

LAB = Path(__file__).resolve().parents[3] / "lab.py"


class Four(Processes):
    """Stands in for four processes on one host."""
    count = 4

    def gather(self, value):
        return [value] * 4


@pytest.fixture
def room(monkeypatch):
    """room(left, processes): of a model whose weights and optimizer take 100 MB."""
    settings = make_spec(preset="nano", overrides=["--trainer.batch_size=8",
                                                   "--trainer.accumulation_steps=4",
                                                   "--trainer.device=cpu"]).settings

    def make(left, processes=None):
        monkeypatch.setattr(fit, "available_mb", lambda device: left)
        monkeypatch.setattr(fit, "state_mb", lambda settings, processes: 100.0)
        monkeypatch.setattr(fit, "SPARE", 1.0)
        return Room(settings, processes or Four())
    return make


def test_what_fits_passes(room):
    room(400).check()
    room(1000).check(predicted=1000)


@pytest.mark.parametrize("left, predicted, said", [
    (250, None, ["4 processes need about 400 MB", "250 MB are left", "--processes 2"]),
    (900, 1000, ["--trainer.batch_size=4 --trainer.accumulation_steps=8", "--processes 2"]),
    (850, 2000, ["need about 2,000 MB", "--trainer.batch_size=2 --trainer.accumulation_steps=16"]),
    (90, None, ["4 processes need", "use a smaller model"]),
])
def test_what_does_not_is_refused_with_what_would(room, left, predicted, said):
    with pytest.raises(BadInput) as refused:
        room(left).check(predicted)
    assert all(words in str(refused.value) for words in said), refused.value


def test_one_process_is_told_to_accumulate(room):
    with pytest.raises(BadInput, match=r"the run needs about 300 MB .* "
                                       r"--trainer.batch_size=4 --trainer.accumulation_steps=8"):
        room(210, Processes()).check(predicted=300)


def test_weights_gradients_and_optimizer_are_counted_without_building_them():
    settings = make_spec(preset="nano").settings
    model = build_model(settings, RandomTokens(settings), seed=0)
    assert state_mb(settings) == 16 * sum(p.numel() for p in model.parameters()) / 1e6


def test_a_dry_run_in_two_processes_takes_steps_in_two(tmp_path):
    """And leaves the record of a run of that name alone."""
    words = [sys.executable, str(LAB), "train", "-r", "--preset", "nano", "--dry-run", "--json",
             "--trainer.batch_size=4", "--trainer.accumulation_steps=2", "--out", str(tmp_path)]
    two = json.loads(subprocess.run([*words, "--processes", "2"], capture_output=True, text=True,
                                    check=True).stdout)
    one = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["predicted_memory_mb"] > 1.5 * one["predicted_memory_mb"]
    assert not list(tmp_path.iterdir())
