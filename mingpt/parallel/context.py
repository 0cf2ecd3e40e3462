"""
Processes that split each text between them in training: `trainer.parallel = "context"`.

Of W processes, every C neighbours form a team. The processes of a team read the same batches, and
each computes its own stretch of every row, with ring attention (ring.py) between the stretches. The
W/C teams share the batches of a step as other processes do. Every process has all parameters; the
gradients of all stretches and batches are summed over all W.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mingpt.losses import token_losses
from mingpt.parallel.processes import PATIENCE, Group
from mingpt.parallel.ring import ContextParallel
from mingpt.utils import BadInput

PROBED = 64         # tokens per stretch of the text on which a split model is compared
ROUNDING = 1e-2     # of the largest activation: what rounding never reaches, TF32's included


class ContextGroup(Group):
    """This process's place in a group whose teams of `each` processes split texts. None: all
    processes are one team."""

    def __init__(self, store: dist.Store, each: int | None = None):
        super().__init__(store)
        self.each = each or self.count
        self.team = self.rank // self.each
        # all processes must make all groups
        teams = [dist.new_group(list(range(start, start + self.each)), timeout=PATIENCE)
                 for start in range(0, self.count, self.each)]
        self.neighbours = teams[self.team]

    def share(self, n: int) -> range:
        teams = self.count // self.each
        return range(self.team * n // teams, (self.team + 1) * n // teams)

    def begin_step(self, counts: list[int]) -> list[int]:
        everyone, own = super().begin_step(counts), len(counts)
        return [count for rank in range(0, self.count, self.each)       # of one process per team
                for count in everyone[rank * own:(rank + 1) * own]]

    def collect(self, items: list[Any]) -> list[Any]:
        return [item for shared in self.gather(items)[::self.each] for item in shared]

    def check(self, model: nn.Module, batches: Any) -> None:
        _check(model)
        row = torch.from_numpy(batches.batch(0)[0][:1]).to(model.lm_head.weight.device)    # (1, T)
        T, each = row.size(1), self.each
        if T % each:
            name = "model.block_size" if model.block_size == T else "data.length"
            raise BadInput(f"{each} processes cannot split a text of {name}={T} tokens equally: "
                           f"give a multiple of {each}, such as {max(1, T // each) * each}")
        self._compare(model, row[:, :each * min(PROBED, T // each)])

    @torch.no_grad()
    def _compare(self, model: nn.Module, row: Tensor) -> None:
        """Raise BadInput where a split changes what the model computes of `row` (1, T), as it does
        where a part of the user's own mixes tokens outside the attention."""
        probe = _perturbed(model)
        ring = ContextParallel(probe, self.neighbours)
        whole = ring.mine(probe.hidden(row))                                  # (1, T/C, C)
        split = probe.hidden(ring.mine(row), ring)                            # (1, T/C, C)
        off = float((split - whole).abs().max() / whole.abs().max())
        if not all(found <= ROUNDING for found in self.gather(off)):          # NaN is refused too
            raise BadInput("trainer.parallel=context: a part of this model mixes tokens in another "
                           "way than the attention of mha, gqa and mqa, so a split text would "
                           "train another model; use --trainer.parallel=ddp")

    def loss_of(self, loss: Callable, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return ContextParallel(model, self.neighbours).part

    def token_losses(self, model: nn.Module, idx: Tensor, targets: Tensor) -> Tensor:
        ring = ContextParallel(model, self.neighbours)
        x = model.hidden(ring.mine(idx), ring)                               # (B, T/C, C)
        mine = token_losses(x, model.lm_head.weight, ring.mine(targets), model.softcap)
        parts = [torch.empty_like(mine) for _ in range(self.each)]
        dist.all_gather(parts, mine.contiguous(), self.neighbours)
        return torch.cat(parts, 1)                                           # (B, T)


def _perturbed(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, the same in every process, with noise on all weights. Without the
    noise, a part whose weights begin at 0 would show nothing."""
    copied, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    for p in copied.parameters():
        width = 1 / math.sqrt(p.size(-1)) if p.dim() > 1 else 0.5
        p.add_(width * torch.randn(p.shape, generator=generator).to(p))
    return copied


def _check(model: nn.Module) -> None:
    """Raise BadInput for a model that would be another one if its text were split."""
    config = model.config
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        if getattr(config, name):
            raise BadInput(f"trainer.parallel=context: model.{name}={getattr(config, name)}: a "
                           f"stretch of a text cannot draw the dropout of the whole; give 0")
    if len(model.future):
        raise BadInput("trainer.parallel=context: model.n_future reads tokens beyond the end of a "
                       "stretch; give 1")
    if any(hasattr(module, "aux_loss") for module in model.modules()):
        raise BadInput(f"trainer.parallel=context: model.mlp={config.mlp} balances its load over a "
                       f"whole text; use another mlp, or --trainer.parallel=ddp")
