"""
How a gradient becomes a step: slot `optimizer`. A member takes groups whose `params` are pairs
(name, parameter).
"""

import torch

from mingpt.utils import BadInput, CfgNode


def adamw(groups: list[dict], config: CfgNode) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, in torch's fused kernel. Loshchilov & Hutter 2017, arXiv
    1711.05101."""
    groups = [group for group in groups if group["params"]]   # torch takes no names of nothing
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=tuple(config.betas),
                             eps=getattr(config, "adam_eps", adamw.options["adam_eps"]), fused=True)


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers as one: Muon's for the matrices inside the layers, AdamW for all else. They
    share one state and the param_groups, the first of which is Muon's, so that checkpoints and
    learning-rate schedules see one optimizer.
    """

    def __init__(self, hidden: dict, others: list[dict], config: CfgNode):
        self.muon = torch.optim.Muon([hidden], lr=config.learning_rate,
                                     momentum=config.muon_momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = adamw(others, config) if others else None
        self.ratio = config.muon_lr_ratio
        super().__init__([*self.muon.param_groups, *(self.adamw.param_groups if others else [])],
                         {})
        self._share()

    def _share(self) -> None:
        self.muon.param_groups, self.muon.state = self.param_groups[:1], self.state
        if self.adamw:
            self.adamw.param_groups, self.adamw.state = self.param_groups[1:], self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)   # which makes new groups and a new state
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group, = self.muon.param_groups
        rate = group["lr"]
        group["lr"] = rate * self.ratio
        self.muon.step()
        group["lr"] = rate
        if self.adamw:
            self.adamw.step()
        return loss


def muon(groups: list[dict], config: CfgNode) -> torch.optim.Optimizer:
    """Momentum whose singular values are all set to about 1 before it is taken as a step, so that
    no direction of a matrix is learned last. For the matrices that decay, but the head; the rest is
    AdamW's. Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon).

    Steps have the size of AdamW's at the same rate (Liu et al. 2025, arXiv 2502.16982), so that one
    schedule serves both; `muon_lr_ratio` is Muon's rate over AdamW's. A fused `c_attn` is one
    matrix here. torch computes the orthogonalisation in bfloat16, which is slow on most CPUs.
    """
    if not hasattr(torch.optim, "Muon"):
        raise BadInput(f"trainer.optimizer=muon: torch {torch.__version__} has no Muon: use adamw, "
                       f"or torch from 2.9")
    decayed, *rest = groups
    hidden = [pair for pair in decayed["params"] if pair[0] != "lm_head.weight"]
    if not hidden:
        raise BadInput("trainer.optimizer=muon: no matrix inside a layer is trained: use adamw")
    head = [pair for pair in decayed["params"] if pair[0] == "lm_head.weight"]
    others = [group for group in ({**decayed, "params": head}, *rest) if group["params"]]
    return MuonAndAdamW({**decayed, "params": hidden}, others, config)


adamw.options = {"adam_eps": 1e-8}
muon.options = {"adam_eps": 1e-8, "muon_momentum": 0.95, "muon_lr_ratio": 1.0}

OPTIMIZERS = {"adamw": adamw, "muon": muon}
