"""
A second implementation of the GPT, written to be read: from tokens to logits and to the training
loss, with plain loops over layers and heads.

It shares no code with `mingpt`. The audit compares the parts of a model with these functions. Speed
does not matter here. See reference_attention.py for attention and positions.

    B rows, T tokens per row, C channels, V words in the vocabulary. P is a dict from the names of
    the state dict to tensors, usually in float64. c is the resolved model config. name is a prefix
    such as 'transformer.h.2.mlp.'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.audit.reference_attention import attention, linear, rms_norm

IGNORED = -1    # a target that does not count

KNOWN = {       # the members of each slot that this reference computes
    "block": {"pre", "post", "parallel", "sandwich"}, "norm": {"layernorm", "rmsnorm"},
    "mlp": {"gelu", "gelu_erf", "swiglu", "geglu", "relu2", "moe"},
    "position": {"learned", "rope", "alibi", "none"},
    "attention": {"mha", "gqa", "mqa", "mla", "msla", "msla_published"},
    "parametrization": {"standard", "mup", "completep"},
}


# -- parts -----------------------------------------------------------------------------------------

def norm(P: dict, name: str, c, x: Tensor) -> Tensor:
    """LayerNorm or RMSNorm over the last dimension."""
    if c.norm == "rmsnorm":
        return rms_norm(x, P[name + "weight"], c.norm_eps)
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * P[name + "weight"]
    return y + P[name + "bias"] if name + "bias" in P else y


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, as in GPT-2. arXiv 1606.08415."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def gelu_erf(x: Tensor) -> Tensor:
    """GELU in its exact form. arXiv 1606.08415."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return x / (1 + torch.exp(-x))


def relu_squared(x: Tensor) -> Tensor:
    """x² where x > 0, else 0."""
    return torch.where(x > 0, x * x, 0 * x)


PLAIN = {"gelu": gelu_tanh, "gelu_erf": gelu_erf, "relu2": relu_squared}
GATED = {"swiglu": silu, "geglu": gelu_tanh}


def mlp(P: dict, name: str, c, x: Tensor, training: bool = False) -> tuple[Tensor, Tensor | float]:
    """x (B, T, C) → (B, T, C), and the term that training adds to the loss, which is 0 except for
    experts."""
    if c.mlp == "moe":
        return mixture_of_experts(P, name, c, x, training)
    return dense_mlp(P, name, c.mlp, x), 0.0


def dense_mlp(P: dict, name: str, kind: str, x: Tensor) -> Tensor:
    """x (B, T, C) → (B, T, C), by a plain or a gated MLP."""
    if kind in GATED:
        hidden = GATED[kind](linear(P, name + "c_gate.", x)) * linear(P, name + "c_fc.", x)
    else:
        hidden = PLAIN[kind](linear(P, name + "c_fc.", x))
    return linear(P, name + "c_proj.", hidden)


def mixture_of_experts(P: dict, name: str, c, x: Tensor,
                       training: bool) -> tuple[Tensor, Tensor | float]:
    """x (B, T, C) → (B, T, C), and the balance loss. Each token goes to its k likeliest experts.

    Their weights sum to 1 where k > 1 (Mixtral); for k = 1 the weight is the probability (Switch).
    In training, an expert has room for factor · T·k/n choices per row. The room is filled in the
    order of the text, and a token's likelier choice comes first.
    """
    B, T, _ = x.shape
    n, k = c.n_experts, c.experts_per_token
    probability = torch.softmax(linear(P, name + "router.", x), -1)              # (B, T, n)
    weight, chosen = probability.sort(-1, descending=True)
    weight, chosen = weight[..., :k], chosen[..., :k]                            # (B, T, k)
    if k > 1:
        weight = weight / weight.sum(-1, keepdim=True)
    made = torch.stack([dense_mlp(P, f"{name}experts.{e}.", c.expert, x)
                        for e in range(n)], 2)                                   # (B, T, n, C)
    room = (math.ceil(c.capacity_factor * T * k / n)
            if training and c.capacity_factor is not None else T * k)
    share = torch.zeros(B, T, n, dtype=x.dtype, device=x.device)
    for b in range(B):
        taken = [0] * n
        for t in range(T):
            for rank, expert in enumerate(chosen[b, t].tolist()):
                share[b, t, expert] = weight[b, t, rank] * (taken[expert] < room)
                taken[expert] += 1
    added = 0.0
    if training and c.balance_loss:
        choices = torch.stack([(chosen == e).sum() for e in range(n)]) / (B * T)
        added = c.balance_loss * n * (choices * probability.mean((0, 1))).sum()
    return (share.unsqueeze(-1) * made).sum(2), added


# -- the model -------------------------------------------------------------------------------------

def embed(P: dict, c, idx: Tensor) -> Tensor:
    """idx (B, T) → (B, T, C): the token's vector, scaled by embd_scale where it is set, plus the
    position's vector where there is a table."""
    x = P["transformer.wte.weight"][idx]
    if c.embd_scale is not None:
        x = x * (math.sqrt(c.n_embd) if c.embd_scale == "sqrt" else c.embd_scale)
    return x + P["transformer.wpe.weight"][:idx.size(1)] if c.position == "learned" else x


def block(P: dict, layer: int, c, x: Tensor, seen: Tensor,
          training: bool = False) -> tuple[Tensor, Tensor | float]:
    """x (B, T, C), seen (B, T, T) bool → the layer's output (B, T, C), and the term that it adds to
    the loss."""
    name = f"transformer.h.{layer}."

    def normed(which: str, z: Tensor) -> Tensor:
        return norm(P, f"{name}{which}.", c, z)

    def attend(z: Tensor) -> Tensor:
        return attention(P, layer, c, z, seen)

    def think(z: Tensor) -> tuple[Tensor, Tensor | float]:
        return mlp(P, name + "mlp.", c, z, training)
    if c.block == "post":
        x = normed("ln_1", x + attend(x))
        y, added = think(x)
        return normed("ln_2", x + y), added
    if c.block == "parallel":
        y, added = think(normed("ln_1" if c.parallel_norms == 1 else "ln_2", x))
        return x + attend(normed("ln_1", x)) + y, added
    out = attend(normed("ln_1", x))
    x = x + (normed("ln_1_out", out) if c.block == "sandwich" else out)
    y, added = think(normed("ln_2", x))
    return x + (normed("ln_2_out", y) if c.block == "sandwich" else y), added


def seen_keys(patterns: list, c, idx: Tensor) -> list[Tensor]:
    """One mask per layer, (B, T, T) bool: the keys of its pattern, limited to the query's document
    where c.document_end is set."""
    B, T = idx.shape
    together = torch.ones(B, T, T, dtype=torch.bool)
    for b in range(B if c.document_end is not None else 0):
        document = [0]
        for token in idx[b, :-1].tolist():
            # an end token belongs to the document that it ends
            document.append(document[-1] + (token == c.document_end))
        number = torch.tensor(document)
        together[b] = number[:, None] == number[None, :]
    return [(pattern.mask(T) & together).to(idx.device) for pattern in patterns]


def hidden(P: dict, c, patterns: list, idx: Tensor,
           training: bool = False) -> tuple[list[Tensor], Tensor, Tensor]:
    """idx (B, T) → the inputs of every layer and of the final norm, the head's input (B, T, C), and
    the terms that the layers add to the loss."""
    x, inputs, added = embed(P, c, idx), [], 0.0
    for layer, seen in enumerate(seen_keys(patterns, c, idx)):
        inputs.append(x)
        x, more = block(P, layer, c, x, seen, training)
        added = added + more
    return [*inputs, x], final_norm(P, c, x), added


def final_norm(P: dict, c, x: Tensor) -> Tensor:
    """The norm before the head. A post-norm model has none."""
    return x if c.block == "post" else norm(P, "transformer.ln_f.", c, x)


def logits(P: dict, c, x: Tensor) -> Tensor:
    """The head's input x (B, T, C) → (B, T, V), kept below c.logit_softcap where it is set."""
    y = x @ P["lm_head.weight"].T
    return y if c.logit_softcap is None else c.logit_softcap * torch.tanh(y / c.logit_softcap)


# -- the loss --------------------------------------------------------------------------------------

def mean_nats(y: Tensor, targets: Tensor, z_loss: float) -> Tensor:
    """Logits y (B, T, V), targets (B, T) → the mean of −log p(target) + z_loss · log²Z over the
    targets that are not IGNORED."""
    log_z = y.logsumexp(-1)
    nats = log_z - y.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (nats + z_loss * log_z ** 2)[targets != IGNORED].mean()


def later_targets(targets: Tensor, steps: int, document_end: int | None) -> Tensor:
    """targets (B, T) → the targets `steps` positions later (B, T). IGNORED beyond the end of the
    row and, where document_end is set, beyond the end of the document."""
    B, T = targets.shape
    moved = torch.full_like(targets, IGNORED)
    for b in range(B):
        for t in range(T - steps):
            if document_end is None or document_end not in targets[b, t:t + steps].tolist():
                moved[b, t] = targets[b, t + steps]
    return moved


def loss(P: dict, c, patterns: list, idx: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
    """idx, targets (B, T) → the training loss, and the inputs of every layer and of the final
    norm."""
    inputs, x, added = hidden(P, c, patterns, idx, training=True)
    total = mean_nats(logits(P, c, x), targets, c.z_loss) + added
    for steps in range(1, c.n_future):
        y, more = mlp(P, f"future.{steps - 1}.mlp.", c, x, training=True)
        read = norm(P, f"future.{steps - 1}.ln.", c, x + y)
        wanted = later_targets(targets, steps, c.document_end)
        if (wanted != IGNORED).any():
            total = total + c.future_weight * mean_nats(logits(P, c, read), wanted, c.z_loss)
        total = total + more
    return total, inputs
