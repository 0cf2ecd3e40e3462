"""
How a gradient becomes a step: slot `optimizer`.
"""

import torch

from mingpt.utils import CfgNode


def adamw(groups: list[dict], config: CfgNode) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, in torch's fused kernel. Loshchilov & Hutter 2017, arXiv 1711.05101."""
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=tuple(config.betas),
                             eps=getattr(config, "adam_eps", adamw.options["adam_eps"]), fused=True)


adamw.options = {"adam_eps": 1e-8}

OPTIMIZERS = {"adamw": adamw}
