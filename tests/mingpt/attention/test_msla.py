"""Attention through latents: in ours the tokens mix, in study 004's they do not."""

import contextlib
import io

import pytest
import torch
from torch.nn import functional as F

from experiments.audit import audit
from mingpt.attention.msla import FLOOR
from mingpt.attention.running_means import CHUNK
from mingpt.model import GPT
from mingpt.sampling.cache import Cache, advance
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from tests.helpers.models import config_of, gpt_of
from tests.mingpt.attention.test_running_means import slow

V, T, C = 23, 2 * CHUNK + 9, 32


SHAPE = {"n_head": 4, "n_embd": C, "vocab_size": V, "block_size": T, "attention": "msla",
         "msla_latents": 7, "msla_topk": 3}


def gpt(**changes):
    return gpt_of(0.3, **{**SHAPE, **changes}).eval()


def heads(x):
    return x.unflatten(-1, (4, -1)).transpose(-2, -3)


def read_weights(scores, k):
    """A softmax over the k best of each row, written out one row at a time."""
    weights = torch.zeros_like(scores)
    for row, out in zip(scores.flatten(0, -2), weights.view(-1, scores.size(-1)), strict=True):
        best = sorted(range(len(row)), key=lambda l: -row[l])[:k]
        out[best] = row[best].softmax(0)
    return weights


@pytest.mark.parametrize("changes", [{}, {"position": "alibi"}, {"msla_topk": 1, "qkv_bias": False},
                                     {"msla_topk": 7, "attn_scale": 1.0},
                                     {"head_dim": 5, "qk_norm": True}], ids=str)
@torch.no_grad()
def test_it_is_its_definition(changes):
    layer = gpt(**changes).transformer.h[0].attn
    x = torch.randn(2, T, C)
    q, k, v = (heads(part) for part in F.linear(x, layer.c_attn.weight,
                                                layer.c_attn.bias).chunk(3, -1))
    q, k = layer.q_norm(q), layer.k_norm(k)
    latents = heads(layer.latents.weight)                                           # (nh, L, hs)
    scale = changes.get("attn_scale", q.size(-1) ** -0.5)
    write = (k @ latents.mT * scale).softmax(-1) + FLOOR
    y = slow(read_weights(q @ latents.mT * scale, changes.get("msla_topk", 3)), write, v,
             layer.position.slopes)
    want = F.linear(y.transpose(1, 2).flatten(2), layer.c_proj.weight, layer.c_proj.bias)
    torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-4)


def test_what_a_query_gives_the_tokens_before_it_sums_to_one():
    layer = gpt(qkv_bias=True).transformer.h[0].attn
    with torch.no_grad():
        layer.c_attn.weight[2 * C:] = 0          # all values are equal
        layer.c_attn.bias[2 * C:] = torch.linspace(-1, 1, C)
        y = layer(torch.randn(2, T, C))
    torch.testing.assert_close(y, layer.c_proj(layer.c_attn.bias[2 * C:]).expand_as(y), atol=1e-5,
                               rtol=1e-4)


@pytest.mark.parametrize("slack, pieces", [(0, [CHUNK + 3] + [1] * 20), (3, [70, 4, 3, 1, 2, 4]),
                                           (0, [1] * 12),
                                           (5, [2, 6, 6, 1])], ids=str)
@pytest.mark.parametrize("position", ["learned", "alibi"])
@torch.no_grad()
def test_token_by_token_it_is_the_same_and_the_memory_does_not_grow(position, slack, pieces):
    model = gpt(position=position)
    idx = torch.randint(V, (2, sum(pieces)))
    cache = Cache(model, 2, slack=slack)
    got = torch.cat([advance(model, piece, cache) for piece in idx.split(pieces, 1)], 1)
    torch.testing.assert_close(got, model(idx)[0], atol=1e-4, rtol=1e-4)
    for layer in cache.layers:
        # (B, nh, L, hs + 1)
        assert {state.held.shape for state in layer.states} == {(2, 4, 7, 8 + 1)}
        assert len(layer.states) == slack + 2


@torch.no_grad()
def test_what_was_fed_can_be_taken_back():
    model, other = gpt(), torch.randint(V, (2, 4))
    for prompt in (3, 20):
        idx, cache = torch.randint(V, (2, prompt + 9)), Cache(model, 2, slack=4)
        advance(model, idx[:, :prompt], cache)
        for start in range(prompt, prompt + 9, 3):
            advance(model, other, cache)
            cache.truncate(start)
            got = advance(model, idx[:, start:start + 3], cache)
            torch.testing.assert_close(got, model(idx[:, :start + 3])[0][:, start:], atol=1e-4,
                                       rtol=1e-4)
        with pytest.raises(BadInput, match="can keep"):
            cache.truncate(prompt)


def test_twice_the_text_is_twice_the_work():
    from torch.utils.flop_counter import FlopCounterMode
    model, flops = gpt(block_size=16 * CHUNK), []
    layer = model.transformer.h[0].attn
    for n in (4, 8, 16):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(1, n * CHUNK, C))
        flops.append(counter.get_total_flops())
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.01)
    assert flops[2] == pytest.approx(2 * flops[1], rel=0.01)
    assert layer.score_flops(4 * CHUNK) == layer.score_flops(16 * CHUNK)


@pytest.mark.parametrize("kind", ["msla", "msla_published"])
@pytest.mark.parametrize("changes, hint", [({"schedule": "5*"}, "pattern '5'"),
                                           ({"position": "rope"}, "rope"),
                                           ({"backend": "dense"}, "use auto"),
                                           ({"document_end": 3}, "document_mask"),
                                           ({"msla_topk": 8}, "from 1 to 7"),
                                           ({"msla_latents": 0}, "from 1"),
                                           ({"msla_topk": True}, "from 1 to 7")], ids=str)
def test_what_has_no_meaning_is_refused(kind, changes, hint):
    with pytest.raises(BadInput, match=hint):
        gpt(attention=kind, **changes)


# -- as published ----------------------------------------------------------------------------------

@torch.no_grad()
def test_published_is_its_description():
    layer = gpt(attention="msla_published").transformer.h[0].attn
    x, part = torch.randn(2, 9, C), layer.msla
    q, v, latents = heads(part.q_proj(x)), heads(part.v_proj(x)), heads(part.latents.weight)
    y = read_weights(q @ latents.mT / 8 ** 0.5, 3) @ latents + v
    want = layer.c_proj(part.out_proj(y.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-4)


def test_published_at_124m_trains_as_many_parameters_as_the_study_printed():
    config = config_of(model_type="gpt2", n_layer=None, n_head=None, n_embd=None,
                       attention="msla_published", vocab_size=50257, block_size=1024,
                       tie_weights=True, msla_latents=256, msla_topk=16)
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        model = GPT(config)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for name, p in model.named_parameters() if ".attn.msla." in name)
    assert (
        f"{trained:,} of {total:,} ({trained / total:.2%})" == "30,707,712 of 133,886,208 (22.94%)"
    )


def test_no_token_of_the_published_sees_another_and_the_audit_says_which():
    model = gpt(attention="msla_published", block_size=24)
    idx = torch.randint(V, (1, 24))
    edited = idx.clone()
    edited[0, 5] = (edited[0, 5] + 1) % V
    moved = (model(edited)[0] - model(idx)[0]).abs().amax(-1)[0] > 0
    assert moved.nonzero().flatten().tolist() == [5]
    result = audit(model, Trainer.get_default_config())
    assert not result["passed"]
    assert result["checks"]["every layer sees exactly the keys of its pattern"] == (
        "layer 0's attn, query 1 does not see, as its pattern declares, key 0 (T = 15)")
    assert "transformer.h.0.attn.msla.k_proj.weight" in result["checks"][
        "every parameter is reached by the gradient"]
    assert audit(gpt(block_size=24), Trainer.get_default_config(), fresh=False)["passed"]


@pytest.mark.parametrize("kind", ["msla", "msla_published"])
def test_a_softmax_that_answers_in_float32_is_taken_as_it_is(kind, monkeypatch):
    """CUDA's autocast has one; the CPU's stays in bfloat16."""
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, *a, **k: softmax(x.float(), *a, **k))
    model, idx = gpt(attention=kind), torch.randint(0, 11, (2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(idx, idx).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
