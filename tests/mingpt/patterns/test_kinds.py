"""Patterns: what they see, compared with masks built pair by pair, and how they are written."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.patterns.kinds import (
    PATTERNS,
    Pattern,
    block,
    dilated,
    draw,
    full,
    local_global,
    parse_pattern,
    random,
    shifted,
    strided,
    window,
)
from mingpt.utils import BadInput

size, few = st.integers(1, 40), st.integers(0, 5)
LEAVES = {
    "full": st.builds(full),
    "window": st.builds(window, size),
    "shifted": st.integers(1, 6).flatmap(lambda n: st.builds(
        shifted, size, st.integers(0, n - 1), st.just(n))),
    "dilated": st.builds(dilated, size, size),
    "block": st.builds(block, size, few),
    "strided": st.builds(strided, size),
    "local_global": st.builds(local_global, size, size),
    "random": st.builds(random, st.floats(0, 0.99), few),
}
leaves = st.one_of(*LEAVES.values())
patterns = st.recursive(leaves, lambda inner: st.one_of(st.builds(lambda a, b: a & b, inner, inner),
                                                        st.builds(lambda a, b: a | b, inner,
                                                                  inner)), max_leaves=4)
lengths = st.integers(1, 150)   # up to more than two of the blocks of rows that are streamed
check = settings(deadline=None, max_examples=150)


@pytest.mark.parametrize("pattern, picture", [
    (full(), "x... xx.. xxx. xxxx"),
    (window(1), "x... .x.. ..x. ...x"),
    (window(2), "x... xx.. .xx. ..xx"),
    (shifted(4, 1, 2), "x... xx.. .xx. ..xx"),
    (dilated(2, 2), "x..... xx.... .xx... ..xx.. x..xx. .x..xx"),
    (dilated(1, 3), "x..... .x.... ..x... ...x.. x...x. .x...x"),
    (block(2, 0), "x..... xx.... ..x... ..xx.. ....x. ....xx"),
    (block(2, 1), "x..... xx.... xxx... xxxx.. ..xxx. ..xxxx"),
    (strided(3), "x..... xx.... x.x... x..x.. x..xx. x..x.x"),
    (local_global(2, 3), "x..... xx.... xxx... x.xx.. x..xx. x..xxx"),
    (window(3) & strided(2), "x..... xx.... x.x... ..xx.. ..x.x. ....xx"),
    (window(2) | strided(4), "x..... xx.... xxx... x.xx.. x..xx. x...xx"),
])
def test_every_pattern_draws_itself(pattern, picture):
    assert draw(pattern, T=len(picture.split()[0])) == picture


def test_a_picture_may_have_its_rows_below_each_other():
    assert window(2).draw(3, separator="\n") == "x..\nxx.\n.xx"


@check
@given(patterns, lengths)
def test_keys_are_counted_as_the_mask_has_them(pattern, T):
    mask = pattern.mask(T).numpy()
    distance = np.arange(T)[:, None] - np.arange(T)
    assert pattern.count(T) == mask.sum()
    assert pattern.keys_per_query(T).tolist() == mask.sum(1).tolist()
    assert pattern.reach(T) == distance[mask].max()
    assert pattern.is_full(T) == (mask == (distance >= 0)).all()
    assert pattern.sparsity(T) == pytest.approx(1 - mask.sum() / (distance >= 0).sum(), abs=1e-12)


@check
@given(leaves, lengths)
def test_a_closed_form_equals_looking_at_every_pair(pattern, T):
    assert pattern.keys_per_query(T).tolist() == Pattern.keys_per_query(pattern, T).tolist()
    assert pattern.reach(T) == Pattern.reach(pattern, T)


@check
@given(patterns, lengths)
def test_every_query_sees_itself_and_none_the_future(pattern, T):
    mask = pattern.mask(T)
    assert mask.diagonal().all()
    assert not mask.triu(1).any()


@check
@given(patterns)
def test_a_spelling_parses_back(pattern):
    assert parse_pattern(str(pattern)) == pattern


@check
@given(patterns, st.integers(0, 60), st.integers(0, 60))
def test_numpy_torch_and_plain_numbers_agree(pattern, i, j):
    seen = bool(pattern(i, j))
    for kind in (np.int32, np.int64):
        assert bool(pattern(np.array([i], kind), np.array([j], kind))) == seen
    for kind in (torch.int32, torch.int64):
        assert bool(pattern(torch.tensor([i], dtype=kind), torch.tensor([j], dtype=kind))) == seen


@check
@given(patterns, patterns, lengths)
def test_composing_patterns_composes_their_masks(a, b, T):
    assert torch.equal((a & b).mask(T), a.mask(T) & b.mask(T))
    assert torch.equal((a | b).mask(T), a.mask(T) | b.mask(T))


def test_and_binds_more_closely_than_or():
    a, b, c = window(8), strided(3), block(4, 1)
    assert parse_pattern("8|s3&b4x1") == a | (b & c)
    assert parse_pattern("(8|s3)&b4x1") == (a | b) & c
    assert str((a | b) & c) == "(8|s3)&b4x1"
    assert a & (b & c) == (a & b) & c


@given(lengths, size, few)
def test_a_long_window_is_full_and_a_block_of_one_is_a_window(T, w, count):
    assert window(T).is_full(T)
    assert torch.equal(block(1, count).mask(T), window(count + 1).mask(T))
    assert torch.equal(dilated(w, T).mask(T), window(w).mask(T))
    assert torch.equal(local_global(w, w).mask(T), (window(w) | strided(w)).mask(T))


def test_dilated_links_start_behind_a_gap():
    keys = dilated(96, 4).mask(256)[255].nonzero().flatten().tolist()
    assert keys == [255 - 96 - 4 * k for k in range(39, 0, -1)] + list(range(160, 256))


@pytest.mark.parametrize("S, sparsities", [
    (256, [19.1, 12.8, 29.7, 32.9, 35.8, 39.8, 42.6, 49.6]),
    (512, [42.4, 28.4, 49.7, 55.2, 53.6, 59.5, 57.7, 67.2]),
])
def test_the_eight_pairs_of_study_003_have_its_sparsities(S, sparsities):
    pairs = [(128, 4), (128, 2), (96, 4), (96, 6), (80, 4), (80, 6), (64, 4), (64, 8)]
    assert [round(100 * dilated(w, d).sparsity(S), 1) for w, d in pairs] == sparsities


def test_random_drops_its_share_the_same_pairs_at_every_length():
    pattern = random(0.1, seed=7)
    assert pattern.sparsity(1024) == pytest.approx(0.1, abs=0.002)   # five standard errors
    assert torch.equal(pattern.mask(300)[:100, :100], pattern.mask(100))
    agreement = (pattern.mask(300) == random(0.1, seed=8).mask(300)).tril().sum() / (300 * 301 / 2)
    assert agreement == pytest.approx(0.82, abs=0.01)                # 0.9² + 0.1²: independent


def test_random_drops_evenly_by_query_and_by_distance():
    seen = random(0.5, seed=0).mask(1024).numpy()
    # each share is over at least 512 coin tosses, so five standard errors are 0.11
    by_query = [seen[i, :i].mean() for i in range(512, 1024)]
    by_distance = [seen.diagonal(-k).mean() for k in range(1, 513)]
    by_key = [seen[j + 1:, j].mean() for j in range(512)]
    for shares in (by_query, by_distance, by_key):
        assert np.abs(np.array(shares) - 0.5).max() < 0.11
        assert 0.01 < np.std(shares) < 0.03  # 0.5/√n: 0.016 to 0.022


@pytest.mark.parametrize("pattern", [dilated(64, 8), random(0.1, seed=1), window(64) | strided(8)],
                         ids=str)
def test_counting_builds_nothing_of_size_t_squared(pattern):
    T = 6000
    tracemalloc.start()
    try:
        assert 0 < pattern.count(T) < T * (T + 1) // 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < T * T / 2   # half a boolean mask


def test_patterns_are_counted_and_drawn_without_torch():
    code = ("import sys; from mingpt.patterns.schedule import parse_schedule as p; "
            "s = p('half', 12); s.sparsity(64), s.receptive_field(64), s[6].draw(8); assert "
            "'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("text, says", [
    ("0", "w = 0, the least is 1"), ("-3", "w = -3, the least is 1"), ("96/0", "d = 0"),
    ("b0x1", "size = 0"),
    ("b8x-1", "previous = -1, the least is 0"), ("s0", "s = 0"), ("8+g0", "every = 0"),
    ("r1.0@0", "drop = 1.0"),
    ("256>2/2", "index = 2, the largest is 1"), ("99999999999999999999",
                                                 "the largest is 2147483647"),
    ("s8.5", "no pattern is spelled 's8.5'"), ("(64", "no pattern is spelled"),
    ("64|", "no pattern is spelled ''"),
    ("64&(s8|x)", "no pattern is spelled 'x'"),
])
def test_a_pattern_without_meaning_is_refused(text, says):
    with pytest.raises(BadInput) as error:
        parse_pattern(text)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda: window(1.5), lambda: window("8"), lambda: window(True),
                                  lambda: random("0.1", 0), lambda: random(float("nan"), 0)])
def test_a_number_of_the_wrong_kind_is_refused(make):
    with pytest.raises(BadInput, match="is no"):
        make()


def test_no_pattern_escapes_these_tests():
    assert LEAVES.keys() == PATTERNS.keys()
