"""summary.csv, summary.md and the tables in pages: what they say, and that none is stale."""

import csv
import io
import json
from pathlib import Path

import pytest

import plotter
from experiments.records.runs import find_runs
from experiments.report.draw import write_tables
from experiments.report.publish import MARKER, filled, folderless, keep, public
from experiments.verdicts.results import collect
from experiments.verdicts.summary import between_markers, rows, table, to_csv, to_markdown
from experiments.verdicts.timing import overlapping
from mingpt.utils import BadInput
from tests.helpers.synthetic import EFFECTS, write_run, write_study, write_two_columns

pytestmark = pytest.mark.usefixtures("frozen")
ROOT = Path(plotter.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECORDS = ROOT / "docs" / "results"     # docs/results/STUDY/ARM.s<SEED>.csv and .json


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    (results,) = collect(find_runs(write_study(tmp_path_factory.mktemp("runs"), steps=100)))
    return results


def test_summary_csv_has_one_row_per_arm_with_every_number_of_its_verdict(seven):
    found = list(csv.DictReader(io.StringIO(to_csv(seven))))
    assert [row["arm"] for row in found] == list(EFFECTS)
    rope, v = found[1], seven.verdicts["rope"]
    assert (rope["word"], float(rope["difference"])) == (v.word, pytest.approx(v.difference))
    assert [float(rope[f"ci_holm_{end}"]) for end in ("low",
                                                      "high")] == pytest.approx(list(v.ci_holm))
    assert float(rope["floor"]) == pytest.approx(seven.noise_floor.of_mean(3))
    assert rope["at_equal_flops"] == seven.budgets.of("rope", "flops").verdict.word
    assert found[0]["word"] == "baseline" and found[0]["difference"] == ""


def test_the_tables_for_programs_hold_what_weakens_a_verdict(tmp_path):
    losses = write_study(tmp_path / "runs", {"baseline": 0, "rope": -0.1, "swiglu": 0}, steps=50)
    for path in losses.rglob("rope.*.json"):
        record = json.loads(path.read_text())
        record["code"] = {**(record.get("code") or {}), "dirty": True}
        path.write_text(json.dumps(record))
    (results,) = collect(find_runs(losses))
    said = "the code had uncommitted changes"
    rows = {row["arm"]: row["caveats"] for row in csv.DictReader(io.StringIO(to_csv(results)))}
    assert said in rows["rope"] and said not in rows["swiglu"] and rows["baseline"] == ""
    write_tables(results, tmp_path)
    found = json.loads((tmp_path / "verdicts.json").read_text())["caveats"]
    assert said in found["arms"]["rope"] and said not in found["arms"].get("swiglu", [])
    assert isinstance(found["all"], list)


def test_summary_md_shows_effect_cost_and_noise_and_what_they_rest_on(seven):
    text = to_markdown(seven)
    assert text.startswith(f"# {seven.title}\n")
    (line,) = [line for line in text.splitlines() if line.startswith("| rope ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"**{seven.verdicts['rope'].word}**" and cells[2].startswith("−0.0")
    assert cells[5:] == ["1.00×", "1.03×", "1.07×"]
    assert (
        "- noise floor: two runs of the baseline differ by" in text
        and "- adding up: all_modifications" in text
    )


def test_two_column_files_have_a_summary_that_says_undecided(tmp_path):
    (results,) = collect(find_runs(write_two_columns(tmp_path, EFFECTS)))
    assert "| rope | undecided | one unpaired run per arm |" in to_markdown(results)
    assert {row["word"] for row in rows(results)} == {"baseline", "undecided"}


def test_a_planted_shift_of_two_standard_errors_is_undecided_and_a_real_effect_better(tmp_path):
    """The differences of five seeds have sd 0.02, so two standard errors are 0.018 nats. The real
    effect is 0.1."""
    noise = [0.02, -0.02, 0.01, -0.02, 0.01]
    sd = (sum((n - sum(noise) / 5) ** 2 for n in noise) / 4) ** 0.5
    for seed, n in enumerate(noise):
        for arm, shift in (("baseline", 0.0), ("fake", n - sum(noise) / 5 - 2 * sd / 5**0.5),
                           ("real", n - 0.1)):
            write_run(tmp_path, arm, seed, steps=50, result={"val_loss": 3 + 0.1 * seed + shift})
    (results,) = collect(find_runs(tmp_path))
    assert {arm: v.word for arm, v in results.verdicts.items()} == {
        "fake": "undecided", "real": "better"}
    assert results.verdicts["fake"].difference == pytest.approx(-2 * sd / 5**0.5)


# -- pages -----------------------------------------------------------------------------------------

def test_a_pages_table_is_filled_from_the_records_and_a_stale_one_is_another_text(
        tmp_path, seven, capsys):
    page = tmp_path / "page.md"
    page.write_text("# A page\n<!-- table: seven -->\nold\n<!-- /table: seven -->\nafter\n")
    write_study(tmp_path / "runs", steps=100)
    assert plotter.main([str(tmp_path / "runs"), "--tables", str(page)]) == 0
    assert f"{page}: table seven" in capsys.readouterr().out
    text = page.read_text()
    assert (
        text
        == f"# A page\n<!-- table: seven -->\n{table(seven).strip()}\n"
        "<!-- /table: seven -->\nafter\n"
    )
    assert filled(text, [seven], "page") == text
    assert filled(text.replace("better", "worse"), [seven], "page") == text


def test_a_marker_of_an_unknown_study_or_without_its_end_is_refused(seven):
    with pytest.raises(BadInput, match="no runs of the study 'sevn': did you mean 'seven'"):
        filled("<!-- table: sevn --><!-- /table: sevn -->", [seven], "page")
    with pytest.raises(BadInput, match="put <!-- a --> and <!-- /a -->"):
        between_markers("<!-- a -->", "a", "text", "page")


def test_no_page_shows_a_table_that_the_committed_records_do_not_give():
    """To update the pages: python plotter.py docs/results --tables README.md docs/*.md"""
    pages = {page: text
             for page in PAGES if MARKER.search(text := page.read_text(encoding="utf-8"))}
    studies = collect(find_runs(RECORDS)) if RECORDS.is_dir() else []
    # fails for records that no page shows, and for a page whose records are gone
    assert bool(pages) == bool(studies)
    for page, text in pages.items():
        assert filled(text, studies, page.name) == text, f"{page.name} is stale"


def test_records_are_kept_without_this_machines_name_and_paths(tmp_path, capsys):
    where = "/home/someone/a b"
    path = write_run(tmp_path / "losses", "rope", 0, study="seven", steps=20,
                     process={"host": "node7", "pid": 5},
                     command=f"python /opt/x/lab.py train --study '{where}/seven.toml' --arm rope "
                             f"--out '{where}/out'", data={"hash": "abc",
                                                           "paths": [f"{where}/text.jsonl"],
                                                           "sources": {"first": f"{where}/t"}},
                     config={"data": {"paths": [f"{where}/text.jsonl"], "cache": where}})
    write_run(tmp_path / "losses", "rope", 1, study="seven", steps=20, status="running")
    assert plotter.main([str(tmp_path / "losses"), "--keep", str(tmp_path / "kept")]) == 0
    assert "1 runs copied" in capsys.readouterr().out
    assert (tmp_path / "kept" / "seven" / "rope.s0.csv").read_bytes() == path.read_bytes()
    text = (tmp_path / "kept" / "seven" / "rope.s0.json").read_text()
    assert "someone" not in text and "node7" not in text and "/opt" not in text
    assert json.loads(text)["command"] == "python lab.py train --study seven --arm rope"
    assert public(json.loads(text)) == json.loads(text)
    (kept,) = find_runs(tmp_path / "kept")
    assert kept.final() == find_runs(tmp_path / "losses")[0].final() and keep([], tmp_path) == 0
    before = path.with_suffix(".json").read_text()
    assert plotter.main([str(tmp_path / "losses"), "--keep", str(tmp_path / "losses")]) == 2
    assert "is where the runs are" in capsys.readouterr().err
    assert path.with_suffix(".json").read_text() == before
    write_run(tmp_path / "losses", "rope", 2, study="seven", steps=20, status="failed")
    # failed runs are kept too, because a page should say what failed
    assert keep(find_runs(tmp_path / "losses"), tmp_path / "kept") == 2


@pytest.mark.parametrize(("text", "shown"), [
    ("/home/a b/text.jsonl", "text.jsonl"), ("/opt/x/", "x"),
    ("/home/me/x.json:half", "x.json:half"),
    ("~/data/x", "x"), ("~me/data/x", "x"), ("C:\\Users\\me\\x.txt", "x.txt"),
    ("file:///home/me/x", "x"),
    ("no file /home/me/x y/z.json: see /b/c", "no file z.json: see c"),
    ("of '/home/o\"b/a' and '/c/d/'", "of 'a' and 'd'"),
    ('["/home/o\'b/a", "/b/c"]', '["a", "c"]'), ("/a/b\n  in /c/d", "b\n  in d"),
    ("from=/home/me/x", "from=x"), *((same, same) for same in (
        "128/32", "f 256/4 f", "~128/32", "progressive:512>16@6", "a/b", "tokens/s", "1 / 2",
        "/", "https://hf.co/a/b", "openai-community/gpt2"))])
def test_of_an_absolute_path_the_last_part_is_shown_and_nothing_else_is_touched(text, shown):
    assert folderless({"a": [text], text: 5}) == {"a": [shown], shown: 5}


@pytest.mark.parametrize(("command", "shown"), [
    ("python /opt/lab.py train --study=/x/mine.toml --data=/home/a/b.jsonl --out=/home/x "
     "--run.init=/home/m/gpt -r",
     "python lab.py train --study mine --data=b.jsonl --run.init=gpt -r"),
    ("python lab.py --data rel/a.txt /b/c.txt --schedule 'f 256/4 f' --model.schedule 128/32 "
     "--run.init openai/gpt2",
     "python lab.py --data a.txt c.txt --schedule 'f 256/4 f' --model.schedule 128/32 --run.init "
     "openai/gpt2"),
    ("python 'lab.py", ""), (5, ""), (None, "")])
def test_a_kept_command_trains_the_run_again_without_this_machines_folders(command, shown):
    assert public({"command": command, "study": "mine"})["command"] == shown


def test_no_path_is_kept_wherever_a_record_holds_it(tmp_path):
    path = "/home/someone/x/y.json"
    write_run(tmp_path / "losses", "rope", 0, steps=20, message=f"no file {path}",
              init={"source": path}, changes={"data.paths": [None, [path]]},
              declaration={"arm": {"data.paths": [path]}},
              config={"run": {"init": path}, "model": {"schedule": f"{path}:half"}})
    assert plotter.main([str(tmp_path / "losses"), "--keep", str(tmp_path / "kept")]) == 0
    assert "someone" not in (tmp_path / "kept" / "rope.s0.json").read_text()


def test_kept_runs_still_tell_that_they_shared_a_machine(tmp_path):
    together = {"start": "2026-03-01T00:00:00+00:00", "end": "2026-03-01T00:09:00+00:00"}
    for seed, host in enumerate(("node7", "node8", "node7", None)):
        write_run(tmp_path / "losses", "rope", seed, steps=20, process={"host": host, "pid": 5},
                  **together)
    assert keep(find_runs(tmp_path / "losses"), tmp_path / "kept") == 4
    kept = find_runs(tmp_path / "kept")
    assert [run.record["process"]["host"] for run in kept] == [
        "machine 1", "machine 2", "machine 1", None]
    assert overlapping(kept) == overlapping(find_runs(tmp_path / "losses")) == 2


@pytest.mark.parametrize(("second", "together"), [
    (("2026-03-01T09:05:00+09:00", "2026-03-01T09:14:00+09:00"), 2),    # 00:05 to 00:14 in UTC
    (("2026-03-01T00:05:00+09:00", "2026-03-01T00:14:00+09:00"), 0),    # the day before in UTC
    (("2026-03-01T00:05:00", "2026-03-01T00:14:00"), 2)])               # no zone: UTC
def test_runs_overlap_by_the_moment_and_not_by_the_text_of_their_times(tmp_path, second, together):
    first = ("2026-03-01T00:00:00+00:00", "2026-03-01T00:09:00+00:00")
    for seed, (start, end) in enumerate((first, second)):
        write_run(tmp_path, "rope", seed, steps=20, start=start, end=end)
    assert overlapping(find_runs(tmp_path)) == together


@pytest.mark.parametrize("more", [{"data": [1]}, {"data": "text"},
                                  {"data": {"paths": 5, "sources": [1]}},
                                  {"config": "text"}, {"config": {"data": {"paths": [5]}}},
                                  {"process": None},
                                  {"command": 5}])
def test_a_record_of_another_shape_is_kept_all_the_same(tmp_path, more):
    write_run(tmp_path / "losses", "rope", 0, steps=20, **more)
    assert plotter.main([str(tmp_path / "losses"), "--keep", str(tmp_path / "kept")]) == 0


def test_a_record_is_kept_without_the_csv_or_the_study_that_it_lacks(tmp_path):
    path = write_run(tmp_path / "losses", "rope", 0, steps=20, status="diverged")
    record = json.loads(path.with_suffix(".json").read_text())
    del record["study"]
    path.with_suffix(".json").write_text(json.dumps(record))
    path.unlink()
    assert keep(find_runs(tmp_path / "losses"), tmp_path / "kept") == 1
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["rope.s0.json"]


def test_what_cannot_be_written_or_read_is_one_line(tmp_path, capsys):
    write_run(tmp_path / "losses", "rope", 0, steps=20)
    (tmp_path / "page.md").write_bytes(b"\xff\xfe")
    for option, said in (("--keep", "--keep: cannot copy"),
                         ("--tables", "not UTF-8 text (byte 0)")):
        assert plotter.main([str(tmp_path / "losses"), option, str(tmp_path / "page.md")]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("threads", "cores", "device", "together"), [
    (1, 2, "cpu", 0), (2, 2, "cpu", 2), (1, None, "cpu", 2), (1, 2, "cuda", 2)])
def test_runs_that_each_have_cores_of_their_own_do_not_disturb_each_other(
        tmp_path, threads, cores, device, together):
    for seed in (0, 1):
        write_run(tmp_path, "rope", seed, steps=20, start="2026-03-01T00:00:00+00:00",
                  end="2026-03-01T00:09:00+00:00",
                  environment={"threads": threads, "cores": cores, "device": device})
    assert overlapping(find_runs(tmp_path)) == together
