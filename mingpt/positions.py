"""
Slot `position`: how a query knows where a key stands.

A member can act in three places: a table that is added to the token embeddings, a rotation of
queries and keys, and a bias on the scores. It does nothing in the places that it does not override.
"""

import math
import re

import torch
import torch.nn as nn

from mingpt.config import options_of
from mingpt.layers import Embedding
from mingpt.patterns.kinds import Full
from mingpt.patterns.schedule import pattern_of
from mingpt.utils import BadInput, CfgNode


class NoPosition(nn.Module):
    """No positions (NoPE): only the causal mask tells the model about order. Kazemnejad et al.
    2023, arXiv 2305.19466. The other members derive from this one."""
    options: dict = {}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__()

    @staticmethod
    def table(config: CfgNode) -> nn.Embedding | None:
        """The embedding of positions that is added to the token embeddings, (block_size, C), or
        None."""
        return None

    def rotate(self, q: torch.Tensor, k: torch.Tensor,
               start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """q (B, nh, T, hs) and k (B, nkv, T, hs) at positions start, start + 1, … → the same
        shapes, rotated."""
        return q, k

    @property
    def slopes(self) -> torch.Tensor | None:
        """(nh,) or None: slope · (i − j) is subtracted from the score of query i and key j."""
        return None


class Learned(NoPosition):
    """GPT-2's positions: one learned vector per position, added to the token embeddings."""

    @staticmethod
    def table(config: CfgNode) -> nn.Embedding:
        """A learned table (block_size, C)."""
        return Embedding(config.block_size, config.n_embd)


class RoPE(NoPosition):
    """Rotary positions: queries and keys are rotated, so that position enters their product only
    through the distance between them. There is no learned table. Su et al. 2021, arXiv 2104.09864
    (half-split layout).

    Of each head, the first r = `rope_fraction`·hs numbers are rotated: the pair (i, i + r/2) by the
    angle position · base^(−2i/r). With a fraction below 1, the rest of the head carries no position
    (GPT-NeoX, arXiv 2204.06745, has 0.25). If `rope_local_base` is given, it is the base in layers
    whose attention pattern is not full (Gemma 3, arXiv 2503.19786, has 10,000 there and 1,000,000
    in full layers). The layers in `nope_layers` have no positions: "3,7", or "every 4", which is
    layers 3, 7, 11, … (SmolLM3, Llama 4; arXiv 2501.18795). `size` replaces head_size(config) as
    hs.
    """
    options = {"rope_base": 10_000.0, "rope_local_base": None, "rope_fraction": 1.0,
               "nope_layers": None}

    def __init__(self, config: CfgNode, layer: int = 0, size: int | None = None):
        super().__init__(config, layer)
        hs = size or head_size(config)
        self.r = int(hs * config.rope_fraction)      # the numbers of a head that are rotated
        if not 0 < config.rope_fraction <= 1 or self.r % 2 or not self.r:
            share = ("" if config.rope_fraction == 1
                     else f"model.rope_fraction={config.rope_fraction} of ")
            whole = (f"{config.n_embd}/{config.n_head} = {hs}" if size is None
                     and not config.head_dim else str(hs))
            raise BadInput(f"model.position=rope rotates pairs of numbers: {share}the head size "
                           f"{whole} must be even and not 0")
        cos, sin = _tables(config.block_size, self.r, _base(config, layer))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rotate(self, q: torch.Tensor, k: torch.Tensor,
               start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """q (B, nh, T, hs) and k (B, nkv, T, hs) → the same shapes, both rotated."""
        return self.rotated(q, start), self.rotated(k, start)

    def rotated(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """x (…, T, hs) at positions start, start + 1, … → (…, T, hs), with the first r numbers of
        each head rotated."""
        stop = start + x.size(-2)
        # in float32 also under autocast: bf16 is too coarse for angles
        return _Rotation.apply(x.float(), self.cos[start:stop], self.sin[start:stop]).to(x.dtype)


def _tables(length: int, r: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines of the angles position · base^(−2n/r), each (length, r/2)."""
    if torch.get_default_device().type == "meta":
        # no numbers: computing none of them would make torch import its compiler, for 1.3 s
        return torch.empty(length, r // 2), torch.empty(length, r // 2)
    pairs = torch.arange(0, r, 2, dtype=torch.float64)
    frequency = base ** (-pairs / r)                                            # (r/2,)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency      # (length, r/2)
    return angle.cos().float(), angle.sin().float()


class _Rotation(torch.autograd.Function):
    """x (…, T, hs), cos and sin (T, r/2) of the angles → (…, T, hs), the first r numbers rotated in
    pairs: two passes over these numbers and a copy with the halves exchanged. Passes over halves
    would need no copy, but their rows are too short for vector instructions.

    The backward rotates the gradient the other way, in half the time that autograd would need for
    those passes.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        half = cos.size(-1)
        # (…, T, r/2), (…, T, r/2), (…, T, hs − r)
        a, b, rest = x.split((half, half, x.size(-1) - 2 * half), -1)
        turned = x[..., :2 * half] * torch.cat((cos, cos), -1)          # (…, T, r)
        turned.addcmul_(torch.cat((b, a), -1), torch.cat((-sin, sin), -1))
        return torch.cat((turned, rest), -1) if rest.size(-1) else turned

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(grad, cos, -sin), None, None


class ALiBi(NoPosition):
    """Subtracts slope · distance from the scores, with one fixed slope per head and no parameters.
    Press et al. 2021, arXiv 2108.12409."""
    options = {"nope_layers": None}

    def __init__(self, config: CfgNode, layer: int = 0):
        super().__init__(config, layer)
        # (nh,)
        self.register_buffer("slope_of_head", torch.tensor(alibi_slopes(config.n_head)),
                             persistent=False)

    @property
    def slopes(self) -> torch.Tensor:
        """(nh,): the slopes of the heads."""
        return self.slope_of_head


def alibi_slopes(n_head: int) -> list[float]:
    """The slopes of n heads: 2^(−8/n), 2^(−16/n), … where n is a power of two. For another n, those
    of the power of two below it, then every second one of the next power of two."""
    floor = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (h + 1) / floor) for h in range(floor)]
    between = [2 ** (-4 * (h + 1) / floor) for h in range(0, 2 * floor, 2)]
    return slopes + between[: n_head - floor]


def head_size(config: CfgNode) -> int:
    """hs, the size of one head's query: `head_dim`, or n_embd / n_head where that is None."""
    if config.head_dim is not None:
        return config.head_dim
    assert config.n_embd % config.n_head == 0
    return config.n_embd // config.n_head


def position_of(config: CfgNode, layer: int) -> NoPosition:
    """The positions of one layer: the config's member, or NoPosition in the layers that
    `nope_layers` names."""
    kind = NoPosition if layer in layers_without(config) else POSITIONS[config.position]
    return kind(config, layer)


def layers_without(config: CfgNode) -> set[int]:
    """The set of layers that `nope_layers` leaves without positions. It is written "3,7", as a list
    or as one number, or "every 4". Raises BadInput if it is written otherwise, names a layer that
    does not exist, or belongs to a position that does not act in layers."""
    asked, depth = config.nope_layers, config.n_layer
    if asked is None:
        return set()
    if "nope_layers" not in options_of(POSITIONS[config.position]):
        raise BadInput(f"model.nope_layers={asked!r}: model.position={config.position} does not "
                       "act in layers; use rope or alibi")
    if match := re.fullmatch(r"every ([1-9]\d*)", str(asked)):
        return set(range(int(match[1]) - 1, depth or 0, int(match[1])))
    numbers = re.findall(r"\d+", str(asked))
    if not re.fullmatch(r"[\[(]?\s*\d+(\s*,\s*\d+)*\s*,?\s*[\])]?", str(asked)):
        raise BadInput(f"model.nope_layers={asked!r}: write 3,7 (layers, counted from 0) or "
                       f"'every 4' (layers 3, 7, 11, …)")
    layers = {int(n) for n in numbers}
    if depth and max(layers) >= depth:
        raise BadInput(f"model.nope_layers={asked!r}: there is no layer {max(layers)}; of {depth} "
                       f"layers, counted from 0, the last is {depth - 1}")
    return layers


def _base(config: CfgNode, layer: int) -> float:
    """RoPE's base in this layer: `rope_local_base`, if given, where the pattern is not full."""
    if config.rope_local_base is None or isinstance(pattern_of(config, layer), Full):
        return config.rope_base
    return config.rope_local_base


POSITIONS = {"learned": Learned, "rope": RoPE, "alibi": ALiBi, "none": NoPosition}
