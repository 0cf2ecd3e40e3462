"""
The processes that train one model together. Each has a copy of the model and computes a share of
every step's micro-batches. `Processes` is one process alone, which has nothing to share; `Group`
uses torch.distributed.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mingpt.parallel.tree import FlatGradients, GradientTree, sum_over_processes
from mingpt.utils import BadInput

PATIENCE = datetime.timedelta(hours=12)    # how long a process waits for another that is alive


class LostProcess(Exception):
    """Another process of the group has ended, so no step can be shared any more."""


class Processes:
    """One process that trains a model alone: process `rank` of `count`."""

    rank, count = 0, 1
    each = 1                       # how many processes split one text
    signal: int | None = None      # the signal that asks all processes to end
    sharded = False                # whether each process holds only some rows of every parameter

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """Return the items, of n, that this process computes: a range without gaps."""
        return range(self.rank * n // self.count, (self.rank + 1) * n // self.count)

    def ask_to_end(self, number: int) -> None:
        """Remember that this process has received a signal that asks the run to end."""
        self.signal = number

    def begin_step(self, counts: list[int]) -> list[int]:
        """Return the counts of the whole step's micro-batches, given those of this process's share.
        Also pass on a signal that any process has received."""
        return counts

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        return [value]

    def agree(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the first process only, and return its value in all."""
        return make()

    def sum(self, tree: GradientTree) -> Tensor | float:
        """Add the gradients of all processes in the tree's order, and return the sum of their
        losses."""
        return tree.loss

    def wrapped(self, loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Callable:
        """`loss` such that its backward averages the gradients of all processes."""
        return loss

    def local(self, loss: Callable) -> contextlib.AbstractContextManager:
        """Inside, the backward of a `wrapped` loss leaves the other processes out."""
        return contextlib.nullcontext()

    def sum_losses(self, loss: Tensor) -> Tensor:
        """The sum of the processes' losses."""
        return loss

    def collect(self, items: list[Any]) -> list[Any]:
        """The items of all shares, in order, given those of this process's share."""
        return items

    def check(self, model: nn.Module, batches: Any) -> None:
        """Raise BadInput for a model that these processes cannot train together on these batches,
        of which `batch(t)` gives inputs and targets, (B, T) each."""

    def loss_of(self, loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Callable:
        """The model's loss as this process computes it: `loss`, or its part of that."""
        return loss

    def token_losses(self, model: nn.Module, idx: Tensor, targets: Tensor) -> Tensor:
        """The model's token_losses, (B, T)."""
        return model.token_losses(idx, targets)

    def idle(self, n: int) -> int:
        """How many forwards this process must join beyond its share of n items, because the others
        need its rows of the parameters."""
        return 0

    def empty_weights(self) -> contextlib.AbstractContextManager:
        """Inside, a model that `shard` will split is made without memory for its weights."""
        return contextlib.nullcontext()

    def begin_batch(self, share: float) -> None:
        """Called before the forward of a micro-batch, which has this share of the step's
        targets."""

    def finish_gradients(self) -> None:
        """Called after the last backward of a step."""


class Group(Processes):
    """This process's place in an initialised torch.distributed group. `store` is a key-value store
    that all processes reach."""

    def __init__(self, store: dist.Store):
        self.rank, self.count, self.store = dist.get_rank(), dist.get_world_size(), store
        # small messages between the CPUs, so that they never wait for a GPU's work
        self.control = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.heard: int | None = None
        self.flat: FlatGradients | None = None

    def ask_to_end(self, number: int) -> None:
        self.heard = number

    def begin_step(self, counts: list[int]) -> list[int]:
        mine = torch.tensor([self.heard or 0, *counts])
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        with lost_processes():
            dist.all_gather(everyone, mine, self.control)
        signals, counts = zip(*((signal, rest) for signal, *rest in map(Tensor.tolist, everyone)),
                              strict=True)
        self.signal = max(signals) or None
        return [count for share in counts for count in share]

    def gather(self, value: Any) -> list[Any]:
        found = [None] * self.count
        with lost_processes():
            dist.all_gather_object(found, value, self.control)
        return found

    def collect(self, items: list[Any]) -> list[Any]:
        return [item for shared in self.gather(items) for item in shared]

    def agree(self, make: Callable[[], Any]) -> Any:
        value = [make() if self.first else None]
        with lost_processes():
            dist.broadcast_object_list(value, 0, self.control)
        return value[0]

    def sum(self, tree: GradientTree) -> Tensor:
        if self.flat is None or self.flat.parameters[0] is not tree.parameters[0]:
            self.flat = FlatGradients(tree.parameters, self.count)
        with lost_processes():
            return self.flat.sum_over(tree.loss, lambda flat: sum_over_processes(
                flat, self.rank, self.count, _swap))

    def wrapped(self, loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Callable:
        # The backward sends the gradients of the last layers while it computes the first ones. An
        # expert that no token chooses has no gradient, which DDP must look for.
        absent = any(hasattr(module, "aux_loss") for module in model.modules())
        with warnings.catch_warnings():
            # the option has a new name from torch 2.13 on
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                _Loss(loss, model), broadcast_buffers=False, find_unused_parameters=absent)

    def local(self, loss: Callable) -> contextlib.AbstractContextManager:
        wrapped = isinstance(loss, nn.parallel.DistributedDataParallel)
        return loss.no_sync() if wrapped else contextlib.nullcontext()

    def sum_losses(self, loss: Tensor) -> Tensor:
        with lost_processes():
            dist.all_reduce(loss)
        return loss


class _Loss(nn.Module):
    """A model's loss as a module's forward, which is what DistributedDataParallel wraps."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module):
        super().__init__()
        self.loss, self.model = loss, model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x and y (B, T) → the loss, a scalar."""
        return self.loss(x, y)


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Inside, an error of torch.distributed is raised as LostProcess."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess("another process of this run has ended") from error


def is_lost(error: BaseException) -> bool:
    """Whether an error means that another process has ended. One inside a backward, where
    DistributedDataParallel communicates, is known only by its text."""
    return isinstance(error, LostProcess | dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _swap(sent: Tensor, received: Tensor, other: int) -> None:
    """Exchange two tensors with another process."""
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, other),
                                        dist.P2POp(dist.irecv, received, other)]):
        work.wait()


def started_as_one_of() -> int:
    """The number of processes that torchrun started this one as one of; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


@contextlib.contextmanager
def joined(device: str, member: Callable[[dist.Store], Group] = Group) -> Iterator[Processes]:
    """Inside, this process is a `member` of the group that torchrun started it in, or is alone.
    `device` is the kind of device that it trains on. Raises BadInput where a host has too few
    GPUs."""
    if started_as_one_of() == 1:
        yield Processes()
        return
    if device not in ("cuda", "cpu"):
        raise BadInput(f"trainer.device={device}: several processes train on cuda or cpu")
    if device == "cuda":
        place, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= here:
            raise BadInput(f"{os.environ['LOCAL_WORLD_SIZE']} processes on {socket.gethostname()}, "
                           f"which has {here} GPUs: give at most {here}, or --device cpu")
        torch.cuda.set_device(place)
    store, rank, count = next(dist.rendezvous("env://"))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank,
                            world_size=count, timeout=PATIENCE)
    try:
        yield member(dist.PrefixStore("ablate", store))
    finally:
        dist.destroy_process_group()
