"""
Matches an arm's size to the baseline: finds the hidden size of its MLP at which its parameters or
FLOPs equal the baseline's.

Both quantities are linear in the hidden size, so measuring two models is enough. The models have no
weights: they are built on torch's meta device.
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import asdict, dataclass
from functools import cache

import torch

from experiments.corpus.tokenizers import get_tokenizer
from experiments.records.codefiles import blaming
from mingpt.config import options_of
from mingpt.mlps import MLPS
from mingpt.model import GPT
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

TOLERANCE = 0.01    # relative; an arm this close to the baseline keeps its own hidden size
QUANTITIES = {"params": "parameters", "flops": "FLOPs per token"}


@dataclass(frozen=True)
class Match:
    """How an arm was matched. `value`, `target` and `before` count what `by` names."""
    by: str                       # params or flops
    mlp_hidden: int | None        # the chosen size; None: the arm was close enough with its own
    value: float                  # the arm's, after matching
    target: float                 # the baseline's
    before: float                 # the arm's, with its own hidden size

    @property
    def deviation(self) -> float:
        """How far the matched arm is from the baseline, relative: 0.01 is 1 % above it."""
        return self.value / self.target - 1

    def line(self) -> str:
        """One line for the user, with the deviation after matching and before."""
        what = QUANTITIES[self.by]
        if self.mlp_hidden is None:
            return f"matched by {what}: unchanged ({self.deviation:+.2%})"
        return (f"matched by {what}: mlp_hidden={self.mlp_hidden} ({self.deviation:+.2%}; "
                f"{self.before / self.target - 1:+.2%} without)")

    def to_dict(self) -> dict:
        """The fields and the deviation, for the run's record."""
        return asdict(self) | {"deviation": self.deviation}


def match(arm: str, settings: CN, baseline: CN, by: str, fixed: bool = False) -> Match:
    """Find the hidden size that brings `settings` within 1 % of `baseline`. Raises BadInput where
    no size does, or where one is needed but the arm or the command line sets mlp_hidden itself
    (`fixed`)."""
    target, before = measure(baseline, by), measure(settings, by)
    if abs(before / target - 1) <= TOLERANCE:
        return Match(by, None, before, target, before)
    what = (f'arm {arm!r} cannot be matched by {QUANTITIES[by]} ({before / target - 1:+.1%} '
            f'relative to the baseline)')
    instead = 'give the arm match = "none"'
    if fixed:
        raise BadInput(f"{what}: model.mlp_hidden={settings.model.mlp_hidden!r} is set by the arm "
                       f"or the command line: {instead}")
    if "mlp_hidden" not in options_of(MLPS[settings.model.mlp]):
        raise BadInput(f"{what}: model.mlp={settings.model.mlp!r} has no hidden size: {instead}")
    few, many = (measure(_with(settings, hidden), by) for hidden in (64, 128))
    hidden = round(64 + (target - few) / ((many - few) / 64))
    if hidden < 1:
        raise BadInput(f"{what}: even without an MLP it has too many: {instead}")
    value = measure(_with(settings, hidden), by)
    if abs(value / target - 1) > TOLERANCE:
        raise BadInput(f"{what}: the nearest is model.mlp_hidden={hidden} with "
                       f"{value / target - 1:+.1%}: {instead}")
    return Match(by, hidden, value, target, before)


def measure(settings: CN, by: str) -> float:
    """The parameters, or the FLOPs per token, of the model that the settings describe."""
    return _measured(json.dumps(settings.model.to_dict(), sort_keys=True),
                     settings.data.tokenizer)[by]


@cache
def _measured(model_json: str, tokenizer: str) -> dict[str, float]:
    config = CN(**json.loads(model_json))
    config.vocab_size = get_tokenizer(tokenizer).vocab_size
    with contextlib.redirect_stdout(None), torch.device("meta"), blaming():
        model = GPT(config)
        return {"params": sum(p.numel() for p in model.parameters()),
                "flops": model.flops_per_token()}


def _with(settings: CN, hidden: int) -> CN:
    tree = copy.deepcopy(settings)
    tree.model.mlp_hidden = hidden
    return tree
