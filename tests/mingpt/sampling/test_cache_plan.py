"""Cache plans: no key that a query may still see is overwritten, and no more keys are kept than
needed."""

import numpy as np
import pytest
import torch

from mingpt.patterns.kinds import parse_pattern
from mingpt.sampling.cache_plan import HeldKeys, last_queries, plan

T = 70
PATTERNS = ["f", "1", "5", "200", "9>1/3", "4/3", "b4x1", "b7x0", "s5", "4+g6", "r0.3@1", "5&s2",
            "3|s7", "b4x1|2/9"]


@pytest.mark.parametrize("pattern", [parse_pattern(text) for text in PATTERNS], ids=str)
def test_the_last_query_that_sees_a_key_is_the_masks(pattern):
    mask = pattern.mask(T).numpy()
    want = [max(i for i in range(T) if mask[i, j]) for j in range(T)]
    assert last_queries(pattern, T).tolist() == want


@pytest.mark.parametrize("slack", [0, 1, 6])
@pytest.mark.parametrize("pattern", [parse_pattern(text) for text in PATTERNS], ids=str)
def test_a_slot_is_used_again_only_when_no_query_needs_it(pattern, slack):
    slots, size, evicts = plan(pattern, T, slack)
    held = np.full(size, -1)
    for position in range(T):
        held[slots[position]] = position
        for query in range(max(0, position - slack), position + 1):  # queries that may come again
            keys = pattern.rows(query, query + 1)[0].nonzero()[0]
            assert set(keys) <= set(held), f"query {query}, when {position} had been kept"
    assert evicts is (size < T)


@pytest.mark.parametrize("text, size", [("f", T), ("5", 5), ("200", T), ("b4x1", 8), ("b7x0", 7),
                                        ("s5", T // 5 + 1),
                                        ("9>1/3", 6), ("1", 1), ("4/3", T)])
def test_no_more_is_kept_than_a_query_sees(text, size):
    assert plan(parse_pattern(text), T, 0).size == size


@pytest.mark.parametrize("text", PATTERNS)
def test_what_is_read_is_what_the_query_sees(text):
    pattern = parse_pattern(text)
    held_keys = HeldKeys(pattern, T, 3)
    fed = 0
    for n in (20, 1, 1, 4, 3, 1, 4, 2):
        held_keys.extend(fed, n)
        view = held_keys.read(torch.device("cpu"))
        if fed:
            for row, query in enumerate(range(fed, fed + n)):
                held = view.positions if view.seen is None else view.positions[view.seen[row]]
                assert sorted(held.tolist()) == pattern.rows(
                    query, query + 1)[0].nonzero()[0].tolist()
                slots = torch.arange(view.stop) if view.index is None else view.index
                assert (torch.from_numpy(held_keys.holds)[slots] == view.positions).all()
        fed += n


def test_far_links_are_copied_out_where_they_are_few():
    held_keys = HeldKeys(parse_pattern("2/9"), T, 0)
    held_keys.extend(0, 60)
    held_keys.extend(60, 1)
    view = held_keys.read(torch.device("cpu"))
    assert view.positions.tolist() == [4, 13, 22, 31, 40, 49, 59, 60]
    assert view.seen is None
