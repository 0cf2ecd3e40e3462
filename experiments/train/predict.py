"""
Predicts the time and memory of a run from a few steps of its own model on random tokens.
"""

from __future__ import annotations

import contextlib
import copy
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
from mingpt.parallel.processes import Processes
from mingpt.trainer import find_device, loss_of
from mingpt.utils import CfgNode as CN

START_SECONDS = 3.0    # to import torch, open a cached corpus, audit, and write a sample at the end
BUDGET_SECONDS = 3.0   # measuring takes at most about this long
# The cost of an evaluated token over that of a trained one: a forward pass, which is a third of a
# step, plus bookkeeping.
EVAL_SHARE = 0.4
# FLOPs of the smaller of the two steps from which the cost of a long step is extrapolated
TRIAL_FLOPS = 1e11
AUDITED = 50_000_000   # parameters above which a dry run leaves the audit to the training


@dataclass(frozen=True)
class Prediction:
    """The predicted seconds and peak memory in MB of a whole run."""
    seconds: float
    memory_mb: float


class RandomTokens:
    """Stands in for a corpus. The cost of a step does not depend on the tokens, so random ones
    do."""

    def __init__(self, settings: CN, rows: int | None = None):
        tokenizer = get_tokenizer(settings.data.tokenizer)
        self.vocab_size, self.eot = tokenizer.vocab_size, tokenizer.eot
        self.shape = (rows or settings.trainer.batch_size, row_length(settings) + 1)

    def batch(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of batch t, (B, T) each."""
        tokens = np.random.default_rng(t).integers(0, self.vocab_size, self.shape)
        return tokens[:, :-1], tokens[:, 1:]


def predict(settings: CN, model: torch.nn.Module | None = None,
            processes: Processes | None = None) -> Prediction:
    """Time a few steps and extrapolate to `max_iters` steps and the evaluations between them. The
    steps train `model`, or else one that is built here. Several `processes` take them together; the
    memory is that of all."""
    processes = processes or Processes()
    with _untouched_generator():
        if model is None:
            own = _without_source(settings)
            model = build_model(own, RandomTokens(own), seed=0, processes=processes)
        seconds, memory = _measure(model, settings, processes)
    seconds = max(processes.gather(seconds))
    return Prediction(run_seconds(settings, seconds), sum(processes.gather(memory)))


def run_seconds(settings: CN, step: float) -> float:
    """The seconds of a whole run whose steps take `step` seconds each: the start, the steps, and
    the evaluations between them, which several processes share as they share a step."""
    steps, run = settings.trainer.max_iters, settings.run
    rows = settings.trainer.batch_size * settings.trainer.accumulation_steps
    eval_steps = settings.data.val_tokens / (rows * row_length(settings)) * EVAL_SHARE
    evaluations = 1 + -(-steps // run.eval_every)   # before the first step, and after the last one
    return START_SECONDS + step * (steps + evaluations * eval_steps)


def _without_source(settings: CN) -> CN:
    """The settings without run.init. A model costs the same whatever its weights, so theirs need
    not be read."""
    settings = copy.deepcopy(settings)
    settings.run.init = None
    return settings


def _measure(model: torch.nn.Module, settings: CN, processes: Processes) -> tuple[float, float]:
    """(seconds per step, peak memory in MB) of this process. Both are measured on whole steps. On a
    CPU, where these may take minutes, long ones are extrapolated from two short steps: the time by
    their FLOPs, the memory by their tokens. A short step has one batch per process and the whole
    exchange between them. On a GPU a short step leaves most of it idle and tells nothing."""
    trainer, T = settings.trainer, row_length(settings)

    def flops(rows: int, length: int) -> float:
        return model.flops_per_token(length) * length * rows
    own = len(processes.share(trainer.accumulation_steps))      # batches per step and process
    whole = flops(trainer.batch_size * own, T)
    if find_device(trainer.device) != "cpu" or whole <= 3 * TRIAL_FLOPS:
        return _time(model, RandomTokens(settings), settings, processes)
    rows, length = max(1, int(TRIAL_FLOPS / flops(1, T))), T
    if flops(1, T) > TRIAL_FLOPS:      # even one row is long: cut it
        each = processes.each                   # which split the row equally
        length = max(1, int(T * TRIAL_FLOPS / flops(1, T)) // each) * each
    shapes = (rows, length), (3 * rows, T) if length == T else (1, min(T, 3 * length))
    (short, little), (long, much) = (_time_short(model, settings, processes, *shape)
                                        for shape in shapes)
    (few, many), cost = (r * l for r, l in shapes), [flops(*shape) for shape in shapes]
    per_flop = max(0.0, long - short) / (cost[1] - cost[0])
    per_token = max(0.0, much - little) / (many - few)
    return (short + per_flop * (whole - cost[0]),
            little + per_token * (trainer.batch_size * T - few))


def _time_short(model: torch.nn.Module, settings: CN, processes: Processes, rows: int, length: int
                ) -> tuple[float, float]:
    """(seconds, peak memory in MB) of a step with this many rows of this length per process."""
    settings = copy.deepcopy(settings)
    settings.data.length = length
    settings.trainer.accumulation_steps = processes.count // processes.each
    return _time(model, RandomTokens(settings, rows), settings, processes, most=1)


def _time(model: torch.nn.Module, tokens: RandomTokens, settings: CN, processes: Processes,
          most: int = 5) -> tuple[float, float]:
    """(median seconds per step, peak memory in MB). The first step is not counted."""
    step, times = stepper(model, tokens, settings, processes), []
    step()
    # all processes must take the same number of steps
    while processes.agree(lambda: sum(times) < BUDGET_SECONDS and len(times) < most):
        times.append(step())
    return statistics.median(times), peak_memory_mb(str(next(model.parameters()).device))


def stepper(model: torch.nn.Module, tokens: RandomTokens, settings: CN,
            processes: Processes | None = None) -> Callable[[], float]:
    """A function that takes one training step of the model, as a run does, and returns its
    seconds."""
    trainer = SeededTrainer(settings.trainer, model, tokens, seed=0, processes=processes)
    trainer.optimizer = model.configure_optimizers(trainer.config)
    trainer.loss_of = trainer.processes.loss_of(loss_of(model), model)
    batches = trainer.batches()
    if trainer.config.reduce == "all_reduce":
        trainer.loss_of = trainer.processes.wrapped(trainer.loss_of, model)

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


def preview(spec: Spec, seed: int, out: Path, processes: Processes | None = None
            ) -> dict[str, Any]:
    """What `--dry-run` prints: the arm, its cost relative to the baseline, the audit, and the
    predicted time and memory of all processes."""
    processes = processes or Processes()
    model = None

    def described() -> dict[str, Any]:
        nonlocal model
        tokens = RandomTokens(spec.settings)
        model = build_model(spec.settings, tokens, seed, fetch=False)
        ours = describe_model(model, row_length(spec.settings))
        theirs = _described(spec.baseline) if spec.changes else ours
        return {**ours, "audit": _audited(model, spec.settings, tokens), "init": model.begun,
                "parameters_vs_baseline": ours["parameters"] / theirs["parameters"] - 1,
                "flops_vs_baseline": ours["flops_per_token"] / theirs["flops_per_token"] - 1}
    found = processes.agree(described)
    # last, because it trains the model
    prediction = predict(spec.settings, None if processes.sharded else model, processes)
    files = RunFiles(out, spec.study.name if spec.study else None, spec.arm, seed)
    return {"arm": spec.arm, "study": files.study, "seed": seed, "preset": spec.preset,
            "changes": spec.changes,
            **found, "note": spec.note, "match": spec.match and spec.match.to_dict(),
            "max_iters": spec.settings.trainer.max_iters,
            "processes": processes.count,
            "predicted_seconds": round(prediction.seconds, 1),
            "predicted_memory_mb": round(prediction.memory_mb, 1),
            "device": find_device(spec.settings.trainer.device), "csv": str(files.csv),
            "config": spec.settings.to_dict()}


def _described(settings: CN) -> dict[str, Any]:
    """The description of a model that is needed for nothing else, so its weights are not read."""
    settings = _without_source(settings)
    return describe_model(build_model(settings, RandomTokens(settings), seed=0),
                          row_length(settings))


def _audited(model: torch.nn.Module, settings: CN, tokens: RandomTokens) -> dict[str, Any]:
    """The audit of a model. `passed` is None for a large model, which is not audited: that would
    take minutes, and the training begins with it anyway."""
    if sum(p.numel() for p in model.parameters()) > AUDITED:
        why = (f"a dry run audits no model with more than {AUDITED:,} parameters; the training "
               f"begins with the audit")
        return {"passed": None, "seconds": 0.0, "checks": {}, "unchecked": [why]}
    taken = settings.run.init is None or model.begun["taken"] is not None
    return audit(model, settings.trainer, tokens, **audit_options(settings, taken))
