"""
Check, before training, that a model does what its settings declare. The result is a table of named
claims. Each is True, or a sentence that says where it fails: the layer, query and key, or the
parameter.

    result = audit(model, settings.trainer, batches)
    result["passed"], result["seconds"], result["checks"]      # bool, float, {claim: …}
    first_failure(result)                               # None, or "claim: sentence"

The checks change inputs, take gradients, and compare values with a plain reference model
(reference.py); they never read code. Parts that the reference does not know are listed under
"unchecked". Of those, the checks ask what every part must do, whatever it computes (properties.py,
wholeness.py, recipe.py). Claims about the architecture are checked with redrawn weights, at a scale
where no connection vanishes. The other claims are checked with the weights as they are. Afterwards
weights, modes and random state are what they were before.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import experiments.audit.coordinates as coordinates
import experiments.audit.descent as descent
import experiments.audit.learning as learning
import experiments.audit.loss as loss
import experiments.audit.modes as modes
import experiments.audit.properties as properties
import experiments.audit.recipe as recipe
import experiments.audit.sight as sight
import experiments.audit.steps as steps
import experiments.audit.tokens as tokens
import experiments.audit.values as values
import experiments.audit.weights as weights
import experiments.audit.wholeness as wholeness
from experiments.audit.subject import Finding, Subject, redrawn, threads_for
from mingpt.model import GPT
from mingpt.utils import CfgNode as CN

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["AS_THEY_ARE", "REDRAWN", "audit", "first_failure"]

# {claim: check}. A check takes the Subject and returns True, a sentence about what was seen
# instead, or None where the claim does not apply to this model. Claims about layers come first: a
# fault in a layer also breaks claims about the whole model, and those cannot name the layer.
REDRAWN: dict[str, Callable] = {
    "every part keeps shape, dtype and precision": properties.form,
    "no part writes into its input": properties.kept_input,
    "no part keeps a state between calls": properties.stateless,
    "no layer sees a later position": sight.later,
    "every layer sees exactly the keys of its pattern": sight.exact,
    "padding is never attended to": sight.padded,
    "only attention mixes positions": sight.blocks,
    "the model sees what its layers compose to": sight.composed,
    "training sees no later token and no other row": tokens.training,
    "every layer computes with its own weights": weights.own,
    "every parameter is reached by the gradient": learning.alive,
    "positions act where they are declared": modes.positions,
    "dropout acts in training where declared": modes.training,
    "every part computes what the reference computes": values.parts,
    "the training loss and its gradients are the reference's": descent.gradients,
    "a step of the Trainer has the mean gradient and moves weights as declared": steps.stepped,
    "every part gives in evaluation what it gives in training": properties.modes,
    "reading with a cache gives what reading at once gives": wholeness.cached,
    "everything that is trained is a parameter": wholeness.registered,
    "a training step repeats with its seed": wholeness.repeated,
}
AS_THEY_ARE: dict[str, Callable] = {
    "no token sees a later one": tokens.causal,
    "the rows of a batch do not see each other": tokens.rows,
    "a token's context changes its prediction": tokens.context,
    "what stands in the padding changes nothing": tokens.padding,
    "the loss is over the declared targets": loss.counted,
    "a target is the next token": loss.shifted,
    "initial weights have the declared scale": weights.initial,
    "evaluation is deterministic": modes.evaluation,
    "imported weights compute what their source computes": weights.imported,
    "no two parameters share memory, tied ones aside": weights.shared,
    "every trainable parameter is in exactly one optimizer group": learning.grouped,
    "just what is declared is frozen": steps.frozen,
    "just the weights of linear layers decay, as declared": steps.decayed,
    "rates and epsilons follow the size as the parametrization declares": coordinates.grouped,
    "a learning rate holds at other sizes, where that is declared": coordinates.transfers,
    "the same seed gives the same initial weights": wholeness.reborn,
    "the weights are the whole model": wholeness.reloaded,
    "the learning rate follows the progress alone": recipe.rates,
    "the optimizer obeys the rate and resumes exactly": recipe.optimizer,
}


def audit(model: GPT, trainer: CN, batches=None, *, fresh: bool = True,
          reference: Callable[[torch.Tensor], Iterable[torch.Tensor]] | None = None,
          freeze_except: str | None = None) -> dict:
    """Check every claim → {"passed": bool, "seconds": float, "checks": {claim: True or what was
    seen}, "unchecked": [one sentence per part that the reference does not know]}.

    `batches` are the run's own (`batch(t)`, `eot`); without them, claims about the data are left
    out. `fresh` says that the weights are initial ones. `reference` computes what the source of
    imported weights computes: tokens (B, T) → the input of every layer (B, T, C), then the logits;
    in Hugging Face's terms `[*out.hidden_states[:-1], out.logits]`. `freeze_except` is the run's
    setting: all parameters that it does not name must be frozen, and without it none.
    """
    begun, device = time.perf_counter(), model.lm_head.weight.device
    modes_before = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda"
                               else []), threads_for(model):
        torch.manual_seed(0)
        try:
            model.eval()
            subject = Subject(model, trainer, batches, fresh, reference, freeze_except)
            with redrawn(model):
                checks = _ask(REDRAWN, subject)
            checks |= _ask(AS_THEY_ARE, subject)
        finally:
            for module, mode in modes_before:
                module.training = mode
    return {"passed": all(seen is True for seen in checks.values()),
            "seconds": round(time.perf_counter() - begun, 3), "checks": checks,
            "unchecked": values.unchecked(subject)}


def _ask(claims: dict[str, Callable], subject: Subject) -> dict[str, bool | str]:
    """{claim: True or what was seen} for the claims that apply to this model."""
    seen = {}
    for claim, check in claims.items():
        try:
            seen[claim] = check(subject)
        except Finding as finding:
            seen[claim] = str(finding)
        # a broken model may raise any exception, and its message becomes the finding, on one line
        except Exception as error:
            seen[claim] = f"{_place(error)}{type(error).__name__}: {' '.join(str(error).split())}"
    return {claim: answer for claim, answer in seen.items() if answer is not None}


def _place(error: Exception) -> str:
    """'FILE:LINE: ' of the innermost line of an error that is in neither this program nor an
    installed package: the user's own. Empty where there is none."""
    lines = [(frame.filename, frame.lineno)
             for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename).is_file() and ROOT not in Path(frame.filename).parents
             and sys.prefix not in frame.filename and sys.base_prefix not in frame.filename]
    return f"{lines[-1][0]}:{lines[-1][1]}: " if lines else ""


def first_failure(result: dict) -> str | None:
    """'claim: what was seen' for the first claim that fails; None where all hold."""
    return next((f"{claim}: {seen}" for claim, seen in result["checks"].items()
                 if seen is not True), None)
