"""
Count exactly what a schedule leaves out. Nothing here is measured or estimated.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import numpy as np
import torch

from experiments.analysis.subjects import AnalysisSubject
from experiments.corpus.tokenizers import get_tokenizer
from experiments.train.seeded import describe_model
from mingpt.model import GPT
from mingpt.patterns.kinds import Pattern
from mingpt.patterns.schedule import Schedule
from mingpt.utils import CfgNode as CN


def describe(subject: AnalysisSubject) -> dict[str, Any]:
    """Return the exact counts of a schedule as a dict.

    It holds sparsity and density (of the causal triangle), compute sparsity (of a training step's
    FLOPs), keys per query, each layer's reach and the receptive field after it, and the ideal
    speed-up: all causal pairs divided by those computed.
    """
    T, schedule = subject.T, subject.schedule
    sparsity = schedule.sparsity(T)
    counts = np.stack([pattern.keys_per_query(T) for pattern in schedule])     # (layers, T)
    fields = [receptive_field(schedule, layer, T) for layer in range(len(schedule))]
    return {"name": subject.name, "title": subject.title, "schedule": str(schedule), "T": T,
            "pair": subject.pair,
            "model": {"preset": subject.spec.preset, "n_layer": len(schedule)},
            "note": subject.spec.note, "sparsity": sparsity, "density": 1 - sparsity,
            "compute_sparsity": compute_sparsity(subject), "keys_per_query": summary(counts),
            "receptive_field": fields[-1], "ideal_speedup": 1 / (1 - sparsity),
            "layers": [_layer(pattern, T, field)
                       for pattern, field in zip(schedule, fields, strict=True)]}


def _layer(pattern: Pattern, T: int, field: dict[str, float]) -> dict[str, Any]:
    return {"pattern": str(pattern), "sparsity": pattern.sparsity(T), "reach": pattern.reach(T),
            "keys_per_query": summary(pattern.keys_per_query(T)), "receptive_field": field}


def summary(counts: np.ndarray) -> dict[str, float]:
    """Return the lowest, the mean and the highest count as {"min", "mean", "max"}."""
    return {"min": int(counts.min()), "mean": float(counts.mean()), "max": int(counts.max())}


def receptive_field(schedule: Schedule, layer: int, T: int) -> dict[str, float]:
    """Return what the last query's output of a layer depends on, through all layers up to it: the
    number of positions, their share of the text, and how far back the first of them is."""
    seen = Schedule(schedule.layers[:layer + 1], schedule.name).receptive_field(T)
    return {"positions": int(seen.sum()), "share": float(seen.mean()),
            "farthest": int(T - 1 - seen.argmax())}


def compute_sparsity(subject: AnalysisSubject) -> float:
    """Return the share of a training step's FLOPs that the schedule leaves out, compared with full
    attention in every layer."""
    config = CN(**subject.spec.settings.model.to_dict())
    config.vocab_size = _vocab_size(subject.spec.settings.data.tokenizer)
    config.schedule = str(subject.schedule)
    # on the meta device tensors have shapes but no values, so no weight is drawn
    with contextlib.redirect_stdout(None), torch.device("meta"):
        return describe_model(GPT(config))["compute_sparsity"]


@cache
def _vocab_size(tokenizer: str) -> int:
    return get_tokenizer(tokenizer).vocab_size
