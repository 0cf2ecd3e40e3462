"""Schedules: the seeds' values and sparsities, the grammar, both JSON formats, and what is
refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt.patterns.kinds import (
    block,
    dilated,
    full,
    local_global,
    random,
    shifted,
    strided,
    window,
)
from mingpt.patterns.schedule import (
    FORMULAS,
    NAMED,
    NAMED_LAYERS,
    parse_layers,
    parse_schedule,
    uniform,
)
from mingpt.utils import BadInput

SHIPPED = Path(__file__).resolve().parents[3] / "experiments" / "schedules"
STUDY_000 = ["full", "half", "quarter", "aggressive", "block_sparse", "lms_main"]
STUDY_001 = ["full", "half", "quarter", "aggressive"]


def windows(schedule):
    return [0 if p == full() else p.w for p in schedule]   # no window has width 0


@pytest.mark.parametrize("name, at_1024, at_512", [
    ("full", 0.0, 0.0), ("half", 42.4, 36.1), ("quarter", 61.1, 52.8), ("aggressive", 77.8, 69.5),
    ("block_sparse", 42.1, 26.3), ("lms_main", 44.3, 27.1), ("lms_main_shifted", 50.5, 37.5),
])
def test_named_schedules_have_the_seeds_sparsities(name, at_1024, at_512):
    schedule = parse_schedule(name, 12)
    assert [round(100 * schedule.sparsity(T), 1) for T in (1024, 512)] == [at_1024, at_512]


@pytest.mark.parametrize("name, layers", [
    ("half", [0] * 6 + [256, 128, 64, 32, 16, 16]),
    ("quarter", [0] * 3 + [512, 256, 128, 64, 32, 16, 8, 4, 4]),
    ("aggressive", [0, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1]),
    ("lms_main", [0, 256, 256, 0, 128, 128, 128, 128, 0, 256, 256, 0]),
    ("half_001", [0] * 6 + [512, 256, 128, 64, 32, 16]),
    ("quarter_001", [0] * 3 + [1024, 512, 256, 128, 64, 32, 16, 8, 4]),
    ("aggressive_001", [0, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]),
    ("sssl", [256, 256, 256, 0] * 3),
    ("sssl:64", [64, 64, 64, 0] * 3),
    ("progressive:512>16@6", [0] * 6 + [512, 256, 128, 64, 32, 16]),
    ("progressive:512>16", [512, 256, 128, 64, 32] + [16] * 7),
    ("progressive:1024", [1025, 939, 854, 769, 683, 598, 513, 427, 342, 257, 171, 86]),
])
def test_named_schedules_and_formulas_have_the_seeds_windows(name, layers):
    assert windows(parse_schedule(name, 12)) == layers


def test_block_sparse_and_the_group_shift_are_the_seeds():
    assert list(parse_schedule("block_sparse", 12)) == [full()] * 4 + [
        block(128, 4), block(64, 4), block(42, 4)] \
        + [block(32, 4)] * 5
    groups = [p for p in parse_schedule("lms_main_shifted", 12) if p != full()]
    assert groups == [shifted(256, 0, 2), shifted(256, 1, 2)] + [
        shifted(128, i, 4) for i in range(4)] \
        + [shifted(256, 0, 2), shifted(256, 1, 2)]


def test_the_grammar_repeats_fills_and_composes():
    assert windows(parse_schedule("f 256 256 f 128*4 f 256 256 f",
                                  12)) == windows(parse_schedule("lms_main", 12))
    assert windows(parse_schedule("f 256* f", 5)) == [0, 256, 256, 256, 0]
    assert list(parse_schedule("96/4 64 | s8 r0.1@7", 3)) == [
        dilated(96, 4), window(64) | strided(8), random(0.1, 7)]
    assert list(parse_schedule(uniform(64), 2)) == [window(64)] * 2
    assert list(parse_schedule(uniform(64, 8), 2)) == [dilated(64, 8)] * 2
    # the form in which the command line's parser passes it on
    assert list(parse_schedule(256, 1)) == [window(256)]


@given(st.lists(st.sampled_from([full(), window(8), dilated(4, 2), local_global(4, 8),
                                 window(2) | strided(3)]),
                min_size=1, max_size=16))
def test_a_schedule_prints_as_a_text_that_parses_back(layers):
    text = " ".join(map(str, layers))
    schedule = parse_schedule(text, len(layers))
    assert parse_schedule(str(schedule), len(layers)).layers == schedule.layers == tuple(layers)


@pytest.mark.parametrize("name", NAMED)
def test_other_depths_follow_relative_depth_and_say_so(name):
    twelve = list(parse_schedule(name, 12))
    assert parse_schedule(name, 12).note is None
    six, many = parse_schedule(name, 6), parse_schedule(name, 24)
    assert list(six) == twelve[::2]
    assert list(many) == [p for p in twelve for _ in range(2)]
    assert list(parse_schedule(name, 5)) == [twelve[l] for l in (0, 2, 4, 7, 9)]
    if len(set(twelve)) == 1:
        assert six.note is None   # nothing has changed
    else:
        assert (
            "12 layers" in six.note
            and "layer l of 6" in six.note
            and "windows are not scaled" in six.note
        )


@pytest.mark.parametrize("name", STUDY_000)
def test_the_expanded_file_holds_study_000(name):
    assert parse_schedule(f"{SHIPPED}/study000.json:{name}", 12).layers == parse_schedule(
        name, 12).layers


@pytest.mark.parametrize("name", STUDY_001)
def test_the_compact_file_holds_study_001(name):
    assert parse_schedule(f"{SHIPPED}/study001.json:{name}",
                          12).layers == parse_schedule(f"{name}_001", 12).layers


def test_every_shipped_file_holds_only_what_is_tested():
    held = {p.name: list(json.loads(p.read_text())["schedules"]) for p in SHIPPED.glob("*.json")}
    assert held == {"study000.json": STUDY_000, "study001.json": STUDY_001}


def test_a_file_alone_means_its_default():
    schedule = parse_schedule(f"{SHIPPED}/study000.json", 24)
    assert schedule.layers == parse_schedule("lms_main", 24).layers
    assert "written for 12 layers" in schedule.note


@pytest.fixture
def written(tmp_path):
    """Write one JSON schedule file and return its path."""
    def write(content, name="s.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name)
    return write


def expanded(*layers, **more):
    return {"schedules": {"mine": {"layers": {str(l): layer for l, layer in enumerate(layers)}}},
            **more}


def test_every_mask_type_of_the_expanded_format_is_read(written):
    path = written(expanded(
        {"layer_idx": 0, "mask_type": "none", "window_size": None},
        {"mask_type": "sliding_window", "window_size": 96, "group_idx": None, "num_groups": None},
        {"mask_type": "sliding_window", "window_size": 96, "group_idx": 1, "num_groups": 2},
        {"mask_type": "block_sparse", "block_size": 32, "num_blocks": 4},
        {"mask_type": "strided", "stride": 8, "sparsity": 0.9},
        {"mask_type": "local_global", "window_size": 64},
        {"mask_type": "random_sparse", "sparsity": None},
    ))
    schedule = parse_schedule(f"{path}:mine", 7)
    assert list(schedule) == [full(), window(96), shifted(96, 1, 2), block(32, 4), strided(8),
                              local_global(64, 64), random(0.1, 0)]
    assert parse_schedule(path, 7).layers == schedule.layers   # it is the only one


def test_a_file_may_have_another_ending_and_a_compact_schedule_another_depth(written):
    compact = {"type": "progressive", "start_layer": 1, "start_window": 40, "end_window": 8,
               "n_layer": 5}
    path = written({"schedules": {"mine": compact}}, name="s.conf")
    assert windows(parse_schedule(f"{path}:mine", 5)) == [0, 40, 20, 10, 8]


@pytest.mark.parametrize("text, n_layer, says", [
    ("f 256", 12, "is for 2 of the model's 12 layers: 'f 256*' would fill it"),
    ("f 256*2 f", 3, "is for 4 of the model's 3 layers"),
    ("f 256* f", 2, "at least 3 of the model's 2"),
    ("", 2, "write 2, or f* for full"),
    ("f* f*", 4, "all but one a number"),
    ("f f*0", 2, "the least is 1"),
    ("f 0 f", 3, "item 2: pattern '0': w = 0, the least is 1"),
    ("f x f", 3, "item 2: no pattern is spelled 'x'"),
    ("hlaf", 12, "did you mean 'half'?"),
    ("progresive:512>16", 12, "did you mean 'progressive'?"),
    ("zzz", 12, "known: full, half"),
    ("progressive:16>512", 12, "from 16 to 512 should be from 512 to 16"),
    ("progressive:512>16@12", 12, "the layers are 0 to 11"),
    ("progressive:512>0", 12, "w = 0"),
    ("progressive:0", 12, "write progressive:512>16"),
    ("sssl:0", 12, "w = 0"),
    ("nowhere/s.json:half", 12, "no schedule file nowhere/s.json"),
    (f"{SHIPPED}/study00.json:half", 12, "did you mean 'study00"),
    (f"{SHIPPED}/study000.json:hlaf", 12, "did you mean 'half'?"),
    (f"{SHIPPED}/study001.json", 12, "names no default_schedule"),
])
def test_a_bad_schedule_is_refused_in_one_line(text, n_layer, says):
    with pytest.raises(BadInput) as error:
        parse_schedule(text, n_layer)
    assert says in str(error.value) and "\n" not in str(error.value)


SLIDING = {"mask_type": "sliding_window", "window_size": 8}


@pytest.mark.parametrize("content, says", [
    ("{not json", "is not JSON"),
    ("[]", "should be a JSON object"),
    ({"schedules": []}, "'schedules' should be a JSON object"),
    ({"schedules": {"mine": {"description": "x"}}}, "neither 'layers'"),
    (expanded(SLIDING, default_schedule="theirs"), "no schedule 'theirs'"),
    (expanded(SLIDING | {"mask_type": "slidingwindow"}), "did you mean 'sliding_window'?"),
    (expanded({"window_size": 8}), "layer 0: mask_type is missing"),
    (expanded({"mask_type": "sliding_window", "window_size": None}),
     "layer 0: window_size is missing"),
    (expanded(SLIDING, SLIDING | {"window_size": 0}),
     "layer 1: pattern '0': w = 0, the least is 1"),
    (expanded(SLIDING | {"window_size": 2.5}), "w = 2.5 is not a whole number"),
    (expanded(SLIDING | {"group_idx": 2, "num_groups": 2}), "index = 2, the largest is 1"),
    (expanded(SLIDING | {"layer_idx": 4}), "layer_idx is 4, not 0"),
    (expanded([]), "layer 0 should be a JSON object"),
    ({"schedules": {"mine": {"layers": {"0": SLIDING, "2": SLIDING}}}}, "layer 1 is missing"),
    ({"schedules": {"mine": {"type": "progresive"}}}, "did you mean 'progressive'?"),
    ({"schedules": {"mine": {"type": "progressive", "start_window": 8}}}, "end_window is missing"),
    ({"schedules": {"mine": {"type": "progressive", "start_layer": 6.0, "start_window": 8,
                             "end_window": 2}}},
     "start_layer = 6.0 is not a whole number"),
])
def test_a_bad_file_is_refused_in_one_line_that_names_it(written, content, says):
    path = written(content)
    with pytest.raises(BadInput) as error:
        parse_schedule(path, 2)
    assert says in str(error.value) and path in str(error.value) and "\n" not in str(error.value)


@settings(deadline=None)
@given(st.lists(st.sampled_from([window(3), dilated(2, 4), block(4, 1), strided(5) & window(9)]),
                min_size=1, max_size=4), st.integers(1, 90))
def test_the_receptive_field_is_the_product_of_the_masks(layers, T):
    schedule = parse_schedule(" ".join(map(str, layers)), len(layers))
    seen = np.eye(T, dtype=bool)[-1]
    for pattern in reversed(layers):
        seen = seen @ pattern.mask(T).numpy()
    assert schedule.receptive_field(T).tolist() == seen.tolist()
    assert schedule.reaches(T) == [p.reach(T) for p in layers]


def test_windows_add_their_reaches():
    assert parse_schedule("4*3", 3).receptive_field(32).sum() == 1 + 3 * 3


def test_every_name_is_free_of_the_others():
    assert not NAMED.keys() & FORMULAS.keys()
    assert all(len(parse_layers(text, NAMED_LAYERS)) == 12 for text in NAMED.values())
