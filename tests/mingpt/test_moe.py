"""A mixture of experts, compared with a dense reference and Mixtral's own layer; which tokens are
dropped, and what it costs."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mingpt.mlps import DENSE, MixtureOfExperts
from mingpt.model import GPT
from mingpt.moe import balance_loss, choose, within_capacity
from mingpt.utils import BadInput
from tests.helpers import models

C, T = 24, 12


config_of = partial(models.config_of, n_embd=C, vocab_size=31, block_size=16, mlp="moe")


def layer(seed=0, **changes):
    torch.manual_seed(seed)
    moe = MixtureOfExperts(config_of(**changes))
    with torch.no_grad():
        for p in moe.parameters():
            p.copy_(torch.randn_like(p) / C**0.5)
    return moe


def dense(moe, x):
    """The reference: every expert computes every token. Its weight is the router's, or zero if it
    was not chosen."""
    B, T, C = x.shape
    p = F.softmax(moe.router(x), -1)
    gates = torch.zeros_like(p)
    for b in range(B):
        for t in range(T):
            best = p[b, t].sort(descending=True).indices[:moe.k]
            gates[b, t, best] = p[b, t, best] / (p[b, t, best].sum() if moe.k > 1 else 1)
    return sum(gates[..., [e]] * expert(x) for e, expert in enumerate(moe.experts))


@pytest.mark.parametrize("expert", DENSE)
@pytest.mark.parametrize("n, k", [(1, 1), (4, 1), (4, 2), (5, 3), (3, 3)])
def test_it_is_the_dense_sum_of_the_chosen_in_value_and_gradient(expert, n, k):
    moe, x = (layer(expert=expert, n_experts=n, experts_per_token=k),
              torch.randn(2, T, C, requires_grad=True))
    ours, theirs = moe(x), dense(moe, x)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    into, weights = torch.randn_like(ours), [x, *moe.parameters()]
    grads = [torch.autograd.grad((y * into).sum(), weights, allow_unused=True)
             for y in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a if a is not None else b * 0, b if b is not None else a * 0,
                                   atol=1e-4, rtol=1e-4)
    assert n == 1 or grads[0][1].abs().max() > 0 or n == k == 1, "the router learns"


@pytest.mark.parametrize("n, k", [(4, 2), (6, 3)])
def test_it_computes_what_mixtrals_layer_computes_and_balances_alike(n, k):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    from transformers import MixtralConfig
    moe = layer(bias=False, n_experts=n, experts_per_token=k, mlp_hidden=20).train()
    theirs = mixtral.MixtralSparseMoeBlock(MixtralConfig(hidden_size=C, intermediate_size=20,
                                                         num_local_experts=n,
                                                         num_experts_per_tok=k,
                                                         router_jitter_noise=0.0))
    with torch.no_grad():
        theirs.gate.weight.copy_(moe.router.weight)
        for e, expert in enumerate(moe.experts):
            theirs.experts.gate_up_proj[e] = torch.cat([expert.c_gate.weight, expert.c_fc.weight])
            theirs.experts.down_proj[e] = expert.c_proj.weight
    x = torch.randn(3, T, C)
    torch.testing.assert_close(moe(x), theirs(x), atol=1e-6, rtol=1e-5)
    balance = mixtral.load_balancing_loss_func((moe.router(x).view(-1, n),), n, k)
    torch.testing.assert_close(moe.aux_loss, moe.balance * balance)


def test_an_even_load_has_the_least_balance_loss_and_its_gradient_leads_there():
    even = torch.arange(8)[:, None] % 4
    # all tokens prefer expert 0
    logits = nn.Parameter(F.one_hot(torch.zeros(8, dtype=torch.long), 4) * 2.0)
    probabilities, _, chosen = choose(logits, 1)
    loss = balance_loss(probabilities, chosen)
    assert loss > balance_loss(torch.full((8, 4), 0.25), even) == 1
    loss.backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()


def by_hand(chosen, experts, room):
    """The reference: which choices an expert admits, decided one after the other."""
    admitted = torch.zeros_like(chosen, dtype=torch.bool)
    for b, row in enumerate(chosen.tolist()):
        left = [room] * experts
        for t, choices in enumerate(row):
            for rank, e in enumerate(choices):
                admitted[b, t, rank] = left[e] > 0
                left[e] -= 1
    return admitted


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("factor, room", [(0.5, {1: 2, 2: 3}), (1.0, {1: 3, 2: 6}),
                                          (9.0, {1: 27, 2: 54})])
def test_an_expert_takes_its_share_in_the_order_of_the_text(k, factor, room):
    chosen = torch.rand(3, T, 4, generator=torch.Generator().manual_seed(0)).topk(k).indices
    admitted = within_capacity(chosen, 4, factor)
    assert torch.equal(admitted, by_hand(chosen, 4, room[k]))
    assert admitted.all() == (factor == 9)


def test_what_is_dropped_adds_nothing_is_counted_and_only_in_training():
    moe, x = layer(capacity_factor=0.5), torch.randn(2, T, C)
    whole = moe.eval()(x)
    assert moe.statistics() == {}
    kept = moe.train()(x)
    probabilities, weights, chosen = choose(moe.router(x).view(2 * T, -1), 2)
    admitted = by_hand(chosen.view(2, T, 2), 4, 3).view(2 * T, 2)
    assert moe.dropped == (~admitted).sum() > 0
    assert moe.statistics()["dropped"] == pytest.approx(1 - admitted.float().mean().item())
    load = torch.bincount(chosen.flatten(), minlength=4)
    assert torch.equal(moe.load, load)
    assert moe.statistics()["busiest expert"] == pytest.approx(
        float(load.max() / load.double().mean())
    )
    with torch.no_grad():
        flat = x.view(2 * T, C)
        rest = sum((weights * (chosen == e) * ~admitted).sum(1, keepdim=True) * expert(flat)
                   for e, expert in enumerate(moe.experts)).view_as(x)
    torch.testing.assert_close(whole - kept, rest, atol=1e-5, rtol=1e-4)
    assert torch.equal(moe.eval()(x), whole)
    assert moe.aux_loss is None


def test_without_a_capacity_nothing_is_dropped():
    moe, x = layer(), torch.randn(2, T, C)
    assert torch.equal(moe.train()(x), moe.eval()(x))
    assert moe.statistics()["dropped"] == 0


def test_the_balance_is_part_of_the_training_loss_alone_and_of_every_layer():
    torch.manual_seed(0)
    idx = torch.randint(31, (2, 16))
    model = GPT(config_of(balance_loss=0.5)).train()
    with_it = model.loss(idx, idx)
    added = sum(block.mlp.aux_loss for block in model.transformer.h)
    assert added > 2 * 0.5 * 2 - 0.01  # 2 layers · factor 0.5 · at least k = 2 per layer
    torch.testing.assert_close(with_it - added, model.eval().loss(idx, idx))
    torch.testing.assert_close(model.train()(idx, idx)[1], with_it)
    assert set(model.statistics()) == {"dropped", "busiest expert"}
    silent = GPT(config_of(balance_loss=0.0)).train()
    silent.loss(idx, idx)
    assert all(block.mlp.aux_loss is None for block in silent.transformer.h)


def test_only_the_chosen_experts_work_is_counted():
    def model(**changes):
        with torch.device("meta"):
            return GPT(config_of(**changes))
    one, few, many = (model(n_experts=n, experts_per_token=1) for n in (1, 2, 8))
    router = 3 * 2 * 2 * C  # per expert: training · multiply and add · layers
    assert few.flops_per_token() - one.flops_per_token() == router
    assert many.flops_per_token() - one.flops_per_token() == 7 * router
    plain = model(mlp="swiglu")
    assert one.flops_per_token() - plain.flops_per_token() == router
    both = model(n_experts=8, experts_per_token=2)
    expert = 3 * 2 * 2 * 3 * C * one.transformer.h[0].mlp.experts[0].c_fc.out_features
    assert both.flops_per_token() - many.flops_per_token() == expert


def test_a_model_between_two_steps_can_be_copied():
    model, idx = GPT(config_of()).train(), torch.randint(31, (1, 8))
    model(idx, idx)[1].backward()
    assert torch.equal(copy.deepcopy(model).eval()(idx)[0], model.eval()(idx)[0])


@pytest.mark.parametrize("changes, words", [
    ({"expert": "swiglo"}, "did you mean 'swiglu'"), ({"expert": "moe"}, "no expert 'moe'"),
    ({"experts_per_token": 5}, "model.experts_per_token=5 of model.n_experts=4"),
    ({"experts_per_token": 0}, "give 1"),
    ({"n_experts": 0}, "n_experts=0"), ({"capacity_factor": 0}, "model.capacity_factor=0")])
def test_experts_without_meaning_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        layer(**changes)


def test_under_autocast_the_router_alone_stays_in_float32():
    """This is Switch's selective precision. Logits rounded to bf16 would choose other experts where
    two are almost equally likely."""
    moe, x = layer(n_experts=8, experts_per_token=2, balance_loss=0.01), torch.randn(4, T, C)
    moe.train()
    moe(x)
    exact, load = moe.aux_loss.item(), moe.load.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = moe(x)
    assert made.dtype == torch.bfloat16
    assert moe.aux_loss.item() == exact
    assert torch.equal(moe.load, load)
