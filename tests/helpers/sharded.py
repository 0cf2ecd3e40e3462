"""
Trains arms in one process, and in several that share one copy of the model (fsdp), and compares
their losses.

    python -m tests.helpers.sharded

prints the largest difference per arm over 50 steps, as a table in Markdown. The last column is that
of one process that adds gradients in the tree's order, not in sequence: what rounding alone does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from experiments.declare.spec import make_spec
from experiments.train.evaluate import evaluate
from experiments.train.seeded import SeededTrainer, build_model
from experiments.weights.checkpoint import model_tensors
from mingpt.parallel.processes import joined
from mingpt.parallel.sharded import Sharded
from mingpt.utils import IGNORE_INDEX
from tests.helpers.models import validation_of

T, VOCAB, STEPS = 16, 23, 50
# The arms of experiments/studies/seven.toml by their flags, then parts by their settings.
ARMS: dict[str, list[str]] = {name: [] for name in (
    "baseline", "rope", "swiglu", "rmsnorm", "warmup", "cosine", "all_modifications")}
ARMS |= {"gqa": ["model.attention=gqa", "model.n_kv_head=1"], "mla": ["model.attention=mla"],
         # more experts than tokens choose, so that some have no gradient in one process or in all
         "moe": ["model.mlp=moe", "model.n_experts=16", "model.capacity_factor=1.0"],
         "tied weights": ["model.tie_weights=true"], "muon": ["trainer.optimizer=muon"],
         "muon in float32": ["trainer.optimizer=muon"],
         "bfloat16": ["trainer.dtype=bfloat16"],
         "one part frozen": ["run.freeze_except=lm_head"],
         "two tokens ahead": ["model.n_future=2"],
         "recomputed blocks": ["trainer.checkpoint_activations=true", "model.mlp=moe"]}
FLAGS = {"rope", "swiglu", "rmsnorm", "warmup", "cosine", "all_modifications"}


class Rows:
    """Batches of text that can be learned, in which targets are missing: some, and in one batch of
    each step all."""
    vocab_size, eot = VOCAB, 0

    def batch(self, t: int):
        rng = np.random.default_rng(t)
        tokens = (rng.integers(0, VOCAB, (2, 1)) + np.arange(T + 1) * rng.integers(1, 4, (2, 1)))
        tokens %= VOCAB
        targets = np.where(rng.random((2, T)) < 0.2, IGNORE_INDEX, tokens[:, 1:])
        return tokens[:, :-1], np.full_like(targets, IGNORE_INDEX) if t % 4 == 1 else targets


def trainer_of(arm: str, processes=None, **changes) -> SeededTrainer:
    """A trainer of the arm, with dropout; `changes` are settings of `trainer`."""
    rate = 0.1
    sizes = {"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": T,
             "vocab_size": VOCAB, "embd_pdrop": rate, "resid_pdrop": rate, "attn_pdrop": rate}
    settings = make_spec(
        preset="nano", flags=[arm] if arm in FLAGS else [],
        overrides=[f"--{setting}" for setting in ARMS[arm]]).settings
    settings.model.merge_from_dict(sizes)
    settings.trainer.merge_from_dict(
        {"device": "cpu", "accumulation_steps": 4, "batch_size": 2, "max_iters": STEPS,
         "learning_rate": 3e-3, "parallel": "fsdp", "reduce": "all_reduce", **changes})
    model = build_model(settings, Rows(), 1, processes=processes)
    return SeededTrainer(settings.trainer, model, Rows(), 1, processes)


def trained(arm: str, processes=None, steps: int = STEPS, **changes) -> dict:
    """What an arm gave: a digest of its first weights, losses, norms, validation, and the bytes of
    parameters and optimizer state in this process."""
    trainer = trainer_of(arm, processes, max_iters=steps, **changes)
    first = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in sorted(
        model_tensors(trainer.model).items()))).hexdigest()
    seen: dict[str, list] = {"loss": [], "norm": []}
    trainer.add_callback("on_batch_end", lambda t: (
        seen["loss"].append(float(t.loss)), seen["norm"].append(float(t.grad_norm))))
    with mock.patch("torch.optim._muon._zeropower_via_newtonschulz", in_float32) if (
            arm == "muon in float32") else contextlib.nullcontext():
        trainer.run()
    found = evaluate(trainer.model, validation_of(Rows()), 3, processes=processes)
    return {**seen, "first": first, "val_loss": found["val_loss"], "bytes": held_bytes(trainer)}


def in_float32(matrix, coefficients, steps, eps):
    """Muon's orthogonalisation without bfloat16, in which rounding is 65,536 times as large."""
    x = matrix / matrix.norm().clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def held_bytes(trainer: SeededTrainer) -> int:
    """The bytes of parameters and optimizer state that this process holds."""
    held = [*trainer.model.parameters(), *(value for state in trainer.optimizer.state.values()
                                           for value in state.values())]
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in held]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


@contextlib.contextmanager
def one_of(rank: int, count: int, folder: Path):
    """Inside, this process is one of `count` that share models."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost",
                   "MASTER_PORT": (folder / "port").read_text()}
    with joined("cpu", Sharded) as processes:
        yield processes


def _train_all(rank: int, count: int, folder: str, arms: list[str], steps: int) -> None:
    with one_of(rank, count, Path(folder)) as processes:
        found = {arm: trained(arm, processes, steps) for arm in arms}
        everyone = processes.gather({arm: found[arm]["bytes"] for arm in arms})
        if processes.first:
            for arm in arms:
                found[arm]["bytes"] = [each[arm] for each in everyone]
            (Path(folder) / "found.json").write_text(json.dumps(found))


def spawn(function, count: int, folder: Path, *arguments) -> None:
    """Run function(rank, count, folder, *arguments) in `count` new processes."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    (folder / "port").write_text(str(store.port))
    del store
    torch.multiprocessing.spawn(function, (count, str(folder), *arguments), nprocs=count)


def train_in(count: int, arms: Iterable[str] = ARMS, steps: int = STEPS) -> dict[str, dict]:
    """{arm: what `count` processes trained}. `bytes` is a list, one number per process."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_train_all, count, Path(folder), [*arms], steps)
        return json.loads((Path(folder) / "found.json").read_text())


def largest_difference(one: dict, other: dict) -> float:
    """The largest difference between two arms' losses over all steps, in nats per token."""
    return max(abs(a - b) for a, b in zip(one["loss"], other["loss"], strict=True))


def main() -> None:
    """Print the table, and what a process holds."""
    torch.set_num_threads(1)
    counts = (2, 4)
    several = {count: train_in(count) for count in counts}
    print("| arm | " + " | ".join(f"{count} processes" for count in counts)
          + " | one process, another order |")
    print("|---|" + "---|" * (len(counts) + 1))
    for arm in ARMS:
        alone = trained(arm)
        cells = [f"{largest_difference(alone, several[count][arm]):.1e}" for count in counts]
        tree = trained(arm, parallel="ddp", reduce="tree")
        print(f"| {arm} | {' | '.join(cells)} | {largest_difference(alone, tree):.1e} |")
    sizes = {1: trained("baseline", steps=1)["bytes"],
             **{count: max(found["baseline"]["bytes"]) for count, found in several.items()}}
    print("\nbytes of parameters and optimizer state per process (baseline): " + ", ".join(
        f"{size:,} of {count}" for count, size in sizes.items()))


if __name__ == "__main__":
    main()
