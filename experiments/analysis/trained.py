"""
Measure where a trained model's attention puts its weights on validation text.

The weights are read off the model's own dense attention. Its output is linear in v, so with the
identity as v the output is the weights, (B, nh, T, T), with rotation, bias, pattern and document
mask all applied. With q = 0 the weights are uniform over the keys that a query may see. Entropy and
distance are compared with these uniform weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.declare.settings import completed
from experiments.records.record import RunFiles
from experiments.train.evaluate import evaluating
from experiments.weights.saved import load_run
from mingpt.model import GPT, Block
from mingpt.sparse.backends import Backend, Dense
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN

CELLS = 128          # a map has at most this many cells per side
STATISTICS = ("entropy", "distance", "self", "first")


class Watch:
    """Replaces a layer's backend: it returns the output of dense attention, and sums up statistics
    of the attention weights."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.kind = type(backend) if isinstance(backend, Dense) else Dense
        self.counted: Tensor | None = None  # (B, T) bool: the queries that count in the statistics
        self.sums, self.uniform, self.queries, self.map = 0.0, 0.0, 0, 0.0
        # [Σ |attention's output| / |residual|, the number of terms]
        self.norms = torch.zeros(2, dtype=torch.float64)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        weights = self.weights(q, k, slopes, allowed)                          # (B, nh, T, T)
        even = self.weights(torch.zeros_like(q[:, :1]), k[:, :1], None, allowed)
        self.sums = self.sums + self._sums(weights)                            # (4, nh)
        self.uniform = self.uniform + self._sums(even)                         # (4, 1)
        self.queries += int(self.counted.sum())
        self.map = self.map + coarse(weights)
        return self.kind.attend(self.backend.pattern, q, k, v, slopes, allowed, 0.0)

    def weights(self, q: Tensor, k: Tensor, slopes: Tensor | None,
                allowed: Tensor | None) -> Tensor:
        """Return (B, nh, T, T): the weight that each query gives each key."""
        B, heads, T, _ = k.shape
        identity = torch.eye(T, dtype=q.dtype, device=q.device).expand(B, heads, T, T)
        return self.kind.attend(self.backend.pattern, q, k, identity, slopes, allowed, 0.0)

    def _sums(self, weights: Tensor) -> Tensor:
        """Return (4, nh): the STATISTICS, summed over the counted queries."""
        place = torch.arange(weights.size(-1), device=weights.device)
        distance = (place[:, None] - place).to(weights.dtype)
        rows = torch.stack([entropy(weights), (weights * distance).sum(-1),
                            weights.diagonal(dim1=-2, dim2=-1), weights[..., 0]])   # (4, B, nh, T)
        return (rows * self.counted[:, None]).sum((1, 3), dtype=torch.float64).cpu()

    def watch_norms(self, before: Tensor, output: Tensor) -> None:
        """Add up the ratio of |attention's output| to |the residual it is added to|. Both tensors
        are (B, T, C)."""
        ratio = (output.norm(dim=-1) / before.norm(dim=-1))[self.counted]
        self.norms += torch.tensor([ratio.double().sum(), ratio.numel()], dtype=torch.float64)


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy in nats: (…, keys) → (…). Uniform weights have log(keys)."""
    return torch.special.entr(weights).sum(-1)


def coarse(weights: Tensor) -> Tensor:
    """Sum weights over the batch and average them over square cells: (B, nh, T, T) → (nh, n, n),
    with n at most CELLS."""
    total, cell = weights.sum(0), -(-weights.size(-1) // CELLS)
    if cell > 1:
        total = torch.nn.functional.avg_pool2d(total[None], cell, ceil_mode=True,
                                               count_include_pad=False)[0]
    return total.double().cpu()


@contextmanager
def watched(model: GPT) -> Iterator[list[Watch]]:
    """Put a Watch into every layer, yield the watches, and restore the model afterwards. Raises
    BadInput where a layer has no attention weights."""
    watches = []
    with ExitStack() as undo:
        for layer, block in enumerate(model.transformer.h):
            if not isinstance(getattr(block.attn, "attend", None), Backend):
                raise BadInput(f"layer {layer}: {type(block.attn).__name__} has no attention "
                               f"weights to analyse")
            watches.append(Watch(block.attn.attend))
            undo.callback(setattr, block.attn, "attend", block.attn.attend)
            block.attn.attend = watches[-1]
            undo.callback(_hook_norms(block, watches[-1]))
        yield watches


def _hook_norms(block: Block, watch: Watch):
    """Pass the block's input and its attention's output to the watch. Return the function that
    removes the hooks."""
    entered = []
    before = block.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    after = block.attn.register_forward_hook(
        lambda module, args, output: watch.watch_norms(entered.pop(), output))

    def undo() -> None:
        before.remove()
        after.remove()
    return undo


def attention_of(model: GPT, x: np.ndarray,
                 y: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return (one dict of statistics per layer, the maps (layers, nh, n, n)).

    x and y are tokens and targets, each (rows, T). Two kinds of queries do not count in the
    statistics: the first of each row, which sees only itself, and those without a target.
    """
    device = next(model.parameters()).device
    with evaluating(model), watched(model) as watches:
        for row in range(len(x)):  # one row at a time: a layer's weights are nh·T² numbers per row
            counted = torch.from_numpy(y[row:row + 1] != IGNORE_INDEX).to(device)
            counted[:, 0] = False
            for watch in watches:
                watch.counted = counted
            model(torch.from_numpy(x[row:row + 1]).to(device))
    layers = [layer_statistics(watch) for watch in watches]
    return layers, np.stack([(watch.map / len(x)).numpy() for watch in watches])


def layer_statistics(watch: Watch) -> dict[str, Any]:
    """Return the means over the counted queries, by head and over all heads, beside those of
    uniform attention."""
    values, even = watch.sums / watch.queries, watch.uniform[:, 0] / watch.queries
    row: dict[str, Any] = {"pattern": str(watch.backend.pattern)}
    for name, by_head, uniform in zip(STATISTICS, values, even, strict=True):
        row[name] = {"mean": float(by_head.mean()), "by_head": by_head.tolist(),
                     "uniform": float(uniform)}
    return row | {"output_over_residual": float(watch.norms[0] / watch.norms[1])}


def analyze_run(files: RunFiles, rows: int, device: str = "auto",
                which: str = "model") -> tuple[dict, np.ndarray]:
    """Return (everything that `analyze RUN` reports, the maps) of a run, over the first `rows` rows
    of its validation text. Raises BadInput where `rows` < 1 or the run has no record."""
    from experiments.corpus import open_corpus
    if rows < 1:
        raise BadInput(f"--rows {rows}: the least is 1")
    model, _, record = load_run(files, device, which)
    if "config" not in record:
        raise BadInput(f"{files.json}: no record here, so the run's training data is unknown")
    config = CN(**completed(record["config"])["data"])
    validation = open_corpus(config, announce=False).validation(model.block_size, config.val_tokens)
    layers, maps = attention_of(model, validation.x[:rows], validation.y[:rows])
    return {"run": files.name, "weights": which, "T": model.block_size,
            "rows": min(rows, len(validation.x)),
            "queries": int((validation.y[:rows, 1:] != IGNORE_INDEX).sum()),
            "schedule": str(model.schedule), "sparsity": model.schedule.sparsity(model.block_size),
            "n_head": model.config.n_head, "layers": layers}, maps
