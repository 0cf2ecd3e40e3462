"""The cache gives the same logits as reading everything at once, for every model.

Tokens are read one by one, a few at once, or again after a truncation. Greedy text has the same
tokens too.
"""

import itertools

import pytest
import torch

from mingpt import model as models
from mingpt.sampling.cache import Cache, advance
from mingpt.utils import BadInput
from tests.helpers.models import gpt_of

V, BLOCK = 23, 24

PATTERNS = ("f*", "5*", "6>1/2 f", "4/3*", "b4x1*", "b5x0 b4x2", "s5*", "4+g6*", "r0.3@1*",
            "5&s2 3|s7", "24 1")
HEADS = ({}, {"tie_weights": True}, {"logit_softcap": 2.0}, {"document_end": 7},
         {"qk_norm": True, "bias": False},
         {"norm": "rmsnorm", "mlp": "swiglu"}, {"position": "rope", "rope_local_base": 50.0,
                                                "rope_fraction": 0.5},
         {"position": "rope", "nope_layers": "1"}, {"block": "parallel", "attn_scale": 0.5,
                                                    "head_dim": 6})


def build(**changes):
    shape = {"n_head": 4, "n_embd": 32, "vocab_size": V, "block_size": BLOCK}
    try:
        return gpt_of(0.2, **{**shape, **changes}).eval()
    except BadInput:
        return None     # the pair has no meaning: test_config.py reports it


def every_kind():
    """Every attention with every pattern, and mha with every position too.

    The positions of the other kinds, and further settings that affect a cache, are taken in turn.
    """
    turns = itertools.cycle(models.POSITIONS)
    products = [(attention, position, pattern) for attention in models.ATTENTIONS
                for pattern in PATTERNS
                for position in (models.POSITIONS if attention == "mha"
                                 else (next(turns), next(turns)))]
    products += [(attention, position, "f*") for attention in ("msla", "mla")
                 for position in models.POSITIONS]
    for (attention, position, schedule), rest in zip(products, itertools.cycle(HEADS),
                                                     strict=False):
        changes = {"attention": attention, "position": position, "schedule": schedule, **rest}
        if (model := build(**changes)) is not None:
            yield changes, model


def tokens(n=BLOCK, seed=1):
    return torch.randint(V, (2, n), generator=torch.Generator().manual_seed(seed))


def read(model, idx, pieces, cache):
    at, logits = cache.length, []
    for n in pieces:
        logits.append(advance(model, idx[:, at:at + n], cache))
        at += n
    return torch.cat(logits, 1)


@torch.no_grad()
def test_in_any_pieces_the_logits_are_those_of_all_at_once():
    kinds = 0
    for changes, model in every_kind():
        idx = tokens()
        want = model(idx)[0]
        for pieces, slack in (([7] + [1] * 17, 0), ([1, 5, 4, 1, 2, 4, 4, 3], 3), ([3, 21], 0)):
            got = read(model, idx, pieces, Cache(model, 2, slack=slack))
            assert (got - want).abs().max() < 1e-4, (changes, pieces)
        kinds += 1
    assert kinds >= (4 + 3 * 2) * len(PATTERNS)


@torch.no_grad()
def test_after_a_truncation_other_tokens_may_follow():
    other = tokens(seed=2)
    for changes, model in every_kind():
        idx, cache = tokens(), Cache(model, 2, slack=4)
        advance(model, idx[:, :9], cache)
        for start in range(9, 18, 3):  # four drafts, of which three are kept each time
            advance(model, other[:, start:start + 4], cache)
            cache.truncate(start)
            got = advance(model, idx[:, start:start + 3], cache)
            want = model(idx[:, :start + 3])[0][:, start:]
            assert (got - want).abs().max() < 1e-4, (changes, start)


@torch.no_grad()
def recomputed(model, idx, n):
    for _ in range(n):
        logits = model(idx[:, -model.block_size:])[0][:, -1]
        idx = torch.cat((idx, logits.argmax(-1, keepdim=True)), 1)
    return idx


def test_greedy_text_is_that_of_recomputing_beyond_the_block_too():
    for n, (changes, model) in enumerate(every_kind()):
        # the prompt is longer than the window
        prompt, new = ((7, 22), (1, 30), (30, 4), (BLOCK, 2))[n % 4]
        got = model.generate(tokens(prompt), new)
        assert torch.equal(got, recomputed(model, tokens(prompt), new)), changes


def fed(model, run):
    """Count the positions that pass through the model in a run."""
    passed = []
    handle = model.transformer.wte.register_forward_hook(
        lambda module, args, y: passed.append(y.size(1)))
    run()
    handle.remove()
    return passed


def test_a_prompt_is_read_once_and_then_every_token_once():
    model = build(schedule="5 f", position="rope")
    assert fed(model, lambda: model.generate(tokens(7), 10)) == [7] + 9 * [1]
    assert fed(model, lambda: model.generate(tokens(7), 1)) == [7]
    assert fed(model, lambda: model.generate(tokens(7), 0)) == []


def test_beyond_the_block_windows_with_relative_positions_read_again_only_what_they_see():
    near, far = build(schedule="4 3", position="rope"), build(schedule="4 3")
    assert fed(near, lambda: near.generate(tokens(20), 40)) == [
        20, 1, 1, 1, 1] + ([6] + 18 * [1]) + ([6] + 15 * [1])
    assert fed(far, lambda: far.generate(tokens(20), 8)) == [20, 1, 1, 1, 1, BLOCK, BLOCK, BLOCK]


def test_a_window_keeps_its_own_keys_and_no_more():
    model = build(n_layer=4, schedule="5 s4 f b3x1")
    cache = Cache(model, 2)
    advance(model, tokens(), cache)
    assert [layer.memory[0].size(2) for layer in cache.layers] == [5, BLOCK // 4 + 1, BLOCK, 6]
    grouped = build(attention="mqa")
    cache = Cache(grouped, 2, length=10)
    advance(grouped, tokens(3), cache)
    assert cache.layers[0].memory[0].shape == (2, 1, 10, 8)


def test_memory_is_allocated_once():
    model = build(schedule="5 f")
    cache = Cache(model, 2)
    advance(model, tokens(3), cache)
    before = [layer.memory[0].data_ptr() for layer in cache.layers]
    for _ in range(5):
        advance(model, tokens(1), cache)
    cache.reset()
    advance(model, tokens(9), cache)
    assert [layer.memory[0].data_ptr() for layer in cache.layers] == before


@torch.no_grad()
def test_what_a_window_has_let_go_cannot_be_brought_back():
    model = build(schedule="5 f")
    cache = Cache(model, 2, slack=2)
    read(model, tokens(), [10, 3], cache)
    with pytest.raises(BadInput, match="can keep 10 … 13"):
        cache.truncate(9)
    assert cache.length == 13, "a refusal changes nothing"
    cache.truncate(10)
    # the key that position 12 overwrote is still gone
    with pytest.raises(BadInput, match="can keep 10 … 10"):
        cache.truncate(9)
    cache.truncate(0)
    torch.testing.assert_close(advance(model, tokens(4), cache), model(tokens(4))[0], atol=1e-4,
                               rtol=0)
    full = build()
    cache = Cache(full, 2)
    read(full, tokens(), [10, 3], cache)
    cache.truncate(1)                                             # this cache never drops a key
    torch.testing.assert_close(read(full, tokens(), [5], cache), full(tokens()[:, :6])[0][:, 1:],
                               atol=1e-4, rtol=0)


def test_more_than_there_is_room_for_is_refused():
    model = build(schedule="5 f")
    cache = Cache(model, 2, length=10)
    advance(model, tokens(8), cache)
    with pytest.raises(BadInput, match="2 rows of 10 tokens holds 8 and takes at most 2"):
        advance(model, tokens(3), cache)
    assert cache.length == 8, "a refusal changes nothing"
    with pytest.raises(BadInput, match="2 rows"):
        advance(model, tokens(1)[:1], cache)
    with pytest.raises(BadInput, match="at most 1 more at once"):
        model.hidden(tokens(2), cache)                            # advance() would split them
    model.not_causal = "it reads ahead"
    with pytest.raises(BadInput, match="it reads ahead"):
        Cache(model, 1)


def test_a_model_that_is_not_causal_is_recomputed():
    model = build()
    model.not_causal = "it reads ahead"
    # a query sees itself and the keys that differ from the last token
    model.token_mask = lambda idx, start=0: (idx.ne(idx[:, -1:])[:, None, None]
                                             | torch.eye(idx.size(1), dtype=torch.bool))
    assert torch.equal(model.generate(tokens(5), 6), recomputed(model, tokens(5), 6))


def test_what_is_generated_can_be_trained_on():
    model = build()
    out = model.generate(tokens(5), 6)
    model(out, out)[1].backward()
    assert not out.is_inference()


def test_the_logits_of_the_last_position_alone():
    model = build()
    with torch.no_grad():
        last = advance(model, tokens(5), Cache(model, 2), last=True)
        torch.testing.assert_close(last, model(tokens(5))[0][:, -1:], atol=1e-5, rtol=0)


def test_autocast_that_ends_in_between_leaves_the_text_so_far():
    for attention in ("mha", "mla"):
        model, idx = build(attention=attention), tokens(20)
        cache = Cache(model, 2, 20)
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                advance(model, idx[:, :19], cache)
            after = advance(model, idx[:, 19:], cache)
            torch.testing.assert_close(after[:, -1], model(idx)[0][:, -1], atol=0.2, rtol=0)
