"""
Faults in code files of users that the audit must find before training, and correct files that it
must pass.

Each fault is (the file's text, the overrides that choose its member, the claim that must fail,
words of the sentence that says what was seen). Every file begins with HEAD.
"""

HEAD = '''import random
import torch
from torch import nn
from torch.nn import functional as F
from mingpt.attention.heads import CausalSelfAttention
from mingpt.blocks import Block
from mingpt.mlps import MLP
from mingpt.norms import Norm, RMSNorm
from mingpt.optimizers import adamw
from mingpt.positions import RoPE
'''


def norm(forward, init="", more=""):
    """A norm over the last dimension whose forward is `forward`, with further lines in __init__ and
    in the class."""
    return f'''
class Own(Norm):
    def __init__(self, dim, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        {init or "pass"}

    def scaled(self, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight

    def forward(self, x):
        {forward}
{more}
NORMS = {{"own": Own}}
'''


def mlp(forward, init=""):
    return f'''
class Own(MLP):
    shared = []
    def __init__(self, config):
        super().__init__(config)
        C = config.n_embd
        {init or "pass"}

    def forward(self, x):
        {forward}

MLPS = {{"own": Own}}
'''


NORM, MLP = ("--model.norm=own",), ("--model.mlp=own",)

FAULTS = {
    "an attention that looks ahead": ('''
class Own(CausalSelfAttention):
    def forward(self, x, allowed=None, cache=None):
        return super().forward(x, allowed, cache) + x.mean(1, keepdim=True)

ATTENTIONS = {"own": Own}
''', ("--model.attention=own",), "no layer sees a later position", "sees the later key"),
    "an MLP that takes the next token's vector": (
        mlp("return super().forward(x.roll(-1, 1))"), MLP, "only attention mixes positions",
        "by way of something other than attention"),
    "a norm over the text": (
        norm("return self.scaled(x) / (x.square().mean((1, 2), keepdim=True) + 1).sqrt()"), NORM,
        "only attention mixes positions", "by way of something other than attention"),
    "a statistic over the batch": (
        norm("return self.scaled(x - x.mean((0, 1)) if self.training else x)"), NORM,
        "training sees no later token and no other row", "sees"),
    "a dead branch": (
        mlp("return super().forward(x) + 0 * self.extra(x)", "self.extra = nn.Linear(C, C)"), MLP,
        "every parameter is reached by the gradient", "mlp.extra"),
    "a branch without a gradient": (
        mlp("return super().forward(x) + self.extra(x).detach()", "self.extra = nn.Linear(C, C)"),
        MLP, "every parameter is reached by the gradient", "mlp.extra"),
    "one matrix for all layers": (
        mlp("return super().forward(x) + self.extra(x)",
            "Own.shared += [] if Own.shared else [nn.Linear(C, C)]; self.extra = Own.shared[0]"),
        MLP, "every layer computes with its own weights", "its weights change also layer 1's"),
    "what another layer computed last": (
        mlp("y = super().forward(x) + sum(Own.shared[-1:]); "
            "Own.shared.append(0.1 * y.detach().mean()); return y"),
        MLP, "no part keeps a state between calls", "keeps a state between calls"),
    "a running average": (
        norm("self.seen = 0.9 * self.seen + 0.1 * float(x.detach().square().mean()); "
             "return self.scaled(x) / self.seen ** 0.5", "self.seen = 1.0"), NORM,
        "no part keeps a state between calls", "keeps a state between calls"),
    "a scale kept from the first text": (
        norm("self.first = self.first or float(x.detach().square().mean()); "
             "return self.scaled(x) / (1 + self.first) ** 0.5", "self.first = None"), NORM,
        "the weights are the whole model", "kept from an earlier text"),
    "a random number of Python's": (
        mlp("return super().forward(x) * (random.random() if self.training else 0.5)"),
        (*MLP, "--model.resid_pdrop=0.1"), "a training step repeats with its seed",
        "drawn that the run does not seed"),
    "random numbers in evaluation": (
        norm("return self.scaled(x) + 0.01 * torch.randn_like(x)"), NORM,
        "evaluation is deterministic", "gives two outputs for one input"),
    "weights drawn without a seed": (
        mlp("return super().forward(x) + x @ self.extra",
            "self.extra = nn.Parameter(torch.randn(C, C) / C)"), MLP,
        "the same seed gives the same initial weights", "mlp.extra is drawn by chance"),
    "numbers that no checkpoint holds": (
        mlp("return super().forward(x) + x * self.signs.to(x)",
            "self.signs = torch.randn(C).sign()"), MLP, "the weights are the whole model",
        "in no checkpoint"),
    "a wrong scale in evaluation": (
        norm("return self.scaled(x) * (1 if self.training else 0.9)"), NORM,
        "every part gives in evaluation what it gives in training", "1.11 times the size"),
    "dropout that evaluation does not undo": (
        mlp("y = super().forward(x); "
            "return y * (torch.rand_like(y) < 0.8) if self.training else y"),
        (*MLP, "--model.resid_pdrop=0.2"),
        "every part gives in evaluation what it gives in training", "times the evaluation's size"),
    "parameters in a plain list": (
        mlp("return super().forward(x) + x @ self.extra[0]",
            "self.extra = [nn.Parameter(torch.eye(C))]"), MLP,
        "everything that is trained is a parameter", "kept in transformer.h.1.mlp.extra"),
    "a layer made in the forward": (
        mlp("self.gate = getattr(self, 'gate', None) or nn.Linear(x.size(-1), x.size(-1)); "
            "return super().forward(x) * torch.sigmoid(self.gate(x))"), MLP,
        "everything that is trained is a parameter", "is made in the forward"),
    "a frozen parameter": (
        norm("return self.scaled(x) + self.shift",
             "self.shift = nn.Parameter(torch.zeros(dim), requires_grad=False)"), NORM,
        "just what is declared is frozen", "no setting declares it"),
    "an optimizer that forgets a group": ('''
def own(groups, config):
    return adamw(groups[:1], config)

OPTIMIZERS = {"own": own}
''', ("--trainer.optimizer=own",), "every trainable parameter is in exactly one optimizer group",
        "held 0 times"),
    "an optimizer with a rate of its own": ('''
class Signs(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(1e-3 * p.grad.sign())

def own(groups, config):
    return Signs([g for g in groups if g["params"]], lr=config.learning_rate)

OPTIMIZERS = {"own": own}
''', ("--trainer.optimizer=own",), "the optimizer obeys the rate and resumes exactly",
        "at learning rate 0 moves"),
    "an optimizer whose count is in no checkpoint": ('''
class Slowing(torch.optim.SGD):
    steps = 0
    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] / self.steps * p.grad)

def own(groups, config):
    return Slowing([g for g in groups if g["params"]], lr=config.learning_rate)

OPTIMIZERS = {"own": own}
''', ("--trainer.optimizer=own",), "the optimizer obeys the rate and resumes exactly",
        "must be tensors in self.state[p]"),
    "a schedule that counts its calls": ('''
calls = []

def own(progress, config):
    calls.append(progress)
    return 1 / (1 + 0.01 * len(calls))

SCHEDULES = {"own": own}
''', ("--trainer.lr_schedule=own",), "the learning rate follows the progress alone",
        "keeps a state"),
    "an input changed in place": (
        norm("return self.scaled(x.mul_(1.1))"), NORM, "no part writes into its input",
        "layer 0's ln_1 writes into its input"),
    "another dtype": (
        norm("return self.scaled(x).double()"), NORM,
        "every part keeps shape, dtype and precision", "changes the dtype"),
    "half precision inside": (
        norm("return self.scaled(x).bfloat16().to(x.dtype)"), NORM,
        "every part keeps shape, dtype and precision", "computes more coarsely"),
    "a position that ignores the cache": ('''
class Own(RoPE):
    def rotate(self, q, k, start=0):
        return super().rotate(q, k)

POSITIONS = {"own": Own}
''', ("--model.position=own",), "reading with a cache gives what reading at once gives",
        "are not those of reading at once"),
    "a block that forgets the cache": ('''
class Own(Block):
    def forward(self, x, allowed=None, cache=None):
        x = x + self.attn(self.ln_1(x), allowed)
        return x + self.mlp(self.ln_2(x))

BLOCKS = {"own": Own}
''', ("--model.block=own",), "reading with a cache gives what reading at once gives", "cache"),
}

DYT = '''
class DyT(Norm):
    """tanh(α·x) · weight + bias. Zhu et al. 2025, arXiv 2503.10622."""
    options = {"dyt_alpha": 0.5}

    def __init__(self, dim, config):
        super().__init__()
        self.alpha, self.initial_alpha = nn.Parameter(torch.ones(1)), config.dyt_alpha
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def reset_parameters(self):
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.initial_alpha)

    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias


NORMS = {"dyt": DyT}
'''

CORRECT = {
    "DyT": (DYT, ("--model.norm=dyt", "--model.dyt_alpha=0.7")),
    "relu²": ('''
class Square(nn.Module):
    def forward(self, x):
        return F.relu(x).square()

class ReLUSquared(MLP):
    activation = Square

MLPS = {"relu_squared": ReLUSquared}
''', ("--model.mlp=relu_squared", "--model.resid_pdrop=0.1")),
    "an attention": ('''
class Gated(CausalSelfAttention):
    def __init__(self, config, layer=0):
        super().__init__(config, layer)
        self.gate = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, allowed=None, cache=None):
        return torch.sigmoid(self.gate(x)) * super().forward(x, allowed, cache)

ATTENTIONS = {"gated": Gated}
''', ("--model.attention=gated", "--model.attn_pdrop=0.1", "--model.schedule=8 f")),
    "an optimizer": ('''
class Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (0.9 * m + 0.1 * p.grad).sign())
                m.lerp_(p.grad, 0.01)

def lion(groups, config):
    return Lion([g for g in groups if g["params"]], {"lr": config.learning_rate})

OPTIMIZERS = {"lion": lion}
''', ("--trainer.optimizer=lion",)),
    "a schedule": ('''
def root(progress, config):
    return 1 - (1 - config.root_end) * progress ** 0.5

root.options = {"root_end": 0.1}
SCHEDULES = {"root": root}
''', ("--trainer.lr_schedule=root",)),
    "a whole block": ('''
class MyBlock(nn.Module):
    options = {"branch_gain": 0.1}

    def __init__(self, config, layer=0):
        super().__init__()
        self.norm, self.attn = RMSNorm(config.n_embd, config), CausalSelfAttention(config, layer)
        self.mlp, self.start = MLP(config), config.branch_gain
        self.gain = nn.Parameter(torch.empty(config.n_embd))

    def reset_parameters(self):
        nn.init.normal_(self.gain, self.start, 0.01)

    @staticmethod
    def final_norm(config):
        return RMSNorm(config.n_embd, config)

    def forward(self, x, allowed=None, cache=None):
        y = self.norm(x)
        return x + self.gain * (self.attn(y, allowed, cache) + self.mlp(y))

BLOCKS = {"mine": MyBlock}
''', ("--model.block=mine", "--model.norm=rmsnorm")),
    "layers applied twice": ('''
class Twice(Block):
    no_cache = "each layer reads the text twice"

    def forward(self, x, allowed=None, cache=None):
        return super().forward(super().forward(x, allowed), allowed)

    def product_flops(self):
        return 2 * sum(2 * m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))

    def score_flops(self, T, pattern=None):
        return 2 * self.attn.score_flops(T, pattern)

BLOCKS = {"twice": Twice}
''', ("--model.block=twice",)),
}
