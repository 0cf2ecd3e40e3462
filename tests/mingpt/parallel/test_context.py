"""Processes that split each text between them train the model that one process trains."""

import contextlib
import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments.train.evaluate import evaluate
from experiments.train.seeded import SeededTrainer
from mingpt.attention.heads import ATTENTIONS, CausalSelfAttention
from mingpt.mlps import MLP, MLPS
from mingpt.model import GPT
from mingpt.parallel.check import check_count
from mingpt.parallel.context import ContextGroup
from mingpt.parallel.processes import Processes, joined
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX, BadInput

pytestmark = pytest.mark.timeout(600)     # four processes import torch, maybe on busy cores

T, VOCAB, STEPS = 32, 23, 12
ARMS = {"learned positions": {}, "rope": {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"},
        "a window": {"schedule": "f 5"}, "a dilated window": {"schedule": "9/3 f"},
        "alibi": {"position": "alibi"}, "gqa": {"attention": "gqa", "n_kv_head": 1},
        "tied, with z-loss": {"tie_weights": True, "z_loss": 1e-3}}


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


OWN = {"its MLP": {"mlp": "shifted"}, "its scores": {"attention": "sharper"}}
MESHES = ((2, 2), (4, 4), (4, 2))         # (processes, processes per text)


class Rows:
    """Batches that can be learned, in which targets are missing: some, in one batch of four the
    whole last stretch, and in another all."""

    def batch(self, t):
        rng = np.random.default_rng(t)
        tokens = (rng.integers(0, VOCAB, (2, 1)) + 5 * np.arange(T + 1)) % VOCAB
        targets = np.where(rng.random((2, T)) < 0.2, IGNORE_INDEX, tokens[:, 1:])
        if t % 4 == 1:
            targets[:, 3 * T // 4:] = IGNORE_INDEX
        return tokens[:, :-1], np.full_like(targets, IGNORE_INDEX) if t % 4 == 2 else targets


def model_of(**changes) -> GPT:
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16,
                            "vocab_size": VOCAB, "block_size": T, "embd_pdrop": 0.0,
                            "resid_pdrop": 0.0, "attn_pdrop": 0.0, **changes})
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(1)
    return model


def trained(arm: str, processes: Processes) -> list:
    """[losses, norms and targets of each step, validation] of an arm."""
    settings = Trainer.get_default_config()
    settings.merge_from_dict({"device": "cpu", "accumulation_steps": 4, "batch_size": 2,
                              "max_iters": STEPS, "learning_rate": 1e-2, "parallel": "context"})
    trainer, seen = SeededTrainer(settings, model_of(**ARMS[arm]), Rows(), 1, processes), []
    trainer.add_callback("on_batch_end", lambda t: seen.append(
        (float(t.loss), float(t.grad_norm), t.targets)))
    trainer.run()
    x, y = (np.concatenate(part) for part in zip(*map(Rows().batch, range(5)), strict=True))
    validation = SimpleNamespace(x=x, y=y, nbytes=np.ones_like(x), set_id=np.zeros_like(x),
                                 set_names=["all"], source_columns=[])
    return [seen, evaluate(trainer.model, validation, 3, processes=processes)["val_loss"]]


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


def in_turn(rank: int, folder: str) -> None:
    """In each of four processes: train every arm in every mesh, and in the first one also alone."""
    torch.set_num_threads(1)
    for count, each in MESHES:
        if rank < count:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost",
                           "MASTER_PORT": (Path(folder) / f"{count}.{each}.port").read_text()}
            with joined("cpu", partial(ContextGroup, each=each)) as processes:
                found = {arm: trained(arm, processes) for arm in ARMS}
                found["refused"] = refused(processes)
            (Path(folder) / f"{count}.{each}.{rank}.json").write_text(json.dumps(found))
    if rank == 0:
        found = {arm: trained(arm, Processes()) for arm in ARMS}
        found["refused"] = refused(Processes())
        (Path(folder) / "1.1.0.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def everyone(tmp_path_factory) -> dict[tuple[int, int, int], dict]:
    """{(processes, processes per text, rank): {arm: what it trained}}"""
    folder = tmp_path_factory.mktemp("context")
    for count, each in MESHES:
        port = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False).port
        (folder / f"{count}.{each}.port").write_text(str(port))
    torch.multiprocessing.spawn(in_turn, (str(folder),), nprocs=4)
    return {tuple(map(int, path.stem.split("."))): json.loads(path.read_text())
            for path in folder.glob("*.json")}


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
