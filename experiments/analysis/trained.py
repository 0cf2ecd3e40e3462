"""
What a trained model's attention does: on validation text, where the weights go.

The weights are read off the model's own dense attention: its output is linear in v, so with v the
identity the output is the weights, (B, nh, T, T), after rotation, bias, pattern and document mask
alike. With q zero they are uniform over the keys that a query may see: the reference that entropy
and distance are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.records.record import RunFiles
from experiments.train.evaluate import evaluating
from experiments.weights.saved import load_run
from mingpt.model import GPT, Block
from mingpt.sparse.backends import Backend, Dense, PublishedPadding
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN

CELLS = 128          # a map has at most so many cells a side
STATISTICS = ("entropy", "distance", "self", "first")


class Watch:
    """In the place of a layer's backend: gives the dense attention's output, and sums up its
    weights on the way."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.kind = PublishedPadding if isinstance(backend, PublishedPadding) else Dense
        self.counted: Tensor | None = None  # (B, T) bool: the queries that statistics are over
        self.sums, self.uniform, self.queries, self.map = 0.0, 0.0, 0, 0.0
        # Σ |attention's output| / |residual|, and over how many
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
        """(B, nh, T, T): what each query gives each key."""
        B, heads, T, _ = k.shape
        identity = torch.eye(T, dtype=q.dtype, device=q.device).expand(B, heads, T, T)
        return self.kind.attend(self.backend.pattern, q, k, identity, slopes, allowed, 0.0)

    def _sums(self, weights: Tensor) -> Tensor:
        """(4, nh): STATISTICS summed over the counted queries."""
        place = torch.arange(weights.size(-1), device=weights.device)
        distance = (place[:, None] - place).to(weights.dtype)
        rows = torch.stack([entropy(weights), (weights * distance).sum(-1),
                            weights.diagonal(dim1=-2, dim2=-1), weights[..., 0]])   # (4, B, nh, T)
        return (rows * self.counted[:, None]).sum((1, 3), dtype=torch.float64).cpu()

    def watch_norms(self, before: Tensor, output: Tensor) -> None:
        """|attention's output| against |the residual it is added to|, both (B, T, C)."""
        ratio = (output.norm(dim=-1) / before.norm(dim=-1))[self.counted]
        self.norms += torch.tensor([ratio.double().sum(), ratio.numel()], dtype=torch.float64)


def entropy(weights: Tensor) -> Tensor:
    """(…, keys) → (…): nats. Uniform weights have log(keys)."""
    return torch.special.entr(weights).sum(-1)


def coarse(weights: Tensor) -> Tensor:
    """(B, nh, T, T) → (nh, n, n): summed over the batch, averaged over square cells so that n is at
    most CELLS."""
    total, cell = weights.sum(0), -(-weights.size(-1) // CELLS)
    if cell > 1:
        total = torch.nn.functional.avg_pool2d(total[None], cell, ceil_mode=True,
                                               count_include_pad=False)[0]
    return total.double().cpu()


@contextmanager
def watched(model: GPT) -> Iterator[list[Watch]]:
    """A Watch in every layer; the model as it was outside."""
    watches = []
    with ExitStack() as undo:
        for layer, block in enumerate(model.transformer.h):
            if not isinstance(getattr(block.attn, "attend", None), Backend):
                raise BadInput(f"layer {layer}: {type(block.attn).__name__} has no attention "
                               f"weights to look at")
            watches.append(Watch(block.attn.attend))
            undo.callback(setattr, block.attn, "attend", block.attn.attend)
            block.attn.attend = watches[-1]
            undo.callback(_hook_norms(block, watches[-1]))
        yield watches


def _hook_norms(block: Block, watch: Watch):
    """Show the watch what enters the block and what its attention gives. Returns what takes the
    hooks away."""
    entered = []
    before = block.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    after = block.attn.register_forward_hook(lambda module, args,
                                             output: watch.watch_norms(entered.pop(), output))

    def undo() -> None:
        before.remove()
        after.remove()
    return undo


def attention_of(model: GPT, x: np.ndarray, y: np.ndarray) -> tuple[list[dict[str, Any]],
                                                                    np.ndarray]:
    """(a dict a layer, the maps (layers, nh, n, n)) over rows of tokens x and targets y (n, T). The
    first query of a row, which sees itself alone, and queries without a target do not count."""
    device = next(model.parameters()).device
    with evaluating(model), watched(model) as watches:
        for row in range(len(x)):          # one at a time: the weights of a layer are nh·T² numbers
            counted = torch.from_numpy(y[row:row + 1] != IGNORE_INDEX).to(device)
            counted[:, 0] = False
            for watch in watches:
                watch.counted = counted
            model(torch.from_numpy(x[row:row + 1]).to(device))
    layers = [layer_statistics(watch) for watch in watches]
    return layers, np.stack([(watch.map / len(x)).numpy() for watch in watches])


def layer_statistics(watch: Watch) -> dict[str, Any]:
    """Means over the counted queries, by head and over the heads, and what uniform attention would
    have."""
    values, even = watch.sums / watch.queries, watch.uniform[:, 0] / watch.queries
    row: dict[str, Any] = {"pattern": str(watch.backend.pattern)}
    for name, by_head, uniform in zip(STATISTICS, values, even, strict=True):
        row[name] = {"mean": float(by_head.mean()), "by_head": by_head.tolist(),
                     "uniform": float(uniform)}
    return row | {"output_over_residual": float(watch.norms[0] / watch.norms[1])}


def analyze_run(files: RunFiles, rows: int, device: str = "auto",
                which: str = "model") -> tuple[dict, np.ndarray]:
    """(everything `analyze RUN` reports, the maps) of a run on the first rows of its validation
    text."""
    from experiments.corpus import open_corpus
    if rows < 1:
        raise BadInput(f"--rows {rows}: the least is 1")
    model, _, record = load_run(files, device, which)
    if "config" not in record:
        raise BadInput(f"{files.json}: no record there, which says what the run was trained on")
    config = CN(**record["config"]["data"])
    validation = open_corpus(config).validation(model.block_size, config.val_tokens)
    layers, maps = attention_of(model, validation.x[:rows], validation.y[:rows])
    return {"run": files.name, "weights": which, "T": model.block_size,
            "rows": min(rows, len(validation.x)),
            "queries": int((validation.y[:rows, 1:] != IGNORE_INDEX).sum()),
            "schedule": str(model.schedule),
            "sparsity": model.schedule.sparsity(model.block_size), "n_head": model.config.n_head,
            "layers": layers}, maps
