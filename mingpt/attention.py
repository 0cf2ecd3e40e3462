"""
Who makes the queries, keys and values: slot `attention`. (B, T, C) → (B, T, C).
"""

import torch
import torch.nn as nn

from mingpt.attend import make_backend
from mingpt.layer_schedules import parse_schedule
from mingpt.mlps import dropout, residual_output
from mingpt.norms import RMSNorm
from mingpt.patterns import Pattern
from mingpt.positions import POSITIONS
from mingpt.utils import CfgNode


class CausalSelfAttention(nn.Module):
    """GPT-2's multi-head attention: every head has queries, keys and values of its own, made in one projection.

    `qk_norm` divides queries and keys by their length first, so that scores stay bounded (Henry et al. 2020,
    arXiv 2010.04245). `pattern` is the schedule's for this layer: which keys a query may see.
    """
    options = {"qk_norm": False}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__()
        assert config.n_embd % config.n_head == 0
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = residual_output(config.n_embd, config.n_embd, config.bias)
        self.attn_dropout = dropout(config.attn_pdrop)
        self.resid_dropout = dropout(config.resid_pdrop)
        self.n_head = config.n_head
        self.n_embd = config.n_embd
        self.position = POSITIONS[config.position](config)
        self.pattern = pattern_of(config, layer)
        self.attend = make_backend(self.pattern, config, biased=self.position.slopes is not None)
        head_norm = RMSNorm if config.qk_norm else _no_norm
        self.q_norm = head_norm(config.n_embd // config.n_head, config)
        self.k_norm = head_norm(config.n_embd // config.n_head, config)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """allowed (B, 1, T, T) narrows the keys that a query may see, as a document mask does."""
        B, T, C = x.size()
        heads = (B, T, self.n_head, C // self.n_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).split(self.n_embd, dim=2))
        q, k = self.position.rotate(self.q_norm(q), self.k_norm(k))      # (B, nh, T, hs)
        y = self.attend(q, k, v, slopes=self.position.slopes, allowed=allowed, dropout_p=self.dropout_p)
        y = y.transpose(1, 2).reshape(B, T, C)                           # the heads side by side again
        return self.resid_dropout(self.c_proj(y))

    @property
    def dropout_p(self) -> float:
        """The share of attention weights dropped now: none when evaluating."""
        return getattr(self.attn_dropout, "p", 0.0) if self.training else 0.0

    def score_flops(self, T: int, pattern: Pattern | None = None) -> float:
        """FLOPs a token of a forward's scores and weighted sums: two products with every key that the pattern (another
        one, if given) has for a query, on average over T."""
        return 2 * 2 * self.n_embd * (pattern or self.pattern).count(T) / T

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        state_dict.pop(prefix + "bias", None)          # minGPT saved its causal mask under this name
        super()._load_from_state_dict(state_dict, prefix, *args)


def pattern_of(config: CfgNode, layer: int) -> Pattern:
    """The schedule's pattern for a layer. Without a number of layers, as in a part built by itself, there is one more
    than that."""
    return parse_schedule(config.schedule, config.n_layer or layer + 1)[layer]


def _no_norm(dim: int, config: CfgNode) -> nn.Module:
    return nn.Identity()


ATTENTIONS = {"mha": CausalSelfAttention}
