"""
Matching an arm's size: the hidden size of its MLP with which parameters or FLOPs are the
baseline's.

Both are straight lines in the hidden size, so two models tell it; none of them has any weights
(torch's meta device).
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import asdict, dataclass
from functools import cache

import torch

from experiments.corpus.tokenizers import get_tokenizer
from mingpt.config import options_of
from mingpt.mlps import MLPS
from mingpt.model import GPT
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

TOLERANCE = 0.01    # an arm this near is matched as it is
QUANTITIES = {"params": "parameters", "flops": "FLOPs a token"}


@dataclass(frozen=True)
class Match:
    """How an arm was matched. `value` and `target` are the arm's and the baseline's, of what `by`
    names."""
    by: str                       # params or flops
    mlp_hidden: int | None        # what was chosen; None: the arm was near enough as it is
    value: float
    target: float
    before: float                 # the arm's with its own hidden size

    @property
    def deviation(self) -> float:
        return self.value / self.target - 1

    def line(self) -> str:
        """One readable line."""
        what = QUANTITIES[self.by]
        if self.mlp_hidden is None:
            return f"matched by {what}: as it is ({self.deviation:+.2%})"
        return (f"matched by {what}: mlp_hidden={self.mlp_hidden} ({self.deviation:+.2%}; "
                f"{self.before / self.target - 1:+.2%} without)")

    def to_dict(self) -> dict:
        return asdict(self) | {"deviation": self.deviation}


def match(arm: str, settings: CN, baseline: CN, by: str, fixed: bool = False) -> Match:
    """The hidden size for `settings` that brings it within 1 % of `baseline`. Raises BadInput where
    there is none, or where one is needed and somebody who has the last word gave another
    (`fixed`)."""
    target, before = measure(baseline, by), measure(settings, by)
    if abs(before / target - 1) <= TOLERANCE:
        return Match(by, None, before, target, before)
    what = (f'arm {arm!r} cannot be matched by {QUANTITIES[by]} ({before / target - 1:+.1%} '
            f'against the baseline)')
    instead = 'give the arm match = "none"'
    if fixed:
        raise BadInput(f"{what}: its model.mlp_hidden={settings.model.mlp_hidden!r} is given: "
                       f"{instead}")
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
    """Parameters, or FLOPs a token, of the settings' model."""
    return _measured(json.dumps(settings.model.to_dict(), sort_keys=True),
                     settings.data.tokenizer)[by]


@cache
def _measured(model_json: str, tokenizer: str) -> dict[str, float]:
    config = CN(**json.loads(model_json))
    config.vocab_size = get_tokenizer(tokenizer).vocab_size
    with contextlib.redirect_stdout(None), torch.device("meta"):
        model = GPT(config)
    return {"params": sum(p.numel() for p in model.parameters()), "flops": model.flops_per_token()}


def _with(settings: CN, hidden: int) -> CN:
    tree = copy.deepcopy(settings)
    tree.model.mlp_hidden = hidden
    return tree
