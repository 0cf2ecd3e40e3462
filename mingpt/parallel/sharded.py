"""
Processes that share one copy of the model: each holds some rows of every parameter, of its gradient
and of its optimizer state. torch's fully_shard (FSDP2) gathers the parameters of one block at a
time, for its forward and again for its backward. Zhao et al. 2023, arXiv 2304.11277.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mingpt.parallel.processes import Group, lost_processes
from mingpt.utils import BadInput

# Methods of a GPT that read its parameters, as its forward does.
FORWARDS = ("loss", "token_losses")


class Sharded(Group):
    """This process's place in a group whose processes hold one model together."""

    sharded = True
    experts: list[nn.Module] = []      # of every mixture in the model
    counts = False                     # whether the present batch has targets that count

    def idle(self, n: int) -> int:
        return -(-n // self.count) - len(self.share(n))

    def empty_weights(self) -> contextlib.AbstractContextManager:
        return empty_weights()

    def shard(self, model: nn.Module, draw: Callable[[set[str]], None], device: str) -> None:
        """`device` is the kind of device on which the parameters will be."""
        self.experts = [expert for module in model.modules() if hasattr(module, "aux_loss")
                        for expert in getattr(module, "experts", ())]
        for number, expert in enumerate(self.experts):
            expert.register_forward_pre_hook(partial(self._called, number))
        shard(model, draw, dist.device_mesh.init_device_mesh(device, (self.count,)))

    def wrapped(self, loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Callable:
        return loss     # the sharded model sums gradients itself

    def begin_step(self, counts: list[int]) -> list[int]:
        self.chosen = torch.zeros(len(self.experts), dtype=torch.int32)
        return super().begin_step(counts)

    def begin_batch(self, share: float) -> None:
        self.counts = share > 0

    def _called(self, number: int, expert: nn.Module, inputs: tuple) -> None:
        """Note that tokens chose an expert. A batch without targets does not count: a process
        alone leaves it out."""
        if torch.is_grad_enabled() and self.counts:
            self.chosen[number] = 1

    def finish_gradients(self) -> None:
        """Take the gradient away from experts that no token chose in any process. They have zeros,
        with which an optimizer would still change their weights."""
        if not self.experts:
            return
        with lost_processes():
            dist.all_reduce(self.chosen, dist.ReduceOp.MAX, self.control)
        for expert, chosen in zip(self.experts, self.chosen.tolist(), strict=True):
            if not chosen:
                expert.zero_grad(set_to_none=True)


@contextlib.contextmanager
def empty_weights() -> Iterator[None]:
    """Inside, linear layers and embeddings are made without memory for their weights and biases,
    on torch's meta device. `GPT.init_weights` draws all of these. Other parameters and buffers keep
    the values that their constructors give them."""
    register = nn.Module.register_parameter

    def register_empty(self, name, parameter):
        if isinstance(self, nn.Linear | nn.Embedding) and parameter is not None and (
                not parameter.is_meta):     # a tied weight is empty already, and stays tied
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(self, name, parameter)
    nn.Module.register_parameter = register_empty
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def shard(model: nn.Module, draw: Callable[[set[str]], None], mesh: dist.DeviceMesh) -> None:
    """Split a GPT's parameters over the processes of a mesh: each block's, then the rest.

    A process holds one whole block at a time. Empty weights get memory first, and `draw(names)`
    then sets the weights of the modules of these names. BadInput for a parameter without rows.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    without = [name for name, p in model.named_parameters() if not p.dim()]
    if without:
        raise BadInput(f"trainer.parallel=fsdp splits parameters by their rows, and {without[0]} "
                       f"is a single number: make its shape (1,)")
    done: set[str] = set()
    for unit in (*model.transformer.h, model):
        inside = set(unit.modules())
        names = {name for name, module in model.named_modules() if module in inside} - done
        if _materialise(unit):
            draw(names)
        # resharded after the forward, so that between steps every parameter is a shard
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        done |= names
    if any(hasattr(module, "aux_loss") for module in model.modules()):
        if not hasattr(model, "set_reduce_scatter_unused_params"):
            raise BadInput(f"trainer.parallel=fsdp with model.mlp=moe: torch {torch.__version__} "
                           f"cannot sum gradients that some processes lack: use torch 2.13")
        # an expert may have tokens in one process and none in another
        model.set_reduce_scatter_unused_params(True)
    for name in FORWARDS:
        register_fsdp_forward_method(model, name)


def _materialise(unit: nn.Module) -> bool:
    """Give the empty weights in this part of a model memory on the CPU. Returns whether there were
    any."""
    real: dict[int, nn.Parameter] = {}
    for module in unit.modules():
        for name, p in module._parameters.items():
            if p is not None and p.is_meta:
                fresh = real.setdefault(id(p), nn.Parameter(torch.empty_like(p, device="cpu"),
                                                            p.requires_grad))
                module._parameters[name] = fresh
    return bool(real)
