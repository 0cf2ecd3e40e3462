"""
Check, before training, that a model does what its settings declare. The result is a table of named
claims. Each is True, or a sentence that says where it fails: the layer, query and key, or the
parameter.

    result = audit(model, settings.trainer, batches)
    result["passed"], result["seconds"], result["checks"]      # bool, float, {claim: …}
    first_failure(result)                               # None, or "claim: sentence"

The checks change inputs, take gradients, and compare values with a plain reference model
(reference.py); they never read code. Parts that the reference does not know are listed under
"unchecked". Claims about the architecture are checked with redrawn weights, at a scale where no
connection vanishes. The other claims are checked with the weights as they are. Afterwards weights,
modes and random state are what they were before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

import experiments.audit.descent as descent
import experiments.audit.learning as learning
import experiments.audit.loss as loss
import experiments.audit.modes as modes
import experiments.audit.sight as sight
import experiments.audit.steps as steps
import experiments.audit.tokens as tokens
import experiments.audit.values as values
import experiments.audit.weights as weights
from experiments.audit.subject import Finding, Subject, redrawn, threads_for
from mingpt.model import GPT
from mingpt.utils import CfgNode as CN

__all__ = ["AS_THEY_ARE", "REDRAWN", "audit", "first_failure"]

# {claim: check}. A check takes the Subject and returns True, a sentence about what was seen
# instead, or None where the claim does not apply to this model. Claims about layers come first: a
# fault in a layer also breaks claims about the whole model, and those cannot name the layer.
REDRAWN: dict[str, Callable] = {
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
            seen[claim] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {claim: answer for claim, answer in seen.items() if answer is not None}


def first_failure(result: dict) -> str | None:
    """'claim: what was seen' for the first claim that fails; None where all hold."""
    return next((f"{claim}: {seen}" for claim, seen in result["checks"].items()
                 if seen is not True), None)
