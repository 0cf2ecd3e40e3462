"""
To and from Hugging Face checkpoints.
"""

import math

import torch
import torch.nn as nn

# openai's checkpoints use a "Conv1D" module, whose weight is nn.Linear's transposed
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")   # causal masks that older versions kept; the dot: c_attn.bias is a weight


class UnfusedGELU(nn.Module):
    """NewGELU in separate operations, as Hugging Face's GPT-2 computes it. The fused kernel differs in the last bit,
    and that is more than 1e-5 of a logit that is nearly zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


@torch.no_grad()
def load_gpt2(cls, model_type: str):
    """A GPT with the weights of `GPT2LMHeadModel.from_pretrained(model_type)`; its logits are the same."""
    assert model_type in {'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'}
    from transformers import GPT2LMHeadModel
    theirs = GPT2LMHeadModel.from_pretrained(model_type)
    config = cls.get_default_config()
    config.model_type = None
    config.n_layer, config.n_head, config.n_embd = theirs.config.n_layer, theirs.config.n_head, theirs.config.n_embd
    config.vocab_size, config.block_size = theirs.config.vocab_size, theirs.config.n_positions
    config.norm_eps = theirs.config.layer_norm_epsilon
    model = cls(config)
    copy_gpt2(model, theirs.state_dict())
    for block in model.transformer.h:
        block.mlp.act = UnfusedGELU()
    return model


@torch.no_grad()
def copy_gpt2(model, state: dict[str, torch.Tensor]) -> None:
    """Copy a GPT-2 state dict in Hugging Face's layout into a GPT of the same shape."""
    ours = model.state_dict()
    names = [name for name in state if not name.endswith(MASKS)]
    assert set(names) == set(ours), f"weights without a counterpart: {sorted(set(names) ^ set(ours))}"
    for name in names:
        weight = state[name].t() if name.endswith(TRANSPOSED) else state[name]
        assert weight.shape == ours[name].shape, f"{name}: {tuple(weight.shape)}, not {tuple(ours[name].shape)}"
        ours[name].copy_(weight)
