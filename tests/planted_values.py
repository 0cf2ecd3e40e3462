"""More faults to be caught, in what is computed and in training: {name: (settings, fault, words that name its place)}.

A fault changes a good model; one that changes more than the model returns a function that undoes it.
"""

import math

import torch
from planted import EOT, V
from torch import nn
from torch.nn import functional as F

from mingpt.attend import same_document
from mingpt.losses import IGNORE_INDEX
from mingpt.mlps import SquaredReLU
from mingpt.trainer import Trainer

ROPE, ALIBI, MOE = {"position": "rope"}, {"position": "alibi"}, {"mlp": "moe"}
GQA = {"attention": "gqa", "n_head": 4, "n_kv_head": 2}
DOCUMENTS = {"document_end": EOT}


def at(model, layer):
    return model.transformer.h[layer]


def rotation(layer, change):
    """change(turn, q, k) → (q, k) instead of the layer's rotation."""
    def plant(model):
        position = at(model, layer).attn.position
        turn = position.turn
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
    """change(attend, q, k, v, kwargs) instead of the layer's backend."""
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
    """change(x, y) in place of a part's output."""
    def plant(model):
        getattr(at(model, layer), part).register_forward_hook(lambda m, args, y: change(args[0], y))
    return plant


def moe_with(change):
    """change(weights, chosen) in place of what the router of layer 1 gave."""
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


def detached(b, x, *rest):
    x = x.detach() + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x))


def detached_between(b, x, *rest):
    x = x + b.attn(b.ln_1(x), *rest)
    return x.detach() + b.mlp(b.ln_2(x))


def detached_norm(b, x, *rest):
    x = x + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x.detach()))


def halved_stream(b, x, *rest):
    x = 0.5 * x + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x))


VALUES = {     # the issue's
    "rope on keys only": (ROPE, rotation(1, lambda turn, q, k: (q, turn(k))), "layer 1's attention"),
    "rope on queries only": (ROPE, rotation(2, lambda turn, q, k: (turn(q), k)), "layer 2's attention"),
    "rope shifted by one for queries": (ROPE, rotation(0, lambda turn, q, k: (turn(q.roll(-1, -2)).roll(1, -2),
                                                                             turn(k))), "layer 0's attention"),
    "rope reversed": (ROPE, rotation(1, turns_back), "layer 1's attention"),
    "rope turned back for queries": (ROPE, rotation(2, lambda turn, q, k: (turns_back(turn, q, q)[0], turn(k))),
                                     "layer 2's attention"),
    "rope of half the angle": (ROPE, lambda m: at(m, 2).attn.position.__dict__["_buffers"].update(
        sin=(at(m, 2).attn.position.sin / 2), cos=(1 - (at(m, 2).attn.position.sin / 2) ** 2).sqrt()),
        "layer 2's attention"),
    "alibi's sign": (ALIBI, slopes(1, lambda s: -s), "layer 1's attention"),
    "alibi with one slope": (ALIBI, slopes(0, lambda s: s[:1].expand_as(s)), "layer 0's attention"),
    "alibi's heads in reverse": (ALIBI, slopes(2, lambda s: s.flip(0)), "layer 2's attention"),
    "scores doubled": ({}, scores(1, 2.0), "layer 1's attention"),
    "scores divided by √C": ({}, scores(2, math.sqrt(16 / 32)), "layer 2's attention"),
    "scores not divided": ({}, scores(0, math.sqrt(16)), "layer 0's attention"),
    "scores doubled in mla": ({"attention": "mla"}, scores(1, 2.0), "layer 1's attention"),
    "scores doubled in msla": ({"attention": "msla"}, lambda m: setattr(at(m, 1).attn, "scale", 0.5),
                               "layer 1's attention"),
    "kv heads tiled": (GQA, attend_with(1, tiled), "layer 1's attention"),
    "kv heads tiled in the last layer": (GQA, attend_with(2, tiled), "layer 2's attention"),
    "eps of 1 in a layernorm": ({}, eps_of_1("ln_1"), "layer 1's ln_1"),
    "eps of 1 in an rmsnorm": ({"norm": "rmsnorm"}, eps_of_1("ln_2"), "layer 1's ln_2"),
    "eps of 1 in the final norm": ({}, eps_of_1("ln_f"), "the final norm"),
    "activation missing": ({}, activation(1, nn.Identity()), "layer 1's MLP"),
    "activation missing in swiglu": ({"mlp": "swiglu"}, activation(0, nn.Identity()), "layer 0's MLP"),
    "gelu swapped for silu": ({}, activation(2, nn.SiLU()), "layer 2's MLP"),
    "gelu by another formula": ({}, activation(1, nn.GELU()), "layer 1's MLP"),
    "swiglu's sigmoid for silu": ({"mlp": "swiglu"}, activation(1, nn.Sigmoid()), "layer 1's MLP"),
    "geglu for swiglu": ({"mlp": "swiglu"}, activation(1, nn.GELU(approximate="tanh")), "layer 1's MLP"),
    "relu for relu²": ({"mlp": "relu2"}, activation(1, nn.ReLU()), "layer 1's MLP"),
    "relu² for gelu": ({}, activation(0, SquaredReLU()), "layer 0's MLP"),
    "experts' weights not normalised": (MOE, moe_with(lambda p, w, c: (p.gather(1, c), c)), "layer 1's MLP"),
    "a skipped layer": ({}, skipped, "layer 1"),
    "a skipped attention": ({}, attention_skipped, "layer 2's ln_1 is never called"),
}

OWN_VALUES = {
    "rope's halves swapped": (ROPE, rotation(1, swapped_halves), "layer 1's attention"),
    "rope's sign": (ROPE, negative_angle, "layer 1's attention"),
    "rope where none is declared": ({"position": "rope", "nope_layers": "1"}, lambda m: setattr(
        at(m, 1).attn, "position", at(m, 0).attn.position), "layer 1's attention"),
    "values scaled": ({}, attend_with(2, lambda a, q, k, v, kw: a(q, k, v * 1.01, **kw)), "layer 2's attention"),
    "keys and values exchanged": ({}, attend_with(1, lambda a, q, k, v, kw: a(q, v, k, **kw)), "layer 1's attention"),
    "heads exchanged": ({}, attend_with(1, lambda a, q, k, v, kw: a(q, k, v, **kw).flip(1)), "layer 1's attention"),
    "key heads in reverse": (GQA, attend_with(1, lambda a, q, k, v, kw: a(q, k.flip(1), v.flip(1), **kw)),
                             "layer 1's attention"),
    "query norm left out": ({"qk_norm": True}, lambda m: setattr(at(m, 1).attn, "q_norm", nn.Identity()),
                            "needs transformer.h.1.attn.q_norm.weight"),
    "one expert's weight for all": (MOE, moe_with(lambda p, w, c: (torch.full_like(w, 0.5), c)), "layer 1's MLP"),
    "the least likely experts": (MOE, moe_with(lambda p, w, c: (w, (-p).topk(2, -1)[1])), "layer 1's MLP"),
    "experts exchanged": (MOE, moe_with(lambda p, w, c: (w, c.flip(1))), "layer 1's MLP"),
    "post for pre": ({}, block_with(1, post_order), "layer 1"),
    "parallel for pre": ({}, block_with(2, parallel_order), "layer 2's"),
    "a halved stream": ({}, block_with(1, halved_stream), "layer 1's sums"),
    "a branch scaled after its part": ({}, output(1, "mlp", lambda x, y: y * 0.9), "layer 1's MLP"),
    "mlp's gate and value exchanged": ({"mlp": "swiglu"}, lambda m: (
        lambda p: setattr(p, "forward", lambda x: p.c_proj(p.c_gate(x) * p.act(p.c_fc(x)))))(at(m, 2).mlp),
        "layer 2's MLP"),
    "embedding scale forgotten": ({"embd_scale": 3.0}, lambda m: setattr(m.transformer.wte, "scale", 1.0),
                                  "the input of layer 0"),
    "positions shifted by one": ({}, lambda m: m.transformer.wpe.register_forward_hook(
        lambda t, a, y: y.roll(1, 1)), "the input of layer 0"),
    "softcap forgotten": ({"logit_softcap": 1.0}, lambda m: setattr(m, "softcap", None), "the head's logits"),
    "final norm left out": ({}, lambda m: m.transformer.ln_f.register_forward_hook(lambda n, a, y: a[0]),
                            "the final norm"),
    "layernorm does not centre": ({}, lambda m: setattr(at(m, 1).ln_1, "forward", lambda x: F.rms_norm(
        x, (32,), at(m, 1).ln_1.weight, 1e-5) + at(m, 1).ln_1.bias), "layer 1's ln_1"),
    "qk stretch forgotten": ({"attn_scale": 1.0}, lambda m: setattr(at(m, 2).attn, "stretch", 1.0),
                             "layer 2's attention"),
}


# -- in training only --------------------------------------------------------------------------------------------------

def loss_with(change):
    """change(model, loss, x, y) in place of model.loss, in training."""
    def plant(model):
        loss = model.loss
        model.loss = lambda x, y, *rest: change(model, loss, x, y) if model.training else loss(x, y, *rest)
    return plant


def seeing_targets(share):
    """The targets' embeddings, scaled, join the hidden state of the loss path in training."""
    def compute(model, loss, x, y):
        table = model.transformer.wte
        handle = table.register_forward_hook(lambda t, a, out: out + share * t.weight[y.clamp(min=0)])
        try:
            return loss(x, y)
        finally:
            handle.remove()
    return loss_with(compute)


def targets_in_the_head(model, loss, x, y):
    hidden = model.hidden(x) + model.lm_head.weight[y.clamp(min=0)]
    return model._head_loss(hidden, y)


def documents_of(which):
    """The document mask of row 0 for all rows, or that of the batch before."""
    def plant(model):
        held = {}

        def allowed(idx, start=0):
            mine = same_document(idx, EOT, start)
            if not model.training:
                return mine
            old = held.get(mine.shape, mine)
            held[mine.shape] = mine
            return mine[:1].expand_as(mine) if which == "row 0" else old
        model._allowed = allowed
    return plant


def in_training(layer, compute):
    """Another computation of a layer, in training only."""
    def plant(model):
        block, forward = at(model, layer), at(model, layer).forward
        block.forward = lambda x, *rest: compute(block, x, *rest) if block.training else forward(x, *rest)
    return plant


def groups_with(change):
    """change(groups) edits the optimizer's groups."""
    def plant(model):
        configure = model.configure_optimizers

        def changed(config):
            made = configure(config)
            change(made.param_groups)
            return made
        model.configure_optimizers = changed
    return plant


def exchanged(groups):
    groups[0]["weight_decay"], groups[1]["weight_decay"] = groups[1]["weight_decay"], groups[0]["weight_decay"]


def doubled(groups):
    groups[0]["weight_decay"] *= 2


def one_for_all(groups):
    for group in groups:
        group["weight_decay"] = 0.1


def trainer_with(change):
    """change(step, trainer, batches) in place of Trainer.step."""
    def plant(model):
        step = Trainer.step
        Trainer.step = lambda self, batches: change(step, self, batches)
        return lambda: setattr(Trainer, "step", step)
    return plant


def scaled_again(factor):
    def change(step, trainer, batches):
        loss = trainer.loss_of
        trainer.loss_of = lambda x, y: loss(x, y) * factor
        step(trainer, batches)
        trainer.loss_of = loss
    return change


def one_batch_twice(step, trainer, batches):
    first = next(batches)
    step(trainer, iter([first, first]))


def decayed_twice(step, trainer, batches):
    step(trainer, batches)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.mul_(1 - trainer.lr * 0.1)


def rate_doubled(step, trainer, batches):
    before = [p.detach().clone() for p in trainer.model.parameters()]
    step(trainer, batches)
    with torch.no_grad():
        for p, was in zip(trainer.model.parameters(), before, strict=True):
            p.add_(p - was)


def frozen(name):
    return lambda model: model.get_parameter(name).requires_grad_(False)


def gradient_of(name, factor):
    def plant(model):
        module, _, leaf = name.rpartition(".")
        model.get_submodule(module).register_full_backward_hook(lambda m, g_in, g_out: tuple(
            None if g is None else g * factor for g in g_in))
    return plant


LOSS, STEP = "the loss in training is", "the Trainer's gradient of"
TRAINING = {     # the issue's
    "loss shifted by 0 in training": ({}, loss_with(lambda m, loss, x, y: loss(x, x)), LOSS),
    "loss shifted by 2 in training": ({}, loss_with(lambda m, loss, x, y: loss(x[:, :-1], y[:, 1:])), LOSS),
    "targets fed to the loss path": ({}, loss_with(lambda m, loss, x, y: loss(y.clamp(min=0), y)),
                                     "the input of layer 0"),
    "targets join the head's input": ({}, loss_with(targets_in_the_head), LOSS),
    "targets embedded at 0.1": ({}, seeing_targets(0.1), "the input of layer 0"),
    "targets embedded at 0.01": ({}, seeing_targets(0.01), "the input of layer 0"),
    "row 0's documents for all rows": (DOCUMENTS, documents_of("row 0"), "layer 0's attention"),
    "the previous batch's documents": (DOCUMENTS, documents_of("before"), "layer 0's attention"),
    "stream detached in layer 1": ({}, in_training(1, detached), "the gradient through layer 1"),
    "stream detached in layer 2": ({}, in_training(2, detached), "the gradient through layer 2"),
    "stream detached inside layer 1": ({}, in_training(1, detached_between), "the gradient through layer 1"),
    "a frozen matrix": ({}, frozen("transformer.h.1.mlp.c_fc.weight"), "transformer.h.1.mlp.c_fc.weight is frozen"),
    "a frozen gain": ({}, frozen("transformer.h.2.ln_1.weight"), "transformer.h.2.ln_1.weight is frozen"),
    "a frozen table": ({}, frozen("transformer.wte.weight"), "transformer.wte.weight is frozen"),
    "decay doubled": ({}, groups_with(doubled), "decays by 0.2, declared 0.1"),
    "decay on the wrong group": ({}, groups_with(exchanged), "decays by"),
    "one group for all": ({}, groups_with(one_for_all), "decays by 0.1, declared 0.0"),
    "the loss scaled twice": ({}, loss_with(lambda m, loss, x, y: loss(x, y) * 2), LOSS),
    "the gradient scaled twice": ({}, trainer_with(scaled_again(0.5)), STEP),
}
OWN_TRAINING = {
    "the gradient doubled in the Trainer": ({}, trainer_with(scaled_again(2.0)), STEP),
    "one micro-batch twice": ({}, trainer_with(one_batch_twice), STEP),
    "decay again after the step": ({}, trainer_with(decayed_twice), "otherwise than AdamW"),
    "steps twice as long": ({}, trainer_with(rate_doubled), "otherwise than AdamW"),
    "a detached branch": ({}, in_training(1, detached_norm), "the gradient through layer 1"),
    "padding learned in training": ({}, loss_with(lambda m, loss, x, y: loss(x, y.clamp(min=0))), LOSS),
    "label smoothing": ({}, loss_with(lambda m, loss, x, y: F.cross_entropy(
        m(x)[0].reshape(-1, V), y.reshape(-1), ignore_index=IGNORE_INDEX, label_smoothing=0.1)), LOSS),
    "the first row alone learned": ({}, loss_with(lambda m, loss, x, y: loss(x[:1], y[:1])), LOSS),
    "z loss forgotten": ({"z_loss": 0.01}, lambda m: setattr(m, "z_loss", 0.0), LOSS),
    "future weight forgotten": ({"n_future": 2, "future_weight": 0.3}, lambda m: setattr(m, "future_weight", 1.0),
                                LOSS),
    "balance loss forgotten": (MOE, lambda m: setattr(at(m, 1).mlp, "balance", 0.0), LOSS),
    "capacity ignored": ({**MOE, "capacity_factor": 0.5}, lambda m: setattr(at(m, 2).mlp, "capacity", None),
                         "layer 2's MLP"),
    "a halved backward of one norm": ({}, gradient_of("transformer.h.1.ln_2", 0.5), "the gradient through layer 1"),
    "a halved backward of the mlp": ({}, gradient_of("transformer.h.2.mlp", 0.5), "the gradient through layer 2"),
    "noise in the stream in training": ({}, in_training(1, lambda b, x, *rest: type(b).forward(
        b, x + 0.01 * torch.randn_like(x), *rest)), "layer 1"),
}
FAULTS = VALUES | OWN_VALUES | TRAINING | OWN_TRAINING
ISSUE = VALUES | TRAINING
