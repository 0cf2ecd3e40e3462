"""
Continues held-out text with a trained model: measures how similar the continuation is to the real
one (BLEU), and how fast it is generated.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from experiments.train.evaluate import evaluating
from mingpt.utils import IGNORE_INDEX

TOKENS = 64       # tokens per continuation
ROWS = 16         # rows of held-out text that are continued
PROMPT = 16       # tokens in the prompt of a timed continuation
REPEATS = 3       # timed continuations


def bleu(model: torch.nn.Module, tokenizer, validation, rows: int = ROWS,
         tokens: int = TOKENS) -> dict[str, Any] | None:
    """Corpus BLEU of greedy continuations of the first half of each row, against the text that
    really follows, with sacrebleu's signature. None without sacrebleu, or where no row is long
    enough. sacrebleu: Post 2018, arXiv 1804.08771."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        return None
    written, there = continuations(model, tokenizer, validation, rows, tokens)
    if not there:
        return None
    metric = BLEU()
    score = metric.corpus_score(written, [there])
    return {"score": score.score, "signature": str(metric.get_signature()), "rows": len(there)}


def continuations(model: torch.nn.Module, tokenizer, validation, rows: int,
                  tokens: int = TOKENS) -> tuple[list[str], list[str]]:
    """(the model's continuations of each row's first half, the real ones), of up to `tokens` tokens
    each. Rows that end earlier are left out."""
    start = validation.x.shape[1] // 2
    stop = min(start + tokens, validation.x.shape[1])
    whole = np.flatnonzero((validation.y[:, :stop] != IGNORE_INDEX).all(1))[:rows]
    if not len(whole):
        return [], []
    prompts = torch.from_numpy(validation.x[whole, :start]).to(next(model.parameters()).device)
    with evaluating(model):
        out = model.generate(prompts, stop - start)[:, start:].tolist()
    there = validation.x[whole, start:stop].tolist()
    return ([_text(tokenizer, ids) for ids in out], [_text(tokenizer, ids) for ids in there])


def _text(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode([i for i in ids if i != tokenizer.eot])


def generation_seconds(model: torch.nn.Module, tokens: int = TOKENS) -> float:
    """The median seconds to generate `tokens` tokens greedily after a short prompt."""
    device, length = next(model.parameters()).device, min(PROMPT, model.block_size)
    prompt = torch.randint(model.config.vocab_size, (1, length),
                           generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    with evaluating(model):
        for _ in range(REPEATS + 1):          # the first warms up caches and threads
            begun = time.perf_counter()
            model.generate(prompt, tokens)[0, -1].item()
            times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
