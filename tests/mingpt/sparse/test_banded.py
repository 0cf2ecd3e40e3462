"""Banded attention equals attention with a dense mask in value and gradient, for all shapes. It
never holds anything of size T×T."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mingpt.patterns.kinds import (
    block,
    dilated,
    full,
    local_global,
    parse_pattern,
    random,
    shifted,
    strided,
    window,
)
from mingpt.sparse import tiles
from mingpt.sparse.band import HIDDEN
from mingpt.sparse.banded import banded_attention, parts_of, supports
from mingpt.utils import BadInput

size = st.integers(1, 70)
PATTERNS = st.one_of(
    st.just(full()),
    st.builds(window, st.integers(1, 150)),
    st.builds(shifted, st.integers(4, 60), st.integers(0, 2), st.just(3)),
    st.builds(dilated, size, size),
    st.builds(block, size, st.integers(0, 5)),
    st.builds(strided, size),
    st.builds(local_global, size, size),
)
GRID = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dense(q, k, v, pattern, slopes=None):
    """The reference: all scores, a mask and a softmax."""
    i = torch.arange(q.size(-2))
    share = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    bias = torch.zeros(1, 1, 1) if slopes is None else -slopes[:, None, None] * (i[:, None] - i)
    mask = bias.to(q.dtype).masked_fill(~pattern.mask(len(i)), -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def draw(shape, dtype=torch.float32, grad=True):
    return torch.randn(shape, dtype=dtype, requires_grad=grad)


def inputs(B, heads, kv_heads, T, hs, dtype=torch.float32):
    return (draw((B, heads, T, hs), dtype), draw((B, kv_heads, T, hs), dtype),
            draw((B, kv_heads, T, hs), dtype))


def assert_same(got, expected, tolerance=1e-5):
    """Equal to 1e-5 absolute, or to 1e-6 relative. A gradient summed over hundreds of queries can
    exceed 10, where float32 itself is not more precise."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-6)


@GRID
@given(PATTERNS, st.integers(1, 300), st.integers(1, 3),
       st.sampled_from([(1, 1), (2, 2), (6, 2), (4, 1)]), st.sampled_from([16, 24, 64, 128]),
       st.booleans())
def test_values_and_gradients_are_the_dense_masks(pattern, T, B, heads, hs, alibi):
    torch.manual_seed(T)
    qkv = inputs(B, *heads, T, hs)
    slopes = torch.rand(heads[0]) if alibi else None
    upstream = torch.randn(B, heads[0], T, hs)
    got = banded_attention(*qkv, pattern, bias_slopes=slopes)
    expected = dense(*qkv, pattern, slopes)
    assert_same((got, *torch.autograd.grad(got, qkv, upstream)),
                (expected, *torch.autograd.grad(expected, qkv, upstream)))


@GRID
@given(PATTERNS, st.integers(1, 200))
def test_the_parts_of_a_pattern_hold_each_of_its_pairs_once(pattern, T):
    seen = torch.zeros(T, T, dtype=torch.long)
    memory = lambda name, *shape: torch.zeros(shape)   # noqa: E731
    for part in parts_of(pattern, T):
        position = torch.arange(1, T + 1.0)[None, :, None]
        queries, keys = (part.lay_queries(position, memory, "q"),
                         part.lay_keys(position, memory, "k"))
        for tile in part.tiles(1, 2**12):
            scores = torch.zeros(tile.shape) + tile.mask(queries)
            tile.adjust(scores, None)
            at = torch.nonzero(scores > HIDDEN / 2)
            i = tile.queries(queries)[at[:, 0], at[:, 1], 0].long() - 1
            j = tile.keys(keys)[at[:, 0], at[:, 2], 0].long() - 1
            real = (i >= 0) & (j >= 0)
            seen.index_put_((i[real], j[real]), torch.ones(int(real.sum()), dtype=torch.long),
                            accumulate=True)
    assert torch.equal(seen, pattern.mask(T).long())


@pytest.mark.parametrize("spelling", ["f", "1", "9", "64>1/2", "5/3", "3/17", "b8x2", "b7x0", "s6",
                                      "4+g5"])
def test_gradcheck_in_double(spelling):
    torch.manual_seed(0)
    qkv = inputs(1, 2, 1, 37, 3, torch.float64)
    slopes = torch.tensor([0.5, 0.1], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *qkv: banded_attention(*qkv, parse_pattern(spelling), bias_slopes=slopes), qkv)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_tiles_scores_and_rows_fit_into_the_measured_memory(threads, monkeypatch):
    monkeypatch.setattr(tiles, "processor", lambda: ("any", min(threads, 2)))
    monkeypatch.setattr(tiles, "WORKING_SET", {("any", 2): 2**20})
    (narrow,), (wide,) = (parts_of(window(w), 4096) for w in (64, 2048))
    for part in (narrow, wide):
        size = tiles.tile_size(torch.empty(0), part, 64)
        assert size <= tiles.TILE_CPU and (size == tiles.TILE_CPU) == (threads == 1)
        if threads > 1:
            rows = size / part.keys_met
            assert 0.9 < 4 * (2 * size + 7 * 64 * rows) / 2**20 <= 1


def test_a_long_text_is_cut_into_several_tiles_a_head(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_CPU", 2**12)
    torch.manual_seed(0)
    qkv = inputs(2, 2, 2, 700, 16)
    for pattern in (window(40), window(200), full(), block(16, 2), dilated(20, 3), strided(5),
                    local_global(30, 7)):
        got, expected = banded_attention(*qkv, pattern), dense(*qkv, pattern)
        upstream = torch.randn_like(got)
        assert_same((got, *torch.autograd.grad(got, qkv, upstream)),
                    (expected, *torch.autograd.grad(expected, qkv, upstream)))


@pytest.mark.parametrize("pattern", [window(8), dilated(8, 4), local_global(5, 6)])
def test_strided_views_as_a_projection_gives_them(pattern):
    torch.manual_seed(0)
    x = torch.randn(2, 50, 3 * 4 * 16, requires_grad=True)
    qkv = [part.view(2, 50, 4, 16).transpose(1, 2) for part in x.split(64, dim=2)]
    # the layout of the gradient that comes back from the output projection
    upstream = torch.randn(2, 50, 4, 16).transpose(1, 2)
    got, expected = banded_attention(*qkv, pattern), dense(*qkv, pattern)
    assert_same((got, *torch.autograd.grad(got, x, upstream)),
                (expected, *torch.autograd.grad(expected, x, upstream)))
    # so that joining the heads needs no copy
    assert got.transpose(1, 2).is_contiguous()


def test_one_graph_uses_it_twice_and_goes_back_twice():
    torch.manual_seed(0)
    q, k, v = inputs(1, 2, 2, 60, 16)
    def twice(attention):
        y = attention(attention(q, k, v, window(9)), k, v, dilated(9, 4))
        first = torch.autograd.grad(y.sum(), (q, k, v), retain_graph=True)
        return y, *first, *torch.autograd.grad(y.square().sum(), (q, k, v))
    assert_same(twice(banded_attention), twice(dense), 3e-5)


@pytest.mark.parametrize("pattern", [window(8), dilated(8, 4)])
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_needed_gradients_are_made(pattern, needed):
    torch.manual_seed(0)
    qkv = [x.requires_grad_(n in needed) for n, x in enumerate(
        x.detach() for x in inputs(1, 2, 2, 40, 16))]
    wanted = [qkv[n] for n in needed]
    banded_attention(*qkv, pattern).square().sum().backward()
    expected = torch.autograd.grad(dense(*qkv, pattern).square().sum(), wanted)
    assert_same([x.grad for x in wanted], expected)
    assert all(x.grad is None for n, x in enumerate(qkv) if n not in needed)


@pytest.mark.parametrize("pattern", [window(8), dilated(8, 4), strided(3)])
def test_huge_scores_give_no_nan(pattern):
    torch.manual_seed(0)
    qkv = [(x.detach() * 1e4).requires_grad_() for x in inputs(1, 2, 2, 40, 16)]
    y = banded_attention(*qkv, pattern)
    y.sum().backward()
    assert all(x.isfinite().all() for x in (y, *(x.grad for x in qkv)))
    torch.testing.assert_close(y, dense(*qkv, pattern))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    torch.manual_seed(0)
    qkv = [x.detach().to(dtype).requires_grad_() for x in inputs(2, 4, 2, 90, 32)]
    y = banded_attention(*qkv, dilated(16, 4))
    y.float().sum().backward()
    exact = [x.detach().float().requires_grad_() for x in qkv]
    expected = dense(*exact, dilated(16, 4))
    expected.sum().backward()
    assert y.dtype == dtype and all(x.grad.dtype == dtype for x in qkv)
    assert torch.equal(y, expected.to(dtype)) or (y.float() - expected).abs().max() < 2e-2
    # one rounding of the result, or a few where heads share keys
    for x, e in zip(qkv, exact, strict=True):
        torch.testing.assert_close(x.grad.float(), e.grad, atol=3e-2, rtol=2e-2)


def with_dropout(qkv, pattern, p, seed):
    torch.manual_seed(seed)
    return banded_attention(*qkv, pattern, dropout_p=p)


@pytest.mark.parametrize("pattern", [window(24), dilated(8, 2), local_global(4, 3), block(16, 1)])
def test_dropout_drops_weights_independently_and_keeps_their_mean(pattern):
    """With the identity as values, the output is the weights after dropout: 0 or P / (1 − p)."""
    T, p = 64, 0.3
    torch.manual_seed(0)
    q, k = torch.randn(1, 8, T, 16), torch.randn(1, 8, T, 16)
    v = torch.eye(T).expand(1, 8, T, T)
    weights = banded_attention(q, k, v, pattern)
    draws = torch.stack([with_dropout((q, k, v), pattern, p, seed) for seed in range(40)])
    seen = pattern.mask(T).expand_as(weights)
    kept = draws[:, seen] != 0
    torch.testing.assert_close(draws[:, seen][kept],
                               (weights[seen] / (1 - p)).expand_as(kept)[kept])
    assert (draws[:, ~seen] == 0).all()
    assert abs(kept.float().mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    per_weight = kept.float().mean(0)                          # no weight is always or never kept
    assert abs(per_weight.var() / (p * (1 - p) / 40) - 1) < 0.2
    together = (kept[:, 1:] & kept[:, :-1]).float().mean()  # neighbours are independent
    assert abs(together - (1 - p) ** 2) < 0.01


@pytest.mark.parametrize("pattern", [window(9), dilated(5, 3)])
def test_dropouts_backward_uses_the_forwards_mask(pattern):
    torch.manual_seed(0)
    qkv = inputs(1, 2, 2, 30, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: with_dropout(qkv, pattern, 0.4, 7), qkv)
    assert not torch.equal(with_dropout(qkv, pattern, 0.4, 7), with_dropout(qkv, pattern, 0.4, 8))


def test_dropping_everything_leaves_zeros():
    qkv = inputs(1, 2, 2, 30, 16)
    y = banded_attention(*qkv, window(4), dropout_p=1.0)
    y.sum().backward()
    assert not y.any() and not any(x.grad.any() for x in qkv)


def test_without_gradients_nothing_is_kept():
    qkv = inputs(1, 2, 2, 64, 16)
    with torch.no_grad():
        y = banded_attention(*qkv, dilated(8, 4))
    assert y.grad_fn is None and not y.requires_grad


def test_what_is_kept_is_linear_in_the_text():
    saved = []
    qkv = inputs(1, 2, 2, 512, 16)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x,
                                                  lambda x: x):
        banded_attention(*qkv, dilated(16, 4))
    # q, k, v and the output; the shares of two parts
    assert sum(saved) == 4 * qkv[0].numel() + 2 * 2 * 512


def test_unsupported_patterns_are_told_apart():
    supported = [full(), window(3), shifted(8, 1, 2), dilated(3, 2), block(128, 4), strided(4),
                 local_global(4, 8)]
    assert all(supports(pattern) for pattern in supported)
    assert not any(supports(pattern) for pattern in (random(0.1, 0), block(4096, 1),
                                                     window(3) & strided(2)))
    with pytest.raises(BadInput, match="no banded form"):
        banded_attention(*inputs(1, 1, 1, 8, 16), random(0.1, 0))


class Largest(TorchDispatchMode):
    """Sees every operation, also of the backward, and keeps the size of the largest storage that
    one of them returned."""
    bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("spelling", ["f", "256", "128/32", "b128x4", "s64", "128+g64"])
def test_nothing_of_the_size_of_a_square_is_ever_made(spelling):
    T, qkv = 8192, inputs(1, 2, 2, 8192, 16)
    with Largest() as largest:
        banded_attention(*qkv, parse_pattern(spelling), dropout_p=0.1).sum().backward()
    assert 2 * T * 16 * 4 <= largest.bytes < T * T * 4 / 16


@pytest.mark.parametrize("spelling", ["64", "256", "128/32", "b128x4", "64+g64"])
def test_the_work_is_that_of_the_keys_seen(spelling):
    """A forward and backward has seven products of 2·hs FLOPs per pair each. Tiles compute a few
    pairs more than the pattern has."""
    T, pattern, qkv = 2048, parse_pattern(spelling), inputs(1, 2, 2, 2048, 16)
    with FlopCounterMode(display=False) as counter:
        banded_attention(*qkv, pattern).sum().backward()
    assert 1 <= counter.get_total_flops() / (2 * 7 * 2 * 16 * pattern.count(T)) < 1.5


@pytest.mark.parametrize("pattern", [window(24), dilated(8, 3)])
def test_threads_change_neither_results_nor_torchs_settings(pattern):
    def step(threads):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        qkv = inputs(2, 4, 4, 130, 16)
        y = banded_attention(*qkv, pattern)
        gradients = torch.autograd.grad(y.square().sum(), qkv)
        in_new_thread = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
        assert threads == torch.get_num_threads() == in_new_thread
        return y, *gradients
    before = torch.get_num_threads()
    try:
        assert_same(step(1), step(3), 1e-6)
        assert_same(step(2), step(3), 1e-6)
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    def fail(*args):
        raise RuntimeError("planted")
    monkeypatch.setattr("mingpt.sparse.banded._forward", fail)
    with pytest.raises(RuntimeError, match="planted"):
        banded_attention(*inputs(4, 4, 4, 20, 16), window(3))


FORK = """
import os, torch
from mingpt.sparse.banded import banded_attention
from mingpt.patterns.kinds import window
torch.set_num_threads(2)
x = torch.randn(4, 4, 20, 16)
expected = banded_attention(x, x, x, window(3))
child = os.fork()
if child == 0:
    os._exit(not torch.equal(banded_attention(x, x, x, window(3)), expected))
raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    assert subprocess.run([sys.executable, "-c", FORK], timeout=120).returncode == 0


MEMORY = """
import torch
from mingpt.sparse.banded import banded_attention
from mingpt.patterns.kinds import parse_pattern
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
def step(T):
    q, k, v = (torch.randn(1, 6, T, 64, requires_grad=True) for _ in range(3))
    banded_attention(q, k, v, parse_pattern("256")).sum().backward()
step(256)
before = peak()
step(8192)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"),
                    reason="no /proc: the peak of a process is not told")
def test_a_step_needs_little_more_than_its_inputs_and_results():
    """q, k, v, the output and four gradients take 96 MB. One T×T matrix of a single head would take
    256 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True,
                          check=True)
    assert 80 < float(done.stdout) < 180
