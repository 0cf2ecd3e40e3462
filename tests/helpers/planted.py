"""Faults that the audit must find.

Each fault patches a good model. It comes with the claim that must fail and with words that name the
place.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mingpt.losses import IGNORE_INDEX
from mingpt.moe import within_capacity
from mingpt.patterns.kinds import parse_pattern

V, EOT = 33, 32     # vocabulary and end of document of the models in which faults are planted


def sees(layer, allows):
    """Compute one layer's attention with the mask allows(i, j), which is not the declared one."""
    def plant(model):
        def attend(q, k, v, *, slopes=None, allowed=None, dropout_p=0.0):
            i = torch.arange(q.size(-2))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=allows(i[:, None], i))
        model.transformer.h[layer].attn.attend = attend
    return plant


def rewired(layer, name, change):
    """Replace a part's output y = part(x) by change(part, x, y)."""
    def plant(model):
        part = getattr(model.transformer.h[layer], name)
        part.register_forward_hook(lambda part, args, y: change(part, args[0], y))
    return plant


def stale(grows):
    """Use a cached mask, read from its wrong corner.

    It is made for the longest text so far if `grows`, otherwise for the first text.
    """
    def plant(model):
        made = {}

        def attend(q, k, v, *, slopes=None, allowed=None, dropout_p=0.0):
            n = q.size(-2)
            if not made or (grows and len(made["mask"]) < n):
                made["mask"] = parse_pattern("8").mask(n)
            mask = made["mask"][-n:, :n] if grows else made["mask"][:n, :n]
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        model.transformer.h[1].attn.attend = attend
    return plant


def last_layer_everywhere(model):
    for block in model.transformer.h:
        attention = block.attn
    for block in model.transformer.h:
        block.attn.forward = lambda x, *rest: type(attention).forward(attention, x, *rest)


def latent_that_mixes_nothing(model):
    for block in model.transformer.h:
        attention = block.attn
        attention.forward = lambda x, *_, a=attention: a.c_proj(
            torch.tanh(a.c_attn(x)[..., :a.n_embd]))


def keys_are_queries(model):
    attention = model.transformer.h[1].attn
    attention.k_norm = nn.Identity()

    def attend(q, k, v, *, slopes=None, allowed=None, dropout_p=0.0):
        return F.scaled_dot_product_attention(q, q, v, is_causal=True)
    attention.attend = attend


def optimizer(change):
    """Edit the optimizer's parameter groups with change(model, groups)."""
    def plant(model):
        configure = model.configure_optimizers

        def changed(config):
            groups = [{"params": list(g["params"])} for g in configure(config).param_groups]
            change(model, groups)
            return torch.optim.AdamW(groups)
        model.configure_optimizers = changed
    return plant


def frozen_yet_held(model):
    held = list(model.parameters())
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    model.configure_optimizers = lambda config: torch.optim.AdamW(held)


def loss_of(compute):
    """Replace the model's loss by compute(logits, targets)."""
    def plant(model):
        forward = model.forward

        def changed(idx, targets=None):
            logits, _ = forward(idx)
            return logits, None if targets is None else compute(logits, targets)
        model.forward = changed
    return plant


def mean_nats(logits, targets, ignore=IGNORE_INDEX):
    return F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1), ignore_index=ignore)


def one_block_twice(model):
    model.transformer.h[2] = model.transformer.h[0]


def one_projection_twice(model):
    model.transformer.h[2].mlp.c_fc = model.transformer.h[0].mlp.c_fc


def an_unused_parameter(model):
    model.transformer.h[1].gate = nn.Parameter(torch.ones(3))


def position_table_dropped(model):
    model.transformer.wpe.register_forward_hook(lambda table, args, y: torch.zeros_like(y))


def one_position_for_all(model):
    model.transformer.wpe.register_forward_hook(lambda table, args, y: y[:, :1].expand_as(y))


def rope_left_out(model):
    model.transformer.h[2].attn.position.rotate = lambda q, k, start=0: (q, k)


def attention_branch_dropped(model):
    block = model.transformer.h[1]
    block.forward = lambda x, *rest: x + block.mlp(
        block.ln_2(x + 0 * block.attn(block.ln_1(x), *rest)))


def mlp_branch_dropped(model):
    block = model.transformer.h[1]
    block.forward = lambda x, *rest: x + block.attn(block.ln_1(x), *rest)


def residual_init_left_out(model):
    nn.init.normal_(model.transformer.h[1].mlp.c_proj.weight, 0.0, 0.02)


def layers_begin_alike(model):
    model.transformer.h[2].load_state_dict(model.transformer.h[0].state_dict())


def embeddings_of_torchs_own_scale(model):
    nn.init.normal_(model.transformer.wte.weight)


def tokens_see_the_next(model):
    model.transformer.wte.register_forward_hook(lambda table, args, y: y + y.roll(-1, dims=1))


def document_mask_forgotten(model):
    for block in model.transformer.h:
        block.attn.forward = lambda x, *_, a=block.attn: type(a).forward(a, x)


def padding_mask_flipped(model):
    """Flip the sign of the padding mask: in a row with padding, only padding is seen."""
    for block in model.transformer.h:
        block.register_forward_pre_hook(lambda block, args: (args[0], model.seen))
    model.transformer.wte.register_forward_pre_hook(note_padding(model))


def note_padding(model):
    def note(table, args):
        pad = args[0] == EOT
        earlier = torch.ones(pad.size(1), pad.size(1), dtype=torch.bool).tril()
        model.seen = ((pad | ~pad.any(1, keepdim=True))[:, None, None, :] & earlier
                      | torch.eye(pad.size(1), dtype=torch.bool))
    return note


def tie_forgotten(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def room_in_another_order(ordered, back):
    """Fill the experts in another order than that of the text."""
    def plant(model):
        for block in model.transformer.h:
            def admitted(chosen, mlp=block.mlp):
                room = within_capacity(ordered(chosen), len(mlp.experts), mlp.capacity)
                return chosen.masked_fill(~back(room, chosen), len(mlp.experts))
            block.mlp._admitted = admitted
    return plant


# as in GShard: second choices get a place only after all first choices have theirs
second_choices_wait = room_in_another_order(
    lambda chosen: chosen.transpose(1, 2).reshape(len(chosen), -1, 1),
    lambda room, chosen: room.view(len(chosen), chosen.size(2), -1).transpose(1, 2))
rows_compete = room_in_another_order(lambda chosen: chosen.flatten(0, 1)[None],
                                     lambda room, chosen: room.view(chosen.shape))
EXPERTS = {"mlp": "moe", "capacity_factor": 1.0}

PLANTED = {
    # name: (the model's settings, the fault, the claim that fails, words that name the place)
    "future leak in one layer": (
        {}, sees(1, lambda i, j: j <= i + 1), "no layer sees a later position",
        "layer 1's attn, query 0 sees the later key 1 (T ="),
    "future leak that no gradient shows": (
        {}, rewired(2, "attn", lambda part, x, y: y + x.roll(-1, 1).sign().detach()),
        "no layer sees a later position", "layer 2's attn, query"),
    "future leak in the embeddings": (
        {}, tokens_see_the_next, "no token sees a later one", "query 0 sees the later token at 1"),
    "window one wider": (
        {"schedule": "8*"}, sees(2, parse_pattern("9")),
        "every layer sees exactly the keys of its pattern",
        "layer 2's attn, query 8 sees, against its pattern, key 0"),
    "window one narrower": (
        {"schedule": "8*"}, sees(0, parse_pattern("7")),
        "every layer sees exactly the keys of its pattern",
        "layer 0's attn, query 7 does not see, as its pattern declares, key 0"),
    "a query that does not see itself": (
        {}, sees(1, lambda i, j: (j < i) | (i == 0) & (j == 0)),
        "every layer sees exactly the keys of its pattern",
        "layer 1's attn, query 1 does not see, as its pattern declares, key 1"),
    "the first dilated link in the gap": (
        {"schedule": "4/2*"}, sees(1, lambda i, j: parse_pattern("4/2")(i, j) | (i - j == 4)),
        "every layer sees exactly the keys of its pattern",
        "layer 1's attn, query 4 sees, against its pattern, key 0"),
    "one previous block too few": (
        {"schedule": "b8x2*"}, sees(1, parse_pattern("b8x1")),
        "every layer sees exactly the keys of its pattern",
        "layer 1's attn, query"),
    "two layers' patterns exchanged": (
        {"schedule": "f 8 f"}, sees(0, parse_pattern("8")),
        "every layer sees exactly the keys of its pattern",
        "layer 0's attn, query"),
    "stale mask after a longer T": (
        {"schedule": "f 8 f"}, stale(grows=True),
        "every layer sees exactly the keys of its pattern",
        "layer 1's attn, query"),
    "mask of the first T": (
        {"schedule": "f 8 f"}, stale(grows=False),
        "every layer sees exactly the keys of its pattern", "31"),
    "flipped padding sign": (
        {}, padding_mask_flipped, "padding is never attended to", "layer 0's attn, query"),
    "study 000's padding": (
        {"published_padding": EOT}, lambda model: None, "padding is never attended to",
        "layer 0's attn, query"),
    "study 000's padding in the loss": (
        {"published_padding": EOT}, lambda model: None, "the loss is over the declared targets",
        "the loss is"),
    "document mask forgotten": (
        {"document_end": EOT}, document_mask_forgotten, "padding is never attended to",
        "of another document or pattern sees key"),
    "latent attention that mixes nothing": (
        {}, latent_that_mixes_nothing, "every layer sees exactly the keys of its pattern",
        "layer 0's attn, query 1 does not see, as its pattern declares, key 0"),
    "latent attention that mixes nothing, in the whole model": (
        {}, latent_that_mixes_nothing, "a token's context changes its prediction",
        "no query after 0 sees the token at 0"),
    "closure over the last layer": (
        {}, last_layer_everywhere, "every layer computes with its own weights",
        "layer 0: its output does not depend on the weights of its attn"),
    "one block in two places": (
        {}, one_block_twice, "no two parameters share memory, tied ones aside",
        "transformer.h.0.ln_1.weight and transformer.h.2.ln_1.weight are one tensor"),
    "one projection in two layers": (
        {}, one_projection_twice, "every layer computes with its own weights",
        "layer 0: its weights change also layer 2's output"),
    "declared tie forgotten": (
        {"tie_weights": True}, tie_forgotten, "no two parameters share memory, tied ones aside",
        "lm_head.weight"),
    "dead key projection": (
        {}, keys_are_queries, "every parameter is reached by the gradient",
        "transformer.h.1.attn.c_attn.weight, row 32 and 31 more"),
    "unused parameter": (
        {}, an_unused_parameter, "every parameter is reached by the gradient",
        "transformer.h.1.gate"),
    "position table not used": (
        {}, position_table_dropped, "every parameter is reached by the gradient",
        "transformer.wpe.weight"),
    "one position for all": (
        {}, one_position_for_all, "every parameter is reached by the gradient",
        "transformer.wpe.weight, row 1"),
    "rope left out of one layer": (
        {"position": "rope"}, rope_left_out, "positions act where they are declared",
        "layer 2: query 31"),
    "attention branch dropped": (
        {}, attention_branch_dropped, "only attention mixes positions",
        "layer 1, query 1 loses what its attention sees"),
    "mlp branch dropped": (
        {}, mlp_branch_dropped, "every layer computes with its own weights",
        "layer 1's ln_2 is never called"),
    "norm over positions": (
        {}, rewired(0, "ln_2", lambda part, x, y: y - y.mean(1, keepdim=True)),
        "only attention mixes positions",
        "layer 0, query 0 sees, by way of something other than attention, key 1"),
    "norm over the batch": (
        {}, rewired(1, "ln_1", lambda part, x, y: y - y.mean(0)),
        "the rows of a batch do not see each other",
        "of row 1"),
    "parameter missing from the optimizer": (
        {}, optimizer(lambda model, groups: groups[0]["params"].pop(3)),
        "every trainable parameter is in exactly one optimizer group",
        "is trainable and held 0 times"),
    "parameter in a group twice": (
        {},
        optimizer(lambda model, groups: groups[1]["params"].append(model.transformer.ln_f.weight)),
        "every trainable parameter is in exactly one optimizer group",
        "transformer.ln_f.weight is trainable and held 2 times"),
    "parameter in two groups": (
        {},
        optimizer(lambda model, groups: groups[0]["params"].append(model.transformer.ln_f.weight)),
        "every trainable parameter is in exactly one optimizer group",
        "more than one parameter group"),
    "frozen parameter in the optimizer": (
        {}, frozen_yet_held, "every trainable parameter is in exactly one optimizer group",
        "transformer.h.0.mlp.c_fc.weight is frozen and held 1 times"),
    "another model's parameter in the optimizer": (
        {},
        optimizer(lambda model, groups: groups[0]["params"].append(nn.Parameter(torch.ones(1)))),
        "every trainable parameter is in exactly one optimizer group",
        "1 tensors of the optimizer"),
    "padding in the loss": (
        {}, loss_of(lambda logits, targets: mean_nats(logits, targets.clamp(min=0))),
        "the loss is over the declared targets", "with one target, the token"),
    "end of document not learned": (
        {}, loss_of(lambda logits, targets: mean_nats(
            logits, targets.masked_fill(targets == EOT, IGNORE_INDEX))),
        "the loss is over the declared targets", "an end of document at 0 of row 1"),
    "targets shifted twice": (
        {}, loss_of(lambda logits, targets: mean_nats(logits[:, :-1], targets[:, 1:])),
        "the loss is over the declared targets", "at 0 of row 1"),
    "a sum for a mean": (
        {}, loss_of(lambda logits, targets: mean_nats(logits, targets) * (targets >= 0).sum()),
        "the loss is over the declared targets", "with targets at 0 …"),
    "dropout in evaluation": (
        {}, rewired(1, "mlp", lambda part, x, y: F.dropout(y, 0.1)), "evaluation is deterministic",
        "layer 1's mlp"),
    "declared dropout left out": (
        {"resid_pdrop": 0.1},
        lambda model: setattr(model.transformer.h[2].mlp, "dropout", nn.Identity()),
        "dropout acts in training where declared",
        "layer 2's mlp does not vary in training: its dropout is declared"),
    "scaled residual init left out": (
        {"n_layer": 12, "n_embd": 16}, residual_init_left_out,
        "initial weights have the declared scale",
        "transformer.h.1.mlp.c_proj.weight has std"),
    "layers begin alike": (
        {}, layers_begin_alike, "initial weights have the declared scale",
        "transformer.h.2.attn.c_attn.weight begins as"),
    "embeddings of torch's own scale": (
        {}, embeddings_of_torchs_own_scale, "initial weights have the declared scale",
        "transformer.wte.weight has std"),
    "experts full of second choices from later": (
        EXPERTS, second_choices_wait, "training sees no later token and no other row",
        "sees later tokens, from"),
    "experts full of another row's tokens": (
        EXPERTS, rows_compete, "training sees no later token and no other row", "row 2 sees row 1"),
}
