"""experiments/verdicts/foreign.py and curves.py: what guards the verdicts on anyone's runs."""

import pytest

from experiments.verdicts.foreign import Choices, judge
from mingpt.utils import BadInput
from tests.helpers import foreign as write

ENDS = (3.201, 3.2034, 3.1987, 3.2052, 3.1999)


def arm(folder, name, shift=0.0, seeds=range(5), **how):
    for seed in seeds:
        write.nanogpt(folder / f"{name}.s{seed}.txt",
                      write.curve(ENDS[seed % 5] + shift * (1 + seed / 50), seed + 31 * len(name)),
                      **how)


def test_shared_seeds_are_paired_and_others_are_not(tmp_path):
    arm(tmp_path, "baseline")
    arm(tmp_path, "same", -0.05)
    arm(tmp_path, "others", -0.05, seeds=range(10, 15))
    results = judge([tmp_path])
    assert results.baseline == "baseline" and results.unpaired == {"others"}
    assert results.verdicts["same"].word == results.verdicts["others"].word == "better"
    assert results.verdicts["same"].said == "better"
    assert results.verdicts["others"].said == "better (unpaired)"


def test_one_run_per_arm_stays_undecided_with_the_reason(tmp_path):
    arm(tmp_path, "baseline", seeds=[0])
    arm(tmp_path, "rope", -0.5, seeds=[0])
    found = judge([tmp_path]).verdicts["rope"]
    assert found.word == "undecided" and "one run per arm says nothing" in found.reason


def test_a_copied_log_is_named_and_counted_once(tmp_path):
    arm(tmp_path, "baseline")
    arm(tmp_path, "rope", -0.05, seeds=range(3))
    (tmp_path / "rope.s3.txt").write_text((tmp_path / "rope.s0.txt").read_text())
    results = judge([tmp_path])
    assert results.verdicts["rope"].n == 3
    assert any("the same curve as rope.s0.txt" in line and "rope.s3.txt" in line
               for line in results.left_out)


def test_a_copy_without_its_training_losses_is_a_copy(tmp_path):
    arm(tmp_path, "baseline")
    arm(tmp_path, "rope", -0.05, seeds=range(3))
    lines = (tmp_path / "rope.s0.txt").read_text().splitlines(keepends=True)
    (tmp_path / "rope.s3.txt").write_text("".join(x for x in lines if x.startswith("step")))
    assert judge([tmp_path]).verdicts["rope"].n == 3


def test_arms_that_share_only_the_step_before_training_are_not_compared(tmp_path):
    arm(tmp_path, "baseline")
    arm(tmp_path, "rope", steps=[0, *range(151, 1500, 130)][:len(write.STEPS)])
    found = judge([tmp_path])
    assert found.verdicts["rope"].word == "undecided" and found.common_iteration != 0


def test_a_run_without_a_seed_has_one_name_everywhere(tmp_path):
    for name in ("baseline", "rope"):
        for number in range(1, 7):
            end = ENDS[number % 5] + (0.9 if number == 3 and name == "rope" else 0)
            write.nanogpt(tmp_path / f"{name}_{number}.txt",
                          write.curve(end, number + 31 * len(name)))
    results = judge([tmp_path])
    line = results.outliers[0].line()
    assert line.startswith("rope #3: ") and "the other 5 runs" in line
    assert "rope #3" in [run.path.stem for run in results.runs]


def test_one_seed_repeated_is_no_replicate(tmp_path):
    arm(tmp_path, "baseline")
    for again in "abcd":
        write.nanogpt(tmp_path / again / "rope_seed1.txt", write.curve(3.0, ord(again)))
    results = judge([tmp_path], Choices(arms={"rope": "*rope_seed1*", "baseline": "baseline*"}))
    assert results.verdicts["rope"].word == "undecided"
    assert any("rope ran seed 1 again, which is no other replicate" in line
               for line in results.left_out)


@pytest.mark.parametrize("diverged", [False, True])
def test_a_run_started_again_in_one_file_counts_unless_the_first_diverged(tmp_path, diverged):
    arm(tmp_path, "baseline")
    arm(tmp_path, "rope", -0.05)
    path = tmp_path / "rope.s1.txt"
    write.nanogpt(tmp_path / "stopped", write.curve(3.1, 77)[:6], steps=write.STEPS[:6])
    begun = (tmp_path / "stopped").read_text()
    path.write_text(begun + "iter 550: loss nan, time 30.00ms\n" * diverged + path.read_text())
    (tmp_path / "stopped").unlink()
    results = judge([tmp_path])
    assert results.common_iteration == 1000
    assert any("rope.s1" in line and "diverged" in line for line in results.left_out) == diverged
    assert results.verdicts["rope"].n == (4 if diverged else 5)


def test_coarse_losses_are_said_and_decide_nothing(tmp_path):
    for name, end in (("baseline", 3.21), ("rope", 3.16)):
        for seed in range(3):
            path = tmp_path / f"{name}.s{seed}.csv"
            path.write_text("step,val_loss\n" + "".join(
                f"{s},{v:.1f}\n" for s, v in zip(write.STEPS, write.curve(end, seed, 0.05),
                                                 strict=True)))
    results = judge([tmp_path])
    assert results.verdicts["rope"].word in ("undecided", "equivalent")
    assert results.verdicts["rope"].word == "undecided"
    assert "rounded to 0.1" in "; ".join(results.cautions["rope"])


def test_arms_of_other_lengths_are_compared_at_the_last_common_step_with_a_caution(tmp_path):
    arm(tmp_path, "baseline")
    for seed in range(5):
        write.nanogpt(tmp_path / f"short.s{seed}.txt", write.curve(3.0, seed)[:8],
                      steps=write.STEPS[:8])
    results = judge([tmp_path])
    assert results.common_iteration == write.STEPS[7] == 700
    assert "ends earlier is ahead" in results.cautions["short"][0]


def test_schedules_of_other_lengths_are_refused_unless_a_step_is_asked_for(tmp_path):
    write.modded(tmp_path / "baseline.txt", [write.curve(3.2, s) for s in range(4)], total=1000)
    write.modded(tmp_path / "short.txt", [write.curve(3.1, s + 9)[:9] for s in range(4)],
                 total=800, steps=write.STEPS[:9])
    refused = judge([tmp_path])
    assert refused.verdicts["short"].word == "not comparable"
    assert len(refused.values["short"]) == 4 and not refused.left_out
    asked = judge([tmp_path], Choices(at=800))
    assert asked.verdicts["short"].n == 4
    assert "a schedule that ends earlier is ahead" in asked.cautions["short"][0]
    with pytest.raises(BadInput, match="the nearest is 800"):
        judge([tmp_path], Choices(at=801)).verdicts          # noqa: B018


def test_an_arm_whose_runs_were_to_end_at_different_steps_says_so(tmp_path):
    for name in ("baseline", "rope"):
        for seed in range(3):
            losses = write.curve(ENDS[seed], seed + 31 * len(name))
            write.modded(tmp_path / f"{name}.s{seed}.txt", [losses],
                         total=1200 if (name, seed) == ("rope", 0) else 1000)
    cautions = judge([tmp_path]).cautions
    assert any("different steps: 1,000, 1,200" in each for each in cautions["rope"])
    assert "baseline" not in cautions


def test_losses_at_step_0_that_cannot_belong_together_are_refused(tmp_path):
    arm(tmp_path, "baseline")
    for seed in range(5):
        write.nanogpt(tmp_path / f"bytes.s{seed}.txt", write.curve(1.2, seed, start=5.55))
        write.nanogpt(tmp_path / f"near.s{seed}.txt", write.curve(3.1, seed, start=11.2))
    results = judge([tmp_path])
    assert results.verdicts["bytes"].word == "not comparable"
    assert "another vocabulary or validation set" in results.verdicts["bytes"].reason
    assert "is it the same validation set" in results.cautions["near"][0]
    asked = judge([tmp_path], Choices(same_validation=True))
    assert asked.verdicts["bytes"].word == "better"


def test_a_training_loss_is_never_judged(tmp_path):
    arm(tmp_path, "baseline")
    path = tmp_path / "rope.s0.csv"
    path.write_text("step,train_loss\n0,10.9\n1000,1.0\n")
    assert any("training loss only, which is not judged: rope.s0.csv" in line
               for line in judge([tmp_path]).left_out)
    with pytest.raises(BadInput, match="no validation loss in 1 run"):
        judge([path])


def test_a_run_that_ended_early_is_left_out_and_one_that_diverged_counts(tmp_path):
    arm(tmp_path, "baseline")
    arm(tmp_path, "rope", -0.05, seeds=range(4))
    write.nanogpt(tmp_path / "rope.s4.txt", write.curve(3.0, 4)[:3], steps=write.STEPS[:3])
    results = judge([tmp_path])
    assert results.common_iteration == 1000 and results.verdicts["rope"].word == "better"
    assert any("step 200 of 1,000" in line for line in results.left_out)
    write.nanogpt(tmp_path / "rope.s4.txt", [*write.curve(3.0, 4)[:10], float("nan")])
    found = judge([tmp_path]).verdicts["rope"]
    assert found.word == "undecided" and "diverged on seed 4" in found.reason


def test_the_baseline_must_be_known(tmp_path):
    arm(tmp_path, "gelu")
    arm(tmp_path, "swiglu", -0.05)
    with pytest.raises(BadInput, match="which arm is the baseline.*gelu, swiglu"):
        judge([tmp_path]).verdicts          # noqa: B018
    with pytest.raises(BadInput, match="no arm 'gellu': did you mean 'gelu'"):
        judge([tmp_path], Choices(baseline="gellu")).verdicts          # noqa: B018
    assert judge([tmp_path], Choices(baseline="gelu")).verdicts["swiglu"].word == "better"


def test_metrics_of_two_kinds_are_not_judged_together(tmp_path):
    arm(tmp_path, "baseline")
    write.nanochat(tmp_path / "chat.s0.txt", write.curve(0.8, 1))
    with pytest.raises(BadInput, match="bits per byte.*judge them apart"):
        judge([tmp_path])
