"""Faults in what a model computes, which the audit must find.

{name: (settings, fault, words that name its place)}. A fault changes a good model. If it changes
anything else too, it returns a function that undoes the change.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mingpt.mlps import SquaredReLU

ROPE, ALIBI, MOE = {"position": "rope"}, {"position": "alibi"}, {"mlp": "moe"}
GQA = {"attention": "gqa", "n_head": 4, "n_kv_head": 2}


def at(model, layer):
    return model.transformer.h[layer]


def rotation(layer, change):
    """Replace a layer's rotation by change(turn, q, k) → (q, k)."""
    def plant(model):
        position = at(model, layer).attn.position
        turn = position.rotated
        position.rotate = lambda q, k, start=0: change(turn, q, k)
    return plant


def turns_back(turn, q, k):
    return tuple(turn(x.flip(-2)).flip(-2) for x in (q, k))


def swapped_halves(turn, q, k):
    return tuple(turn(x.roll(x.size(-1) // 2, -1)).roll(-(x.size(-1) // 2), -1) for x in (q, k))


def negative_angle(model):
    position = at(model, 1).attn.position
    position.sin.neg_()


def attend_with(layer, change):
    """Replace a layer's backend by change(attend, q, k, v, kwargs)."""
    def plant(model):
        attention = at(model, layer).attn
        attend = attention.attend
        attention.attend = lambda q, k, v, **kwargs: change(attend, q, k, v, kwargs)
    return plant


def scores(layer, factor):
    return attend_with(layer, lambda attend, q, k, v, kw: attend(q * factor, k, v, **kw))


def slopes(layer, change):
    def plant(model):
        position = at(model, layer).attn.position
        position.slope_of_head = change(position.slope_of_head)
    return plant


def tiled(attend, q, k, v, kw):
    repeat = q.size(1) // k.size(1)
    return attend(q, k.repeat(1, repeat, 1, 1), v.repeat(1, repeat, 1, 1), **kw)


def eps_of_1(name):
    def plant(model):
        getattr(at(model, 1) if name != "ln_f" else model.transformer, name).eps = 1.0
    return plant


def activation(layer, made):
    return lambda model: setattr(at(model, layer).mlp, "act", made)


def output(layer, part, change):
    """Replace a part's output y = part(x) by change(x, y)."""
    def plant(model):
        getattr(at(model, layer), part).register_forward_hook(lambda m, args, y: change(args[0], y))
    return plant


def moe_with(change):
    """Replace the weights and experts that the router of layer 1 chose.

    change(probabilities, weights, chosen) returns the new (weights, chosen).
    """
    def plant(model):
        import mingpt.mlps as mlps
        choose, router = mlps.choose, at(model, 1).mlp.router
        asked = []
        router.register_forward_hook(lambda m, args, y: asked.append(y.data_ptr()))

        def other(logits, k):
            probabilities, weights, chosen = choose(logits, k)
            if asked and logits.data_ptr() == asked[-1]:
                weights, chosen = change(probabilities, weights, chosen)
            return probabilities, weights, chosen
        mlps.choose = other
        return lambda: setattr(mlps, "choose", choose)
    return plant


def skipped(model):
    layers = model.transformer.h
    hidden = model.hidden

    def without(idx, cache=None):
        forward = layers[1].forward
        layers[1].forward = lambda x, *rest: x
        try:
            return hidden(idx, cache)
        finally:
            layers[1].forward = forward
    model.hidden = without


def attention_skipped(model):
    block = at(model, 2)
    block.forward = lambda x, *rest: x + block.mlp(block.ln_2(x))


def block_with(layer, compute):
    def plant(model):
        block = at(model, layer)
        block.forward = lambda x, *rest: compute(block, x, *rest)
    return plant


def post_order(b, x, *rest):
    x = b.ln_1(x + b.attn(x, *rest))
    return b.ln_2(x + b.mlp(x))


def parallel_order(b, x, *rest):
    return x + b.attn(b.ln_1(x), *rest) + b.mlp(b.ln_2(x))


def halved_stream(b, x, *rest):
    x = 0.5 * x + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x))


VALUES = {     # the original list of faults
    "rope on keys only": (ROPE, rotation(1, lambda turn, q, k: (q, turn(k))),
                          "layer 1's attention"),
    "rope on queries only": (ROPE, rotation(2, lambda turn, q, k: (turn(q), k)),
                             "layer 2's attention"),
    "rope shifted by one for queries": (
        ROPE, rotation(0, lambda turn, q, k: (turn(q.roll(-1, -2)).roll(1, -2), turn(k))),
        "layer 0's attention"),
    "rope reversed": (ROPE, rotation(1, turns_back), "layer 1's attention"),
    "rope turned back for queries": (
        ROPE, rotation(2, lambda turn, q, k: (turns_back(turn, q, q)[0], turn(k))),
        "layer 2's attention"),
    "rope of half the angle": (
        ROPE, lambda m: at(m, 2).attn.position.__dict__["_buffers"].update(
            sin=(at(m, 2).attn.position.sin / 2),
            cos=(1 - (at(m, 2).attn.position.sin / 2) ** 2).sqrt()),
        "layer 2's attention"),
    "alibi's sign": (ALIBI, slopes(1, lambda s: -s), "layer 1's attention"),
    "alibi with one slope": (ALIBI, slopes(0, lambda s: s[:1].expand_as(s)), "layer 0's attention"),
    "alibi's heads in reverse": (ALIBI, slopes(2, lambda s: s.flip(0)), "layer 2's attention"),
    "scores doubled": ({}, scores(1, 2.0), "layer 1's attention"),
    "scores divided by √C": ({}, scores(2, math.sqrt(16 / 32)), "layer 2's attention"),
    "scores not divided": ({}, scores(0, math.sqrt(16)), "layer 0's attention"),
    "scores doubled in mla": ({"attention": "mla"}, scores(1, 2.0), "layer 1's attention"),
    "scores doubled in msla": (
        {"attention": "msla"}, lambda m: setattr(at(m, 1).attn, "scale", 0.5),
        "layer 1's attention"),
    "kv heads tiled": (GQA, attend_with(1, tiled), "layer 1's attention"),
    "kv heads tiled in the last layer": (GQA, attend_with(2, tiled), "layer 2's attention"),
    "eps of 1 in a layernorm": ({}, eps_of_1("ln_1"), "layer 1's ln_1"),
    "eps of 1 in an rmsnorm": ({"norm": "rmsnorm"}, eps_of_1("ln_2"), "layer 1's ln_2"),
    "eps of 1 in the final norm": ({}, eps_of_1("ln_f"), "the final norm"),
    "activation missing": ({}, activation(1, nn.Identity()), "layer 1's MLP"),
    "activation missing in swiglu": ({"mlp": "swiglu"}, activation(0, nn.Identity()),
                                     "layer 0's MLP"),
    "gelu swapped for silu": ({}, activation(2, nn.SiLU()), "layer 2's MLP"),
    "gelu by another formula": ({}, activation(1, nn.GELU()), "layer 1's MLP"),
    "swiglu's sigmoid for silu": ({"mlp": "swiglu"}, activation(1, nn.Sigmoid()), "layer 1's MLP"),
    "geglu for swiglu": ({"mlp": "swiglu"}, activation(1, nn.GELU(approximate="tanh")),
                         "layer 1's MLP"),
    "relu for relu²": ({"mlp": "relu2"}, activation(1, nn.ReLU()), "layer 1's MLP"),
    "relu² for gelu": ({}, activation(0, SquaredReLU()), "layer 0's MLP"),
    "experts' weights not normalised": (MOE, moe_with(lambda p, w, c: (p.gather(1, c), c)),
                                        "layer 1's MLP"),
    "a skipped layer": ({}, skipped, "layer 1"),
    "a skipped attention": ({}, attention_skipped, "layer 2's ln_1 is never called"),
}

OWN_VALUES = {     # further faults
    "rope's halves swapped": (ROPE, rotation(1, swapped_halves), "layer 1's attention"),
    "rope's sign": (ROPE, negative_angle, "layer 1's attention"),
    "rope where none is declared": ({"position": "rope", "nope_layers": "1"}, lambda m: setattr(
        at(m, 1).attn, "position", at(m, 0).attn.position), "layer 1's attention"),
    "values scaled": ({}, attend_with(2, lambda a, q, k, v, kw: a(q, k, v * 1.01, **kw)),
                      "layer 2's attention"),
    "keys and values exchanged": ({}, attend_with(1, lambda a, q, k, v, kw: a(q, v, k, **kw)),
                                  "layer 1's attention"),
    "heads exchanged": ({}, attend_with(1, lambda a, q, k, v, kw: a(q, k, v, **kw).flip(1)),
                        "layer 1's attention"),
    "key heads in reverse": (
        GQA, attend_with(1, lambda a, q, k, v, kw: a(q, k.flip(1), v.flip(1), **kw)),
        "layer 1's attention"),
    "query norm left out": (
        {"qk_norm": True}, lambda m: setattr(at(m, 1).attn, "q_norm", nn.Identity()),
        "needs transformer.h.1.attn.q_norm.weight"),
    "one expert's weight for all": (MOE, moe_with(lambda p, w, c: (torch.full_like(w, 0.5), c)),
                                    "layer 1's MLP"),
    "the least likely experts": (MOE, moe_with(lambda p, w, c: (w, (-p).topk(2, -1)[1])),
                                 "layer 1's MLP"),
    "experts exchanged": (MOE, moe_with(lambda p, w, c: (w, c.flip(1))), "layer 1's MLP"),
    "post for pre": ({}, block_with(1, post_order), "layer 1"),
    "parallel for pre": ({}, block_with(2, parallel_order), "layer 2's"),
    "a halved stream": ({}, block_with(1, halved_stream), "layer 1's sums"),
    "a branch scaled after its part": ({}, output(1, "mlp", lambda x, y: y * 0.9), "layer 1's MLP"),
    "mlp's gate and value exchanged": ({"mlp": "swiglu"}, lambda m: (
        lambda p: setattr(p, "forward", lambda x: p.c_proj(p.c_gate(x) * p.act(p.c_fc(x)))))(
            at(m, 2).mlp),
        "layer 2's MLP"),
    "embedding scale forgotten": (
        {"embd_scale": 3.0}, lambda m: setattr(m.transformer.wte, "scale", 1.0),
        "the input of layer 0"),
    "positions shifted by one": ({}, lambda m: m.transformer.wpe.register_forward_hook(
        lambda t, a, y: y.roll(1, 1)), "the input of layer 0"),
    "softcap forgotten": ({"logit_softcap": 1.0}, lambda m: setattr(m, "softcap", None),
                          "the head's logits"),
    "final norm left out": (
        {}, lambda m: m.transformer.ln_f.register_forward_hook(lambda n, a, y: a[0]),
        "the final norm"),
    "layernorm does not centre": (
        {}, lambda m: setattr(at(m, 1).ln_1, "forward", lambda x: F.rms_norm(
            x, (32,), at(m, 1).ln_1.weight, 1e-5) + at(m, 1).ln_1.bias),
        "layer 1's ln_1"),
    "factor of the queries forgotten": (
        {"attn_scale": 1.0}, lambda m: setattr(at(m, 2).attn, "scale_q", nn.Identity()),
        "layer 2's attention"),
}
