"""
Trains arms in one process, and in several that split each text between them
(trainer.parallel=context), and compares their losses.

    python -m tests.helpers.split

prints the largest difference per arm over 50 steps, as a table in Markdown.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from experiments.train.evaluate import evaluate
from experiments.train.seeded import SeededTrainer
from mingpt.model import GPT
from mingpt.parallel.context import ContextGroup
from mingpt.parallel.processes import Processes, joined
from mingpt.trainer import Trainer
from mingpt.utils import IGNORE_INDEX
from tests.helpers.models import validation_of

T, VOCAB, STEPS = 32, 23, 50
ARMS = {"learned positions": {}, "rope": {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu"},
        "a window": {"schedule": "f 5"}, "a dilated window": {"schedule": "9/3 f"},
        "strides and blocks": {"schedule": "s4 b8x2"}, "global keys": {"schedule": "5+g2 f"},
        "alibi": {"position": "alibi"}, "gqa": {"attention": "gqa", "n_kv_head": 1},
        "tied, with z-loss": {"tie_weights": True, "z_loss": 1e-3}}
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


def trained(arm: str, processes: Processes, steps: int) -> list:
    """[losses, norms and targets of each step, validation] of an arm."""
    settings = Trainer.get_default_config()
    settings.merge_from_dict({"device": "cpu", "accumulation_steps": 4, "batch_size": 2,
                              "max_iters": steps, "learning_rate": 1e-2, "parallel": "context"})
    trainer, seen = SeededTrainer(settings, model_of(**ARMS[arm]), Rows(), 1, processes), []
    trainer.add_callback("on_batch_end", lambda t: seen.append(
        (float(t.loss), float(t.grad_norm), t.targets)))
    trainer.run()
    found = evaluate(trainer.model, validation_of(Rows()), 3, processes=processes)
    return [seen, found["val_loss"]]


def in_turn(rank: int, folder: str, steps: int, also: Mapping[str, Callable]) -> None:
    """In each of four processes: train every arm in every mesh, and in the first one also alone.
    `also` are further things to find out of a group of processes."""
    torch.set_num_threads(1)

    def found(processes: Processes) -> str:
        arms = {arm: trained(arm, processes, steps) for arm in ARMS}
        return json.dumps(arms | {name: find(processes) for name, find in also.items()})
    for count, each in MESHES:
        if rank < count:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost",
                           "MASTER_PORT": (Path(folder) / f"{count}.{each}.port").read_text()}
            with joined("cpu", partial(ContextGroup, each=each)) as processes:
                text = found(processes)
            (Path(folder) / f"{count}.{each}.{rank}.json").write_text(text)
    if rank == 0:
        (Path(folder) / "1.1.0.json").write_text(found(Processes()))


def train_everywhere(folder: Path, steps: int, also: Mapping[str, Callable] = {}
                     ) -> dict[tuple[int, int, int], dict]:
    """{(processes, processes per text, rank): {arm: what it trained}}"""
    for count, each in MESHES:
        port = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False).port
        (folder / f"{count}.{each}.port").write_text(str(port))
    torch.multiprocessing.spawn(in_turn, (str(folder), steps, also), nprocs=4)
    return {tuple(map(int, path.stem.split("."))): json.loads(path.read_text())
            for path in folder.glob("*.json")}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        everyone = train_everywhere(Path(folder), STEPS)
    print("| arm | 2 processes | 4 processes | 4 processes, 2 per text |\n|---|---|---|---|")
    for arm in ARMS:
        alone = everyone[1, 1, 0][arm]
        cells = [f"{largest_difference(alone, everyone[*mesh, 0][arm]):.1e}" for mesh in MESHES]
        print(f"| {arm} | {' | '.join(cells)} |")


def largest_difference(one: list, other: list) -> float:
    """The largest difference between two arms' training losses, in nats per token."""
    return max(abs(a[0] - b[0]) for a, b in zip(one[0], other[0], strict=True))


if __name__ == "__main__":
    main()
