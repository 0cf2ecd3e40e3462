"""The live view as lines: what fits, in which order, and what a key does."""

import pytest
from rich.cells import cell_len

from experiments.launch.screen import ORDER, SORTS, Screen, _ends, table

LONG = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB on a card that has 1"


def row(arm, status="done", seed=0, study="mine", **more):
    return {"study": study, "arm": arm, "seed": seed, "record": f"{arm}.s{seed}.json",
            "status": status, "message": None, "host": "here", "pid": 7} | more


@pytest.fixture
def rows():
    """Forty runs: the finished ones have losses and speeds in another order than their names."""
    done = [row(f"arm{k:02d}", loss=2 + (7 * k % 36) / 100, tokens_per_second=1000.0 + k,
                iteration=100, max_iters=100, curve=[3.0, 2.5, 2.1]) for k in range(36)]
    return [*done, row("waits", "waiting", seconds_left=30.0, slots=1),
            row("slow", "running", iteration=10, max_iters=100, loss=1.0, seconds_left=500.0),
            row("fast", "running", iteration=90, max_iters=100, loss=9.0, seconds_left=20.0),
            row("broken", "failed", message=LONG, iteration=40, max_iters=100, loss=5.0)]


def names(lines):
    return [line.plain.split()[0] for line in lines if line.plain.startswith(("arm", "waits",
                                                                              "slow", "fast",
                                                                              "broken"))]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 132, 200, 300])
@pytest.mark.parametrize("height", [8, 24, 60])
def test_the_screen_fits_any_terminal_and_shows_failures_and_keys(rows, width, height):
    rows[0]["arm"] = "模型" * 40
    lines = Screen().lines(rows, width, height)
    assert len(lines) <= height and all(cell_len(line.plain) <= width for line in lines)
    assert names(lines)[0] == "broken.s0" and lines[-1].plain.startswith("q quit")
    if width >= 80:
        assert lines[-1].plain.endswith("t left") and "OutOfMemoryError" in "".join(map(str, lines))


def test_a_wide_terminal_has_every_column_and_one_of_80_has_the_curve_and_the_time_left(rows):
    wide, narrow = (table(rows, width)[0][0].plain.split() for width in (200, 80))
    assert wide == list(ORDER)
    assert {"run", "status", "progress", "loss", "curve", "left"} <= set(narrow)
    assert any("█" in block[0].plain for block in table(rows, 80))


def test_in_a_pipe_nothing_is_cut(rows):
    rows[-1]["message"] = LONG + " and more" * 40
    text = "\n".join(line.plain for block in table(rows, None) for line in block)
    assert rows[-1]["message"] in text and "…" not in text


@pytest.mark.parametrize(("key", "first"), [
    ("n", ["arm00.s0", "arm01.s0"]), ("p", ["slow.s0", "fast.s0"]), ("l", ["slow.s0", "arm00.s0"]),
    ("s", ["arm00.s0", "arm01.s0"]), ("t", ["fast.s0", "slow.s0"]), ("f", ["fast.s0", "slow.s0"])])
def test_each_key_sorts_with_failures_first_and_again_turns_it_round(rows, key, first):
    view = Screen()
    assert view.press(key)
    order = names(view.lines(rows, 80, 50))
    assert order[:3] == ["broken.s0", *first]
    assert view.press(key)
    turned = names(view.lines(rows, 80, 50))
    assert turned[0] == "broken.s0"
    if key in SORTS:
        value = {f"{row['arm']}.s0": SORTS[key][1](row) for row in rows}
        up, down = ([value[name] for name in each[1:] if value[name] is not None]
                    for each in (order, turned))
        assert down == up[::-1] == sorted(up)[::-1]


def test_scrolling_reaches_the_last_run_and_stops_there(rows):
    view, seen = Screen(), set()
    for _ in range(30):
        seen |= set(names(view.lines(rows, 80, 12)))
        assert view.press("page down")
    assert len(seen) == 40
    assert "below" not in view.lines(rows, 80, 12)[-2].plain
    for each in rows:
        each["status"], each["message"] = "failed", LONG       # two lines each
    for _ in range(30):
        view.press("page down")
        last = names(view.lines(rows, 80, 12))[-1]
    assert last == sorted(seen)[-1]
    for _ in range(60):
        view.press("up")
    assert names(view.lines(rows, 80, 12))[0] == "arm00.s0"


def test_q_ends_the_view_and_other_keys_do_not():
    view = Screen()
    assert not view.press("q") and not view.press("\x03")
    assert all(view.press(key) for key in ("x", "\x1b", "down", "é"))


def test_a_name_that_is_cut_keeps_its_seed():
    assert _ends("all_modifications_with_a_long_name_1.s12", 22) == "all_modifi…_name_1.s12"
    assert len(_ends("x" * 40, 21)) == 21 and _ends("rope.s0", 7) == "rope.s0"
