"""
How a query knows where a key stands: slot `position`.

A member may act in three places, and does nothing in those it does not override:
a table added to the token embeddings, a rotation of queries and keys, a bias on the scores.
"""

import math

import torch
import torch.nn as nn

from mingpt.utils import BadInput, CfgNode


class NoPosition(nn.Module):
    """No positions at all (NoPE): the causal mask alone breaks the symmetry.
    Kazemnejad et al. 2023, arXiv 2305.19466."""
    options: dict = {}

    def __init__(self, config: CfgNode):
        super().__init__()

    @staticmethod
    def table(config: CfgNode) -> nn.Embedding | None:
        """An embedding of positions to add to the tokens', (block_size, C), or None."""
        return None

    def rotate(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, nh, T, hs) queries and keys → the same, turned by their positions."""
        return q, k

    @property
    def slopes(self) -> torch.Tensor | None:
        """(nh,): slope · (i − j) is taken from the scores of query i and key j; or None."""
        return None


class Learned(NoPosition):
    """GPT-2's: a learned vector a position, added once to the token embeddings."""

    @staticmethod
    def table(config: CfgNode) -> nn.Embedding:
        return nn.Embedding(config.block_size, config.n_embd)


class RoPE(NoPosition):
    """Rotates each pair (i, i + hs/2) of a query and a key by position · base^(−2i/hs), so that their product
    depends on the distance alone; replaces the learned table. Su et al. 2021, arXiv 2104.09864 (half-split layout).
    """
    options = {"rope_base": 10_000.0}

    def __init__(self, config: CfgNode):
        super().__init__(config)
        hs = config.n_embd // config.n_head
        if hs % 2:
            raise BadInput(f"model.position=rope turns pairs: the head size {config.n_embd}/{config.n_head} = {hs} "
                           "must be even")
        frequency = config.rope_base ** (-torch.arange(0, hs, 2, dtype=torch.float64) / hs)   # (hs/2,)
        angle = torch.arange(config.block_size, dtype=torch.float64)[:, None] * frequency     # (block, hs/2)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._turn(q), self._turn(k)

    def _turn(self, x: torch.Tensor) -> torch.Tensor:
        T = x.size(-2)
        cos, sin = self.cos[:T], self.sin[:T]       # (T, hs/2)
        a, b = x.float().chunk(2, dim=-1)           # angles lose their meaning in bf16
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class ALiBi(NoPosition):
    """Subtracts slope · distance from the scores, a slope a head, no parameters.
    Press et al. 2021, arXiv 2108.12409."""

    def __init__(self, config: CfgNode):
        super().__init__(config)
        self.register_buffer("slope_of_head", torch.tensor(alibi_slopes(config.n_head)), persistent=False)   # (nh,)

    @property
    def slopes(self) -> torch.Tensor:
        return self.slope_of_head


def alibi_slopes(n_head: int) -> list[float]:
    """2^(−8/n), 2^(−16/n), … for n a power of two; else those of the power below, then every other of the next."""
    floor = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (h + 1) / floor) for h in range(floor)]
    between = [2 ** (-4 * (h + 1) / floor) for h in range(0, 2 * floor, 2)]
    return slopes + between[: n_head - floor]


POSITIONS = {"learned": Learned, "rope": RoPE, "alibi": ALiBi, "none": NoPosition}
