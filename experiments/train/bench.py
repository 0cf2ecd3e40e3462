"""
Compares one arm's attention under every backend: checks that the losses are equal, then measures
the time and memory of a training step. The variants take turns (workers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.declare.members import load_same
from experiments.declare.spec import Spec
from experiments.records import codefiles
from experiments.records.codefiles import CodeFile
from experiments.train.evaluate import evaluating
from experiments.train.predict import RandomTokens, stepper
from experiments.train.process import peak_memory_mb
from experiments.train.seeded import build_model, describe_model
from experiments.train.workers import (
    Measured,
    Worker,
    ratios,
    sample,
    spread,
    steps_for,
    workers,
)
from mingpt.sparse.backends import BACKENDS
from mingpt.trainer import find_device
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

TOLERANCE = 1e-4          # nats; losses this close differ only by rounding
SAMPLE_SECONDS = 0.2      # a sample takes at least about this long
FULL, CEILING = "full", "attention removed"


@dataclass(frozen=True)
class Variant:
    """One row of the table: the arm with changed settings. With `removed`, attention returns v
    unchanged."""
    name: str
    settings: CN
    removed: bool = False
    same_loss: bool = True
    code: tuple[CodeFile, ...] = ()    # the user's code files, which its process runs as well


def variants(settings: CN) -> list[Variant]:
    """The arm under every backend, then with the schedule `full`, then with attention removed,
    which no schedule can beat in speed."""
    rows = [Variant(name, _changed(settings, backend=name)) for name in BACKENDS]
    full = _changed(settings, backend="auto", schedule="full")
    rows += [Variant(FULL, full, same_loss=False),
             Variant(CEILING, full, removed=True, same_loss=False)]
    return [replace(row, code=tuple(codefiles.LOADED)) for row in rows]


def _changed(settings: CN, **model: str) -> CN:
    changed = CN(**{name: CN(**section) for name, section in settings.to_dict().items()})
    changed.model.merge_from_dict(model)
    return changed


def removed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **rest: Any) -> torch.Tensor:
    """Stands in for a backend and returns v, with its heads repeated for all query heads:
    (B, nh, T, hs). The projections remain; no score is computed."""
    return v.repeat_interleave(q.size(1) // v.size(1), dim=1) if q.size(1) != v.size(1) else v


# -- in a variant's own process --------------------------------------------------------------------

def build(variant: Variant) -> Measured | dict[str, str]:
    """Build the variant, or say why it is refused."""
    try:
        load_same(variant.code)
        step, about = _build(variant)
    except BadInput as refusal:
        return {"refused": str(refusal)}
    return Measured(about, lambda steps: sum(step() for _ in range(steps)) / steps,
                    lambda: peak_memory_mb(about["device"]))


def _build(variant: Variant) -> tuple[Callable[[], float], dict[str, Any]]:
    """(a function that takes a step and returns its seconds, the variant's description)."""
    settings = variant.settings
    tokens, device = RandomTokens(settings), find_device(settings.trainer.device)
    model = build_model(settings, tokens, seed=0).to(device)
    if variant.removed:
        for block in model.transformer.h:
            block.attn.attend = removed
    loss = _loss(model, tokens)
    step = stepper(model, tokens, settings)
    with FlopCounterMode(display=False, custom_mapping=SDPA_ON_CPU) as counter:
        step()
    return step, {"loss": loss, "seconds": step(), "flops_counted": counter.get_total_flops(),
                  "device": device, **describe_model(model)}


def _loss(model: torch.nn.Module, tokens: RandomTokens) -> float:
    """The loss of batch 0, without dropout."""
    with evaluating(model):
        x, y = (torch.from_numpy(part).to(model.lm_head.weight.device) for part in tokens.batch(0))
        return float(model(x, y)[1])


def _attention_flops(products: int, shape: list[int], causal: bool) -> int:
    """The FLOPs of `products` matrix products of (B, nh, T, hs) with T keys. A causal query meets
    only (T + 1)/2 keys on average."""
    B, nh, T, hs = shape
    return products * 2 * B * nh * hs * (T * (T + 1) // 2 if causal else T * T)


def _forward_flops(q, k, v, dropout_p=0.0, is_causal=False, *rest, out_shape=None, **more) -> int:
    return _attention_flops(2, q, is_causal)


def _backward_flops(grad, q, k, v, out, lse, dropout_p=0.0, is_causal=False, *rest, out_shape=None,
                    **more) -> int:
    return _attention_flops(5, q, is_causal)


# torch's counter knows only the CUDA kernels, and ignores that they are causal.
SDPA_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
               torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops}


# -- side by side ----------------------------------------------------------------------------------

def bench(spec: Spec, rounds: int = 7, only: Collection[str] | None = None,
          say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure all variants, or those in `only`, and return everything that `lab.py bench` reports.
    Raises RuntimeError where two backends' losses differ, BadInput where no variant can be
    measured."""
    with workers(_chosen(variants(spec.settings), only), build, say) as started:
        running = [w for w in started if "refused" not in w.about]
        if not running:
            raise BadInput(started[0].about["refused"])
        check_losses({w.side.name: w.about["loss"] for w in running if w.side.same_loss})
        steps = {w: steps_for(SAMPLE_SECONDS, w.about["seconds"]) for w in running}
        samples = sample(steps, rounds, say)
        memory = {w.side.name: w.ask(0) for w in running}
        return {**_head(spec, running), "rounds": rounds,
                "rows": [_row(w, samples, memory, spec.settings) for w in started]}


def _chosen(rows: list[Variant], only: Collection[str] | None) -> list[Variant]:
    names = [row.name for row in rows]
    for name in only or ():
        if name not in names:
            raise BadInput(f"no variant to measure {name!r}{did_you_mean(name, names)}")
    return [row for row in rows if not only or row.name in only]


def check_losses(losses: dict[str, float]) -> None:
    """Raise RuntimeError unless all losses equal that of `dense`, or the first one where `dense` is
    missing."""
    if not losses:
        return
    reference = losses.get("dense", next(iter(losses.values())))
    wrong = {name: loss for name, loss in losses.items() if not abs(loss - reference) <= TOLERANCE}
    if wrong:
        raise RuntimeError(f"bench: backends disagree: {wrong}, not {reference}")


def _head(spec: Spec, running: list[Worker]) -> dict[str, Any]:
    about, trainer = running[0].about, spec.settings.trainer
    return {"arm": spec.arm, "preset": spec.preset, "device": about["device"], "note": spec.note,
            "T": spec.settings.model.block_size, "batch_size": trainer.batch_size,
            **{key: about[key] for key in ("schedule", "sparsity", "compute_sparsity",
                                           "parameters")}}


def _row(worker: Worker, samples: dict[str, list[float]], memory: dict[str, float],
         settings: CN) -> dict[str, Any]:
    """One row of the table: a variant's numbers, or why there are none."""
    name = worker.side.name
    if "refused" in worker.about:
        return {"name": name, "refused": worker.about["refused"]}
    trainer, seconds = settings.trainer, samples[name]
    tokens = trainer.batch_size * trainer.accumulation_steps * settings.model.block_size
    needed = 0 if worker.side.removed else worker.about["flops_per_token"] * tokens
    return {"name": name, "refused": None,
            "loss": worker.about["loss"] if worker.side.same_loss else None,
            "step_ms": spread([1e3 * s for s in seconds]),
            "tokens_per_second": tokens / median(seconds),
            **{f"against_{other}": ratios(samples[other], seconds)
               for other in (FULL, "dense") if other in samples},
            "peak_memory_mb": memory[name], "flops_needed": needed or None,
            "flops_counted": worker.about["flops_counted"]}
