"""Rates and initial weights that follow the size: the rules, and that the audit misses none of
them. The papers' tables stand once more in experiments/audit/coordinates.py."""

import contextlib
from unittest import mock

import pytest
import torch

from experiments.audit import audit
from experiments.audit.coordinates import exponents
from experiments.declare.spec import make_spec
from mingpt import parametrization
from mingpt.model import GPT
from mingpt.parametrization import MaximalUpdate, Rule
from mingpt.trainer import Trainer
from mingpt.utils import BadInput, CfgNode

SIZES = {"model_type": None, "n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 64,
         "block_size": 16, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
MUP = {"parametrization": "mup", "base_n_embd": 32, "base_n_head": 2}
DEEP = {**MUP, "parametrization": "completep", "base_n_layer": 2}
ARMS = {"gpt2": {}, "llama's parts": {"norm": "rmsnorm", "mlp": "swiglu", "position": "rope"},
        "wider heads": {"n_head": 2}, "gqa": {"attention": "gqa"}, "mqa": {"attention": "mqa"},
        "experts": {"mlp": "moe"}, "normed heads": {"qk_norm": True}, "parallel": {
            "block": "parallel"}}


def model_of(**changes) -> GPT:
    config = GPT.get_default_config()
    config.merge_from_dict({**SIZES, **changes})
    with contextlib.redirect_stdout(None):
        model = GPT(config)
    model.init_weights(0)
    return model


def recipe(**changes) -> CfgNode:
    config = Trainer.get_default_config()
    config.merge_from_dict({"learning_rate": 1e-3, **changes})
    return config


def failures(changes: dict, **trainer) -> dict[str, str]:
    checks = audit(model_of(**changes), recipe(**trainer))["checks"]
    return {claim: seen for claim, seen in checks.items() if seen is not True}


@pytest.mark.parametrize("arm", ARMS)
def test_activations_move_alike_at_every_width(arm):
    """0.05 is the limit of the audit, which each of these arms passes as a whole."""
    assert not failures({**MUP, **ARMS[arm]})
    found = exponents(model_of(**MUP, **ARMS[arm]).config, recipe(), "n_embd")
    assert max(map(abs, found.values())) < 0.05


def test_in_the_standard_parametrization_they_grow_with_the_width():
    found = exponents(model_of(base_n_embd=32, base_n_head=2).config, recipe(), "n_embd")
    assert found["the logits"] > 0.2 and found["the last layer"] > 0.2


def test_with_completep_they_move_alike_at_every_depth_and_with_mup_they_do_not():
    assert not failures(DEEP)
    deep = exponents(model_of(**DEEP).config, recipe(), "n_layer")
    assert max(map(abs, deep.values())) < 0.05
    wide = exponents(model_of(**DEEP | {"parametrization": "mup"}).config, recipe(), "n_layer")
    assert wide["the last layer"] > 0.5


def test_muon_has_a_rate_of_its_own():
    assert not failures(MUP, optimizer="muon")


def without(kind: str, field: str):
    """The rule of µP with one of its factors left out."""
    whole = MaximalUpdate.rule

    def rule(self, name, linear, optimizer="adamw"):
        found = whole(self, name, linear, optimizer)
        is_output = linear and parametrization.kind_of(name.removesuffix(".weight")) == "output"
        this = "vector" if not linear else "output" if is_output else "inner"
        writer = name.endswith("c_proj.weight")
        if this == kind or (kind == "writer" and writer):
            factor = {"std": 1, "rate": 1, "decay": 1, "epsilon": 1} if kind != "writer" else {
                "std": found.std * self.l, "rate": found.rate * self.l}
            return Rule(**{**vars(found), field: factor[field]})
        return found
    return mock.patch.object(MaximalUpdate, "rule", rule)


@pytest.mark.parametrize("changes, kind, field, trainer", [
    (MUP, "inner", "std", {}), (MUP, "inner", "rate", {}), (MUP, "inner", "decay", {}),
    (MUP, "inner", "epsilon", {}), (MUP, "output", "std", {}), (MUP, "output", "rate", {}),
    (MUP, "output", "decay", {}), (MUP, "vector", "epsilon", {}),
    (MUP, "inner", "rate", {"optimizer": "muon"}), (DEEP, "writer", "std", {}),
    (DEEP, "writer", "rate", {})])
def test_the_audit_notices_every_rule_that_is_left_out(changes, kind, field, trainer):
    with without(kind, field):
        assert failures(changes, **trainer)


def test_the_audit_notices_scores_that_are_divided_by_the_root():
    model = model_of(**MUP, n_head=2)
    for block in model.transformer.h:
        block.attn.q_factor = 1.0
    seen = audit(model, recipe())["checks"]
    assert "multiplies its scores by 1 " in seen["a learning rate holds at other sizes, where that "
                                                 "is declared"]


@pytest.mark.parametrize("name", ["mup", "completep"])
def test_at_the_base_size_it_is_the_standard_model_to_the_bit(name):
    x = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    losses = []
    for changes in ({}, {"parametrization": name, "base_n_embd": 64, "base_n_head": 4,
                         "base_n_layer": 4}):
        model, seen = model_of(**changes), []
        optimizer = model.configure_optimizers(recipe())
        for _ in range(4):
            model.zero_grad()
            loss = model.loss(x[:, :-1], x[:, 1:])
            loss.backward()
            optimizer.step()
            seen.append(float(loss))
        losses.append(seen)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("changes, said", [
    ({"base_n_head": 5}, "does not divide"), ({"attention": "mla"}, "attention=mla"),
    ({"block": "post"}, "block=post"), ({"tie_weights": True}, "need different rates"),
    ({"embd_scale": "sqrt"}, "give a number"), ({"n_future": 2}, "n_future=2"),
    ({"mlp_hidden": 100}, "'4d' or '8/3d'"), ({"attn_scale": 0.5}, "sets it: leave it out")])
def test_what_has_no_rule_is_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        model_of(**MUP | changes)


def test_an_arm_needs_the_size_at_which_its_rate_was_found():
    asked = ["--model.parametrization=mup", "--model.base_n_embd=32"]
    with pytest.raises(BadInput, match="without model.base_n_head would be the standard one"):
        make_spec("nano", overrides=asked)
    assert make_spec("nano", overrides=[*asked, "--model.base_n_head=2"]).arm.startswith("mup")


def test_muon_under_completep_is_refused():
    with pytest.raises(BadInput, match="use mup, or adamw"):
        model_of(**DEEP).configure_optimizers(recipe(optimizer="muon"))
