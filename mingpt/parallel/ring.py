"""
Ring attention: a text too long for one process is split over several processes (ranks). Each rank
holds a stretch of T/R tokens. Keys and values travel from rank to rank, and the contributions of
the stretches are merged by their log Σ exp(score). The results are those of one process. Liu et al.
2023, arXiv 2310.01889.

    ring = ContextParallel(model)          # in every rank of an initialised torch.distributed group
    x = model.hidden(ring.mine(idx), ring) # (B, T/R, C): this rank's stretch; ring replaces a cache
    loss = ring.loss(idx, targets)         # the mean over all ranks
    loss.backward()
    ring.sum_gradients()

Everything is causal, so a stretch travels only to later ranks. It travels no further than the
pattern reaches: with a window, ranks beyond it are neither sent to nor computed with (`Route`). The
work is uneven: the last rank meets every stretch that reaches it, the first rank only its own.
Tested with gloo on a CPU; not measured with NCCL.
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
    """Which stretches of keys reach which of `ranks` ranks. A stretch has `length` tokens, and a
    query sees at most `reach` tokens back. A hop is a step from one rank to the next."""
    ranks: int
    length: int
    reach: int

    @property
    def hops(self) -> int:
        """How many ranks beyond its own a stretch travels."""
        return min(self.ranks - 1, math.ceil(self.reach / self.length))

    @property
    def computed(self) -> int:
        """How many of the ranks · ranks pairs (stretch of queries, stretch of keys) are
        computed."""
        return sum(min(rank, self.hops) + 1 for rank in range(self.ranks))

    @property
    def skipped(self) -> int:
        """How many of these pairs are skipped, because the keys come later than the queries or lie
        beyond the pattern's reach."""
        return self.ranks ** 2 - self.computed

    def last(self, rank: int, hop: int) -> bool:
        """Whether a stretch that has travelled `hop` hops to this rank goes no further."""
        return hop == self.hops or rank == self.ranks - 1


def ring_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *,
                   slopes: Tensor | None = None, group: dist.ProcessGroup | None = None) -> Tensor:
    """softmax(QKᵀ/√hs)V over the tokens of all ranks, for this rank's queries.

    This rank's q (B, nh, T/R, hs), k and v (B, nkv, T/R, hs), where nkv divides nh → (B, nh, T/R,
    hs). All ranks must call it, each with the same number of tokens, and all must run its backward.
    `slopes` (nh,) are subtracted from the scores as slope · (i − j) (ALiBi); they are not trained.
    """
    return _Ring.apply(q, k, v, pattern, slopes, group)


class _Ring(torch.autograd.Function):

    @staticmethod
    def forward(ctx, q, k, v, pattern, slopes, group):
        ring = ctx.ring = _Ranks(q.size(-2), pattern, slopes, group)
        mine, found = torch.stack((k, v)), None         # (2, B, nkv, T/R, hs)
        held = mine
        for hop in range(min(ring.rank, ring.route.hops) + 1):
            coming = ring.pass_on(held, hop)            # the next stretch arrives during `attend`
            new = attend(q, *held, ring.place(hop))
            found = merge(found, new) if found else new
            held = coming()
        out = found[0].to(q.dtype)
        ctx.save_for_backward(q, mine, out, found[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        """Keys and values travel as in the forward, and their gradients travel with them. The last
        rank that sees them sends the gradients back to the rank they belong to."""
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
        dk, dv = ring.receive(
            leaving, q.new_empty(ctx.saved_tensors[1].shape, dtype=lse.dtype)).to(kind)
        return dq.to(q.dtype), dk, dv, None, None, None


class _Ranks:
    """This rank's view of the ring: where its stretch is, what it sends and to which rank."""

    def __init__(self, length: int, pattern: Pattern, slopes: Tensor | None,
                 group: dist.ProcessGroup | None):
        self.rank, self.group = dist.get_rank(group), group
        self.pattern, self.slopes = pattern, slopes
        ranks = dist.get_world_size(group)
        self.route = Route(ranks, length, pattern.reach(ranks * length))

    def place(self, hop: int) -> Place:
        """Where this rank's queries begin, and the keys of the rank `hop` ranks before it."""
        n, ranks = self.route.length, self.route.ranks
        return Place(self.rank * n, (self.rank - hop) * n, ranks * n, self.pattern, self.slopes)

    def pass_on(self, held: Tensor | None, hop: int) -> Callable[[], Tensor | None]:
        """Begin to send `held`, which has travelled `hop` hops, to the next rank, unless it goes no
        further. Begin to receive the same from the rank before. Returns a function that waits for
        both and returns what arrived, or None if nothing was to come."""
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
        """Begin to send a finished gradient to the rank that owns its keys, `hop` ranks before. At
        hop 0 that is this rank, and nothing is sent."""
        if not hop:
            return gradient, None
        return gradient, dist.isend(gradient, self._peer(self.rank - hop), self.group)

    def receive(self, leaving: list[tuple[Tensor, dist.Work | None]], memory: Tensor) -> Tensor:
        """This rank's own finished gradient. It is received into `memory` if another rank finished
        it. Returns after all gradients in `leaving` have been sent."""
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
    """Runs a whole model over several ranks. It is given to `model.hidden` in place of a cache. The
    parameters must be the same in every rank. The top of this file shows its use. Raises BadInput
    for models that need all tokens in one process."""
    tokens = None       # the attribute of a cache; None because there is no document mask

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None = None):
        self.model, self.group, self.start = model, group, 0
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        if model.document_end is not None:
            raise BadInput("context parallel: model.document_end needs all tokens in one process")
        if model.not_causal:
            raise BadInput(f"context parallel needs a causal model: {model.not_causal}")
        self.layers = [_Layer(self, block.attn) for block in model.transformer.h]

    def mine(self, idx: Tensor) -> Tensor:
        """This rank's stretch (B, T/R) of the tokens (B, T), which all ranks have. Raises BadInput
        if the ranks do not divide T, or T is longer than the model's block."""
        if idx.size(1) % self.ranks or idx.size(1) > self.model.block_size:
            raise BadInput(f"context parallel: {idx.size(1)} tokens over {self.ranks} ranks: give "
                           f"a multiple of {self.ranks}, at most "
                           f"model.block_size={self.model.block_size}")
        return idx.chunk(self.ranks, dim=1)[self.rank]

    def extend(self, idx: Tensor) -> int:
        """The position in the whole text where this rank's tokens (B, T/R) begin. It has the name
        and arguments of a cache's method."""
        self.start = self.rank * idx.size(1)
        return self.start

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The mean nats per target over the tokens (B, T) of all ranks: the same number in every
        rank. Its backward leaves in each rank only that rank's part of the gradients. Raises
        BadInput if the model has another loss, as experts or future heads have."""
        part = self.part(idx, targets)
        whole = part.detach().clone()
        dist.all_reduce(whole, group=self.group)
        return part + (whole - part.detach())       # value of all ranks, gradient of this rank

    def part(self, idx: Tensor, targets: Tensor) -> Tensor:
        """This rank's part of `loss`: those of all ranks add up to it."""
        model = self.model
        x, wanted = model.hidden(self.mine(idx), self), self.mine(targets)
        others = any(getattr(m, "aux_loss", None) is not None for m in model.modules())
        if others or model.training and model.future:
            raise BadInput("context parallel: a loss beside the next token's, as experts or future "
                           "heads have, needs all tokens in one process")
        counts, head = ((wanted.ne(IGNORE_INDEX).sum(), targets.ne(IGNORE_INDEX).sum()),
                        model.lm_head.weight)
        if counts[0]:
            part = head_loss(x, head, wanted, model.softcap,
                             model.z_loss if model.training else 0.0)
        else:
            part = 0 * (x.sum() + head.sum())       # so that every parameter still has a gradient
        return part * (counts[0] / counts[1])

    def sum_gradients(self) -> None:
        """Sum the gradients over all ranks. After backward and this call, every rank holds the
        gradient of the whole loss."""
        for p in self.model.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad, group=self.group)


class _Layer:
    """Computes one layer's attention. The layer calls it in place of its backend."""

    def __init__(self, ring: ContextParallel, attention: nn.Module):
        if type(attention).forward is not CausalSelfAttention.forward:
            raise BadInput("context parallel: model.attention must have keys for every token: mha, "
                           "gqa or mqa")
        self.ring, self.pattern = ring, attention.pattern

    @property
    def start(self) -> int:
        """The position in the whole text where this rank's tokens begin."""
        return self.ring.start

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        if dropout_p:
            raise BadInput(f"context parallel cannot drop attention weights, as "
                           f"model.attn_pdrop={dropout_p} asks")
        return ring_attention(q, k, v, self.pattern, slopes=slopes, group=self.ring.group)
