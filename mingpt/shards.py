"""
Tensors of which each process holds some rows, and whole ones. torch's fully_shard makes such
tensors (mingpt/parallel/sharded.py). They are recognised by a method of theirs, because importing
their class would slow the start of a process that is alone.
"""

from __future__ import annotations

from torch import Tensor


def is_shard(tensor: Tensor | None) -> bool:
    """Whether this process holds only some rows of the tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes. All must call this, in the same order. A
    tensor that is whole already is returned as it is."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def own_part(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Of a whole tensor, the rows that this process holds of `like`, a tensor of the same shape.
    Returns the tensor itself where `like` is whole, is None, or has another shape."""
    if not is_shard(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor
    # every process has the whole tensor, so nothing is sent
    return distribute_tensor(tensor.detach().to(like.device), like.device_mesh, like.placements,
                             src_data_rank=None)
