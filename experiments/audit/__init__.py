"""
What an arm really does, established on the model itself before it is trained: a table of named
claims, each true or a sentence that names the layer, the query and the key, or the parameter, where
it is not so.

    result = audit(model, settings.trainer, batches)
    result["passed"], result["seconds"], result["checks"]      # bool, float, {claim: …}
    first_failure(result)                               # None, or "claim: sentence"

A claim is established by changing what goes in, by gradients, and by comparing values with a plain
reference model (reference.py), never by reading code. What the reference does not know is listed
under "unchecked". Claims about the architecture are asked of weights that are drawn anew, at a
scale where nothing that is connected vanishes. The others are asked of the weights as they are.
Weights, modes and random state are afterwards what they were.
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

# claim → check: Subject → True, or what was seen instead; None where the claim is not made of this
# model. Layers come first: a fault there breaks claims about the whole model too, which can name no
# layer.
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
    seen}, "unchecked": [one sentence per part that no reference knows]}.

    `batches` are the run's own (`batch(t)`, `eot`); without them nothing is claimed of the data.
    `fresh`: the weights are initial ones. `reference`: tokens (B, T) → the input of every layer (B,
    T, C), then the logits, of the model from which the weights were imported: Hugging Face's
    `[*out.hidden_states[:-1], out.logits]`. `freeze_except`: the run's setting; all other
    parameters must be frozen, and without it none.
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
    """The claims that are made of this model, each with what was seen."""
    seen = {}
    for claim, check in claims.items():
        try:
            seen[claim] = check(subject)
        except Finding as finding:
            seen[claim] = str(finding)
        # whatever a broken model raises, at any length of text, is a finding
        except Exception as error:
            seen[claim] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return {claim: answer for claim, answer in seen.items() if answer is not None}


def first_failure(result: dict) -> str | None:
    """'claim: what was seen' of the first claim that does not hold."""
    return next((f"{claim}: {seen}" for claim, seen in result["checks"].items()
                 if seen is not True), None)
