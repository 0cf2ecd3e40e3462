"""
The sizes that are measured, and what a step of each costs at least.
"""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 50257    # GPT-2's


@dataclass(frozen=True)
class Case:
    """A model and a batch. `family`: "gpt2", or "llama" for rotary positions, SwiGLU and
    RMSNorm."""
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
        """Of a step."""
        return self.batch_size * self.block_size

    @property
    def hidden(self) -> int:
        """Width of the MLP: 4 times the model's, or 8/3 to a multiple of 8: three matrices then
        weigh what two do."""
        return 4 * self.n_embd if self.family == "gpt2" else 8 * round(self.n_embd / 3)

    @property
    def matrices(self) -> int:
        """Weights of all matrix products: four square ones and the MLP's a layer, and the head."""
        mlp = (2 if self.family == "gpt2" else 3) * self.n_embd * self.hidden
        return self.n_layer * (4 * self.n_embd**2 + mlp) + self.vocab_size * self.n_embd

    @property
    def flops(self) -> float:
        """Of a training step: a multiply and an add for every weight of a matrix product and every
        causal score and its value, in the forward once and in the backward twice. One count for all
        who train this size."""
        scores = self.n_layer * 2 * self.n_embd * (self.block_size + 1) / 2
        return 3 * 2 * (self.matrices + scores) * self.tokens

    def megabytes(self, tied: bool) -> float:
        """About what a process that trains it holds: weight, gradient and two moments; logits three
        times over."""
        weights = self.matrices + (0 if tied else self.vocab_size * self.n_embd)
        return 500 + 4 * (4 * weights + 3 * self.tokens * self.vocab_size) / 2**20


CASES = {case.name: case for case in (
    Case("gpt-mini", 6, 6, 192, 256, 8),
    Case("gpt-micro", 4, 4, 128, 128, 16),
    Case("gpt2", 12, 12, 768, 512, 1),
    Case("llama-mini", 6, 6, 192, 256, 8, "llama"),
)}
CUDA_CASES = {case.name: case for case in (
    Case("gpt2", 12, 12, 768, 1024, 12),
    Case("llama", 12, 12, 768, 1024, 12, "llama"),
)}
