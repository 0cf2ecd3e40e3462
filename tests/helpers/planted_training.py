"""Faults that act in training only, in the form of planted_values.py. The audit must find them."""

import torch
from torch.nn import functional as F

from mingpt.losses import IGNORE_INDEX
from mingpt.sparse.backends import same_document
from mingpt.trainer import Trainer
from tests.helpers.planted import EOT, V
from tests.helpers.planted_values import MOE, OWN_VALUES, VALUES, at

DOCUMENTS = {"document_end": EOT}


def detached(b, x, *rest):
    x = x.detach() + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x))


def detached_between(b, x, *rest):
    x = x + b.attn(b.ln_1(x), *rest)
    return x.detach() + b.mlp(b.ln_2(x))


def detached_norm(b, x, *rest):
    x = x + b.attn(b.ln_1(x), *rest)
    return x + b.mlp(b.ln_2(x.detach()))


def loss_with(change):
    """Replace model.loss by change(model, loss, x, y), in training only."""
    def plant(model):
        loss = model.loss
        model.loss = lambda x, y, *rest: (
            change(model, loss, x, y) if model.training else loss(x, y, *rest))
    return plant


def seeing_targets(share):
    """Add `share` times the targets' embeddings to the token embeddings, in training only."""
    def compute(model, loss, x, y):
        table = model.transformer.wte
        handle = table.register_forward_hook(
            lambda t, a, out: out + share * t.weight[y.clamp(min=0)])
        try:
            return loss(x, y)
        finally:
            handle.remove()
    return loss_with(compute)


def targets_in_the_head(model, loss, x, y):
    hidden = model.hidden(x) + model.lm_head.weight[y.clamp(min=0)]
    return model._head_loss(hidden, y)


def documents_of(which):
    """Use the document mask of row 0 for all rows ("row 0"), or that of the previous batch."""
    def plant(model):
        held = {}

        def allowed(idx, start=0):
            mine = same_document(idx, EOT, start)
            if not model.training:
                return mine
            old = held.get(mine.shape, mine)
            held[mine.shape] = mine
            return mine[:1].expand_as(mine) if which == "row 0" else old
        model.token_mask = allowed
    return plant


def in_training(layer, compute):
    """Replace a layer's forward by compute(block, x, *rest), in training only."""
    def plant(model):
        block, forward = at(model, layer), at(model, layer).forward
        block.forward = lambda x, *rest: (
            compute(block, x, *rest) if block.training else forward(x, *rest))
    return plant


def groups_with(change):
    """Edit the optimizer's groups with change(groups)."""
    def plant(model):
        configure = model.configure_optimizers

        def changed(config):
            made = configure(config)
            change(made.param_groups)
            return made
        model.configure_optimizers = changed
    return plant


def exchanged(groups):
    groups[0]["weight_decay"], groups[1]["weight_decay"] = (
        groups[1]["weight_decay"],
        groups[0]["weight_decay"],
    )


def doubled(groups):
    groups[0]["weight_decay"] *= 2


def one_for_all(groups):
    for group in groups:
        group["weight_decay"] = 0.1


def trainer_with(change):
    """Replace Trainer.step by change(step, trainer, batches)."""
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


def unweighed(step, trainer, batches):
    """Give each micro-batch the same weight, however many targets it has."""
    accumulate = trainer._accumulate
    trainer._accumulate = lambda x, y, share: accumulate(
        x, y, 1 / trainer.config.accumulation_steps)
    step(trainer, batches)
    trainer._accumulate = accumulate


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
TRAINING = {     # the original list of faults
    "loss shifted by 0 in training": ({}, loss_with(lambda m, loss, x, y: loss(x, x)), LOSS),
    "loss shifted by 2 in training": (
        {}, loss_with(lambda m, loss, x, y: loss(x[:, :-1], y[:, 1:])), LOSS),
    "targets fed to the loss path": ({}, loss_with(lambda m, loss, x, y: loss(y.clamp(min=0), y)),
                                     "the input of layer 0"),
    "targets join the head's input": ({}, loss_with(targets_in_the_head), LOSS),
    "targets embedded at 0.1": ({}, seeing_targets(0.1), "the input of layer 0"),
    "targets embedded at 0.01": ({}, seeing_targets(0.01), "the input of layer 0"),
    "row 0's documents for all rows": (DOCUMENTS, documents_of("row 0"), "layer 0's attention"),
    "the previous batch's documents": (DOCUMENTS, documents_of("before"), "layer 0's attention"),
    "stream detached in layer 1": ({}, in_training(1, detached), "the gradient through layer 1"),
    "stream detached in layer 2": ({}, in_training(2, detached), "the gradient through layer 2"),
    "stream detached inside layer 1": ({}, in_training(1, detached_between),
                                       "the gradient through layer 1"),
    "a frozen matrix": ({}, frozen("transformer.h.1.mlp.c_fc.weight"),
                        "transformer.h.1.mlp.c_fc.weight is frozen"),
    "a frozen gain": ({}, frozen("transformer.h.2.ln_1.weight"),
                      "transformer.h.2.ln_1.weight is frozen"),
    "a frozen table": ({}, frozen("transformer.wte.weight"), "transformer.wte.weight is frozen"),
    "decay doubled": ({}, groups_with(doubled), "decays by 0.2, declared 0.1"),
    "decay on the wrong group": ({}, groups_with(exchanged), "decays by"),
    "one group for all": ({}, groups_with(one_for_all), "decays by 0.1, declared 0.0"),
    "the loss scaled twice": ({}, loss_with(lambda m, loss, x, y: loss(x, y) * 2), LOSS),
    "the gradient scaled twice": ({}, trainer_with(scaled_again(0.5)), STEP),
}
OWN_TRAINING = {     # further faults
    "the gradient doubled in the Trainer": ({}, trainer_with(scaled_again(2.0)), STEP),
    "one micro-batch twice": ({}, trainer_with(one_batch_twice), STEP),
    "micro-batches that weigh the same": ({}, trainer_with(unweighed), STEP),
    "decay again after the step": ({}, trainer_with(decayed_twice), "otherwise than AdamW"),
    "steps twice as long": ({}, trainer_with(rate_doubled), "otherwise than AdamW"),
    "a detached branch": ({}, in_training(1, detached_norm), "the gradient through layer 1"),
    "padding learned in training": ({}, loss_with(lambda m, loss, x, y: loss(x, y.clamp(min=0))),
                                    LOSS),
    "label smoothing": ({}, loss_with(lambda m, loss, x, y: F.cross_entropy(
        m(x)[0].reshape(-1, V), y.reshape(-1), ignore_index=IGNORE_INDEX, label_smoothing=0.1)),
        LOSS),
    "the first row alone learned": ({}, loss_with(lambda m, loss, x, y: loss(x[:1], y[:1])), LOSS),
    "z loss forgotten": ({"z_loss": 0.01}, lambda m: setattr(m, "z_loss", 0.0), LOSS),
    "future weight forgotten": ({"n_future": 2, "future_weight": 0.3},
                                lambda m: setattr(m, "future_weight", 1.0), LOSS),
    "balance loss forgotten": (MOE, lambda m: setattr(at(m, 1).mlp, "balance", 0.0), LOSS),
    "capacity ignored": ({**MOE, "capacity_factor": 0.5},
                         lambda m: setattr(at(m, 2).mlp, "capacity", None),
                         "layer 2's MLP"),
    "a halved backward of one norm": ({}, gradient_of("transformer.h.1.ln_2", 0.5),
                                      "the gradient through layer 1"),
    "a halved backward of the mlp": ({}, gradient_of("transformer.h.2.mlp", 0.5),
                                     "the gradient through layer 2"),
    "noise in the stream in training": ({}, in_training(1, lambda b, x, *rest: type(b).forward(
        b, x + 0.01 * torch.randn_like(x), *rest)), "layer 1"),
}
FAULTS = VALUES | OWN_VALUES | TRAINING | OWN_TRAINING
