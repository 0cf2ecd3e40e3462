"""
Sampling from a GPT.
"""

import torch
from torch.nn import functional as F


@torch.no_grad()
def generate(model, idx: torch.Tensor, max_new_tokens: int, temperature: float = 1.0, do_sample: bool = False,
             top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Continue idx (B, T) by max_new_tokens tokens → (B, T + max_new_tokens). Call model.eval() first.

    Greedy unless do_sample; then from softmax(logits / temperature) cut to the top_k most likely tokens and to
    the smallest set with probability top_p (nucleus sampling: Holtzman et al. 2019, arXiv 1904.09751).
    """
    for _ in range(max_new_tokens):
        visible = idx[:, -model.block_size:]
        logits = model(visible)[0][:, -1, :]
        idx = torch.cat((idx, next_token(logits, temperature, do_sample, top_k, top_p)), dim=1)
    return idx


def next_token(logits: torch.Tensor, temperature: float, do_sample: bool, top_k: int | None,
               top_p: float | None) -> torch.Tensor:
    """(B, vocab) logits → (B, 1) tokens."""
    if not do_sample:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial(distribution(logits, temperature, top_k, top_p), num_samples=1)


def distribution(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None) -> torch.Tensor:
    """(B, vocab) logits → the probabilities that are sampled from."""
    logits = logits / temperature
    if top_k is not None:
        kth = torch.topk(logits, min(top_k, logits.size(-1))).values[:, [-1]]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        before = F.softmax(ordered, -1).cumsum(-1) - F.softmax(ordered, -1)   # probability of all better tokens
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return F.softmax(logits, dim=-1)
