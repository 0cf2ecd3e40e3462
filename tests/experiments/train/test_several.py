"""An arm is the same to the bit on 1, 2 and 4 processes."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments.train.evaluate import evaluate
from experiments.train.seeded import SeededTrainer
from experiments.weights.checkpoint import optimizer_tensors
from mingpt.model import GPT
from mingpt.parallel import processes as module
from mingpt.parallel.processes import Processes, check_count, joined
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX, BadInput

ROOT = Path(__file__).resolve().parents[3]
T, VOCAB = 16, 23
ARMS = {"baseline": {}, "gqa": {"attention": "gqa", "n_kv_head": 1},
        "all_modifications": {"position": "rope", "mlp": "swiglu", "norm": "rmsnorm"},
        "moe": {"mlp": "moe", "n_experts": 6, "capacity_factor": 1.0}}
CASES = {f"{arm}, {accumulation} batches, dropout {rate}": (arm, accumulation, rate, "tree")
         for arm in ARMS for accumulation, rate in ((4, 0.0), (8, 0.1))}
CASES |= {"muon": ("baseline", 4, 0.0, "tree"), "torch's own": ("moe", 4, 0.0, "all_reduce")}


class Rows:
    """Batches in which targets are missing: some, and in one batch of each step all."""

    def batch(self, t):
        rng = np.random.default_rng(t)
        tokens = rng.integers(0, VOCAB, (2, T + 1))
        targets = np.where(rng.random((2, T)) < 0.2, IGNORE_INDEX, tokens[:, 1:])
        return tokens[:, :-1], np.full_like(targets, IGNORE_INDEX) if t % 4 == 1 else targets


def trained(case, processes, steps=3):
    """[digest of weights and optimizer, losses and norms, validation] after a few steps."""
    arm, accumulation, rate, reduce = CASES[case]
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16,
                            "vocab_size": VOCAB, "block_size": T, "embd_pdrop": rate,
                            "resid_pdrop": rate, "attn_pdrop": rate, **ARMS[arm]})
    settings = Trainer.get_default_config()
    settings.merge_from_dict({"device": "cpu", "accumulation_steps": accumulation, "batch_size": 2,
                              "max_iters": steps, "learning_rate": 1e-2, "reduce": reduce,
                              "optimizer": "muon" if case == "muon" else "adamw"})
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(1)
    trainer = SeededTrainer(settings, model, Rows(), 1, processes)
    seen = []
    trainer.add_callback("on_batch_end", lambda t: seen.append(
        (float(t.loss), float(t.grad_norm), t.targets)))
    trainer.run()
    x, y = (np.concatenate(part) for part in zip(*map(Rows().batch, range(5)), strict=True))
    validation = SimpleNamespace(x=x, y=y, nbytes=np.ones_like(x), set_id=np.zeros_like(x),
                                 set_names=["all"])
    tensors = {**dict(model.named_parameters()), **optimizer_tensors(model, trainer.optimizer)}
    digest = hashlib.sha256(b"".join(tensors[name].detach().numpy().tobytes()
                                     for name in sorted(tensors)))
    return [digest.hexdigest(), seen, evaluate(model, validation, 3, processes=processes)]


def in_turn(rank, folder):
    """In each of four processes: train every case as one of four, then of two, then alone."""
    torch.set_num_threads(1)
    for count in (4, 2, 1):
        if rank >= count:
            return
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost",
                       "MASTER_PORT": str((Path(folder) / f"port{count}").read_text())}
        with joined("cpu") as processes:
            assert processes.count == count
            found = {case: trained(case, processes) for case in CASES}
        (Path(folder) / f"{count}.{rank}.json").write_text(json.dumps(found))


def free_port() -> int:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return store.port


@pytest.fixture(scope="module")
def everyone(tmp_path_factory):
    """{(processes, rank): {case: what it trained}}"""
    folder = tmp_path_factory.mktemp("several")
    for count in (1, 2, 4):
        (folder / f"port{count}").write_text(str(free_port()))
    torch.multiprocessing.spawn(in_turn, (str(folder),), nprocs=4)
    return {tuple(map(int, path.stem.split("."))): json.loads(path.read_text())
            for path in folder.glob("*.json")}


@pytest.mark.parametrize("case", [case for case in CASES if case != "torch's own"])
def test_any_number_of_processes_gives_the_same_bits(case, everyone):
    alone = everyone[1, 0][case]
    assert all(np.isfinite(loss) for loss, _, _ in alone[1])
    assert len(everyone) == 7
    for place, found in everyone.items():
        assert found[case] == alone, place


def test_torchs_own_sum_is_the_same_to_rounding(everyone):
    alone = everyone[1, 0]["torch's own"]
    for place, found in everyone.items():
        _, seen, validation = found["torch's own"]
        assert np.allclose(seen, alone[1], rtol=1e-5), place
        assert validation["val_loss"] == pytest.approx(alone[2]["val_loss"], rel=1e-5)
    assert everyone[4, 0]["torch's own"][0] == everyone[4, 3]["torch's own"][0]
