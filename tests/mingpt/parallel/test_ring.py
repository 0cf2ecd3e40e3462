"""Ring attention: several ranks compute the same as one process, and no more than the pattern
needs."""

import contextlib
import io
import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from mingpt.model import GPT
from mingpt.parallel.ring import ContextParallel, Route, ring_attention
from mingpt.parallel.tiles import Place, attend, gradients, merge
from mingpt.patterns.kinds import parse_pattern
from mingpt.utils import IGNORE_INDEX, BadInput

T, RANKS = 48, 4
PATTERNS = ["f", "5", "12", "13", "25", "6/4", "b8x1", "s7", "4+g9", "r0.5@3"]
# name: (ranks, pattern, heads of keys, slopes)
CASES = {f"{text} over {ranks}": (ranks, text, 4, False) for text in PATTERNS for ranks in (2, 4)}
CASES |= {"three ranks": (3, "9", 4, False), "one rank": (1, "f", 4, False),
          "shared heads": (4, "f", 2, False),
          "one head of keys and slopes": (4, "14", 1, True), "slopes": (2, "f", 4, True)}
MODELS = {"learned": {}, "rope, shared heads, windows": {"position": "rope", "attention": "gqa",
                                                         "schedule": "f 9"},
          "alibi, parallel, tied": {"position": "alibi", "block": "parallel", "tie_weights": True,
                                    "z_loss": 0.1}}


def inputs(kv_heads):
    generator = torch.Generator().manual_seed(0)
    q, k, v, into = (torch.randn(2, heads, T, 8, generator=generator)
                     for heads in (4, kv_heads, kv_heads, 4))
    return q, k, v, into, torch.tensor([0.5, 0.25, 0.1, 0.0])


def dense(case):
    """Output and gradients computed in one process with a T×T mask."""
    _, text, kv_heads, biased = CASES[case]
    q, k, v, into, slopes = inputs(kv_heads)
    for x in (q, k, v):
        x.requires_grad_()
    i = torch.arange(T)
    bias = -slopes[:, None, None] * (i[:, None] - i) if biased else torch.zeros(T, T)
    mask = bias.masked_fill(~parse_pattern(text).mask(T), -math.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return [out, *torch.autograd.grad((out * into).sum(), (q, k, v))]


def model_of(name):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 4, "n_embd": 32,
                            "vocab_size": 19,
                            "block_size": T, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
                            "attn_pdrop": 0.0, **MODELS[name]})
    with contextlib.redirect_stdout(io.StringIO()):
        model = GPT(config)
    model.init_weights(1)
    return model


def batch():
    idx = torch.randint(19, (2, T + 1), generator=torch.Generator().manual_seed(2))
    targets = idx[:, 1:].clone()
    # rank 1 (positions 12 to 23) has no targets at all, and the other ranks differ in number
    targets[0, 5:30] = IGNORE_INDEX
    targets[1, 12:24] = IGNORE_INDEX
    return idx[:, :-1], targets


def work(rank, folder):
    """Run one rank: compute its part of every case and write it to files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank,
                            world_size=RANKS)
    groups = {n: None if n == RANKS else dist.new_group(range(n)) for n in (1, 2, 3, RANKS)}
    found = {case: share(case, rank, groups[CASES[case][0]])
             for case in CASES if rank < CASES[case][0]}
    for name in MODELS:
        model = model_of(name)
        ring = ContextParallel(model)
        loss = ring.loss(*batch())
        loss.backward()
        ring.sum_gradients()
        found[name] = [loss.detach(), {n: p.grad for n, p in model.named_parameters()}]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def share(case, rank, group):
    ranks, text, kv_heads, biased = CASES[case]
    *parts, slopes = inputs(kv_heads)
    q, k, v, into = (x.chunk(ranks, dim=2)[rank] for x in parts)
    for x in (q, k, v):
        x.requires_grad_()
    out = ring_attention(q, k, v, parse_pattern(text), slopes=slopes if biased else None,
                         group=group)
    return [out.detach(), *torch.autograd.grad((out * into).sum(), (q, k, v))]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of each rank, computed in four processes."""
    folder = tmp_path_factory.mktemp("ring")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_together_compute_what_one_process_does(found, case):
    for part, name in enumerate(("output", "dQ", "dK", "dV")):
        ours = torch.cat([found[rank][case][part] for rank in range(CASES[case][0])], dim=2)
        error = (ours - dense(case)[part].detach()).abs().max()
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_over_ranks_has_one_process_loss_and_gradients(found, name):
    model = model_of(name)
    loss = model.loss(*batch())
    loss.backward()
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank][name][0], loss.detach(), atol=1e-6, rtol=1e-6)
        for parameter, p in model.named_parameters():
            torch.testing.assert_close(found[rank][name][1][parameter], p.grad, atol=1e-6,
                                       rtol=1e-4)


@pytest.mark.parametrize("text, computed", [("f", 10), ("1", 4), ("2", 7), ("12", 7), ("13", 7),
                                            ("14", 9), ("25", 9),
                                            ("26", 10), ("s7", 10), ("b12x0", 7), ("b12x1", 9)])
def test_a_window_skips_whole_ranks(text, computed):
    """Of 16 pairs of 12 queries and 12 keys, 6 are in the future."""
    pattern = parse_pattern(text)
    route = Route(RANKS, T // RANKS, pattern.reach(T))
    assert (route.computed, route.skipped) == (computed, 16 - computed)
    met = pattern.mask(T).view(RANKS, T // RANKS, RANKS, -1).any(3).any(1)
    assert met.sum() <= computed, "none that is seen is skipped"
    assert text[0] == "b" or met.sum() == computed, "and of windows nothing that is not"


def test_a_stretch_that_is_seen_by_few_is_computed_by_few(monkeypatch):
    """Within a rank too, scores are computed only for the keys within reach."""
    made = []
    scores = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__",
                        lambda a, b: made.append(b.shape[-1]) or scores(a, b))
    q = torch.randn(1, 1, 1024, 8)
    attend(q, q, q, Place(1024, 0, 2048, parse_pattern("65")))
    # 64 keys instead of 4 · 1024: the first tile needs only the last 64
    assert sum(n for n in made if n != 8) == 64


def test_parts_merge_in_any_order_and_a_query_may_see_nothing_of_one():
    q, k, v, into, _ = inputs(4)
    pattern = parse_pattern("20")
    parts = [attend(q, k[:, :, a:b], v[:, :, a:b], Place(0, a, T, pattern))
             for a, b in ((0, 16), (16, 40), (40, T))]
    assert parts[2][1][:, :, 0].eq(-math.inf).all() and parts[2][0][:, :, 0].eq(0).all()
    out, lse = merge(merge(parts[0], parts[1]), parts[2])
    whole, whole_lse = attend(q, k, v, Place(0, 0, T, pattern))
    rows = slice(0, 36)  # later queries see no key of the first part
    torch.testing.assert_close(out[:, :, rows], whole[:, :, rows])
    torch.testing.assert_close(lse[:, :, rows], whole_lse[:, :, rows])
    delta = (whole * into).sum(-1, keepdim=True)
    dq = sum(gradients(q, k[:, :, a:b], v[:, :, a:b], into, whole_lse, delta,
                       Place(0, a, T, pattern))[0]
             for a, b in ((0, 16), (16, T)))
    q.requires_grad_()
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=pattern.mask(T))
    torch.testing.assert_close(dq, torch.autograd.grad((y * into).sum(), q)[0], atol=2e-6,
                               rtol=1e-5)


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_needs_all_tokens_in_one_process_is_refused(alone):
    def model(**changes):
        MODELS["refused"] = changes
        try:
            return model_of("refused").train()
        finally:
            del MODELS["refused"]
    with pytest.raises(BadInput, match="model.document_end"):
        ContextParallel(model(document_end=3))
    ahead = model()
    ahead.not_causal = "it reads ahead"
    with pytest.raises(BadInput, match="needs a causal model: it reads ahead"):
        ContextParallel(ahead)
    with pytest.raises(BadInput, match="attn_pdrop=0.5"):
        ContextParallel(model(attn_pdrop=0.5)).loss(*batch())
    for changes in ({"mlp": "moe"}, {"n_future": 2}):
        with pytest.raises(BadInput, match="a loss beside the next token's"):
            ContextParallel(model(**changes)).loss(*batch())
    with pytest.raises(BadInput, match="at most model.block_size=48"):
        ContextParallel(model()).mine(torch.zeros(1, 96, dtype=torch.long))
