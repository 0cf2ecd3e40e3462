"""
Slot `optimizer`: how a gradient becomes a step.

A member is a function (groups, config) → a torch optimizer. The first group's parameters decay; the
`params` of each group are pairs (name, parameter).
"""

import inspect

import torch

from mingpt.shards import is_shard, own_part, whole
from mingpt.utils import BadInput, CfgNode


def eager(optimizer: type) -> type:
    """A subclass of a torch optimizer that does not import torch's compiler.

    torch wraps these methods so that torch.compile leaves them alone, and the wrappers import the
    compiler, which takes as long as importing torch. No step of ours is compiled.
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = eager(torch.optim.AdamW)

def adamw(groups: list[dict], config: CfgNode) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, in torch's fused kernel. Loshchilov & Hutter 2017, arXiv
    1711.05101."""
    eps = getattr(config, "adam_eps", adamw.options["adam_eps"])
    groups = [{key: value for key, value in group.items() if key != "epsilon"}
              | {"eps": eps * group.get("epsilon", 1.0)}
              for group in groups if group["params"]]        # torch refuses an empty named group
    return AdamW(groups, lr=config.learning_rate, betas=tuple(config.betas), eps=eps, fused=True)


class MuonAndAdamW(eager(torch.optim.Optimizer)):
    """Two optimizers in one: Muon for the matrices inside the layers, AdamW for everything else.

    Both use this object's state and param_groups, of which the first group is Muon's, so
    checkpoints and learning-rate schedules see a single optimizer. `matrices` is Muon's group, and
    `others` are AdamW's. The `params` of a group are pairs (name, parameter).
    """

    def __init__(self, matrices: dict, others: list[dict], config: CfgNode):
        self.muon = eager(torch.optim.Muon)([matrices], lr=config.learning_rate,
                                            momentum=config.muon_momentum,
                                            adjust_lr_fn="match_rms_adamw")
        self.adamw = adamw(others, config) if others else None
        self.ratio = config.muon_lr_ratio
        super().__init__([*self.muon.param_groups, *(self.adamw.param_groups if others else [])],
                         {})
        self._share()

    def _share(self) -> None:
        """Make both optimizers use this object's param_groups and state."""
        self.muon.param_groups, self.muon.state = self.param_groups[:1], self.state
        if self.adamw:
            self.adamw.param_groups, self.adamw.state = self.param_groups[1:], self.state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a checkpoint's state into both optimizers."""
        super().load_state_dict(state_dict)   # makes new groups and a new state
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step with both; return the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group, = self.muon.param_groups
        rate = group["lr"]
        group["lr"] = rate * self.ratio
        if is_shard(group["params"][0]):
            self._step_shards(group)
        else:
            self.muon.step()
        group["lr"] = rate
        if self.adamw:
            self.adamw.step()
        return loss

    def _step_shards(self, group: dict) -> None:
        """Muon's step on matrices of which each process holds some rows. Every process gathers the
        momentum and orthogonalises the whole matrix, then takes its own rows of the result."""
        from torch.optim._muon import muon as step_of
        rate, momentum = group["lr"], group["momentum"]
        options = {name: group[name] for name in ("nesterov", "ns_coefficients", "ns_steps", "eps",
                                                  "adjust_lr_fn")}
        for p in group["params"]:
            if p.grad is None:
                continue
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - momentum)
            update = whole(p.grad.lerp(buffer, momentum) if group["nesterov"] else buffer)
            step = torch.zeros_like(update)
            # without momentum, torch's function only orthogonalises and scales
            step_of([step], [update], [torch.zeros_like(update)], lr=rate, weight_decay=0.0,
                    momentum=0.0, has_complex=False, **options)
            p.mul_(1 - rate * group["weight_decay"]).add_(own_part(step, p))


def muon(groups: list[dict], config: CfgNode) -> torch.optim.Optimizer:
    """Muon: the step is the momentum with all its singular values set to about 1, so that every
    direction of a matrix is learned at the same pace. Jordan et al. 2024
    (https://kellerjordan.github.io/posts/muon).

    Muon takes the matrices that decay, except the head; AdamW takes the rest. Muon's steps have the
    size of AdamW's at the same learning rate (Liu et al. 2025, arXiv 2502.16982), so one schedule
    serves both; `muon_lr_ratio` is Muon's rate divided by AdamW's. A fused `c_attn` counts as one
    matrix. torch computes the orthogonalisation in bfloat16, which is slow on most CPUs. BadInput
    where torch has no Muon, or where no matrix inside a layer is trained.
    """
    if not hasattr(torch.optim, "Muon"):
        raise BadInput(f"trainer.optimizer=muon: torch {torch.__version__} has no Muon: use adamw, "
                       f"or torch 2.9 or later")
    decayed, *rest = groups
    if any(pair[0].endswith(".c_proj.weight") for group in rest for pair in group["params"]
           if "rate" in group):
        raise BadInput("trainer.optimizer=muon with model.parametrization=completep: Muon has one "
                       "rate for all matrices inside the layers; use mup, or adamw")
    matrices = [pair for pair in decayed["params"] if pair[0] != "lm_head.weight"]
    if not matrices:
        raise BadInput("trainer.optimizer=muon: no matrix inside a layer is trained: use adamw")
    head = [pair for pair in decayed["params"] if pair[0] == "lm_head.weight"]
    others = [group for group in ({**decayed, "params": head}, *rest) if group["params"]]
    return MuonAndAdamW({key: value for key, value in decayed.items() if key != "epsilon"}
                        | {"params": matrices}, others, config)


adamw.options = {"adam_eps": 1e-8}
muon.options = {"adam_eps": 1e-8, "muon_momentum": 0.95, "muon_lr_ratio": 1.0}

OPTIMIZERS = {"adamw": adamw, "muon": muon}
