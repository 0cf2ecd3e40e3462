"""
Sampling from a GPT.

The model reads the prompt once, then one token at a time, with a key/value cache (cache.py).

Beyond block_size tokens, the model reads the last block_size tokens, as minGPT does. The first of
them then stands at position 0 and sees nothing before it. This changes the keys and values of every
token, so the cached ones are wrong, and all block_size positions are recomputed for each further
token. With some windows and relative positions, a prediction depends on fewer tokens (`context`).
Then only that many are recomputed when the cache is full, and the next block_size − context tokens
cost one position each again. The tokens drawn are the same in every case.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mingpt.sampling.cache import Cache, advance, cannot_cache
from mingpt.utils import BadInput


def generate(model, idx: torch.Tensor, max_new_tokens: int, temperature: float = 1.0,
             do_sample: bool = False, top_k: int | None = None,
             top_p: float | None = None) -> torch.Tensor:
    """Continue idx (B, T) by max_new_tokens tokens → (B, T + max_new_tokens). Call model.eval()
    first.

    Without do_sample, each token is the most likely one (greedy). With do_sample, it is drawn from
    softmax(logits / temperature), cut to the top_k most likely tokens and to the smallest set with
    probability top_p (nucleus sampling: Holtzman et al. 2019, arXiv 1904.09751). Raises BadInput
    for a temperature, top_k or top_p from which nothing can be drawn.
    """
    check_sampling(temperature, do_sample, top_k, top_p)
    T = idx.size(1)
    # Made outside inference mode: a tensor made inside could not be trained on.
    tokens = torch.cat((idx, idx.new_zeros(idx.size(0), max_new_tokens)), dim=1)
    with torch.inference_mode():
        reader = (Recomputing(model) if cannot_cache(model)
                  else Reading(model, len(idx), T + max_new_tokens - 1))
        for n in range(T, T + max_new_tokens):
            tokens[:, n:n + 1] = next_token(reader(tokens[:, :n]), temperature, do_sample, top_k,
                                            top_p)
    return tokens


def check_sampling(temperature: float, do_sample: bool, top_k: int | None,
                   top_p: float | None) -> None:
    """Raise BadInput if no distribution can be made from these options. Greedy decoding uses none
    of them, so it accepts any."""
    if not do_sample:
        return
    if not 0 < temperature < math.inf:
        raise BadInput(f"temperature={temperature}: give a number above 0, or do_sample=False to "
                       f"be greedy")
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k={top_k}: give 1 or more, or None for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadInput(f"top_p={top_p}: give a probability above 0 up to 1, or None for all tokens")


class Recomputing:
    """A reader of tokens without a cache: tokens (B, n) → the logits of the next token, (B, vocab).
    Every call recomputes the last block_size tokens."""

    def __init__(self, model):
        self.model = model

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens[:, -self.model.block_size:])[0][:, -1]


class Reading:
    """A reader of tokens with a cache: tokens (B, n) → the logits of the next token, (B, vocab).
    Each call's tokens must begin with those of the call before; only the new ones are computed."""

    def __init__(self, model, batch: int, length: int):
        # self.first is the index in the text of the first token that the cache holds
        self.model, self.first = model, 0
        self.cache = Cache(model, batch, length) if length > 0 else None
        self.context = context(model)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        n, cache = tokens.size(1), self.cache
        if n - self.first > cache.capacity:
            self.first = n - (self.context if cache.length else cache.capacity)
            cache.reset()
        return advance(self.model, tokens[:, self.first + cache.length:], cache, last=True)[:, -1]


def context(model) -> int:
    """How many of the last tokens decide the next one, whatever their positions. It is block_size
    if positions are absolute or a pattern depends on them."""
    patterns = [block.attn.pattern for block in model.transformer.h]
    if model.transformer.wpe is not None or not all(pattern.relative for pattern in patterns):
        return model.block_size
    return min(model.block_size, 1 + sum(pattern.reach(model.block_size) for pattern in patterns))


def next_token(logits: torch.Tensor, temperature: float, do_sample: bool, top_k: int | None,
               top_p: float | None) -> torch.Tensor:
    """The next token of each row: (B, vocab) logits → (B, 1) tokens. See `generate` for the
    options."""
    if not do_sample:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial(distribution(logits, temperature, top_k, top_p), num_samples=1)


def distribution(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None) -> torch.Tensor:
    """The probabilities to sample from: (B, vocab) logits → (B, vocab). See `generate` for the
    options. On a CPU, BadInput where they do not exist; a GPU would have to be waited for."""
    if logits.is_cpu and not logits.amax(-1).isfinite().all():
        raise BadInput("the model's logits are not finite, so no token can be drawn: its weights "
                       "are not finite, or too large")
    logits = logits / temperature
    if top_k is not None:
        kth = torch.topk(logits, min(top_k, logits.size(-1))).values[:, [-1]]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        # the total probability of the more likely tokens
        before = F.softmax(ordered, -1).cumsum(-1) - F.softmax(ordered, -1)
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return F.softmax(logits, dim=-1)
