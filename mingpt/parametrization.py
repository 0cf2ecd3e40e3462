"""
Slot `parametrization`: how initial weights, learning rates, weight decay and Adam's epsilon change
with a model's size, so that a rate that is best for a small model stays best for a large one.

m is n_embd / base_n_embd, and l is n_layer / base_n_layer. Where both are 1, every factor is 1. A
matrix is *inner* where its input and its output both grow with the width, and an *output* where
only its input does, as the head and a router. Every other parameter (embedding, bias, gain) is a
*vector*. A *writer* is what a block adds to the residual stream with: every c_proj.

The papers also multiply activations: the head's input by 1/m, and every block's part by 1/l. For
Adam and Muon a factor on a matrix's output is the same as that factor on its initial weights and
its rate, with the inverse on its decay and epsilon. So no forward changes here.

Yang et al. 2022, arXiv 2203.03466 (mup); Dey et al. 2025, arXiv 2505.01618 (completep).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mingpt.utils import BadInput, CfgNode


@dataclass(frozen=True)
class Rule:
    """Factors of one parameter's initial std, learning rate, weight decay and Adam epsilon."""
    std: float = 1.0
    rate: float = 1.0
    decay: float = 1.0
    epsilon: float = 1.0


def kind_of(name: str) -> str:
    """Whether a linear layer of this name is inner or an output."""
    return "output" if name == "lm_head" or name.endswith("router") else "inner"


class Standard:
    """GPT-2's: no rate depends on a size."""
    options: dict = {}

    def __init__(self, config: CfgNode):
        self.config, self.m, self.l = config, 1.0, 1.0

    def rule(self, name: str, linear: bool, optimizer: str = "adamw") -> Rule:
        """The factors of the parameter `name`. `linear` says that it is a linear layer's weight."""
        return Rule()

    @property
    def writer_depth(self) -> float:
        """The n in 0.02/√(2·n), the initial std of what writes into the residual stream."""
        return self.config.n_layer


class MaximalUpdate(Standard):
    """µP: every layer's activations move equally far per step at every width. Scores are divided by
    hs in place of √hs, relative to the base model's heads of base_n_embd / base_n_head. The rate
    was found at base_n_embd. None is the model's own size."""
    options = {"base_n_embd": None, "base_n_head": None}

    def __init__(self, config: CfgNode):
        super().__init__(config)
        refuse(config)
        for key in self.options:
            if getattr(config, key) is None:        # the model's own size: all factors are 1
                setattr(config, key, getattr(config, key.removeprefix("base_")))
        width, heads = config.base_n_embd, config.base_n_head
        if width % heads:
            raise BadInput(f"model.base_n_embd={width} does not divide by model.base_n_head="
                           f"{heads}")
        self.m = config.n_embd / width
        scale = math.sqrt(width / heads) / (config.head_dim or config.n_embd // config.n_head)
        if config.attn_scale not in (None, scale):
            raise BadInput(f"model.attn_scale={config.attn_scale}: model.parametrization="
                           f"{config.parametrization} sets it: leave it out")
        config.attn_scale = scale

    def rule(self, name: str, linear: bool, optimizer: str = "adamw") -> Rule:
        """See Standard. Rate times decay stays the same, as AdamW multiplies the two."""
        m, inside = self.m, self.l if ".h." in f".{name}" else 1.0
        if not linear:
            rule = Rule(epsilon=1 / (m * inside))
        elif kind_of(name.removesuffix(".weight")) == "output":
            # 1/m on the logits, moved into the matrix: epsilon gets it back
            rule = Rule(1 / m, 1 / m, m, 1 / inside)
        else:
            # Muon's step has the spectral norm √max(in, out), where √(out/in) is wanted
            rate = 1 / math.sqrt(m) if optimizer == "muon" else 1 / m
            rule = Rule(1 / math.sqrt(m), rate, 1 / rate, 1 / (m * inside))
        if self.l == 1 or not name.rpartition(".")[0].endswith("c_proj"):
            return rule
        return Rule(rule.std / self.l, rule.rate / self.l, rule.decay * self.l,
                    rule.epsilon * self.l)


class Complete(MaximalUpdate):
    """CompleteP: µP, and every block's part counts base_n_layer / n_layer, so the rate also holds
    for deeper models. The rate was found at base_n_layer layers."""
    options = {**MaximalUpdate.options, "base_n_layer": None}

    def __init__(self, config: CfgNode):
        super().__init__(config)
        self.l = config.n_layer / config.base_n_layer

    @property
    def writer_depth(self) -> float:
        """The base depth: the branch's factor answers for the layers beyond it."""
        return self.config.base_n_layer


def refuse(config: CfgNode) -> None:
    """Raise BadInput for settings to which no rule of these papers applies."""
    reasons = {
        "attention=mla": "the size of its latents does not follow the width",
        "attention=msla": "its latents do not follow the width",
        "attention=msla_published": "its latents do not follow the width",
        "block=post": "a norm follows each sum, so no factor on a block's part remains",
        "tie_weights=True": "embedding and head need different rates",
        "embd_scale=sqrt": "it grows with the width; give a number",
    }
    for setting, reason in reasons.items():
        key, _, value = setting.partition("=")
        if str(getattr(config, key)) == value:
            raise BadInput(f"model.parametrization={config.parametrization} has no rule for "
                           f"model.{setting}: {reason}")
    if config.n_future > 1:
        raise BadInput(f"model.parametrization={config.parametrization} has no rule for "
                       f"model.n_future={config.n_future}: a later token's head is a block of its "
                       f"own")
    if isinstance(config.mlp_hidden, int):
        raise BadInput(f"model.parametrization={config.parametrization} with model.mlp_hidden="
                       f"{config.mlp_hidden}: give '4d' or '8/3d', which follow the width")


PARAMETRIZATIONS = {"standard": Standard, "mup": MaximalUpdate, "completep": Complete}
