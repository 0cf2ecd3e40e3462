"""
The speed-up of attention, measured: forward and backward, this project's banded kernel and what
`auto` takes, against torch's causal flash kernel and against a dense mask.

In a round every kernel takes a sample, one after the other and in another order every time, so that
what disturbs the machine disturbs all alike; speed-ups are ratios within a round. A schedule's time
is the sum of its layers'.
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

from experiments.analysis.subjects import Subject
from experiments.train.bench import spread
from mingpt.config import SIZES
from mingpt.patterns.kinds import Full, Pattern
from mingpt.sparse.backends import BACKENDS, Case, fastest
from mingpt.sparse.banded import supports
from mingpt.sparse.flex import flex_fits
from mingpt.trainer import find_device

TOKENS = 2048           # in a batch: study 003's 8 rows of 256
LONGEST_DENSE = 4096    # beyond, a dense mask's scores need gigabytes
SAMPLE_SECONDS = 0.04   # a sample is at least about so long
FEWEST_ROUNDS = 5


class Way(NamedTuple):
    """A kernel over a pattern."""
    backend: str
    pattern: Pattern


FLASH = Way("flash", Full())


def measure(subjects: Sequence[Subject], rounds: int = 7, device: str = "auto",
            say: Callable[[str], None] = lambda text: None) -> tuple[dict[str, Any],
                                                                     list[dict[str, Any]]]:
    """(how it was measured, the speed-ups of each subject). All subjects are in one model and at
    one T."""
    device = find_device(device)
    qkv, upstream = _tensors(subjects[0], device)
    chosen = [[chosen_ways(pattern, qkv[0]) for pattern in subject.schedule]
              for subject in subjects]
    ways = list(dict.fromkeys([FLASH, *(way for layers in chosen for layer in layers
                                        for way in layer.values())]))
    how = {"rounds": rounds, "shape": list(qkv[0].shape), "device": device,
           "threads": torch.get_num_threads(),
           "cpus": os.cpu_count(), "load_before": os.getloadavg()[0], "torch": torch.__version__,
           "machine": platform.machine()}
    samples = sample(ways, qkv, upstream, rounds, say)
    return how, [speedups(layers, samples) for layers in chosen]


def _tensors(subject: Subject, device: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """([q, k, v], the output's gradient), each (B, nh, T, hs): B·T is TOKENS, nh and hs are the
    model's."""
    model = subject.spec.settings.model
    size = SIZES[model.model_type] if model.model_type else model.to_dict()
    shape = (max(1, TOKENS // subject.T), size["n_head"], subject.T,
             size["n_embd"] // size["n_head"])
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
    return [x.requires_grad_() for x in (q, k, v)], upstream


def chosen_ways(pattern: Pattern, q: torch.Tensor) -> dict[str, Way]:
    """What is measured of a pattern: banded, a dense mask, and what `auto` takes. Absent: what
    there is no form for."""
    T, case = q.size(-2), Case(cuda=q.is_cuda, flex=flex_fits(q))
    taken = fastest(pattern, T, case)
    ways = {"auto": FLASH if taken == "flash" else Way(taken, pattern)}
    if supports(pattern):
        ways["banded"] = Way("banded", pattern)
    if T <= LONGEST_DENSE:
        ways["dense"] = Way("dense", pattern)
    return ways


def sample(ways: Sequence[Way], qkv: list[torch.Tensor], upstream: torch.Tensor, rounds: int,
           say: Callable[[str], None]) -> dict[Way, list[float]]:
    """Seconds of a forward and backward, `rounds` of each, taken in turns."""
    say(f"warming up {len(ways)} kernels")
    repeats = {}
    for way in ways:
        seconds(way, qkv, upstream, 1)     # builds masks, fills caches
        repeats[way] = max(1, math.ceil(SAMPLE_SECONDS / seconds(way, qkv, upstream, 1)))
    samples: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        say(f"timing: round {number + 1} of {rounds}")
        for way in random.Random(number).sample(ways, len(ways)):
            samples[way].append(seconds(way, qkv, upstream, repeats[way]))
    return samples


def seconds(way: Way, qkv: list[torch.Tensor], upstream: torch.Tensor, repeats: int) -> float:
    """Mean seconds of a forward and backward."""
    attend, wait = (
        BACKENDS[way.backend].attend,
        torch.cuda.synchronize if upstream.is_cuda else _nothing,
    )
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.grad(attend(way.pattern, *qkv, None, None, 0.0), qkv, upstream)
    wait()
    return (time.perf_counter() - start) / repeats


def _nothing() -> None:
    """A CPU's work is done when the call returns."""


def speedups(layers: list[dict[str, Way]], samples: dict[Way, list[float]]) -> dict[str, Any]:
    """A schedule's milliseconds a round and speed-ups, each with its quartiles; None where a layer
    has no such form."""
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
