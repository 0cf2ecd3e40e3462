"""
Speculative decoding: something cheap drafts the next few tokens, and the model reads them all at
once and keeps those that it would have written itself. Greedy, the text is the model's own;
sampled, its distribution is the model's own, whatever the draft. Leviathan et al. 2022, arXiv
2211.17192; Chen et al. 2023, arXiv 2302.01318.

    tokens, count = speculate(model, idx, 100, ModelDraft(small), do_sample=True, temperature=0.8)
    # by its own future heads (multi_token.py)
    tokens, count = speculate(model, idx, 100, HeadDraft(model))
    count.acceptance, count.tokens_a_pass

One row at a time: rows would accept different numbers. Beyond block_size the model reads a window
that moves with each token, and nothing can be read ahead: there plain sampling goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mingpt.losses import soft_cap
from mingpt.sampling.cache import Cache, cannot_cache
from mingpt.sampling.generate import check_sampling, distribution, generate
from mingpt.utils import BadInput

Choice = Callable[[Tensor], Tensor]  # logits (n, vocab) → the probabilities that are sampled from


@dataclass
class Count:
    """What drafting brought. A pass is one forward of the model over a draft and the token before
    it."""
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that were kept."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_a_pass(self) -> float:
        """Every pass keeps what it accepts and adds one token of the model's own."""
        return (self.accepted + self.passes) / self.passes if self.passes else 0.0


class ModelDraft:
    """Drafts by another model with the same tokens, `most` at a time."""

    def __init__(self, model, most: int = 4):
        self.model, self.most, self.block_size = model, most, model.block_size
        if reason := cannot_cache(model):
            raise BadInput(f"as a draft: {reason}")

    def start(self, length: int) -> None:
        """A text of at most `length` tokens begins."""
        self.cache = Cache(self.model, 1, length, slack=self.most + 1)

    def draft(self, tokens: Tensor, x: Tensor, n: int, choice: Choice) -> tuple[Tensor, Tensor]:
        """tokens (1, T) so far, the model's x (C,) before the last of them → n tokens (n,), and the
        probabilities each was drawn from (n, vocab)."""
        drawn, chances, feed = [], [], tokens[:, self.cache.length:]
        for _ in range(n):
            logits = read(self.model, feed, self.cache)[1][-1:]
            chances.append(choice(logits))
            drawn.append(torch.multinomial(chances[-1], 1))
            feed = drawn[-1]                                # (1, 1)
        return torch.cat(drawn).view(-1), torch.cat(chances)

    def keep(self, length: int) -> None:
        """Of the text only the first `length` tokens stand."""
        if self.cache.length > length:
            self.cache.truncate(length)


class HeadDraft:
    """Drafts by the model's own future heads: no second model, and no pass of its own."""

    def __init__(self, model):
        self.model, self.most, self.block_size = model, len(model.future), model.block_size
        if not self.most:
            raise BadInput("model.n_future=1: there are no heads to draft with; train with "
                           "--model.n_future=4, or give "
                           "another run as the draft")

    def start(self, length: int) -> None:
        """As ModelDraft's; here there is nothing to keep."""

    def draft(self, tokens: Tensor, x: Tensor, n: int, choice: Choice) -> tuple[Tensor, Tensor]:
        """As ModelDraft's: what the heads expect behind the last token, each without knowing what
        the others said."""
        expected = torch.stack([head(x[None, None])[0, 0] for head in list(self.model.future)[:n]])
        chances = choice(soft_cap(self.model.lm_head(expected), self.model.softcap))
        return torch.multinomial(chances, 1).view(-1), chances

    def keep(self, length: int) -> None:
        """As ModelDraft's."""


def speculate(model, idx: Tensor, max_new_tokens: int, draft: ModelDraft | HeadDraft,
              temperature: float = 1.0, do_sample: bool = False, top_k: int | None = None,
              top_p: float | None = None) -> tuple[Tensor, Count]:
    """`generate` by drafts: idx (1, T) → (1, T + max_new_tokens), and what the drafts brought. Call
    eval() first."""
    _check(model, idx, draft)
    check_sampling(temperature, do_sample, top_k, top_p)

    def choice(logits: Tensor) -> Tensor:
        if do_sample:
            return distribution(logits, temperature, top_k, top_p)
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    end = idx.size(1) + max_new_tokens
    with torch.inference_mode():
        tokens, count = _within_block(model, idx, min(end, model.block_size), draft, choice)
    left = end - tokens.size(1)
    tokens = tokens.clone()         # outside inference mode
    return (generate(model, tokens, left, temperature, do_sample, top_k, top_p) if left
            else tokens), count


def _check(model, idx: Tensor, draft: ModelDraft | HeadDraft) -> None:
    if reason := cannot_cache(model):
        raise BadInput(reason)
    if len(idx) != 1:
        raise BadInput(f"speculate continues one row at a time, not {len(idx)}")
    if draft.model.config.vocab_size != model.config.vocab_size:
        raise BadInput(f"the draft has {draft.model.config.vocab_size:,} tokens and the model "
                       f"{model.config.vocab_size:,}: both need the same tokenizer")


def _within_block(model, tokens: Tensor, end: int, draft: ModelDraft | HeadDraft,
                  choice: Choice) -> tuple[Tensor, Count]:
    """Continue (1, T) up to `end` tokens, at most block_size of them."""
    count = Count()
    if tokens.size(1) >= end:
        return tokens, count
    cache = Cache(model, 1, end, slack=draft.most + 1)
    draft.start(min(end, draft.block_size))
    x, logits = read(model, tokens, cache)
    tokens = torch.cat((tokens, torch.multinomial(choice(logits[-1:]), 1)), 1)
    x = x[-1]                                   # what the head read before the last token
    while (T := tokens.size(1)) < end:
        n = max(0, min(draft.most, end - T - 1, draft.block_size - T))
        drawn, chances = draft.draft(tokens, x, n, choice) if n else (tokens[0, :0], logits[:0])
        x, logits = read(model, torch.cat((tokens[:, -1:], drawn[None]), 1), cache)
        new = accepted(drawn, chances, choice(logits))
        count = Count(count.passes + 1, count.drafted + n, count.accepted + len(new) - 1)
        tokens = torch.cat((tokens, new[None]), 1)
        x = x[len(new) - 1]
        cache.truncate(T + len(new) - 1)
        draft.keep(T + len(new) - 1)
    return tokens, count


def read(model, tokens: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
    """Feed tokens (1, n) behind those of the cache → what the head reads (n, C), and the logits (n,
    vocab)."""
    pieces = tokens.split(max(1, cache.at_once()), dim=1)
    x = torch.cat([model.hidden(piece, cache) for piece in pieces], 1)[0]
    return x, soft_cap(model.lm_head(x), model.softcap)


def accepted(drawn: Tensor, chances: Tensor, wanted: Tensor) -> Tensor:
    """Tokens (n,) drawn from chances (n, vocab), where the model would draw from wanted (n + 1,
    vocab) → those kept, the first few, and one more: each token is distributed as wanted.

    A token is kept with probability min(1, wanted / chance). The first that is not is replaced by
    one from what the draft gave too little chance to, max(0, wanted − chances); behind n kept ones
    stands one more of the model's own.
    """
    n = len(drawn)
    index = drawn[:, None]
    keep = torch.rand(n, 1, device=drawn.device) * chances.gather(1, index) < wanted[:n].gather(
        1, index
    )
    kept = int(keep.view(-1).long().cumprod(0).sum())
    last = wanted[kept] if kept == n else leftover(wanted[kept], chances[kept])
    return torch.cat((drawn[:kept], torch.multinomial(last, 1)))


def leftover(wanted: Tensor, chances: Tensor) -> Tensor:
    """(vocab,) what is wanted beyond what the draft gave, as probabilities; only ever asked for
    where there is some."""
    rest = (wanted - chances).clamp(min=0)
    return rest / rest.sum() if rest.sum() > 0 else wanted      # nothing but rounding is left
