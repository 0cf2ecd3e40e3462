"""An arm is the same to the bit on 1, 2 and 4 processes."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from experiments.train.evaluate import evaluate
from experiments.train.seeded import SeededTrainer
from experiments.weights.checkpoint import optimizer_tensors
from mingpt.model import GPT
from mingpt.optimizers import OPTIMIZERS
from mingpt.parallel.check import check_count
from mingpt.parallel.processes import joined
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN
from tests.helpers.models import validation_of

pytestmark = pytest.mark.timeout(900)     # nine processes import torch, maybe on busy cores

ROOT = Path(__file__).resolve().parents[3]
T, VOCAB = 16, 23
ARMS = {"baseline": {}, "gqa": {"attention": "gqa", "n_kv_head": 1},
        "all_modifications": {"position": "rope", "mlp": "swiglu", "norm": "rmsnorm"},
        "moe": {"mlp": "moe", "n_experts": 6, "capacity_factor": 1.0}}
CASES = {f"{arm}, {accumulation} batches, dropout {rate}": (arm, accumulation, rate, "tree")
         for arm in ARMS for accumulation, rate in ((4, 0.0), (8, 0.1))}
CASES |= {"muon": ("baseline", 4, 0.0, "tree"), "drawing": ("baseline", 4, 0.1, "tree"),
          "torch's own": ("moe", 4, 0.0, "all_reduce"),
          "in sequence": ("baseline", 8, 0.1, "all_reduce")}
OWN = ("torch's own", "in sequence")     # torch's own sum, in no fixed order


class Drawing(torch.optim.SGD):
    """Adds noise to the weights at every step, as Langevin dynamics and stochastic rounding do."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.add_(torch.randn_like(p), alpha=1e-4)


class Rows:
    """Batches in which targets are missing: some, and in one batch of each step all."""

    def batch(self, t):
        rng = np.random.default_rng(t)
        tokens = rng.integers(0, VOCAB, (2, T + 1))
        targets = np.where(rng.random((2, T)) < 0.2, IGNORE_INDEX, tokens[:, 1:])
        return tokens[:, :-1], np.full_like(targets, IGNORE_INDEX) if t % 4 == 1 else targets


@mock.patch.dict(OPTIMIZERS, drawing=lambda groups, config: Drawing(groups, lr=1e-2))
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
                              "optimizer": case if case in ("muon", "drawing") else "adamw"})
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(1)
    trainer = SeededTrainer(settings, model, Rows(), 1, processes)
    seen = []
    trainer.add_callback("on_batch_end", lambda t: seen.append(
        (float(t.loss), float(t.grad_norm), t.targets)))
    trainer.run()
    tensors = {**dict(model.named_parameters()), **optimizer_tensors(model, trainer.optimizer)}
    digest = hashlib.sha256(b"".join(tensors[name].detach().numpy().tobytes()
                                     for name in sorted(tensors)))
    found = evaluate(model, validation_of(Rows()), 3, processes=processes)
    return [digest.hexdigest(), seen, found]


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


@pytest.mark.parametrize("case", [case for case in CASES if case not in OWN])
def test_any_number_of_processes_gives_the_same_bits(case, everyone):
    alone = everyone[1, 0][case]
    assert all(np.isfinite(loss) for loss, _, _ in alone[1])
    assert len(everyone) == 7
    for place, found in everyone.items():
        assert found[case] == alone, place


def test_gradients_that_are_added_in_another_order_have_other_bits(everyone):
    tree, sequence = (everyone[1, 0][case][0] for case in ("baseline, 8 batches, dropout 0.1",
                                                           "in sequence"))
    assert tree != sequence


def test_torchs_own_sum_is_the_same_to_rounding(everyone):
    alone = everyone[1, 0]["torch's own"]
    for place, found in everyone.items():
        _, seen, validation = found["torch's own"]
        assert np.allclose(seen, alone[1], rtol=1e-5), place
        assert validation["val_loss"] == pytest.approx(alone[2]["val_loss"], rel=1e-5)
    assert everyone[4, 0]["torch's own"][0] == everyone[4, 3]["torch's own"][0]


# -- whole runs ------------------------------------------------------------------------------------

RUN = ["-b", "--preset=nano", "--device=cpu", "--model.n_layer=1", "--trainer.batch_size=2",
       "--trainer.accumulation_steps=4", "--model.resid_pdrop=0.1", "--max-iters=60",
       "--run.checkpoint_every=5", "--run.eval_every=30", "--run.rehearsals=0", "--run.threads=1",
       "--data.val_tokens=1024"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(out, *arguments): lab.py trains in the background."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("".join(f"{n} red and {n * n % 97} green\n\n" * 20 for n in range(300)))

    def begin(out, *arguments):
        return subprocess.Popen(
            [sys.executable, "lab.py", *RUN, "--data", str(text), "--out", str(folder / out),
             *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "ABLATE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"})
    begin.folder = folder
    return begin


def record(folder):
    return json.loads((folder / "losses/baseline.s0.json").read_text())


def interrupted(run, folder, rows, number, who):
    """Send a signal to a process of a run once its CSV has more than `rows` rows. Returns the exit
    code, the seconds until it ended, and what it wrote to stderr."""
    csv = folder / "losses/baseline.s0.csv"
    while not csv.exists() or csv.read_bytes().count(b"\n") <= rows:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(run.pid if who is None else int(children[who]), number)
    begun = time.monotonic()
    _, errors = run.communicate(timeout=60)
    return run.returncode, time.monotonic() - begun, errors


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_killed_on_two_processes_it_goes_on_with_one_and_with_four_to_the_same_bits(start):
    folder, whole = start.folder / "torn", start.folder / "whole"
    alone = start("whole")
    code, seconds, errors = interrupted(start("torn", "--processes", "2"), folder, 4,
                                        signal.SIGKILL, who=1)
    assert code == 3 and seconds < 30 and "Traceback" not in errors
    assert "process 1 was ended by SIGKILL" in errors
    torn = record(folder)
    assert torn["status"] == "interrupted"
    assert torn["processes"]["count"] == sum(torn["processes"]["hosts"].values()) == 2
    rows = (folder / "losses/baseline.s0.csv").read_bytes().count(b"\n")
    code, _, errors = interrupted(start("torn", "--processes", "4"), folder, rows, signal.SIGUSR1,
                                  who=None)
    assert code == 3 and "signal SIGUSR1" in errors
    done = start("torn")
    assert done.wait() == alone.wait() == 0, done.stderr.read()
    mine, theirs = record(folder), record(whole)
    assert mine["processes"]["count"] == 1 and mine["result"]["tokens"] == 60 * 8 * 64
    for path in ("losses/baseline.s0.csv", "checkpoints/baseline.s0/model-000060.safetensors"):
        one, other = ((each / path).read_bytes() for each in (folder, whole))
        if path.endswith("csv"):
            one, other = ([line.split(b",")[:7] for line in text.splitlines()]
                          for text in (one, other))
        assert one == other, path
    assert mine["result"]["val_loss"] == theirs["result"]["val_loss"]


PLANTED = """
from experiments.train.several import membership
from mingpt.trainer import Trainer
with membership("cpu", Trainer.get_default_config()) as processes:
    processes.gather(1)
    if processes.rank == 1:
        raise ValueError("planted")
    processes.gather(2)
"""


def test_a_process_that_fails_ends_the_others_and_tells_it_once(tmp_path):
    program = tmp_path / "planted.py"
    program.write_text(PLANTED)
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", str(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TORCHELASTIC_ERROR_FILE": ""})
    assert done.returncode and time.monotonic() - begun < 60
    assert done.stderr.count("ValueError: planted") == 1
    assert done.stderr.count("Traceback") == 2      # torchrun's agent has one of its own


@pytest.mark.parametrize("count, leaves, rows, reduce, said", [
    (3, 4, 2, "tree", ["1, 2, 4 processes", "rows divide by 3"]),
    (3, 4, 3, "tree", ["reduce=all_reduce and --trainer.batch_size=4 --trainer.accumulation_steps=3"
                       ]),
    (3, 6, 2, "tree", ["1, 2 processes, or --trainer.reduce=all_reduce"]),
    (32, 64, 2, "tree", ["1, 2, 4, 8, 16 processes, or --trainer.reduce=all_reduce"]),
    (2, 2, 2, "tre", ["trainer.reduce='tre': did you mean 'tree'?"]),
    (2, 1, 8, "tree", ["1 process,", "--trainer.batch_size=4 --trainer.accumulation_steps=2"]),
    (8, 4, 6, "tree", ["1, 2, 4 processes", "batch_size=3 --trainer.accumulation_steps=8"]),
    (4, 6, 3, "all_reduce", ["1, 2, 3, 6 processes", "rows divide by 4"]),
    (0, 4, 1, "tree", ["give 1 or more"]),
])
def test_what_cannot_be_shared_equally_is_refused_with_what_can(count, leaves, rows, reduce, said):
    settings = CN(accumulation_steps=leaves, batch_size=rows, reduce=reduce, parallel="ddp")
    with pytest.raises(BadInput) as refused:
        check_count(count, settings)
    assert all(words in str(refused.value) for words in said), refused.value
    for fitting in (1, 2, 4) if leaves % 4 == 0 else (1,) if reduce != "tre" else ():
        check_count(fitting, settings)
