"""plotter.py: what it writes, what it prints, what it refuses, and how the pictures are made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import plotter
from experiments.figures import FIGURES, Panel, draw, labels, series, style
from experiments.figures.comparison import TEN
from experiments.figures.grid import individual_grid
from experiments.figures.lines import training_comparison
from experiments.records.runs import find_runs
from experiments.verdicts.results import collect
from experiments.verdicts.study_runs import known_arms
from tests.helpers.synthetic import EFFECTS, write_run, write_study, write_two_columns

ROOT = Path(plotter.__file__).parent


def panel(losses, **kwargs):
    (results,) = collect(find_runs(losses))
    return Panel(results, **kwargs)


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    root = tmp_path_factory.mktemp("seven")
    write_study(root / "losses")
    run = subprocess.run([sys.executable, ROOT / "plotter.py"], cwd=root, capture_output=True,
                         text=True)
    return root, run


# --- the command ---

def test_every_figure_of_every_arm_is_written_beside_the_losses(seven):
    root, run = seven
    assert (run.returncode, run.stderr) == (0, "")
    written = {path.name for path in (root / "visualizations" / "seven").iterdir()}
    undeclared = {"factorial_effects", "learning_rates"}
    assert written == {f"{name}.png" for name in {*EFFECTS, *FIGURES} - undeclared} | {
        "verdicts.json", "summary.csv", "summary.md", "summary.tex"}
    for name in undeclared:
        assert name not in run.stdout    # nobody asked for it
    for path in (root / "visualizations" / "seven").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.name in run.stdout


def test_one_verdict_line_per_arm_is_printed_and_kept(seven):
    root, run = seven
    lines = {line.split()[0]: line.split()[1] for line in run.stdout.splitlines()
             if line.startswith("  ") and line.split()[0] in EFFECTS}
    kept = json.loads((root / "visualizations" / "seven" / "verdicts.json").read_text())
    assert lines == {"baseline": "baseline"} | {arm: v["word"]
                                                for arm, v in kept["verdicts"].items()}
    assert lines["all_modifications"] == "better"
    assert len(lines) == 7


def test_the_same_runs_give_the_same_pictures(seven, tmp_path):
    root, _ = seven
    assert plotter.main([str(root / "losses"), "--out", str(tmp_path)]) == 0
    for path in (root / "visualizations" / "seven").glob("*.png"):
        assert (tmp_path / "seven" / path.name).read_bytes() == path.read_bytes()


def test_plotting_imports_no_torch(tmp_path):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, steps=50)
    code = ("import sys, plotter; assert plotter.main(['losses']) == 0; sys.exit('torch' in "
            "sys.modules)")
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
                         capture_output=True)
    assert run.returncode == 0, run.stderr


def test_the_comparison_is_drawn_where_the_user_or_the_study_asks(tmp_path, capsys):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, study="mine", steps=50)
    file = tmp_path / "mine.toml"
    file.write_text('pictures = ["comparison"]\n[arms.baseline]\n[arms.rope]\n')
    wanted = {*(f"{name}.png" for name in TEN), "experiment_results.npz",
              "experiment_results.json", "improved_comparison_results.txt"}
    for asked, out in ((["--comparison"], "flag"), (["--study", str(file)], "study")):
        assert plotter.main([str(tmp_path / "losses"), "--out", str(tmp_path / out), *asked]) == 0
        folder = tmp_path / out / "mine" / "comparison"
        assert {path.name for path in folder.iterdir()} == wanted
    file.write_text('pictures = ["comparisons"]\n[arms.baseline]\n[arms.rope]\n')
    assert plotter.main([str(tmp_path / "losses"), "--study", str(file)]) == 2
    assert "pictures: no pictures 'comparisons': did you mean 'comparison'?" in (
        capsys.readouterr().err)


def test_each_format_is_written_and_axes_can_be_chosen(tmp_path):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, seeds=(0, 1), study=None,
                steps=50)
    assert plotter.main([str(tmp_path / "losses"), "--format", "svg,pdf", "--x", "tokens",
                         "--metric", "val_loss"]) == 0
    folder = tmp_path / "visualizations"
    assert (folder / "rope.pdf").read_bytes().startswith(b"%PDF")
    svg = (folder / "training_comparison.svg").read_text()
    assert "tokens seen" in svg and "validation loss" in svg
    assert not list(folder.glob("*.png"))


def test_two_column_files_plot_and_what_cannot_be_drawn_is_said(tmp_path, capsys):
    write_two_columns(tmp_path / "losses", EFFECTS)
    assert plotter.main([str(tmp_path / "losses")]) == 0
    out = capsys.readouterr().out
    assert "undecided   n = 0 seeds; one unpaired run per arm" in out
    assert "skipped validation_curves: no run has val_loss" in out
    assert "skipped loss_against_flops: no run has flops" in out
    assert (tmp_path / "visualizations" / "individual_grid.png").exists()
    assert not (tmp_path / "visualizations" / "loss_against_flops.png").exists()


def test_problems_go_to_stderr_by_file_and_the_rest_is_plotted(tmp_path, capsys):
    write_study(tmp_path / "losses", {"baseline": 0, "rope": -0.1}, seeds=(0, 1), study="mine",
                steps=50)
    with (tmp_path / "losses" / "mine" / "rope.s1.csv").open("a") as file:
        file.write("55,4.")
    (tmp_path / "losses" / "mine" / "empty.s0.csv").touch()
    assert plotter.main([str(tmp_path / "losses")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == ["mine/empty.s0.csv: empty file",
                    "mine/rope.s1.csv: line 12 is half written, left out"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere"], "no folder nowhere"),
    (["--x", "token"], "--x: no 'token': did you mean 'tokens'?"),
    (["--metric", "los"], "--metric: no 'los': did you mean 'loss'?"),
    (["--format", "png,jpg"], "--format: no 'jpg'"),
    (["--metrc", "loss"], "no option '--metrc': did you mean '--metric'?"),
    (["--study", "none.toml"], "no study file 'none.toml'"),
    (["--x", "flops"], "no run has flops; the runs have iteration, loss"),
    (["--out", "losses/baseline.csv"], "--out: cannot write to"),
])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    write_two_columns(tmp_path / "losses", {"baseline": 0.0})
    assert plotter.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ")    # as lab.py says it
    assert len(error.splitlines()) == 1


def test_nothing_to_plot_is_exit_code_2(tmp_path, capsys):
    assert plotter.main([str(tmp_path)]) == 2
    assert "nothing to plot" in capsys.readouterr().err
    (tmp_path / "rope.s0.csv").write_text("iteration,loss\n")
    assert plotter.main([str(tmp_path)]) == 2


# --- the pictures ---

def test_one_run_with_one_row_is_drawn(tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "rope.csv").write_text("iteration,loss\n10,5.5\n")
    assert plotter.main([str(tmp_path / "losses")]) == 0
    assert (tmp_path / "visualizations" / "rope.png").exists()


def test_a_dollar_in_a_name_is_a_dollar_and_no_formula(tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "a$\\frac$b.csv").write_text("iteration,loss\n10,5.5\n20,5\n")
    assert plotter.main([str(tmp_path / "losses"), "--format", "svg"]) == 0
    assert "a$\\frac$b" in (tmp_path / "visualizations" / "training_comparison.svg").read_text()


@pytest.mark.parametrize("rows", ["1,5\n2,1e308\n3,-1e308\n", "1,5\n1.7e308,3\n"])
def test_losses_and_iterations_beyond_any_run_are_drawn_as_gaps(tmp_path, rows):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "rope.csv").write_text(f"iteration,loss\n{rows}")
    assert plotter.main([str(tmp_path / "losses")]) == 0


def test_an_arm_called_like_a_figure_does_not_take_its_place(tmp_path):
    effects = {"baseline": 0, "effects": -0.1, "arm_effects": 0.1}
    shown = panel(write_study(tmp_path, effects, seeds=(0, 1), study="mine", steps=50))
    names = [name for name, _ in draw(shown, tmp_path, ("svg",))]
    arms = ["baseline", "arm_effects", "arm_arm_effects"]
    undeclared = ("factorial_effects", "learning_rates")
    assert names == [name for name in FIGURES if name not in undeclared] + arms
    assert "better" in (tmp_path / "arm_arm_effects.svg").read_text()
    assert "training loss" not in (tmp_path / "effects.svg").read_text()


def test_the_grid_is_three_by_three_for_seven_arms_and_grows(tmp_path):
    def shown(losses):
        axes = individual_grid(panel(losses)).axes
        columns = {round(a.get_position().x0, 3) for a in axes}
        return len(axes), len(columns), sum(a.get_visible() for a in axes)

    assert shown(write_study(tmp_path / "a", seeds=(0,), steps=50)) == (9, 3, 7)
    six = {f"arm{i}": 0.01 * i for i in range(6)}       # two full rows, and no empty third
    assert shown(write_study(tmp_path / "c", six, seeds=(0,), steps=50)) == (6, 3, 6)
    many = {f"arm{i}": 0.01 * i for i in range(20)}
    assert shown(write_study(tmp_path / "b", many, seeds=(0,), steps=50)) == (20, 4, 20)


def test_an_arm_has_the_same_colour_in_every_study_and_the_baseline_is_black():
    known = known_arms()
    seven = style.arm_styles(["baseline", "rope", "cosine", "my_arm"], "baseline", known)
    other = style.arm_styles(["cosine", "my_arm", "rope"], "cosine", known)
    assert seven["rope"] == other["rope"]
    assert seven["my_arm"] == other["my_arm"]
    assert seven["baseline"].color == other["cosine"].color == style.BASELINE


def test_the_arms_of_seven_differ_in_colour_and_forty_arms_in_their_style():
    known = known_arms()
    colours = [s.color for s in style.arm_styles(EFFECTS, "baseline", known).values()]
    assert len(set(colours)) == 7
    strangers = style.arm_styles([f"arm{i}" for i in range(30)], "baseline", known)
    assert len({(s.color, s.dash) for arm, s in strangers.items() if arm != "baseline"}) == 30


def test_labels_keep_their_order_and_distance_and_stay_inside():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 20):
        wanted = rng.random(count) ** 3
        placed = labels.spread(wanted, 0.04, 0.0, 1.0)
        assert (np.argsort(placed) == np.argsort(wanted)).all()
        assert count == 1 or np.diff(np.sort(placed)).min() >= 0.04 - 1e-9
        assert placed.min() >= 0 and placed.max() <= 1 + 1e-9
    # no label is moved without need
    assert labels.spread(np.array([0.2, 0.8]), 0.04, 0, 1).tolist() == [0.2, 0.8]


@pytest.mark.parametrize(("arms", "texts"), [(9, 11), (40, 9)])   # names, the title, the caption
def test_no_text_of_the_comparison_overlaps_or_leaves_the_page(tmp_path, arms, texts):
    names = ["baseline", "swiglu_rope_rmsnorm_warmup_cosine_window96_dilation4",
             *(f"arm{i}" for i in range(arms - 2))]
    figure = training_comparison(panel(write_study(tmp_path, dict.fromkeys(names, 0.0), seeds=(0,),
                                                   steps=50)))
    figure.canvas.draw()
    page = figure.bbox
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts] + [
        text.get_window_extent() for text in figure.texts if text.get_text()]
    assert len(boxes) == texts
    for i, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1:])


def test_the_mean_covers_only_the_stretch_that_all_seeds_cover():
    x = np.arange(10.0)
    line = series.mean([(x, x), (x[:6], x[:6] + 2), (np.array([]), np.array([]))])
    assert line.x.tolist() == [0, 1, 2, 3, 4, 5]
    assert (line.y == line.x + 1).all()
    assert (line.low == line.x).all() and (line.high == line.x + 2).all()
    assert line.n == 2


def test_a_difference_pairs_each_seed_with_its_own_baseline(tmp_path):
    shown = panel(write_study(tmp_path, {"baseline": 0, "rope": -0.1}, seeds=(0, 1), steps=100),
                  metric="val_loss")
    lines, paired = shown.differences("iteration", "val_loss")
    by_hand = [shown.results.values["rope"][s] - shown.results.values["baseline"][s]
               for s in (0, 1)]
    assert paired
    assert lines["rope"].y[-1] == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert lines["rope"].low[-1] == pytest.approx(min(by_hand), abs=1e-5)


def test_a_run_that_is_not_complete_is_drawn_apart_and_never_in_the_mean(tmp_path):
    write_study(tmp_path, {"baseline": 0, "rope": -0.1}, seeds=(0, 1), steps=100)
    write_run(tmp_path, "rope", 2, 50.0, study="seven", status="diverged", steps=40)
    shown = panel(tmp_path)
    line = shown.mean("rope", "iteration", "loss")
    assert line.n == 2 and line.x[-1] == 100
    assert [run.seed for run in shown.strays("rope")] == [2]
    assert "not complete (dotted): rope.s2 diverged" in shown.caption({"rope": line}, "loss")


def test_limits_leave_the_first_drop_out():
    x = np.arange(100.0)
    y = 3 + 8 * np.exp(-x / 3)
    low, high = series.settled_range([series.Series(x, y, y, y, 1)])
    assert low < 3.01 and high < 3.1


def test_ticks_are_in_units_that_readers_think_in():
    assert [style.short(v, ("", "k", "M")) for v in (0, 12_500, 2e6)] == ["0", "12.5k", "2M"]
    assert style.short(3e15, style.X_UNITS["flops"][2]) == "3 P"
