"""
Seeding that makes two arms comparable. Initial weights depend on (seed, name); batches and dropout
depend on (seed, step).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from experiments.train.forecast import OPTIMIZER
from experiments.weights.begin import begin
from experiments.weights.published_padding import build_gpt
from mingpt.model import GPT
from mingpt.parallel.processes import Processes
from mingpt.patterns.kinds import full
from mingpt.trainer import Trainer, find_device
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN


class SeededTrainer(Trainer):
    """A Trainer whose batch t and dropout are pure functions of (seed, t). A resumed run therefore
    repeats both exactly."""

    def __init__(self, config: CN, model: GPT, batches, seed: int,
                 processes: Processes | None = None):
        with contextlib.redirect_stdout(None):   # Trainer prints its device; the run reports it
            super().__init__(config, model, batches)
        self.seed, self.processes = seed, processes or self.processes
        self.processes.check(model, batches)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs and targets, (B, T) each, from iteration `iter_num` on, without end: this
        process's share of each step's batches."""
        pin, steps = str(self.device).startswith("cuda"), self.config.accumulation_steps
        for step in itertools.count(self.iter_num):
            for number in self.processes.share(steps):
                x, y = (torch.from_numpy(part)
                        for part in self.train_dataset.batch(step * steps + number))
                yield (x.pin_memory(), y.pin_memory()) if pin else (x, y)

    def before_forward(self, number: int) -> None:
        """Seed torch's generator, which dropout draws from, by the number of the batch."""
        torch.manual_seed(derived_seed(self.seed, self.iter_num * self.config.accumulation_steps
                                       + number))

    def before_update(self) -> None:
        """Seed torch's generator by the number of the step, for an optimizer that draws from it.
        Each of several processes has computed other batches, and all must draw the same."""
        torch.manual_seed(derived_seed(self.seed, f"update {self.iter_num}"))

    def targets_in(self, iterations: int) -> int:
        """The number of predicted tokens in the first `iterations` iterations."""
        batches = range(iterations * self.config.accumulation_steps)
        return sum(int((self.train_dataset.batch(t)[1] != IGNORE_INDEX).sum()) for t in batches)

    def rehearse(self, steps: int) -> float | None:
        """Run `steps` forward and backward passes on the first batch before the clock starts. They
        warm the caches, fill the allocator and compile the code. They change no number of the
        run: gradients are cleared and buffers restored. Returns the seconds that a training step
        should take, from the fastest pass; None for no passes."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        taken = []
        for _ in range(steps):
            begun = time.perf_counter()
            torch.manual_seed(derived_seed(self.seed, 0))
            x, y = (torch.from_numpy(part).to(self.device) for part in self.train_dataset.batch(0))
            with self.autocast(), self.processes.local(self.loss_of):
                loss = self.loss_of(x, y)
            loss.backward()
            self.model.zero_grad(set_to_none=True)
            float(loss.detach())   # waits for the device
            taken.append(time.perf_counter() - begun)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        share = len(self.processes.share(self.config.accumulation_steps))
        return min(taken) * share * OPTIMIZER if taken else None


def derived_seed(seed: int, t: int | str) -> int:
    """A seed for step or batch t, hashed so that neighbouring steps get unrelated seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{t}".encode()).digest()[:7], "big")


def row_length(settings: CN) -> int:
    """The tokens per row that a run trains and evaluates on."""
    return settings.data.length or settings.model.block_size


def build_model(settings: CN, corpus, seed: int, fetch: bool = True,
                processes: Processes | None = None) -> GPT:
    """Build the arm's model for a corpus. The weights depend on (seed, name), or come from the
    source in run.init; `model.begun` then says what was taken from it. Without `fetch` nothing is
    downloaded from the hub. Of `processes` that share one copy of the model, each gets its rows of
    the weights. Raises BadInput for published padding where nothing is padded."""
    sharded = processes is not None and processes.sharded
    config = CN(**settings.model.to_dict())
    config.vocab_size = corpus.vocab_size
    if settings.data.document_mask:
        config.document_end = corpus.eot
    if settings.data.published_padding:
        if settings.data.pack != "truncate":
            raise BadInput(f"data.published_padding: data.pack={settings.data.pack} pads nothing: "
                           f"use truncate")
        config.published_padding = corpus.eot   # the token that padding is read as
    # what a source gives, or what is frozen, is decided on a whole model
    in_parts = sharded and not settings.run.init and not settings.run.freeze_except
    with (contextlib.redirect_stdout(None),
          processes.empty_weights() if in_parts else contextlib.nullcontext()):
        model = build_gpt(config)
    if not in_parts:
        model.init_weights(seed)
    model.begun = None if in_parts else begin(model, settings, fetch)
    if sharded:
        processes.shard(model, partial(model.init_weights, seed),
                        find_device(settings.trainer.device))
    return model


def describe_model(model: GPT, T: int | None = None) -> dict[str, Any]:
    """Describe a model as a dict: its parameters (all; without embeddings and head; trainable), the
    FLOPs per token of a training step, and its schedule. `sparsity` is the share of the causal
    triangle that the schedule leaves out at T positions (default: block_size); `compute_sparsity`
    is the share of FLOPs that it saves against the schedule `full`."""
    T = T or model.block_size
    named = dict(model.named_parameters())
    ends = ("transformer.wte", "transformer.wpe", "lm_head")
    outside = sum(p.numel() for name, p in named.items() if not name.startswith(ends))
    flops = model.flops_per_token(T)
    return {"parameters": sum(p.numel() for p in named.values()), "non_embedding": outside,
            "trainable": sum(p.numel() for p in named.values() if p.requires_grad),
            "flops_per_token": flops, "schedule": str(model.schedule),
            "sparsity": model.schedule.sparsity(T),
            "compute_sparsity": 1 - flops / model.flops_per_token(T, pattern=full())}
