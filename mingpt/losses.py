"""
The loss, in nats per token.

`cross_entropy` is the definition: it takes all logits. `head_loss` gives the same number without
holding them. It takes the head's input, computes the logits of a few hundred tokens at a time in
one buffer, and computes their gradient before the next tokens overwrite the buffer. With a
vocabulary of 50,257, the logits of a whole batch would take most of a small model's memory. Writing
to so much fresh memory also takes longer than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.utils import IGNORE_INDEX

# Bytes of logits, counted as float32, that exist at once. A CPU reaches its full rate at about
# 512 tokens with a vocabulary of 50,257. The figure for a GPU is a guess.
AT_ONCE_CPU, AT_ONCE_CUDA = 100 << 20, 800 << 20


def cross_entropy(logits: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
    """logits (B, T, V), targets (B, T) → the mean nats per predicted token, a scalar.

    Targets equal to IGNORE_INDEX do not count; if none counts, the mean is NaN. The mean of
    `z_loss` · log²Z is added, which holds the softmax's normaliser Z near 1 (PaLM, arXiv
    2204.02311).
    """
    flat, flat_targets = logits.reshape(-1, logits.size(-1)), targets.reshape(-1)
    loss = F.cross_entropy(flat, flat_targets, ignore_index=IGNORE_INDEX)
    if not z_loss:
        return loss
    counted = flat_targets != IGNORE_INDEX
    return loss + z_loss * (flat.logsumexp(-1).square() * counted).sum() / counted.sum()


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """logits (any shape) → cap · tanh(logits / cap), or the logits themselves where cap is None.
    Gemma 2, arXiv 2408.00118."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None,
              z_loss: float = 0.0) -> Tensor:
    """cross_entropy(soft_cap(x @ weight.T, cap), targets, z_loss), without holding all logits.

    x (B, T, C), weight (V, C), targets (B, T) → a scalar. It can be differentiated once, with
    respect to x and weight. It never waits for the GPU. Matrix products use autocast's dtype;
    everything between them is at least float32.
    """
    rows, flat_targets = x.reshape(-1, x.size(-1)), targets.reshape(-1)
    if not len(rows):
        # without tokens: NaN, and zero gradients
        return F.cross_entropy(rows @ weight.T, flat_targets)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _HeadLoss.apply(rows, weight, flat_targets, cap, z_loss)
    counted = flat_targets != IGNORE_INDEX
    nats, log_z = _nats(rows, weight, flat_targets, cap)
    return _mean(nats + z_loss * log_z.square(), counted)


@torch.no_grad()
def token_losses(x: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """x (B, T, C), what the head reads, weight (V, C), targets (B, T) → the nats of every target,
    (B, T) float32; 0 where a target is IGNORE_INDEX. For evaluation: it has no gradient."""
    if not targets.numel():
        return torch.zeros(targets.shape, device=x.device)
    nats, _ = _nats(x.reshape(-1, x.size(-1)), weight, targets.reshape(-1), cap)
    return nats.masked_fill(targets.reshape(-1) == IGNORE_INDEX, 0.0).view(targets.shape).float()


class _HeadLoss(torch.autograd.Function):
    """head_loss with gradients: x (N, C), weight (V, C), targets (N,) → a scalar.

    The forward also computes the gradients, as if the gradient of the loss were 1. The backward
    multiplies them by the true one.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor, cap: float | None,
                z_loss: float) -> Tensor:
        counted = targets != IGNORE_INDEX
        # (N,): each row's weight in the mean
        share = counted / counted.sum().clamp(min=1).to(wide_dtype(x.dtype))
        # x and the weight in the type of matrix products, which autocast may set to bfloat16
        x_cast, weight_cast = x.to(_product_dtype(x)), weight.to(_product_dtype(x))
        # weighting x is cheaper than weighting the logits
        weighted = (x_cast * share.unsqueeze(1)).to(x_cast.dtype)
        dx, dweight = torch.empty_like(x_cast), torch.empty_like(weight)
        losses = share.new_empty(x.size(0))
        for part, logits in _chunks(x_cast, weight_cast, cap):
            # the derivative of the cap at these logits
            slope = 1 - (logits / cap).square() if cap is not None else None
            target_ids = targets[part].clamp(min=0).unsqueeze(1)
            # from here on, `logits` holds probabilities
            nats, log_z = _softmax_(logits, target_ids)
            losses[part] = nats + z_loss * log_z.square()
            if z_loss:
                logits.mul_(1 + 2 * z_loss * log_z.unsqueeze(1))
            logits.scatter_add_(1, target_ids, logits.new_full(target_ids.shape, -1.0))
            grad = (logits if slope is None else logits.mul_(slope)).to(weight_cast.dtype)
            torch.mm(grad, weight_cast, out=dx[part])
            _add_product(dweight, grad.t(), weighted[part], first=part.start == 0)
        ctx.save_for_backward(dx.mul_(share.unsqueeze(1)), dweight)
        ctx.dtypes = x.dtype, weight.dtype
        return _mean(losses, counted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        dx, dweight = (saved.to(dtype) for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes,
                                                               strict=True))
        # only on a CPU: reading the value on a GPU would wait for it
        if grad.device.type == "cpu" and grad == 1:
            return dx, dweight, None, None, None
        return dx * grad, dweight * grad, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += a @ b, or total = a @ b where `first` is true. The sum of bf16 products is kept in
    total's wider dtype, since a step adds up many chunks."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif first:
        total.copy_(a @ b)
    else:
        total.add_(a @ b)


def _nats(x: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """x (N, C), weight (V, C), targets (N,) → −log p(target) and log Z, both (N,)."""
    x_cast, weight_cast = x.to(_product_dtype(x)), weight.to(_product_dtype(x))
    parts = [_softmax_(logits, targets[part].clamp(min=0).unsqueeze(1))
             for part, logits in _chunks(x_cast, weight_cast, cap)]
    nats, log_z = zip(*parts, strict=True)
    return torch.cat(nats), torch.cat(log_z)


def _chunks(x: Tensor, weight: Tensor, cap: float | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of x's rows and their capped logits, (rows, V) in float32 or wider. The next
    logits overwrite the memory of the last ones."""
    fitting = max(1, (AT_ONCE_CUDA if x.is_cuda else AT_ONCE_CPU) // (4 * weight.size(0)))
    size = math.ceil(x.size(0) / math.ceil(x.size(0) / fitting))        # chunks of about one size
    buffer = x.new_empty(size, weight.size(0))
    for start in range(0, x.size(0), size):
        part = slice(start, min(start + size, x.size(0)))
        product = torch.mm(x[part], weight.t(), out=buffer[:part.stop - start])
        logits = product.to(wide_dtype(x.dtype))
        yield part, logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _softmax_(logits: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
    """logits (rows, V), target_ids (rows, 1) → −log p(target) and log Z, both (rows,). Overwrites
    the logits with their probabilities."""
    target_logits, largest = logits.gather(1, target_ids).squeeze(1), logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    # no underflow: the largest logit's probability is at least 1 / V
    log_z = largest - logits.amax(1).log()
    return log_z - target_logits, log_z


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    """The mean of losses (N,) over the rows that count; NaN if none does, as F.cross_entropy
    gives."""
    return torch.where(counted, losses, 0.0).sum() / counted.sum()


def _product_dtype(x: Tensor) -> torch.dtype:
    """autocast's dtype where autocast is on; else that of x."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are computed in: float32, or the type itself where it is wider."""
    return torch.promote_types(dtype, torch.float32)
