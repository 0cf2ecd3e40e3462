"""Processes that split each text between them train the model that one process trains."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments.train.seeded import SeededTrainer
from mingpt.attention.heads import ATTENTIONS, CausalSelfAttention
from mingpt.mlps import MLP, MLPS
from mingpt.parallel.check import check_count
from mingpt.parallel.context import ContextGroup
from mingpt.parallel.processes import Processes
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from tests.helpers.split import ARMS, MESHES, Rows, T, model_of, train_everywhere

pytestmark = pytest.mark.timeout(600)     # four processes import torch, maybe on busy cores

class Shifted(MLP):
    """A user's MLP that adds the token before, by a factor that begins at 0."""

    def __init__(self, config):
        super().__init__(config)
        self.factor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
        return super().forward(x + self.factor * before)


class Sharper(CausalSelfAttention):
    """A user's attention that inherits `forward` and replaces `attend`."""

    def __init__(self, config, layer=0):
        super().__init__(config, layer)
        attend = self.attend
        self.attend = lambda q, *rest, **options: attend(2 * q, *rest, **options)


STEPS = 12
OWN = {"its MLP": {"mlp": "shifted"}, "its scores": {"attention": "sharper"}}
@mock.patch.dict(MLPS, shifted=Shifted)
@mock.patch.dict(ATTENTIONS, sharper=Sharper)
def refused(processes: Processes) -> dict[str, str]:
    """{what cannot be split: why}, for parts of a user's own and for short rows of text."""
    short = SimpleNamespace(batch=lambda t: tuple(part[:, :T - 3] for part in Rows().batch(t)))
    cases = {**{name: (changes, Rows()) for name, changes in OWN.items()}, "its rows": ({}, short)}
    said = {}
    for name, (changes, rows) in cases.items():
        try:
            SeededTrainer(Trainer.get_default_config(), model_of(**changes), rows, 1, processes)
        except BadInput as error:
            said[name] = str(error)
    return said


@pytest.fixture(scope="module")
def everyone(tmp_path_factory) -> dict[tuple[int, int, int], dict]:
    """{(processes, processes per text, rank): {arm: what it trained}}"""
    return train_everywhere(tmp_path_factory.mktemp("context"), STEPS, {"refused": refused})


@pytest.mark.parametrize("arm", ARMS)
def test_losses_norms_and_validation_are_those_of_one_process(arm, everyone):
    alone = everyone[1, 1, 0][arm]
    assert len(everyone) == 1 + sum(count for count, _ in MESHES)
    assert alone[0][-1][0] < alone[0][0][0], "the loss falls"
    for mesh, found in everyone.items():
        np.testing.assert_allclose(found[arm][0], alone[0], rtol=1e-5, err_msg=str(mesh))
        assert found[arm][1] == pytest.approx(alone[1], rel=1e-5), mesh
        assert found[arm] == everyone[*mesh[:2], 0][arm], "all ranks know the same numbers"


def test_a_part_that_mixes_tokens_in_its_own_way_and_uneven_rows_are_refused(everyone):
    """By every process, so that none waits for another; and none of them by one alone."""
    for (count, each, _), found in everyone.items():
        said = found["refused"]
        if count == 1:
            assert not said
            continue
        assert set(said) == {*OWN, "its rows"}
        assert all("mixes tokens in another way" in said[name] for name in OWN)
        assert f"data.length={T - 3}" in said["its rows"]
        assert f"multiple of {each}, such as 28" in said["its rows"]


@pytest.mark.parametrize("changes, said", [
    ({"resid_pdrop": 0.1}, "model.resid_pdrop=0.1: a stretch .* give 0"),
    ({"n_future": 2}, "n_future"), ({"mlp": "moe"}, "balances its load"),
    ({"attention": "mla"}, "mha, gqa or mqa"), ({"attention": "msla"}, "mha, gqa or mqa"),
])
def test_a_model_that_would_be_another_one_is_refused(changes, said, tmp_path):
    with joined_alone(tmp_path) as processes, pytest.raises(BadInput, match=said):
        SeededTrainer(Trainer.get_default_config(), model_of(**changes), Rows(), 1, processes)


@contextlib.contextmanager
def joined_alone(folder: Path):
    """A ContextGroup of this process alone."""
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield ContextGroup(store)
    finally:
        dist.destroy_process_group()


def test_teams_share_batches_and_what_cannot_be_is_refused():
    trainer = Trainer.get_default_config()
    trainer.merge_from_dict({"parallel": "context", "accumulation_steps": 2, "batch_size": 2})
    check_count(2, trainer)
    check_count(8, trainer)       # one team of eight
    trainer.context_processes = 2
    check_count(4, trainer)
    with pytest.raises(BadInput, match="4 teams .* share a step of 2"):
        check_count(8, trainer)
    with pytest.raises(BadInput, match="3 processes form teams of 1"):
        check_count(3, trainer)
    trainer.context_processes = None
    with pytest.raises(BadInput, match="6 processes form teams of 1, 2"):
        check_count(6, trainer)
    for setting, value in (("reduce", "all_reduce"), ("compile", True)):
        trainer.merge_from_dict({"reduce": "tree", "compile": False, setting: value})
        with pytest.raises(BadInput, match=f"trainer.{setting}"):
            check_count(2, trainer)
