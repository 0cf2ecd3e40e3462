"""
What makes two arms comparable: weights keyed by (seed, name), batches and dropout keyed by (seed,
step).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from experiments.weights.begin import begin
from mingpt.model import GPT
from mingpt.patterns.kinds import full
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN


class SeededTrainer(Trainer):
    """A Trainer whose batch t is a pure function of (seed, t), and so is its dropout: a resumed run
    repeats both."""

    def __init__(self, config: CN, model: GPT, batches, seed: int):
        with contextlib.redirect_stdout(None):   # the run announces its device itself
            super().__init__(config, model, batches)
        self.seed = seed

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and targets (B, T) from step `iter_num` on, without end."""
        t = self.iter_num * self.config.accumulation_steps
        pin = str(self.device).startswith("cuda")
        while True:
            x, y = (torch.from_numpy(part) for part in self.train_dataset.batch(t))
            yield (x.pin_memory(), y.pin_memory()) if pin else (x, y)
            t += 1

    def before_forward(self, number: int) -> None:
        """Seed the dropout of a batch by the batch's own number."""
        torch.manual_seed(derived_seed(self.seed, self.iter_num * self.config.accumulation_steps
                                       + number))

    def rehearse(self, steps: int) -> None:
        """Forward and backward on the first batch, with nothing to show for it but warm caches, an
        allocator that has its blocks, and compiled code: seconds are counted from here. Changes no
        number of the run."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for _ in range(steps):
            torch.manual_seed(derived_seed(self.seed, 0))
            x, y = (torch.from_numpy(part).to(self.device) for part in self.train_dataset.batch(0))
            with self.autocast():
                loss = self.loss_of(x, y)
            loss.backward()
            self.model.zero_grad(set_to_none=True)
            float(loss.detach())   # waits for the device
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])


def derived_seed(seed: int, t: int) -> int:
    """A seed for step t: neighbours must not be alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{t}".encode()).digest()[:7], "big")


def row_length(settings: CN) -> int:
    """Tokens of a row that a run trains and evaluates on."""
    return settings.data.length or settings.model.block_size


def build_model(settings: CN, corpus, seed: int, fetch: bool = True) -> GPT:
    """The arm's model for a corpus, its weights keyed by (seed, name), or its source's where it has
    one; `begun` then says what was taken. Without `fetch` no source is asked of the hub."""
    config = CN(**settings.model.to_dict())
    config.vocab_size = corpus.vocab_size
    if settings.data.document_mask:
        config.document_end = corpus.eot
    if settings.data.published_padding:
        if settings.data.pack != "truncate":
            raise BadInput(f"data.published_padding: data.pack={settings.data.pack} pads nothing: "
                           f"use truncate")
        config.published_padding = corpus.eot   # as which padding is read
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(seed)
    model.begun = begin(model, settings, fetch)
    return model


def describe_model(model: GPT, T: int | None = None) -> dict[str, Any]:
    """Parameters (all, without the embeddings and the head, trained), FLOPs a token of a training
    step, the schedule, and what it leaves out among T positions (default: the block): of the causal
    triangle, and of the FLOPs with `full` in its place."""
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
