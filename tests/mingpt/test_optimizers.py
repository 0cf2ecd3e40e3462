"""Optimizers: Muon's step equals its definition. Muon and AdamW together are saved and scheduled as
one optimizer."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.weights import checkpoint
from mingpt.optimizers import MuonAndAdamW
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from tests.helpers.models import gpt_of

ROOT = Path(__file__).resolve().parents[2]


def model_of(**changes):
    model = gpt_of(**changes)
    model.init_weights(0)
    return model


def settings(**changes):
    config = Trainer.get_default_config()
    config.merge_from_dict({"optimizer": "muon", "learning_rate": 0.01, **changes})
    return config


def train(model, optimizer, steps, start=0):
    for n in range(start, start + steps):
        idx = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(n))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (n + 1)      # a schedule, set as the trainer sets it
        model.zero_grad(set_to_none=True)
        model(idx[:, :-1], idx[:, 1:])[1].backward()
        optimizer.step()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def orthogonalised(matrix):
    """The definition: five Newton–Schulz iterations with Jordan's coefficients, computed on the
    singular values."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


def test_a_step_of_muon_is_its_definition_and_the_rest_is_adamws():
    model, alone = model_of(), model_of()
    ours = model.configure_optimizers(settings(muon_lr_ratio=0.5, weight_decay=0.2))
    theirs = alone.configure_optimizers(settings(optimizer="adamw", weight_decay=0.2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for each, optimizer in ((model, ours), (alone, theirs)):
        torch.manual_seed(1)
        for p in each.parameters():
            p.grad = torch.randn_like(p)  # no singular value near 0, where bfloat16 has only noise
        optimizer.step()
    muons = {name for name, p in model.named_parameters()
             if any(p is q for q in ours.param_groups[0]["params"])}
    assert muons == {n for n, p in model.named_parameters() if p.dim() == 2
                     and n.startswith("transformer.h.")}
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        if name not in muons:
            assert torch.equal(p, q), name
            continue
        rate = 0.5 * 0.01
        # Nesterov momentum in the first step: g + 0.95·g
        step = rate * 0.2 * math.sqrt(max(p.shape)) * orthogonalised(p.grad * 1.95)
        expected = before[name] * (1 - rate * 0.2) - step.float()
        error = (p.detach() - expected).norm() / step.norm()
        assert error < 0.05, f"{name}: {error}"     # torch's Muon computes in bfloat16


@pytest.mark.parametrize("way", ["checkpoint", "state_dict"])
def test_muon_goes_on_from_what_was_saved_with_the_same_bits(way, tmp_path):
    whole, model = model_of(), model_of()
    train(whole, whole.configure_optimizers(settings()), 5)
    optimizer = model.configure_optimizers(settings())
    train(model, optimizer, 3)
    again = copy.deepcopy(model)
    resumed = again.configure_optimizers(settings())
    if way == "checkpoint":
        checkpoint.save(tmp_path, 3, checkpoint.model_tensors(model),
                        checkpoint.optimizer_tensors(model, optimizer), {})
        checkpoint.load_optimizer(tmp_path, checkpoint.read_state(tmp_path), again, resumed)
    else:
        torch.save(optimizer.state_dict(), tmp_path / "o.pt")
        resumed.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    train(again, resumed, 2, start=3)
    assert same(again, whole)
    fresh = copy.deepcopy(model)
    train(fresh, fresh.configure_optimizers(settings()), 2, start=3)
    assert not same(fresh, whole), "the state matters"


def test_the_state_of_both_is_one_state():
    model = model_of()
    optimizer = model.configure_optimizers(settings())
    train(model, optimizer, 1)
    assert isinstance(optimizer, MuonAndAdamW)
    entries = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    assert entries["transformer.h.1.mlp.c_fc.weight"] == {"momentum_buffer"}
    assert entries["lm_head.weight"] == entries["transformer.ln_f.bias"] == {
        "step", "exp_avg", "exp_avg_sq"}
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)


def test_matrices_alone_need_no_adamw_and_none_at_all_no_muon():
    model = model_of(bias=False, norm="rmsnorm")
    for name, p in model.named_parameters():
        p.requires_grad_(".c_attn." in name)
    optimizer = model.configure_optimizers(settings())
    train(model, optimizer, 2)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
    for p in model.transformer.h.parameters():
        p.requires_grad_(False)
    model.transformer.wte.weight.requires_grad_(True)
    with pytest.raises(BadInput, match="use adamw"):
        model.configure_optimizers(settings())


def test_a_torch_without_muon_is_refused_with_the_reason(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(BadInput, match="trainer.optimizer=muon: torch .* has no Muon"):
        model_of().configure_optimizers(settings())


def test_a_step_imports_no_compiler_and_has_the_bits_of_torchs_own():
    code = """if True:
        import sys, torch
        from mingpt.optimizers import OPTIMIZERS
        from mingpt.trainer import Trainer
        config = Trainer.get_default_config()
        for name in OPTIMIZERS:
            p = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
            made = OPTIMIZERS[name]([{"params": [("a", p)]}, {"params": []}], config)
            for _ in range(2):
                made.zero_grad()
                p.square().sum().backward()
                made.step()
            made.load_state_dict(made.state_dict())
            if name == "adamw":
                adamw = p.detach()
        assert "torch._dynamo" not in sys.modules
        q = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
        torchs = torch.optim.AdamW([q], config.learning_rate, config.betas, fused=True)
        for _ in range(2):
            torchs.zero_grad()
            q.square().sum().backward()
            torchs.step()
        assert torch.equal(adamw, q)
        assert "torch._dynamo" in sys.modules   # what the import would look like"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
