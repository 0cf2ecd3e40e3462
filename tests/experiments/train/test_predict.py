"""The time and memory of a run are predicted from a few of its steps, or from shorter ones."""

import pytest
import torch

from experiments.declare.spec import make_spec
from experiments.train import predict
from experiments.train.predict import RandomTokens
from experiments.train.seeded import build_model, row_length
from mingpt.parallel.processes import Processes


@pytest.fixture
def nano():
    """(settings, model) of a small arm with two batches per step."""
    settings = make_spec(preset="nano", flags=["rope"], overrides=[
        "--trainer.accumulation_steps=2", "--trainer.device=cpu"]).settings
    return settings, build_model(settings, RandomTokens(settings), seed=0)


class Two(Processes):
    """Stands in for the first of two processes."""
    count = 2


class Team(Processes):
    """Stands in for a process of the first of two teams, of two processes each."""
    count, each = 4, 2

    def share(self, n):
        return range(n // 2)


@pytest.mark.parametrize("rows, processes, shapes", [
    (99, Processes(), [(8, 64)]),             # the whole step is short
    (2.5, Processes(), [(2, 64), (6, 64)]),   # two rows are
    (0.3, Processes(), [(1, 19), (1, 57)]),   # not even one row is
    (0.6, Processes(), [(1, 38), (1, 64)]),
    (2.5, Two(), [(2, 64), (6, 64)]),         # one batch each, in place of two
    (0.3, Team(), [(1, 18), (1, 54)]),        # a row that two can split
])
def test_a_long_step_is_extrapolated_from_two_short_ones(nano, monkeypatch, rows, processes,
                                                         shapes):
    settings, model = nano
    T, taken = row_length(settings), []

    def flops(rows, length):
        return model.flops_per_token(length) * length * rows

    def time(model, tokens, settings, processes, most=8):
        """A step that costs 2 s and 3 s per GFLOP, 10 MB and 0.5 MB per token."""
        (B, more), length = tokens.shape, row_length(settings)
        assert more == length + 1
        taken.append((B, length))
        every = len(processes.share(settings.trainer.accumulation_steps))
        return 2 + 3e-9 * flops(B, length) * every, 10 + 0.5 * B * length
    monkeypatch.setattr(predict, "_time", time)
    monkeypatch.setattr(predict, "TRIAL_FLOPS", rows * flops(1, T))
    seconds, memory = predict._measure(model, settings, processes)
    assert taken == shapes
    assert seconds == pytest.approx(2 + 3e-9 * flops(16 * processes.each / processes.count, T))
    assert memory == pytest.approx(10 + 0.5 * 8 * T)


@pytest.mark.parametrize("trial", [1, predict.TRIAL_FLOPS])
def test_a_prediction_needs_no_corpus_and_leaves_torchs_generator_alone(nano, monkeypatch, trial):
    monkeypatch.setattr(predict, "TRIAL_FLOPS", trial)
    before = torch.get_rng_state()
    found = predict.predict(nano[0])
    assert found.seconds > predict.START_SECONDS and found.memory_mb > 0
    assert torch.equal(before, torch.get_rng_state())
