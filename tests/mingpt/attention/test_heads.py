"""Kinds of attention: shared keys and values, biases, scale, head size, and layers without
positions."""

import math

import pytest
import torch
from torch.nn import functional as F

from experiments.audit import audit
from mingpt.attention.heads import ATTENTIONS
from mingpt.model import GPT
from mingpt.positions import layers_without
from mingpt.trainer import Trainer
from mingpt.utils import BadInput
from tests.helpers.models import config_of, gpt_of

V, T = 23, 24


SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 32, "vocab_size": V, "block_size": T}


def gpt(**changes):
    return gpt_of(0.2, **{**SHAPE, **changes}).eval()


def tokens():
    return torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))


# -- heads that share ------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, {"position": "rope"},
                                     {"position": "alibi", "schedule": "5*"},
                                     {"qk_norm": True, "bias": False}], ids=str)
def test_with_as_many_kv_heads_as_heads_gqa_is_mha(changes):
    whole, grouped = gpt(**changes), gpt(attention="gqa", n_kv_head=4, **changes)
    assert list(grouped.state_dict()) == list(whole.state_dict())
    grouped.load_state_dict(whole.state_dict())
    assert torch.equal(grouped(tokens())[0], whole(tokens())[0])


@pytest.mark.parametrize("kind, kv", [("gqa", 2), ("gqa", 1), ("mqa", 1)])
@pytest.mark.parametrize("changes", [{"position": "rope"},
                                     {"schedule": "f 5 4/3 s5", "position": "alibi"}], ids=str)
def test_shared_heads_are_mha_with_their_rows_repeated(kind, kv, changes):
    shared = gpt(attention=kind, n_kv_head=kv if kind == "gqa" else None, **changes)
    whole = gpt(**changes)
    state = shared.state_dict()
    for name in list(state):
        if "c_attn" in name:
            q, k, v = state[name].split([32, 8 * kv, 8 * kv])
            k, v = (x.unflatten(0, (kv, 8)).repeat_interleave(4 // kv, 0).flatten(0, 1)
                    for x in (k, v))
            state[name] = torch.cat((q, k, v))
    whole.load_state_dict(state)
    torch.testing.assert_close(shared(tokens())[0], whole(tokens())[0], atol=1e-5, rtol=1e-5)


def test_fewer_kv_heads_are_fewer_parameters_and_as_many_scores():
    sizes = {kv: sum(p.numel() for p in gpt(attention="gqa",
                                            n_kv_head=kv).transformer.h[0].attn.parameters())
             for kv in (1, 2, 4)}
    assert sizes[4] - sizes[2] == (32 + 1) * 2 * 2 * 8
    assert sizes[4] - sizes[1] == (32 + 1) * 2 * 3 * 8
    assert gpt(attention="mqa").transformer.h[0].attn.score_flops(T) == gpt().transformer.h[
        0
    ].attn.score_flops(T)


@pytest.mark.parametrize("wanted", [3, 0, -2, 8, True, "two"])
def test_kv_heads_that_do_not_divide_the_heads_are_refused_naming_those_that_do(wanted):
    with pytest.raises(BadInput, match="1, 2, 4 do"):
        gpt(attention="gqa", n_kv_head=wanted)


def test_without_a_number_gqa_halves_the_heads():
    assert gpt(attention="gqa").transformer.h[0].attn.n_kv_head == 2
    assert gpt(attention="gqa", n_head=1).transformer.h[0].attn.n_kv_head == 1


# -- biases, scale, size ---------------------------------------------------------------------------

@pytest.mark.parametrize("bias, qkv, out", [(True, None, None), (True, False, None),
                                            (False, True, None),
                                            (True, None, False), (False, None, True)])
def test_each_projection_of_attention_has_a_bias_where_it_is_asked_for(bias, qkv, out):
    names = {name for name in gpt(bias=bias, qkv_bias=qkv, attn_out_bias=out).state_dict()
             if "h.0.attn" in name}
    assert ("transformer.h.0.attn.c_attn.bias" in names) is (bias if qkv is None else qkv)
    assert ("transformer.h.0.attn.c_proj.bias" in names) is (bias if out is None else out)


@pytest.mark.parametrize("backend", ["dense", "banded"])
@pytest.mark.parametrize("changes", [{"attn_scale": 1.0}, {"attn_scale": 0.1, "attention": "gqa"},
                                     {"head_dim": 6},
                                     {"head_dim": 16, "n_head": 3, "attention": "mqa"}], ids=str)
def test_scale_and_head_size_are_what_they_say(changes, backend):
    layer = gpt(backend=backend, schedule="7*", **changes).transformer.h[0].attn
    x = torch.randn(2, T, 32)
    heads, hs = changes.get("n_head", 4), changes.get("head_dim", 8)
    q, k, v = (part.unflatten(-1, (-1, hs)).transpose(1, 2)
               for part in layer.c_attn(x).split(layer.sizes, -1))
    k, v = (part.repeat_interleave(heads // part.size(1), 1) for part in (k, v))
    i = torch.arange(T)
    seen = (i[:, None] >= i) & (i[:, None] - i < 7)
    scores = (q @ k.mT) * changes.get("attn_scale", 1 / math.sqrt(hs))
    y = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
    torch.testing.assert_close(layer(x), F.linear(y.transpose(1, 2).flatten(2),
                                                  layer.c_proj.weight, layer.c_proj.bias),
                               atol=1e-5, rtol=1e-4)


# -- positions, layer by layer ---------------------------------------------------------------------

def test_a_fraction_of_rope_turns_the_first_numbers_of_a_head_alone():
    part = gpt(position="rope", rope_fraction=0.5).transformer.h[0].attn.position
    whole = gpt(position="rope", n_embd=16).transformer.h[0].attn.position       # heads of 4
    q = torch.randn(2, 4, T, 8)
    turned, _ = part.rotate(q, q)
    assert torch.equal(turned[..., 4:], q[..., 4:])
    assert torch.equal(turned[..., :4], whole.rotate(q[..., :4], q[..., :4])[0])


def test_partial_rope_is_neoxs_in_transformers():
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    from transformers import GPTNeoXConfig
    theirs = neox.GPTNeoXRotaryEmbedding(GPTNeoXConfig(hidden_size=32, num_attention_heads=4,
                                                       rotary_pct=0.5))
    q, k = torch.randn(2, 2, 4, T, 8)
    cos, sin = theirs(q, torch.arange(T).unsqueeze(0))
    ours = gpt(position="rope", rope_fraction=0.5).transformer.h[0].attn.position.rotate(q, k)
    for got, want in zip(ours, neox.apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.1, -1, 2])
def test_a_fraction_that_turns_no_pairs_is_refused(fraction):
    with pytest.raises(BadInput, match="must be even"):
        gpt(position="rope", n_embd=40, rope_fraction=fraction)   # heads of 10


def test_layers_with_a_window_have_the_local_base():
    model = gpt(position="rope", schedule="f 5 f 3/2", rope_base=5000.0, rope_local_base=100.0)
    angle = [torch.atan2(b.attn.position.sin[1, 1], b.attn.position.cos[1, 1]).item()
             for b in model.transformer.h]
    assert angle == pytest.approx([base ** (-2 / 8) for base in (5000, 100, 5000, 100)], rel=1e-5)
    one = gpt(position="rope", schedule="f 5 f 3/2", rope_base=5000.0)
    assert torch.equal(one.transformer.h[1].attn.position.cos,
                       model.transformer.h[0].attn.position.cos)


@pytest.mark.parametrize("text, layers", [("1,3", {1, 3}), ((1, 3), {1, 3}), ([2], {2}), (0, {0}),
                                          ("every 2", {1, 3}),
                                          ("every 4", {3}), ("every 9", set()), (None, set())])
def test_layers_without_positions_are_named_or_counted_out(text, layers):
    assert layers_without(config_of(**SHAPE, position="rope", nope_layers=text)) == layers


@pytest.mark.parametrize("wrong, hint", [("4", "the last is 3"), ("x", "write 3,7"),
                                         ("every 0", "write 3,7"),
                                         ("-1", "write 3,7"), ("1 2", "write 3,7"),
                                         ("", "write 3,7")])
def test_layers_that_are_none_are_refused(wrong, hint):
    with pytest.raises(BadInput, match=hint):
        gpt(position="rope", nope_layers=wrong)


@pytest.mark.parametrize("position", ["learned", "none"])
def test_positions_that_act_in_no_layer_cannot_be_left_out_of_some(position):
    with pytest.raises(BadInput, match="does not act in layers"):
        gpt(position=position, nope_layers="1")


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_a_layer_without_positions_does_not_tell_the_order_of_its_keys(position):
    model = gpt(position=position, nope_layers="every 2")
    x = torch.randn(1, T, 32)
    turned = torch.cat((x[:, :-1].flip(1), x[:, -1:]), 1)
    for layer, block in enumerate(model.transformer.h):
        moved = (block.attn(x) - block.attn(turned))[0, -1].abs().max().item()
        assert (moved < 1e-5) is (layer % 2 == 1), layer


@pytest.mark.parametrize("changes", [{"attention": "gqa", "position": "rope", "nope_layers": "1,3"},
                                     {"attention": "mqa", "qkv_bias": False, "attn_scale": 1.0,
                                      "schedule": "5*"},
                                     {"position": "rope", "rope_fraction": 0.25, "n_embd": 64,
                                      "head_dim": 8}], ids=str)
def test_the_audit_finds_nothing(changes):
    model = gpt_of(**{**SHAPE, **changes})
    result = audit(model, Trainer.get_default_config())
    assert result["passed"], result["checks"]


@pytest.mark.parametrize(("heads", "kept"), [(25, 5), (9, 3), (7, 1), (12, 6)])
def test_heads_share_by_default_as_little_as_their_number_allows(heads, kept):
    config = GPT.get_default_config()
    config.merge_from_dict({"n_head": heads, "attention": "gqa"})
    assert ATTENTIONS["gqa"].kv_heads(config) == kept
