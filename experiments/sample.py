"""
Text from a trained model.
"""

from __future__ import annotations

import torch

from experiments.evaluate import evaluating


def continue_text(model: torch.nn.Module, tokenizer, prompt: str, tokens: int, *, temperature: float = 1.0,
                  top_k: int | None = None, top_p: float | None = None, samples: int = 1,
                  seed: int = 0) -> list[str]:
    """The prompt continued by `tokens` tokens, `samples` times. Temperature 0 is greedy. An empty prompt is the
    beginning of a document."""
    ids = list(tokenizer.encode_batch([prompt])[0]) if prompt else [tokenizer.eot]
    device = next(model.parameters()).device
    idx = torch.tensor([[int(i) for i in ids]] * samples, dtype=torch.long, device=device)
    torch.manual_seed(seed)
    with evaluating(model):
        out = model.generate(idx, tokens, temperature=temperature or 1.0, do_sample=temperature > 0, top_k=top_k,
                             top_p=top_p)
    return [tokenizer.decode([i for i in row if i != tokenizer.eot]) for row in out.tolist()]
