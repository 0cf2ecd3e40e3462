"""The comparison: its files hold all that its pictures need, and loading them runs no code."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import plotter
from experiments.figures.comparison import TEN
from experiments.figures.pictures import Pictures
from experiments.figures.trial_curves import mean_curve, running_mean
from experiments.records.runs import find_runs
from experiments.verdicts.results import collect
from experiments.verdicts.trials import TEXT, comparison_text, gather, load, save
from mingpt.utils import BadInput
from tests.helpers.synthetic import write_run, write_study, write_two_columns

PAIR = {"baseline": 0.0, "window96_dilation4": 0.05}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("trials")
    write_study(root / "losses", PAIR, seeds=range(4), study="sliding", steps=100)
    write_run(root / "losses", "window96_dilation4", 9, study="sliding", steps=50,
              status="diverged")
    assert plotter.main([str(root / "losses"), "--comparison"]) == 0
    return root


def trials_of(losses):
    (results,) = collect(find_runs(losses))
    return gather(results)


def test_the_pictures_are_drawn_again_from_the_file_alone_to_the_byte(drawn, tmp_path):
    first = drawn / "visualizations" / "sliding" / "comparison"
    alone = tmp_path / "experiment_results.npz"
    alone.write_bytes((first / "experiment_results.npz").read_bytes())
    assert plotter.main([str(alone)]) == 0
    for name in (*(f"{name}.png" for name in TEN), "experiment_results.json", TEXT):
        assert (tmp_path / name).read_bytes() == (first / name).read_bytes(), name


def test_the_files_hold_the_finished_runs_and_nothing_else(drawn):
    folder = drawn / "visualizations" / "sliding" / "comparison"
    told = json.loads((folder / "experiment_results.json").read_text())["arms"]
    seeds = {arm: [run["seed"] for run in each["runs"]] for arm, each in told.items()}
    assert seeds == dict.fromkeys(PAIR, [0, 1, 2, 3])
    (results,) = collect(find_runs(drawn / "losses"))
    for arm in PAIR:
        values = [v for v in results.values[arm].values() if np.isfinite(v)]
        assert told[arm]["mean_sd"]["val_loss"] == pytest.approx([
            np.mean(values), np.std(values, ddof=1)])


def test_the_text_tells_the_paired_and_the_unpaired_test(drawn):
    text = (drawn / "visualizations" / "sliding" / "comparison" / TEXT).read_text()
    for title in ("final training loss", "validation loss", "tokens per second",
                  "peak memory (MB)"):
        assert f"\n{title}\n" in text
    line = next(line for line in text.splitlines() if "window96" in line)
    assert "n = 4" in line and "%" in line and "paired Holm p" in line and "Welch p" in line


def test_a_file_with_an_object_in_it_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))
    np.savez(tmp_path / "evil.npz", title=np.array(Evil(), dtype=object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "other.npz").write_bytes(b"PK")
    np.savez(tmp_path / "lacks.npz", title=np.array("x"))
    for name in ("evil", "pickle", "other", "lacks"):
        with pytest.raises(BadInput, match="not a results file") as refused:
            load(tmp_path / f"{name}.npz")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(BadInput, match="no file"):
        load(tmp_path / "none.npz")


def test_a_file_with_flipped_bits_is_read_or_refused_in_one_line(tmp_path):
    write_study(tmp_path / "losses", PAIR, seeds=(0,), steps=20)
    whole, rng = save(trials_of(tmp_path / "losses"),
                      tmp_path)[0].read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] ^= 1 << int(rng.integers(8))
        (tmp_path / "torn.npz").write_bytes(torn)
        try:
            load(tmp_path / "torn.npz")
        except BadInput as error:
            refused += "\n" not in str(error)
    assert refused > 200


def test_saving_and_loading_gives_the_same_trials_without_seeds_too(tmp_path):
    trials = trials_of(write_two_columns(tmp_path / "losses", PAIR))
    again = load(save(trials, tmp_path)[0])
    assert (again.arms, again.baseline, again.over, again.margin) == (
        trials.arms, trials.baseline, "iteration", 0.01)
    for a, b in zip(trials.all, again.all, strict=True):
        assert (a.arm, a.seed) == (b.arm, b.seed) == (a.arm, -1)
        assert np.array_equal(a.curve, b.curve)
        np.testing.assert_equal(dict(a.measures), dict(b.measures))


def test_what_the_runs_do_not_say_is_left_out_with_the_reason(tmp_path, capsys):
    write_two_columns(tmp_path / "losses", PAIR)
    assert plotter.main([str(tmp_path / "losses"), "--comparison"]) == 0
    out = capsys.readouterr().out
    assert (
        "skipped 4_speedup_quality: no run of the baseline 'baseline' has tokens_per_second" in out
    )
    assert (tmp_path / "visualizations" / "comparison" / "1_training_curves.png").exists()


def test_a_ratio_is_taken_within_a_seed(tmp_path):
    write_study(tmp_path, PAIR, seeds=(0, 1), steps=50)
    trials = trials_of(tmp_path)
    base, arm = (trials.values("val_loss")[name] for name in PAIR)
    ratios = Pictures(trials).ratios("val_loss")
    assert ratios["window96_dilation4"] == pytest.approx([arm[s] / base[s] for s in (0, 1)])


def test_a_smoothed_line_stays_a_line_and_the_mean_covers_what_all_runs_cover(tmp_path):
    line = np.arange(50.0)
    assert running_mean(line, 0.2) == pytest.approx(line)
    assert running_mean(line, 0.0) == pytest.approx(line)
    write_study(tmp_path, {"baseline": 0.0}, seeds=(0, 1, 2), steps=100)
    line = mean_curve(trials_of(tmp_path), "baseline")
    assert line.n == 3 and (np.diff(line.x) > 0).all()
    assert (line.low < line.y).all() and (line.y < line.high).all()


def test_axes_that_do_not_start_at_zero_say_so_and_every_picture_has_one_legend(drawn):
    pictures = Pictures(trials_of(drawn / "losses"))
    for name, function in TEN.items():
        shown = [axes for axes in function(pictures).axes if axes.get_visible()]
        for axes, along in ((axes, along) for axes in shown for along in "xy"):
            low, high = sorted(axes.get_xlim() if along == "x" else axes.get_ylim())
            said = axes.get_xlabel() if along == "x" else axes.get_ylabel()
            assert low <= 0 <= high or "does not start at 0" in said, (name, along)
        assert sum(axes.get_legend() is not None for axes in shown) <= 1, name


def test_no_line_joins_seeds_which_have_no_order(drawn):
    figure = TEN["8_per_run"](Pictures(trials_of(drawn / "losses")))
    marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() != "None"]
    assert len(marks) > 8 and {line.get_linestyle() for line in marks} == {"None"}


def test_a_run_that_diverged_takes_better_back_in_the_text_as_in_the_verdicts(tmp_path):
    write_study(tmp_path, {"baseline": 0.0, "rope": -0.5}, seeds=range(5), study="mine", steps=100)
    write_run(tmp_path, "rope", 4, study="mine", steps=50, status="diverged")
    trials = trials_of(tmp_path)
    assert trials.diverged == (("rope", 4),)
    assert trials.verdicts("val_loss")["rope"].word == "undecided"
    assert "diverged on seed 4" in comparison_text(trials)
    assert "9 finished runs, 1 that diverged" in comparison_text(trials)
    save(trials, tmp_path)
    assert load(tmp_path / "experiment_results.npz").diverged == trials.diverged


def test_points_of_a_grid_are_no_arms_of_the_comparison(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("lr = [4e-3]\n[arms.baseline]\n[arms.rope]\n")
    arms = {"baseline": 0.0, "baseline_lr0.004": 0.1, "rope": -0.2, "rope_lr0.004": -0.1}
    write_study(tmp_path / "losses", arms, study="mine", steps=100)
    (results,) = collect(find_runs(tmp_path / "losses"), file)
    assert gather(results).arms == ("baseline", "rope")
