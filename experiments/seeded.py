"""
What makes two arms comparable: weights keyed by (seed, name), batches and dropout keyed by (seed, step).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode as CN


class SeededTrainer(Trainer):
    """A Trainer whose batch t is a pure function of (seed, t), and so is its dropout: a resumed run repeats both."""

    def __init__(self, config: CN, model: GPT, batches, seed: int):
        with contextlib.redirect_stdout(None):   # the run announces its device itself
            super().__init__(config, model, batches)
        self.seed = seed

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        t = self.iter_num * self.config.accumulation_steps
        pin = str(self.device).startswith("cuda")
        while True:
            torch.manual_seed(derived_seed(self.seed, t))
            x, y = (torch.from_numpy(part) for part in self.train_dataset.batch(t))
            yield (x.pin_memory(), y.pin_memory()) if pin else (x, y)
            t += 1


def derived_seed(seed: int, t: int) -> int:
    """A seed for step t: neighbours must not be alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{t}".encode()).digest()[:7], "big")


def build_model(settings: CN, corpus, seed: int) -> GPT:
    """The arm's model for a corpus, its weights keyed by (seed, name)."""
    config = CN(**settings.model.to_dict())
    config.vocab_size = corpus.vocab_size
    if settings.data.document_mask:
        config.document_end = corpus.eot
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(seed)
    return model


def describe_model(model: GPT) -> dict[str, Any]:
    """Parameters (all, without the embeddings and the head, trained), and FLOPs a token of a training step."""
    named = dict(model.named_parameters())
    ends = ("transformer.wte", "transformer.wpe", "lm_head")
    outside = sum(p.numel() for name, p in named.items() if not name.startswith(ends))
    return {"parameters": sum(p.numel() for p in named.values()), "non_embedding": outside,
            "trainable": sum(p.numel() for p in named.values() if p.requires_grad),
            "flops_per_token": model.flops_per_token()}
