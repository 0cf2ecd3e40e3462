"""The table of all runs."""

import argparse
import json
import math
import os
import socket
import subprocess
import sys

import pytest

from commands import status
from experiments.launch import curves, live
from experiments.launch.alive import is_alive
from experiments.records.record import SCHEMA, write_record
from mingpt.utils import BadInput
from tests.helpers.browser import chromium  # noqa: F401 (a fixture)

PROGRESS = {"iteration": 25, "max_iters": 100, "seconds": 10.0, "val_loss": 2.5,
            "tokens_per_second": 800.0}


@pytest.fixture
def out(tmp_path):
    """A results folder with a run of every kind."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def run(name, state, pid=None, host=None, **more):
        study, _, stem = name.rpartition("/")
        arm, _, seed = stem.rpartition(".s")
        write_record(tmp_path / "losses" / f"{name}.json",
                     {"schema": SCHEMA, "study": study or None, "arm": arm, "seed": int(seed),
                      "status": state,
                      "message": None, "progress": PROGRESS, "result": None,
                      "process": {"host": host or socket.gethostname(), "pid": pid or os.getpid()}}
                      | more)
    run("rope.s0", "done", result={"val_loss": 2.25, "tokens_per_second": 900.0})
    run("mine/live.s1", "running")
    run("mine/gone.s2", "running", pid=gone.pid)
    run("mine/far.s3", "running", pid=gone.pid, host="another")
    run("mine/nan.s4", "diverged", message="loss nan at iteration 25")
    (tmp_path / "losses" / "mine" / "torn.s5.json").write_text('{"schema": 1, "stu')
    return tmp_path


def queue(out, names, **more):
    """A launch of the study `mine` with these runs, by a process that is alive."""
    folder = out / "logs" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "order.json").write_text(json.dumps([{
        "launched": "2026-01-01T00:00:00+00:00", "at_once": 2, "runs": names,
        "seconds": [30.0] * len(names), "words": ["mine.toml"], "folder": str(out),
        "process": {"host": socket.gethostname(), "pid": os.getpid()}} | more]))


def arguments(out, **more):
    return argparse.Namespace(**{"out": out, "study": None, "watch": False, "every": 2.0,
                                 "json": False,
                                 "html": None, "overrides": []} | more)


def test_a_run_whose_process_is_gone_is_killed_unless_it_ran_on_another_machine(out):
    states = {row["arm"]: row["status"] for row in live.find(out)}
    assert states == {"rope": "done", "live": "running", "gone": "killed", "far": "running",
                      "nan": "diverged",
                      "torn": "unreadable"}


def test_a_finished_run_shows_its_result_and_one_in_progress_what_is_left(out):
    rows = {row["arm"]: row for row in live.find(out)}
    assert rows["rope"]["val_loss"] == 2.25 and rows["rope"]["seconds_left"] is None
    # 75 more iterations at 0.4 s each
    assert rows["live"]["val_loss"] == 2.5 and rows["live"]["seconds_left"] == 30.0


def test_the_table_and_the_json_say_the_same(out, capsys):
    assert status.main(arguments(out)) == 0
    shown = capsys.readouterr().out
    assert status.main(arguments(out, json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6
    for row in rows:
        name = live.name_of(row)
        line = next(line for line in shown.splitlines() if f" {name} " in f" {line} ")
        assert row["status"] in line
    assert "loss nan at iteration 25" in shown and "25/100" in shown


def test_one_study_can_be_asked_for_and_an_unknown_one_is_named(out):
    assert {row["study"] for row in live.find(out, "mine")} == {"mine"}
    with pytest.raises(BadInput, match="did you mean 'mine'"):
        live.find(out, "mime")
    with pytest.raises(BadInput, match=f"for the runs of a folder, give --out {out}"):
        live.find(out, str(out))
    with pytest.raises(BadInput, match="no folder"):
        live.find(out / "nowhere")


def test_watching_ends_quietly_with_ctrl_c(out, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt
    monkeypatch.setattr(status.time, "sleep", interrupt)
    assert status.main(arguments(out, watch=True)) == 0
    assert "killed" in capsys.readouterr().out


def test_failures_come_first_and_then_what_runs(out):
    states = [row["status"] for row in live.find(out)]
    assert states == ["diverged", "unreadable", "killed", "running", "running", "done"]
    assert live.summary(live.find(out)).startswith("6 runs: 1 diverged, 1 unreadable, 1 killed, 2 "
                                                   "running, 1 done; ")


def test_runs_without_a_record_wait_while_their_launcher_lives_and_are_missing_after_it(out):
    names = ["live.s1", "next.s1", "next.s2", "next.s3"]
    queue(out, names)
    rows = live.find(out, "mine")
    waiting = [live.name_of(row) for row in rows if row["status"] == "waiting"]
    assert waiting == ["mine/next.s1", "mine/next.s2", "mine/next.s3"]
    # two runs are on their way for 30 s more, then two of 30 s follow, then the third
    assert live.time_left(rows) == 90 and "about 2 min left" in live.summary(rows)
    gone = json.loads((out / "losses" / "mine" / "gone.s2.json").read_text())["process"]
    queue(out, names, process=gone)
    assert [row["status"] for row in live.find(out, "mine")].count("missing") == 3
    queue(out, names, process=gone | {"host": "another"})
    assert [row["status"] for row in live.find(out, "mine")].count("waiting") == 3
    for path in (out / "logs" / "mine" / "order.json", *(out / "losses" / "mine").iterdir()):
        os.utime(path, (1e9, 1e9))          # nobody has written for years
    assert [row["status"] for row in live.find(out, "mine")].count("missing") == 3
    for torn in ("[3]", "{", '[{"runs": ["a.s0"], "process": {"host": 3}}]',
                 '[{"runs": ["a.s0"], "seconds": ["x"]}]', '{"runs": 3}'):
        (out / "logs" / "mine" / "order.json").write_text(torn)
        assert len(live.find(out, "mine")) >= 5


def test_a_busy_machine_is_named_and_a_silent_run_is_not_running(out):
    path = out / "losses" / "mine" / "live.s1.json"
    record = json.loads(path.read_text())
    write_record(path, record | {"progress": PROGRESS | {
        "seconds_left": 90.0, "slowdown": 1.9, "longest_wait": 3.0}})
    rows = {row["arm"]: row for row in live.find(out)}
    assert 85 < rows["live"]["seconds_left"] <= 90
    assert live.summary(list(rows.values())).endswith(
        "steps take 1.9 × the rehearsed time: the machine is busy")
    far = out / "losses" / "mine" / "far.s3.json"
    os.utime(far, (far.stat().st_mtime - 720,) * 2)
    row = live.row(far, out / "losses")
    assert row["status"] == "silent" and row["message"].startswith("no sign of life for 12 min")


def test_a_record_of_another_shape_is_a_row_that_says_so(out):
    (out / "losses" / "odd.s0.json").write_text(json.dumps({
        "schema": SCHEMA, "progress": 3, "status": "running"}))
    assert {row["arm"]: row["status"] for row in live.find(out)}["odd"] == "unreadable"


@pytest.mark.parametrize("more", [
    {"status": [1]}, {"status": None}, {"status": 10**400}, {"message": [math.nan]},
    {"result": {"val_loss": math.inf}},
    {"process": {"host": socket.gethostname(), "pid": 10**30}},
    {"process": {"host": math.nan, "pid": math.inf}}, *({"progress": PROGRESS | {key: value}}
                                                        for key in ("seconds", "loss", "iteration",
                                                                    "max_iters", "val_loss")
      for value in (math.inf, math.nan, 10**400, "many", [1]))], ids=lambda more: str(more)[:60])
def test_one_bad_record_hides_no_other_run_and_the_json_stays_json(out, capsys, more):
    write_record(out / "losses" / "odd.s0.json", {
        "schema": SCHEMA, "status": "running", "progress": PROGRESS,
        "process": {"host": socket.gethostname(), "pid": os.getpid()}} | more)
    assert status.main(arguments(out)) == 0
    shown = capsys.readouterr().out
    assert all(arm in shown for arm in ("rope", "live", "gone", "far", "nan", "torn", "odd"))
    assert status.main(arguments(out, json=True, html=None)) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert len(rows) == 7
    assert status.main(arguments(out, html=out / "status.html")) == 0


def test_a_record_nested_without_end_is_unreadable(out):
    (out / "losses" / "odd.s0.json").write_text("[" * 100_000)
    assert {row["arm"]: row["status"] for row in live.find(out)}["odd"] == "unreadable"


def test_no_process_has_a_number_beyond_the_systems():
    assert is_alive({"process": {"host": socket.gethostname(), "pid": 10**30}}) is False


def test_beyond_its_last_iteration_a_run_has_no_time_left(out):
    path = out / "losses" / "mine" / "live.s1.json"
    write_record(path, json.loads(path.read_text()) | {"progress": PROGRESS | {"iteration": 120}})
    assert {row["arm"]: row for row in live.find(out)}["live"]["seconds_left"] == 0


def test_a_curve_of_losses_beyond_float32_is_drawn_without_them(tmp_path):
    (tmp_path / "a.csv").write_text("iteration,loss\n" + "1,1e308\n2,3\n" * 60)
    assert set(curves.curve(tmp_path / "a.csv")) == {3.0}


def test_the_small_curve_leaves_the_first_drop_out_and_survives_a_half_written_row(tmp_path):
    rows = ["iteration,loss"] + [f"{i},{10 if i < 5 else 3 - i / 100}"
                                 for i in range(100)] + ["100,", "101,2.", "102"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    values = curves.curve(tmp_path / "a.csv")
    assert len(values) == curves.SPARK and max(values) < 3
    assert values == sorted(values, reverse=True)
    assert curves.sparkline(values)[0] == "█" and curves.sparkline(values)[-1] == "▁"
    assert (
        curves.curve(tmp_path / "none.csv") == []
        and curves.sparkline([]) == ""
        and curves.sparkline([1.0]) == "▁"
    )


def test_watching_without_a_terminal_prints_a_line_a_change(out, monkeypatch, capsys):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt
        path = out / "losses" / "mine" / "live.s1.json"
        record = json.loads(path.read_text())
        record["progress"]["iteration"] = 50
        write_record(path, record)
    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.main(arguments(out, watch=True)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7   # six runs, and a second line for the one that continued
    assert "mine/live.s1" in lines[-1] and "50/100" in lines[-1]


def test_a_terminal_shows_the_urgent_runs_when_there_is_no_room_for_all(out):
    from experiments.launch.screen import Screen
    text = "\n".join(line.plain for line in Screen().lines(live.find(out), width=200, height=8))
    assert "diverged" in text and "3 below" in text and "rope" not in text


# --- the page ---

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned=1'>\"é 模型"


def test_the_page_is_whole_refreshes_itself_only_when_watched_and_stays_text(
    out, chromium, monkeypatch  # noqa: F811
):
    path = out / "losses" / "mine" / "nan.s4.json"
    write_record(path, json.loads(path.read_text()) | {"message": HOSTILE, "arm": HOSTILE})
    (out / "losses" / "mine" / "live.s1.csv").write_text("iteration,loss\n1,5.0\n2,4.0\n3,3.5\n")
    page_file = out / "status.html"
    assert status.main(arguments(out, html=page_file)) == 0
    assert "http-equiv=\"refresh\"" not in page_file.read_text()
    monkeypatch.setattr(status.time, "sleep",
                        lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    assert status.main(arguments(out, html=page_file, watch=True, every=30.0)) == 0
    # no half-written file is left
    assert [path.name for path in out.iterdir() if "status" in path.name] == ["status.html"]
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    noted = []
    page.on("console", lambda message: noted.append(message.text))
    page.on("request", lambda request: noted.append(request.url)
            if request.url != page_file.as_uri() else None)
    page.goto(page_file.as_uri())
    assert (
        noted == []
        and page.evaluate("window.pwned") is None
        and page.locator("img, script").count() == 0
    )
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "30"
    assert page.locator("h1").inner_text() == "1 of 6 runs are done"
    assert HOSTILE in page.locator("#failures").inner_text()
    assert (
        "diverged" in page.locator("tbody tr").first.inner_text()
        and page.locator(".spark").count() == 1
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_status_progress_and_time_left_without_scrolling_sideways(
    out, chromium, width, scheme  # noqa: F811
):
    queue(out, ["live.s1", "a_long_name_of_swiglu_rope_rmsnorm.s12"])
    assert status.main(arguments(out, html=out / "status.html")) == 0
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((out / "status.html").as_uri())
    table = page.locator(".wide")
    assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
    for row in page.locator(".runs tbody tr").all():
        for cell in (row.locator("th"), row.locator(".word"), row.locator("td.left")):
            box = cell.bounding_box()
            assert box is None or 0 <= box["x"] <= box["x"] + box["width"] <= width
    live_row = page.locator(".runs tr", has_text="mine/live.s1")
    assert "30 s" in live_row.inner_text() and "running" in live_row.inner_text()
    waits = page.locator(".runs tr", has_text="a_long_name")
    assert "waiting" in waits.inner_text() and "bad" not in (waits.get_attribute("class") or "")
    assert "to watch it" in page.locator("#next").inner_text()
    page.close()


@pytest.mark.parametrize(("more", "said"), [({"every": 0.0}, "--every 0"),
                                            ({"json": True, "html": "x.html"}, "--json"),
                                            ({"html": "losses"}, "--html: cannot write")])
def test_what_cannot_be_shown_is_refused(out, more, said):
    if "html" in more:
        more["html"] = out / more["html"]
    with pytest.raises(BadInput, match=said):
        status.main(arguments(out, **more))


def test_looking_needs_no_torch(out):
    code = (
        "import sys; from experiments.launch import live; "
        f"live.find(__import__('pathlib').Path({str(out)!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
