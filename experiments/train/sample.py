"""
Generates text with a trained model.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from experiments.train.evaluate import evaluating
from mingpt.utils import BadInput

WARM_UP = 8     # tokens generated before anything is timed
# How the sample at a run's end is drawn. It is the same for every arm, so that samples compare.
FINAL = {"temperature": 0.8, "top_k": 50}


def continue_text(model: torch.nn.Module, tokenizer, prompt: str, tokens: int, *,
                  temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
                  samples: int = 1, seed: int = 0) -> list[str]:
    """Continue the prompt by `tokens` tokens, `samples` times, and return the texts. Temperature 0
    is greedy. An empty prompt means the beginning of a document."""
    idx = _encoded(model, tokenizer, prompt).expand(samples, -1)
    torch.manual_seed(seed)
    with evaluating(model):
        out = model.generate(idx, tokens, **_options(temperature, top_k, top_p))
    return [_decoded(tokenizer, row) for row in out]


def final_sample(model: torch.nn.Module, tokenizer, limits: Any, seed: int) -> dict[str, Any]:
    """Return the sample at a run's end, for its record: run.sample_prompt continued by the trained
    model, and how it was drawn."""
    drawn = {"prompt": limits.sample_prompt, "tokens": limits.sample_tokens, **FINAL}
    (text,) = continue_text(model, tokenizer, limits.sample_prompt, limits.sample_tokens,
                            seed=seed, **FINAL)
    return {**drawn, "seed": seed, "text": text}


def continue_by_drafts(model: torch.nn.Module, tokenizer, prompt: str, tokens: int, draft: Any, *,
                       temperature: float = 1.0, top_k: int | None = None,
                       top_p: float | None = None, samples: int = 1,
                       seed: int = 0) -> tuple[list[str], dict[str, float]]:
    """The same with speculative drafts (mingpt/sampling/speculate.py). Returns (texts, counts): the
    drafted tokens, the acceptance, tokens per pass of the model, and the seconds with and without
    drafts, measured one after the other."""
    from mingpt.sampling.speculate import Count, speculate
    idx, options = _encoded(model, tokenizer, prompt), _options(temperature, top_k, top_p)
    texts, total, seconds, plain = [], Count(), 0.0, 0.0
    torch.manual_seed(seed)
    with evaluating(model), evaluating(draft.model):
        speculate(model, idx, WARM_UP, draft, **options)
        model.generate(idx, WARM_UP, **options)
        for _ in range(samples):
            begun = time.perf_counter()
            row, count = speculate(model, idx, tokens, draft, **options)
            drafted = time.perf_counter()
            model.generate(idx, tokens, **options)
            seconds, plain = seconds + drafted - begun, plain + time.perf_counter() - drafted
            total = Count(*(getattr(total, n) + getattr(count, n)
                            for n in ("passes", "drafted", "accepted")))
            texts.append(_decoded(tokenizer, row[0]))
    return texts, {"drafted": total.drafted, "acceptance": total.acceptance,
                   "tokens_per_pass": total.tokens_per_pass,
                   "seconds": seconds, "seconds_without": plain, "speed_up": plain / seconds}


def _encoded(model: torch.nn.Module, tokenizer, prompt: str) -> torch.Tensor:
    """The prompt's tokens on the model's device, (1, T)."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadInput("--prompt: it is not UTF-8 text") from None
    ids = list(tokenizer.encode_batch([prompt])[0]) if prompt else [tokenizer.eot]
    return torch.tensor([[int(i) for i in ids]], dtype=torch.long,
                        device=next(model.parameters()).device)


def _decoded(tokenizer, row: torch.Tensor) -> str:
    return tokenizer.decode([i for i in row.tolist() if i != tokenizer.eot])


def _options(temperature: float, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    return {"temperature": temperature or 1.0, "do_sample": temperature > 0, "top_k": top_k,
            "top_p": top_p}
