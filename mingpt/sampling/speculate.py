"""
Speculative decoding: a cheap draft proposes the next few tokens, and the model reads them all at
once and keeps those that it would have written itself. The draft changes only the speed. Greedy
decoding gives the same text as the model alone, and sampling gives the same distribution. Leviathan
et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318.

    # a smaller model drafts
    tokens, count = speculate(model, idx, 100, ModelDraft(small), do_sample=True, temperature=0.8)
    # the model's own future heads draft (multi_token.py)
    tokens, count = speculate(model, idx, 100, HeadDraft(model))
    count.acceptance, count.tokens_per_pass

It continues one row at a time, because rows would accept different numbers of tokens. Beyond
block_size the model reads a window that moves with each token, so nothing can be read ahead, and
plain sampling takes over.
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
    """How often drafts were accepted. A pass is one forward of the model over a draft and the token
    before it."""
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that the model kept; 0 if there were none."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written per pass: the drafted ones that it accepts, and one of the model's own.
        0 if there were no passes."""
        return (self.accepted + self.passes) / self.passes if self.passes else 0.0


class ModelDraft:
    """Drafts by another model with the same vocabulary, at most `most` tokens at a time. Raises
    BadInput if that model cannot use a cache."""

    def __init__(self, model, most: int = 4):
        self.model, self.most, self.block_size = model, most, model.block_size
        if reason := cannot_cache(model):
            raise BadInput(f"as a draft: {reason}")

    def start(self, length: int) -> None:
        """Begin a text of at most `length` tokens."""
        self.cache = Cache(self.model, 1, length, slack=self.most + 1)

    def draft(self, tokens: Tensor, x: Tensor, n: int, choice: Choice) -> tuple[Tensor, Tensor]:
        """Draft n tokens: returns them, (n,), and the probabilities that each was drawn from, (n,
        vocab). `tokens` (1, T) is the text so far. `x` (C,) is what the model's head read to write
        the last of them; a ModelDraft does not use it."""
        drawn, chances, feed = [], [], tokens[:, self.cache.length:]
        for _ in range(n):
            logits = read(self.model, feed, self.cache)[1][-1:]
            chances.append(choice(logits))
            drawn.append(torch.multinomial(chances[-1], 1))
            feed = drawn[-1]                                # (1, 1)
        return torch.cat(drawn).view(-1), torch.cat(chances)

    def keep(self, length: int) -> None:
        """Forget all tokens of the text but the first `length`."""
        if self.cache.length > length:
            self.cache.truncate(length)


class HeadDraft:
    """Drafts by the model's own future heads. It needs no second model and no extra pass. Raises
    BadInput if the model has no future heads."""

    def __init__(self, model):
        self.model, self.most, self.block_size = model, len(model.future), model.block_size
        if not self.most:
            raise BadInput("model.n_future=1: the model has no future heads to draft with; train "
                           "it with --model.n_future=4, or give another run as the draft")

    def start(self, length: int) -> None:
        """Begin a text. There is nothing to do."""

    def draft(self, tokens: Tensor, x: Tensor, n: int, choice: Choice) -> tuple[Tensor, Tensor]:
        """Draft n tokens, as ModelDraft.draft does. Each head predicts one of the tokens after the
        last, without knowing what the other heads drafted."""
        expected = torch.stack([head(x[None, None])[0, 0] for head in list(self.model.future)[:n]])
        chances = choice(soft_cap(self.model.lm_head(expected), self.model.softcap))
        return torch.multinomial(chances, 1).view(-1), chances

    def keep(self, length: int) -> None:
        """Forget tokens. There is nothing to do."""


def speculate(model, idx: Tensor, max_new_tokens: int, draft: ModelDraft | HeadDraft,
              temperature: float = 1.0, do_sample: bool = False, top_k: int | None = None,
              top_p: float | None = None) -> tuple[Tensor, Count]:
    """`generate` with drafts: idx (1, T) → (1, T + max_new_tokens), and a Count of what was
    accepted. Call model.eval() first. Raises BadInput for more than one row, a model that cannot
    use a cache, a draft with another vocabulary, or options that `check_sampling` rejects."""
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
    tokens = tokens.clone()         # a clone made outside inference mode can be trained on
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
    """Continue tokens (1, T) to a text of `end` tokens, which is at most block_size."""
    count = Count()
    if tokens.size(1) >= end:
        return tokens, count
    cache = Cache(model, 1, end, slack=draft.most + 1)
    draft.start(min(end, draft.block_size))
    x, logits = read(model, tokens, cache)
    tokens = torch.cat((tokens, torch.multinomial(choice(logits[-1:]), 1)), 1)
    x = x[-1]                                   # (C,): what the head read to write the last token
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
    """Feed tokens (1, n), which continue the cached ones. Returns what the model's head reads, (n,
    C), and the logits (n, vocab)."""
    pieces = tokens.split(max(1, cache.at_once()), dim=1)
    x = torch.cat([model.hidden(piece, cache) for piece in pieces], 1)[0]       # (n, C)
    return x, soft_cap(model.lm_head(x), model.softcap)


def accepted(drawn: Tensor, chances: Tensor, wanted: Tensor) -> Tensor:
    """The tokens to write: the first few drafted ones, and one more. Each token that is written is
    distributed as the model wants it.

    drawn (n,) are the drafted tokens, drawn from the probabilities chances (n, vocab). The model
    would draw from wanted (n + 1, vocab). A drafted token is kept with probability min(1, wanted /
    chance). The first one that is not kept is replaced by a token drawn from max(0, wanted −
    chances), which favours what the draft gave too little chance. If all n are kept, one more token
    is drawn from wanted.
    """
    n = len(drawn)
    index = drawn[:, None]
    keep = (torch.rand(n, 1, device=drawn.device) * chances.gather(1, index)
            < wanted[:n].gather(1, index))                                      # (n, 1)
    kept = int(keep.view(-1).long().cumprod(0).sum())
    last = wanted[kept] if kept == n else leftover(wanted[kept], chances[kept])
    return torch.cat((drawn[:kept], torch.multinomial(last, 1)))


def leftover(wanted: Tensor, chances: Tensor) -> Tensor:
    """(vocab,) probabilities: max(0, wanted − chances), scaled to sum to 1. It is only called for a
    token that was not kept, so there is something left, except for rounding errors."""
    rest = (wanted - chances).clamp(min=0)
    return rest / rest.sum() if rest.sum() > 0 else wanted      # only rounding errors are left
