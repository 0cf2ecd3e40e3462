"""Finding runs and reading what they wrote, whatever happened to the files."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from experiments.records import table
from experiments.records.record import COLUMNS, MAX_SEED, read_record
from experiments.records.runs import find_runs, read_run
from mingpt.utils import BadInput
from tests.helpers.synthetic import write_run, write_study, write_two_columns

HEADER = "iteration,loss\n"


def read(tmp_path, text, name="arm.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_run(path)


def test_runs_are_found_at_the_top_and_one_level_down(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, seeds=(0, 10, 2), study="seven", steps=20)
    write_run(tmp_path, "swiglu", 4, steps=20)
    runs = find_runs(tmp_path)
    assert [run.name for run in runs] == ["swiglu.s4", "seven/baseline.s0", "seven/baseline.s2",
                                          "seven/baseline.s10",
                                          "seven/rope.s0", "seven/rope.s2", "seven/rope.s10"]
    assert [(run.arm, run.seed, run.study, run.status) for run in runs[:2]] == [
        ("swiglu", 4, None, "done"), ("baseline", 0, "seven", "done")]
    assert all(not run.problems and list(run.table) == list(COLUMNS) for run in runs)


def test_the_folder_of_one_study_can_be_given_alone(tmp_path):
    write_study(tmp_path / "losses", {"baseline": 0}, seeds=(0,), study="seven", steps=20)
    (run,) = find_runs(tmp_path / "losses" / "seven")
    assert run.study == "seven"
    # a folder that the records name is the study's folder, wherever it is
    (tmp_path / "losses").rename(tmp_path / "kept")
    (run,) = find_runs(tmp_path / "kept" / "seven")
    assert run.study == "seven"
    (tmp_path / "kept" / "seven").rename(tmp_path / "kept" / "renamed")
    (run,) = find_runs(tmp_path / "kept" / "renamed")
    assert run.study is None


def test_two_column_files_are_runs_of_an_unknown_seed(tmp_path):
    write_two_columns(tmp_path, {"baseline": 0.0})
    (run,) = find_runs(tmp_path)
    assert (run.arm, run.seed, run.record, run.status, len(run.table)) == (
        "baseline", None, None, "unrecorded", 88)
    assert run.table["val_loss"].isna().all()
    assert run.final() is None


def test_an_empty_cell_was_not_measured_and_is_no_problem(tmp_path):
    run = read_run(write_run(tmp_path, "rope", 0, steps=100, every=5))
    assert run.table["val_loss"].notna().sum() == 10
    assert run.problems == []
    assert run.final() == pytest.approx(run.table["val_loss"].dropna().iloc[-1], abs=1e-6)


def test_a_record_without_a_csv_is_still_a_run(tmp_path):
    (tmp_path / "rope.s1.json").write_text('{"status": "failed", "message": "out of memory"}')
    (run,) = find_runs(tmp_path)
    assert (run.arm, run.seed, run.status, len(run.table)) == ("rope", 1, "failed", 0)


@pytest.mark.parametrize(("text", "iterations", "told"), [
    (HEADER + "1,5\n2,4\n3", [1, 2], "line 4 is half written"),
    (HEADER + "1,5\n2,4", [1, 2], "line 3 has no newline"),
    (HEADER + "1,5\n2,4\n2,3\n", [1, 2], "an iteration appears twice, line 3"),
    (HEADER + "1,5\n2,4\n3,3\n1,6\n2,5\n", [1, 2],
     "started over at line 5 (iteration 1); 3 older rows left out"),
    (HEADER + "1,5\n2,4\n3,3\n4,2\n3,3\n4,2\n5,1\n", [1, 2, 3, 4, 5],
     "was continued at line 6 (iteration 3); 2 older"),
    (HEADER + "1,5\nx,4\n3,3\n", [1, 3], "iteration is not a number in line 3 ('x')"),
    (HEADER + "1,5\n2,wat\n3,3\n", [1, 2, 3], "loss is not a number in line 3 ('wat')"),
    (HEADER + "1,5\n2,4,7\n3,3\n", [1, 3], "wrong number of columns (not 2) in line 3"),
    (HEADER + "1,5\n2,nan\n3,inf\n", [1, 2, 3], "the loss is NaN or infinite in 2 lines, first 3"),
    (HEADER + ",5\n2,4\n", [2], "no iteration in line 2"),
    (HEADER + "1,5\n\n2,4\n", [1, 2], None),
    ('"iteration","loss"\n1,5\n"2","4"\n', [1, 2], None),
    (HEADER + "1,5\n2,1e308\n3,-4e38\n", [1, 2, 3],
     "the loss is NaN or infinite in 2 lines, first 3"),
    (HEADER + "1,5\n1e300,4\n", [1], "no iteration in line 3"),
    (HEADER + "1,5\n2," + "4" * 200_000 + "\n", [1], "wrong number of columns (not 2) in line 3"),
    ("\ufeffIteration, Loss\r\n1,5\r\n2,4\r\n", [1, 2], None),
    (HEADER, [], "no rows yet"),
    ("", [], "empty file"),
    ("step,value\n1,2\n", [], "must name iteration and loss, but it is 'step,value'"),
    ("iteration,loss,loss\n1,2,3\n", [], "appears twice in the header"),
    (bytes(range(256)) * 9, [], "must name iteration"),
])
def test_faulty_files_are_read_as_far_as_they_go_and_told_of(tmp_path, text, iterations, told):
    run = read(tmp_path, text)
    assert run.table["iteration"].tolist() == iterations
    assert [told in problem for problem in run.problems] == ([True] if told else [])
    assert all(problem.startswith("arm.csv: ") and "\n" not in problem for problem in run.problems)


def test_the_name_of_a_file_hides_no_fault_in_it(tmp_path):
    path = tmp_path / "iteration is not a number.csv"
    path.write_text(HEADER + "1,wat\n,4\n3,3\n")
    assert [problem.removeprefix(f"{path.name}: ") for problem in read_run(path).problems] == [
        "loss is not a number in line 2 ('wat')", "no iteration in line 3, left out"]


def test_a_rerun_keeps_only_the_last_runs_rows(tmp_path):
    run = read(tmp_path, HEADER + "1,5\n2,4\n3,3\n1,6\n2,5.5\n1,7\n2,6.5\n")
    assert run.table["loss"].tolist() == [7, 6.5]


def test_a_continued_run_keeps_what_came_before_its_checkpoint(tmp_path):
    run = read(tmp_path, HEADER + "1,5\n2,4\n3,3\n4,2\n3,3.1\n4,2.1\n")
    assert run.table["loss"].tolist() == [5, 4, 3.1, 2.1]


def test_a_run_that_was_continued_at_every_second_row_is_read_at_once(tmp_path):
    """Each fall was once looked for from the start: 100,000 rows took a minute, 400,000 sixteen."""
    rows = [10 * (n // 2) + (9 if n % 2 else 10) for n in range(400_000)]
    run = read(tmp_path, HEADER + "".join(f"{step},5\n" for step in rows))
    assert run.table["iteration"].tolist() == [*range(9, 2_000_000, 10)]
    assert run.problems == ["arm.csv: the run was continued at 199999 lines, first 5; "
                            "199999 older rows left out",
                            "arm.csv: the run started over at line 3 (iteration 9); 1 older rows "
                            "left out"]


def test_a_loss_that_blew_up_makes_an_unrecorded_run_diverged_and_leaves_a_gap(tmp_path):
    run = read(tmp_path, HEADER + "1,5\n2,nan\n3,inf\n")
    assert run.status == "diverged"
    assert not run.complete
    assert np.isnan(run.table["loss"].tolist()[1:]).all()


@pytest.mark.parametrize(("record", "told"), [
    ("{broken", "not a readable record"), ("[1]", "list instead of an object"),
    ("[" * 100_000, "not a readable record")])
def test_a_broken_record_costs_the_record_and_not_the_curve(tmp_path, record, told):
    path = write_run(tmp_path, "rope", 0, steps=20)
    path.with_suffix(".json").write_text(record)
    run = read_run(path)
    assert run.record is None
    assert len(run.table) == 4
    assert told in run.problems[0]


@pytest.mark.parametrize("changes, told", [
    ({"data": []}, "data is a list"), ({"data": {"hash": 0.5}}, "data.hash is a float"),
    ({"data": {"validation": "x"}}, "data.validation is a str"),
    ({"environment": {"device": True}}, "environment.device is a bool"),
    ({"result": {"tokens": {}}}, "result.tokens is a dict"),
    ({"progress": {"iteration": "7"}}, "progress.iteration is a str"),
    ({"config": {"model": 3}}, "config.model is a int")])
def test_a_record_with_another_kind_of_value_where_records_have_text_is_refused(tmp_path, changes,
                                                                                told):
    path = write_run(tmp_path, "rope", 0, steps=20).with_suffix(".json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | changes))
    with pytest.raises(BadInput, match=f"not a readable record \\({told}\\)"):
        read_record(path)


def test_a_name_may_hold_dots(tmp_path):
    (tmp_path / "lr1.5e-4.s2.csv").write_text(HEADER + "1,5\n")
    (run,) = find_runs(tmp_path)
    assert (run.arm, run.seed) == ("lr1.5e-4", 2)


def test_a_seed_counts_once_however_it_is_written(tmp_path):
    write_run(tmp_path, "rope", 0, steps=20)
    for stem, loss in (("rope.s00", 7), ("rope.s000", 8), ("baseline.s01", 6)):
        (tmp_path / f"{stem}.csv").write_text(f"{HEADER}1,{loss}\n")
    baseline, rope = find_runs(tmp_path)
    assert (baseline.path.name, baseline.seed, baseline.problems) == ("baseline.s01.csv", 1, [])
    assert (rope.path.name, rope.seed, len(rope.table)) == ("rope.s0.csv", 0, 4)
    assert rope.problems == [f"rope.s{zeros}.csv: left out, the same seed as rope.s0.csv"
                             for zeros in ("00", "000")]


def test_a_seed_that_no_run_can_have_is_left_out_and_named(tmp_path):
    (tmp_path / "rope.s99999999999999999999.csv").write_text(HEADER + "1,5\n")
    (run,) = find_runs(tmp_path)
    assert run.table.empty and run.seed is None
    assert run.problems == [f"rope.s99999999999999999999.csv: left out, no run has a seed above "
                            f"{MAX_SEED}"]


@pytest.mark.parametrize(
    ("value", "final"),
    [
        (2.5, 2.5),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (1e308, math.inf),
        (math.nan, math.nan),
        ("2.5", None),
        (True, None),
    ],
    ids=["loss", "400 digits", "less", "float64", "nan", "text", "truth"],
)
def test_a_recorded_number_that_no_run_computes_is_infinite_and_what_is_none_does_not_count(
    tmp_path, value, final
):
    path = write_run(tmp_path, "rope", 0, steps=20, result={"val_loss": value})
    path.write_text(HEADER + "1,5\n")
    assert read_run(path).final() == (pytest.approx(final, nan_ok=True) if final is not None
                                      else None)


def test_files_being_written_are_not_runs(tmp_path):
    (tmp_path / ".rope.s0.csv.x1").write_text(HEADER)
    (tmp_path / ".rope.s0.csv").write_text(HEADER)
    assert find_runs(tmp_path) == []


def test_no_folder_names_the_nearest(tmp_path):
    (tmp_path / "losses").mkdir()
    with pytest.raises(BadInput, match="did you mean .*losses"):
        find_runs(tmp_path / "lossse")


def test_a_file_without_faults_is_parsed_at_once_and_to_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    for columns in (COLUMNS, ("iteration", "loss"), ("val_loss", "iteration")):
        numbers = 10.0 ** rng.uniform(-12, 30, (200, len(columns)))
        cells = [["" if rng.random() < 0.2 else f"{x:.9g}" for x in row] for row in numbers]
        for jumps in (0.0, 0.05):     # without and with restarts
            step = 0
            for row in cells:
                step = int(rng.integers(step)) if step and rng.random() < jumps else step + 10
                row[columns.index("iteration")] = str(step)
            path, told, told_slowly = tmp_path / "a.csv", [], []
            path.write_text("\n".join(",".join(row) for row in [columns, *cells, ""]))
            content = path.read_bytes()
            slow, blown_up = table._with_faults(content, path, told_slowly)
            assert table._clean(content) is not None
            pd.testing.assert_frame_equal(table.read_table(path, told)[0], slow, check_exact=True)
            assert told == told_slowly and bool(told) == bool(jumps) and not blown_up


@pytest.mark.parametrize("text", [
    "", "iteration,loss\n", "\ufeffiteration,loss\n1,2\n", "iteration,loss\r\n1,2\r\n",
    "iteration,loss\n1,2", "iteration,loss\n1,2\n\n2,3\n", "iteration,loss\n1,nan\n",
    "iteration,loss\n1,1e39\n",
    "iteration,loss\n1e300,1\n", "iteration,loss\n,1\n", "iteration,loss\n1,2\n2\n",
    "iteration,loss\n1,2,3\n", "iteration,loss\n1,2-\n", "iteration,loss\n1, 2\n",
    "iteration,loss\n1,\"2\"\n", "iteration,loss,loss\n1,2,3\n", "step,loss\n1,2\n"])
def test_any_other_file_is_read_with_care(text):
    assert table._clean(text.encode()) is None
