"""
Predicts the time and memory of a run from a few steps of its own model on random tokens.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.audit import audit
from experiments.corpus.tokenizers import get_tokenizer
from experiments.declare.spec import Spec
from experiments.records.record import RunFiles
from experiments.train.process import peak_memory_mb
from experiments.train.seeded import SeededTrainer, build_model, describe_model, row_length
from experiments.weights.begin import audit_options
from mingpt.trainer import loss_of
from mingpt.utils import CfgNode as CN

START_SECONDS = 4.0    # to import torch, open a cached corpus, audit, and write a sample at the end
BUDGET_SECONDS = 3.0   # measuring takes at most about this long
# The cost of an evaluated token over that of a trained one: a forward pass, which is a third of a
# step, plus bookkeeping.
EVAL_SHARE = 0.4


@dataclass(frozen=True)
class Prediction:
    """The predicted seconds and peak memory in MB of a whole run."""
    seconds: float
    memory_mb: float


class RandomTokens:
    """Stands in for a corpus. The cost of a step does not depend on the tokens, so random ones
    do."""

    def __init__(self, settings: CN):
        tokenizer = get_tokenizer(settings.data.tokenizer)
        self.vocab_size, self.eot = tokenizer.vocab_size, tokenizer.eot
        self.shape = (settings.trainer.batch_size, row_length(settings) + 1)

    def batch(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of batch t, (B, T) each."""
        tokens = np.random.default_rng(t).integers(0, self.vocab_size, self.shape)
        return tokens[:, :-1], tokens[:, 1:]


def predict(settings: CN) -> Prediction:
    """Time a few steps and extrapolate to `max_iters` steps and the evaluations between them."""
    with _untouched_generator():
        tokens = RandomTokens(settings)
        seconds, memory = _measure(build_model(settings, tokens, seed=0, fetch=False), tokens,
                                   settings)
    return Prediction(run_seconds(settings, seconds), memory)


def run_seconds(settings: CN, step: float) -> float:
    """The seconds of a whole run whose steps take `step` seconds each: the start, the steps, and
    the evaluations between them."""
    steps, run = settings.trainer.max_iters, settings.run
    rows = settings.trainer.batch_size * settings.trainer.accumulation_steps
    eval_steps = settings.data.val_tokens / (rows * row_length(settings)) * EVAL_SHARE
    evaluations = 1 + -(-steps // run.eval_every)   # before the first step, and after the last one
    return START_SECONDS + step * (steps + evaluations * eval_steps)


def _measure(model: torch.nn.Module, tokens: RandomTokens, settings: CN) -> tuple[float, float]:
    """(median seconds per step, peak memory in MB). The first step is not counted."""
    step, times = stepper(model, tokens, settings), []
    step()
    while sum(times) < BUDGET_SECONDS and len(times) < 8:
        times.append(step())
    return statistics.median(times), peak_memory_mb(str(next(model.parameters()).device))


def stepper(model: torch.nn.Module, tokens: RandomTokens, settings: CN) -> Callable[[], float]:
    """A function that takes one training step of the model, as a run does, and returns its
    seconds."""
    trainer = SeededTrainer(settings.trainer, model, tokens, seed=0)
    trainer.optimizer = model.configure_optimizers(trainer.config)
    trainer.loss_of, batches = loss_of(model), trainer.batches()

    def step() -> float:
        model.train()
        begun = time.perf_counter()
        trainer.step(batches)
        float(trainer.loss)   # waits for the device
        return time.perf_counter() - begun
    return step


@contextlib.contextmanager
def _untouched_generator():
    """Restore the state of torch's generator afterwards, because the trainer seeds it at every
    step."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def preview(spec: Spec, seed: int, out: Path) -> dict[str, Any]:
    """What `--dry-run` prints: the arm, its cost relative to the baseline, the audit, and the
    predicted time and memory."""
    tokens = RandomTokens(spec.settings)
    model = build_model(spec.settings, tokens, seed, fetch=False)
    own_tokens = RandomTokens(spec.baseline)   # the baseline's tokenizer may differ
    baseline = build_model(spec.baseline, own_tokens, seed, fetch=False)
    ours = describe_model(model, row_length(spec.settings))
    theirs = describe_model(baseline, row_length(spec.baseline))
    taken = spec.settings.run.init is None or model.begun["taken"] is not None
    prediction = predict(spec.settings)
    files = RunFiles(out, spec.study.name if spec.study else None, spec.arm, seed)
    return {"arm": spec.arm, "study": files.study, "seed": seed, "preset": spec.preset,
            "changes": spec.changes,
            **ours, "note": spec.note, "match": spec.match and spec.match.to_dict(),
            "parameters_vs_baseline": ours["parameters"] / theirs["parameters"] - 1,
            "flops_vs_baseline": ours["flops_per_token"] / theirs["flops_per_token"] - 1,
            "audit": audit(model, spec.settings.trainer, tokens,
                           **audit_options(spec.settings, taken)),
            "init": model.begun, "max_iters": spec.settings.trainer.max_iters,
            "predicted_seconds": round(prediction.seconds, 1),
            "predicted_memory_mb": round(prediction.memory_mb, 1),
            "device": str(next(model.parameters()).device), "csv": str(files.csv),
            "config": spec.settings.to_dict()}
