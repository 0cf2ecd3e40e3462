"""
How a query knows where a key stands: slot `position`.

A member may act in three places, and does nothing in those it does not override:
a table added to the token embeddings, a rotation of queries and keys, a bias on the scores.
"""

import math
import re

import torch
import torch.nn as nn

from mingpt.config import options_of
from mingpt.patterns.kinds import Full
from mingpt.patterns.schedule import pattern_of
from mingpt.utils import BadInput, CfgNode


class NoPosition(nn.Module):
    """No positions at all (NoPE): the causal mask alone breaks the symmetry.
    Kazemnejad et al. 2023, arXiv 2305.19466."""
    options: dict = {}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__()

    @staticmethod
    def table(config: CfgNode) -> nn.Embedding | None:
        """An embedding of positions to add to the tokens', (block_size, C), or None."""
        return None

    def rotate(self, q: torch.Tensor, k: torch.Tensor, start: int = 0) -> tuple[torch.Tensor,
                                                                                torch.Tensor]:
        """(B, nh, T, hs) queries and (B, nkv, T, hs) keys at positions start, start + 1, … → the
        same, turned."""
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
    """Rotates each pair (i, i + r/2) of the first r = `rope_fraction`·hs numbers of a query and a
    key by position · base^(−2i/r), so that their product depends on the distance alone; replaces
    the learned table. Su et al. 2021, arXiv 2104.09864 (half-split layout).

    A share below 1 leaves the rest of a head to meaning alone (GPT-NeoX, arXiv 2204.06745, has
    0.25). Layers whose pattern is not `f` turn by `rope_local_base` where one is given (Gemma 3,
    arXiv 2503.19786, has 10,000 there and 1,000,000 in full layers). `nope_layers` are left without
    positions: "3,7", or "every 4", which are layers 3, 7, 11, … (SmolLM3, Llama 4; arXiv
    2501.18795).
    """
    options = {"rope_base": 10_000.0, "rope_local_base": None, "rope_fraction": 1.0,
               "nope_layers": None}

    def __init__(self, config: CfgNode, layer: int = 0, size: int | None = None):
        super().__init__(config, layer)
        hs = size or head_size(config)
        self.turned = int(hs * config.rope_fraction)
        if not 0 < config.rope_fraction <= 1 or self.turned % 2 or not self.turned:
            share = ("" if config.rope_fraction == 1
                     else f"model.rope_fraction={config.rope_fraction} of ")
            whole = (f"{config.n_embd}/{config.n_head} = {hs}" if size is None
                     and not config.head_dim else str(hs))
            raise BadInput(f"model.position=rope turns pairs: {share}the head size {whole} must be "
                           f"even and not 0")
        frequency = _base(config, layer) ** (-torch.arange(0, self.turned, 2,
                                                           dtype=torch.float64) / self.turned)
        # (block, r/2)
        angle = torch.arange(config.block_size, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, q: torch.Tensor, k: torch.Tensor, start: int = 0) -> tuple[torch.Tensor,
                                                                                torch.Tensor]:
        return self.turn(q, start), self.turn(k, start)

    def turn(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """x (…, T, hs) at positions start, start + 1, … → the same, its first r numbers turned."""
        stop = start + x.size(-2)
        # in float32 also under autocast: angles lose their meaning in bf16
        return _Turn.apply(x.float(), self.cos[start:stop], self.sin[start:stop]).to(x.dtype)


class _Turn(torch.autograd.Function):
    """Turns the pairs of x (…, T, hs) whose angles' cos and sin (T, r/2) has, in four passes over
    half of it. What comes back is turned the other way, which autograd's own record of those passes
    would do in twice the time."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        half = cos.size(-1)
        out = torch.empty_like(x)
        (a, b, rest), (out_a, out_b, out_rest) = (t.split((half, half, t.size(-1) - 2 * half), -1)
                                                  for t in (x, out))
        torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-1)
        torch.mul(b, cos, out=out_b).addcmul_(a, sin)
        out_rest.copy_(rest)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        cos, sin = ctx.saved_tensors
        return _Turn.apply(grad, cos, -sin), None, None


class ALiBi(NoPosition):
    """Subtracts slope · distance from the scores, a slope a head, no parameters.
    Press et al. 2021, arXiv 2108.12409."""
    options = {"nope_layers": None}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        # (nh,)
        self.register_buffer("slope_of_head", torch.tensor(alibi_slopes(config.n_head)),
                             persistent=False)

    @property
    def slopes(self) -> torch.Tensor:
        return self.slope_of_head


def alibi_slopes(n_head: int) -> list[float]:
    """2^(−8/n), 2^(−16/n), … for n a power of two; else those of the power below, then every other
    of the next."""
    floor = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (h + 1) / floor) for h in range(floor)]
    between = [2 ** (-4 * (h + 1) / floor) for h in range(0, 2 * floor, 2)]
    return slopes + between[: n_head - floor]


def head_size(config: CfgNode) -> int:
    """Numbers in a query: `head_dim`, or the width shared out over the heads."""
    if config.head_dim is not None:
        return config.head_dim
    assert config.n_embd % config.n_head == 0
    return config.n_embd // config.n_head


def position_of(config: CfgNode, layer: int) -> NoPosition:
    """The layer's positions: none in those that `nope_layers` names."""
    kind = NoPosition if layer in layers_without(config) else POSITIONS[config.position]
    return kind(config, layer)


def layers_without(config: CfgNode) -> set[int]:
    """The layers that `nope_layers` leaves without positions: "3,7" (or a list, or one number), or
    "every 4"."""
    asked, depth = config.nope_layers, config.n_layer
    if asked is None:
        return set()
    if "nope_layers" not in options_of(POSITIONS[config.position]):
        raise BadInput(f"model.nope_layers={asked!r}: model.position={config.position} does not "
                       f"act in layers; "
                       "use rope or alibi")
    if match := re.fullmatch(r"every ([1-9]\d*)", str(asked)):
        return set(range(int(match[1]) - 1, depth or 0, int(match[1])))
    numbers = re.findall(r"\d+", str(asked))
    if not re.fullmatch(r"[\[(]?\s*\d+(\s*,\s*\d+)*\s*,?\s*[\])]?", str(asked)):
        raise BadInput(f"model.nope_layers={asked!r}: write 3,7 (layers, from 0) or 'every 4' "
                       f"(layers 3, 7, 11, …)")
    layers = {int(n) for n in numbers}
    if depth and max(layers) >= depth:
        raise BadInput(f"model.nope_layers={asked!r}: layer {max(layers)} of {depth}; the last is "
                       f"{depth - 1}")
    return layers


def _base(config: CfgNode, layer: int) -> float:
    if config.rope_local_base is None or isinstance(pattern_of(config, layer), Full):
        return config.rope_base
    return config.rope_local_base


POSITIONS = {"learned": Learned, "rope": RoPE, "alibi": ALiBi, "none": NoPosition}
