"""
Ring attention: a text too long for one process is split over several. Each rank holds a stretch of
T/R tokens, keys and values travel from rank to rank, and what each stretch contributes is merged by
its log Σ exp(score): the numbers are those of one process. Liu et al. 2023, arXiv 2310.01889.

    ring = ContextParallel(model)          # in every rank of an initialised torch.distributed group
    x = model.hidden(ring.mine(idx), ring) # (B, T/R, C): this rank's stretch, in place of a cache
    loss = ring.loss(idx, targets)         # the mean over all ranks; after loss.backward():
    ring.sum_gradients()

Everything is causal, so a stretch travels only onwards, and no further than the pattern reaches:
behind a window whole ranks are neither sent to nor computed (`Route`). Work is uneven: the last
rank meets every stretch that reaches it, the first only its own. Tested with gloo on a CPU; with
NCCL not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mingpt.attention.heads import CausalSelfAttention
from mingpt.losses import head_loss
from mingpt.parallel.tiles import Place, attend, gradients, merge
from mingpt.patterns.kinds import Pattern
from mingpt.utils import IGNORE_INDEX, BadInput


@dataclass(frozen=True)
class Route:
    """Which stretches of `length` tokens meet on which of `ranks`, where a query sees at most
    `reach` tokens back."""
    ranks: int
    length: int
    reach: int

    @property
    def hops(self) -> int:
        """How many ranks on a stretch is still seen."""
        return min(self.ranks - 1, math.ceil(self.reach / self.length))

    @property
    def computed(self) -> int:
        """Pairs of a stretch of queries and one of keys that are computed, of ranks · ranks."""
        return sum(min(rank, self.hops) + 1 for rank in range(self.ranks))

    @property
    def skipped(self) -> int:
        """Pairs that are not: the later ones, and those beyond the pattern's reach."""
        return self.ranks ** 2 - self.computed

    def last(self, rank: int, hop: int) -> bool:
        """Whether a stretch that has come `hop` ranks ends its way here."""
        return hop == self.hops or rank == self.ranks - 1


def ring_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *,
                   slopes: Tensor | None = None, group: dist.ProcessGroup | None = None) -> Tensor:
    """softmax(QKᵀ/√hs)V over all ranks' tokens: this rank's q (B, nh, T/R, hs), k and v (B, nkv,
    T/R, hs), where nkv divides nh → (B, nh, T/R, hs). All ranks call it, with as many tokens each;
    so they do its backward. `slopes` (nh,), not trained, subtracts slope · (i − j) from the scores
    (ALiBi)."""
    return _Ring.apply(q, k, v, pattern, slopes, group)


class _Ring(torch.autograd.Function):

    @staticmethod
    def forward(ctx, q, k, v, pattern, slopes, group):
        ring = ctx.ring = _Ranks(q.size(-2), pattern, slopes, group)
        mine, found = torch.stack((k, v)), None
        held = mine
        for hop in range(min(ring.rank, ring.route.hops) + 1):
            coming = ring.pass_on(held, hop)            # on its way while this one is computed
            new = attend(q, *held, ring.place(hop))
            found = merge(found, new) if found else new
            held = coming()
        out = found[0].to(q.dtype)
        ctx.save_for_backward(q, mine, out, found[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        """Keys and values travel as in the forward, and their gradients with them; from the last
        rank that sees them these go home."""
        q, held, out, lse = ctx.saved_tensors
        ring, kind = ctx.ring, held.dtype
        dq, dkv, leaving = 0.0, torch.zeros_like(held, dtype=lse.dtype), []
        delta = (dout.to(lse.dtype) * out).sum(-1, keepdim=True)
        for hop in range(min(ring.rank, ring.route.hops) + 1):
            coming = ring.pass_on(held, hop)
            more, dk, dv = gradients(q, *held, dout, lse, delta, ring.place(hop))
            dq, dkv = dq + more, dkv + torch.stack((dk, dv))
            if ring.route.last(ring.rank, hop):
                leaving.append(ring.send_home(dkv, hop))
            dkv, held = ring.pass_on(dkv, hop)(), coming()
        dk, dv = ring.welcome(leaving, q.new_empty(ctx.saved_tensors[1].shape,
                                                   dtype=lse.dtype)).to(kind)
        return dq.to(q.dtype), dk, dv, None, None, None


class _Ranks:
    """This rank among the others: where its stretch is, what it sends and to whom."""

    def __init__(self, length: int, pattern: Pattern, slopes: Tensor | None,
                 group: dist.ProcessGroup | None):
        self.rank, self.group = dist.get_rank(group), group
        self.pattern, self.slopes = pattern, slopes
        ranks = dist.get_world_size(group)
        self.route = Route(ranks, length, pattern.reach(ranks * length))

    def place(self, hop: int) -> Place:
        """Where this rank's queries are, and the keys from so many ranks before."""
        n, ranks = self.route.length, self.route.ranks
        return Place(self.rank * n, (self.rank - hop) * n, ranks * n, self.pattern, self.slopes)

    def pass_on(self, held: Tensor | None, hop: int) -> Callable[[], Tensor | None]:
        """Send what has come `hop` ranks on to the next rank, unless it is at its end, and begin to
        receive the same from the one before. What is returned waits for it, and gives None where
        nothing comes."""
        moves, coming = [], None
        if hop <= self.rank and not self.route.last(self.rank, hop):
            moves.append(dist.P2POp(dist.isend, held, self._peer(self.rank + 1), self.group))
        if hop < self.rank and not self.route.last(self.rank - 1, hop):
            coming = torch.empty_like(held)
            moves.append(dist.P2POp(dist.irecv, coming, self._peer(self.rank - 1), self.group))
        works = dist.batch_isend_irecv(moves) if moves else []

        def arrived() -> Tensor | None:
            for work in works:
                work.wait()
            return coming
        return arrived

    def send_home(self, gradient: Tensor, hop: int) -> tuple[Tensor, dist.Work | None]:
        """Begin to send a finished gradient to the rank whose keys it is of."""
        if not hop:
            return gradient, None
        return gradient, dist.isend(gradient, self._peer(self.rank - hop), self.group)

    def welcome(self, leaving: list[tuple[Tensor, dist.Work | None]], memory: Tensor) -> Tensor:
        """This rank's own finished gradient, received into memory if another rank had it last; and
        all have left."""
        end = min(self.rank + self.route.hops, self.route.ranks - 1)
        if end == self.rank:
            memory = leaving[0][0]
        else:
            dist.recv(memory, self._peer(end), self.group)
        for _, work in leaving:
            if work is not None:
                work.wait()
        return memory

    def _peer(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


class ContextParallel:
    """A whole model over several ranks: given to `model.hidden` in the place of a cache. The
    parameters are the same in every rank. See the top of this file."""
    tokens = None       # as a cache's: no document mask

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None = None):
        self.model, self.group, self.start = model, group, 0
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        for option in ("document_end", "published_padding"):
            if getattr(model, option) is not None:
                raise BadInput(f"context parallel: model.{option} needs all tokens in one process")
        self.layers = [_Layer(self, block.attn) for block in model.transformer.h]

    def mine(self, idx: Tensor) -> Tensor:
        """This rank's stretch of tokens (B, T) that all ranks have → (B, T/R)."""
        if idx.size(1) % self.ranks or idx.size(1) > self.model.block_size:
            raise BadInput(f"context parallel: {idx.size(1)} tokens over {self.ranks} ranks: give "
                           f"a multiple of "
                           f"{self.ranks}, at most model.block_size={self.model.block_size}")
        return idx.chunk(self.ranks, dim=1)[self.rank]

    def extend(self, idx: Tensor) -> int:
        """As a cache's: where these tokens, (B, T/R), begin in the whole text."""
        self.start = self.rank * idx.size(1)
        return self.start

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The mean nats a target over all ranks' tokens (B, T), the same number in every rank. Its
        backward leaves in each rank that rank's part of the gradients."""
        model = self.model
        x, wanted = model.hidden(self.mine(idx), self), self.mine(targets)
        others = any(getattr(m, "aux_loss", None) is not None for m in model.modules())
        if others or model.training and model.future:
            raise BadInput("context parallel: a loss beside the next token's, as experts or future "
                           "heads have, needs "
                           "all tokens in one process")
        counts, head = (wanted.ne(IGNORE_INDEX).sum(),
                        targets.ne(IGNORE_INDEX).sum()), model.lm_head.weight
        if counts[0]:
            part = head_loss(x, head, wanted, model.softcap,
                             model.z_loss if model.training else 0.0)
        else:
            part = 0 * (x.sum() + head.sum())       # every rank has a gradient of every parameter
        part = part * (counts[0] / counts[1])
        whole = part.detach().clone()
        dist.all_reduce(whole, group=self.group)
        return part + (whole - part.detach())       # the value of all, the gradient of this one

    def sum_gradients(self) -> None:
        """After backward: every rank's parameters get the gradient of the whole loss."""
        for p in self.model.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad, group=self.group)


class _Layer:
    """Called by a layer of the model as a backend is."""

    def __init__(self, ring: ContextParallel, attention: nn.Module):
        if type(attention).forward is not CausalSelfAttention.forward:
            raise BadInput("context parallel: model.attention must have keys for every token: mha, "
                           "gqa or mqa")
        self.ring, self.pattern = ring, attention.pattern

    @property
    def start(self) -> int:
        return self.ring.start

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        if dropout_p:
            raise BadInput(f"context parallel drops no attention weights, as "
                           f"model.attn_pdrop={dropout_p} asks")
        return ring_attention(q, k, v, self.pattern, slopes=slopes, group=self.ring.group)
