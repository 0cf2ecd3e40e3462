"""
The sizes that are measured, and the least FLOPs and memory that a step of each needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.train.process import MB

VOCABULARY = 50257    # GPT-2's


@dataclass(frozen=True)
class Case:
    """A model and a batch.

    `family` is "gpt2", or "llama" for rotary positions, SwiGLU and RMSNorm.
    """
    name: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int
    family: str = "gpt2"
    vocab_size: int = VOCABULARY

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.block_size

    @property
    def hidden(self) -> int:
        """Width of the MLP: 4 · n_embd, or 8/3 · n_embd rounded to a multiple of 8 for "llama".

        Three matrices of that width have about as many weights as two of width 4 · n_embd.
        """
        return 4 * self.n_embd if self.family == "gpt2" else 8 * round(self.n_embd / 3)

    @property
    def matrices(self) -> int:
        """Weights in all matrix products: per layer four square matrices and the MLP; the head."""
        mlp = (2 if self.family == "gpt2" else 3) * self.n_embd * self.hidden
        return self.n_layer * (4 * self.n_embd**2 + mlp) + self.vocab_size * self.n_embd

    @property
    def flops(self) -> float:
        """FLOPs per training step, counted in the same way for all who train this size.

        A token costs one multiply and one add per weight of a matrix product, per element of a
        causal score and per element of its weighted value. The backward costs twice the forward.
        """
        scores = self.n_layer * 2 * self.n_embd * (self.block_size + 1) / 2
        return 3 * 2 * (self.matrices + scores) * self.tokens

    def megabytes(self, tied: bool) -> float:
        """A rough estimate of the memory of a process that trains this size.

        It holds each weight, its gradient and two moments, and three copies of the logits.
        """
        weights = self.matrices + (0 if tied else self.vocab_size * self.n_embd)
        return 500 + 4 * (4 * weights + 3 * self.tokens * self.vocab_size) / MB


CASES = {case.name: case for case in (
    Case("laptop", 4, 4, 64, 128, 16, vocab_size=256),
    Case("gpt-mini", 6, 6, 192, 256, 8),
    Case("gpt-micro", 4, 4, 128, 128, 16),
    Case("gpt2", 12, 12, 768, 512, 1),
    Case("llama-mini", 6, 6, 192, 256, 8, "llama"),
)}
CUDA_CASES = {case.name: case for case in (
    Case("gpt2", 12, 12, 768, 1024, 12),
    Case("llama", 12, 12, 768, 1024, 12, "llama"),
)}
