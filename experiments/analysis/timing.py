"""
Measure the speed-up of attention, forward and backward: this project's banded kernel and what
`auto` takes, against torch's causal flash kernel and against a dense mask.

In each round every kernel is timed once, in a new random order, so that other work on the machine
disturbs all kernels alike. Speed-ups are ratios within a round. A schedule's time is the sum of the
times of its layers.
"""

from __future__ import annotations

import math
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from experiments.analysis.subjects import AnalysisSubject
from experiments.train.workers import spread
from mingpt.config import SIZES
from mingpt.patterns.kinds import Full, Pattern
from mingpt.sparse.backends import BACKENDS, BackendCase, fastest
from mingpt.sparse.banded import supports
from mingpt.sparse.flex import flex_fits
from mingpt.trainer import find_device

TOKENS = 2048           # tokens per batch, as in study 003: 8 rows of 256
LONGEST_DENSE = 4096    # for longer texts, the scores of a dense mask need gigabytes
SAMPLE_SECONDS = 0.04   # a sample takes at least about this long
FEWEST_ROUNDS = 5


class Way(NamedTuple):
    """A kernel that computes a pattern."""
    backend: str
    pattern: Pattern


FLASH = Way("flash", Full())


def measure(subjects: Sequence[AnalysisSubject], rounds: int = 7, device: str = "auto",
            say: Callable[[str], None] = lambda text: None,
            ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (how it was measured, the speed-ups of each subject). All subjects must have the same
    model and the same T. `say` receives lines of progress."""
    device = find_device(device)
    qkv, upstream = _tensors(subjects[0], device)
    chosen = [[chosen_ways(pattern, qkv[0]) for pattern in subject.schedule]
              for subject in subjects]
    ways = list(dict.fromkeys([FLASH, *(way for layers in chosen for layer in layers
                                        for way in layer.values())]))
    how = {"rounds": rounds, "shape": list(qkv[0].shape), "device": device,
           "threads": torch.get_num_threads(), "cpus": os.cpu_count(),
           "load_before": os.getloadavg()[0], "torch": torch.__version__,
           "machine": platform.machine()}
    samples = sample(ways, qkv, upstream, rounds, say)
    return how, [speedups(layers, samples) for layers in chosen]


def _tensors(subject: AnalysisSubject, device: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return ([q, k, v], the output's gradient), each (B, nh, T, hs). B is TOKENS // T, at least 1;
    nh and hs are the model's."""
    model = subject.spec.settings.model
    size = SIZES[model.model_type] if model.model_type else model.to_dict()
    shape = (max(1, TOKENS // subject.T), size["n_head"], subject.T,
             size["n_embd"] // size["n_head"])
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
    return [x.requires_grad_() for x in (q, k, v)], upstream


def chosen_ways(pattern: Pattern, q: torch.Tensor) -> dict[str, Way]:
    """Return the kernels to measure for a pattern: "auto", and "banded" and "dense" where they can
    compute it."""
    T, case = q.size(-2), BackendCase(cuda=q.is_cuda, flex=flex_fits(q))
    taken = fastest(pattern, T, case)
    ways = {"auto": FLASH if taken == "flash" else Way(taken, pattern)}
    if supports(pattern):
        ways["banded"] = Way("banded", pattern)
    if T <= LONGEST_DENSE:
        ways["dense"] = Way("dense", pattern)
    return ways


def sample(ways: Sequence[Way], qkv: list[torch.Tensor], upstream: torch.Tensor, rounds: int,
           say: Callable[[str], None]) -> dict[Way, list[float]]:
    """Return way → seconds of a forward and backward, one value per round."""
    say(f"warming up {len(ways)} kernels")
    repeats = {}
    for way in ways:
        seconds(way, qkv, upstream, 1)     # this first call builds masks and fills caches
        repeats[way] = max(1, math.ceil(SAMPLE_SECONDS / seconds(way, qkv, upstream, 1)))
    samples: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        say(f"timing: round {number + 1} of {rounds}")
        for way in random.Random(number).sample(ways, len(ways)):
            samples[way].append(seconds(way, qkv, upstream, repeats[way]))
    return samples


def seconds(way: Way, qkv: list[torch.Tensor], upstream: torch.Tensor, repeats: int) -> float:
    """Return the mean seconds of a forward and backward over `repeats` calls."""
    attend, wait = (BACKENDS[way.backend].attend,
                    torch.cuda.synchronize if upstream.is_cuda else _nothing)
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.grad(attend(way.pattern, *qkv, None, None, 0.0), qkv, upstream)
    wait()
    return (time.perf_counter() - start) / repeats


def _nothing() -> None:
    """Do nothing: on a CPU the work is done when the call returns."""


def speedups(layers: list[dict[str, Way]], samples: dict[Way, list[float]]) -> dict[str, Any]:
    """Return a schedule's speed-ups and its milliseconds per pass, each with its median and
    quartiles. A speed-up is None where some layer has no such kernel."""
    totals = {"flash": [len(layers) * s for s in samples[FLASH]]}
    for kind in ("dense", "banded", "auto"):
        if all(kind in ways for ways in layers):
            totals[kind] = [sum(parts) for parts in zip(*(samples[ways[kind]] for ways in layers),
                                                        strict=True)]
    ratios = {f"{kind}_over_{other}": _ratio(totals, kind, other)
              for kind in ("banded", "auto") for other in ("flash", "dense")}
    taken = dict.fromkeys(ways["auto"].backend for ways in layers)
    return {**ratios, "auto_takes": list(taken),
            "ms": {kind: spread([1e3 * s for s in total]) for kind, total in totals.items()}}


def _ratio(totals: dict[str, list[float]], kind: str, other: str) -> dict[str, float] | None:
    if kind not in totals or other not in totals:
        return None
    return spread([b / a for a, b in zip(totals[kind], totals[other], strict=True)])
