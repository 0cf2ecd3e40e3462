"""experiments/records/foreign: each format is known by its content and read to the last digit, and
runs are grouped into arms by their names."""

import json
import time

import numpy as np
import pytest

from experiments.records.foreign.group import group
from experiments.records.foreign.read import read_logs, reader
from experiments.records.foreign.tables import named
from mingpt.utils import BadInput
from tests.helpers import foreign as write
from tests.helpers.foreign import STEPS

LOSSES = write.curve(3.2, seed=5)
DECIMALS = {"nanogpt": 4, "modded": 5, "llmc": 4, "nanochat": 6}


def grouped(path, arms=None):
    """{label: (arm, seed)} of the logs below a path."""
    placed, _ = group(read_logs([path]), [path], arms)
    return {each.label: (each.arm, each.seed) for each in placed}


WRITERS = {
    "nanoGPT": lambda at: write.nanogpt(at / "x.bin", LOSSES),
    "modded-nanogpt": lambda at: write.modded(at / "x.bin", [LOSSES]),
    "llm.c": lambda at: write.llmc(at / "x.bin", LOSSES),
    "nanochat": lambda at: write.nanochat(at / "x.bin", LOSSES),
    "Hugging Face Trainer": lambda at: write.huggingface(at, LOSSES),
    "table": lambda at: write.csvlogger(at / "x.bin", LOSSES),
    "lingua": lambda at: write.lingua(at, LOSSES, seed=3),
    "W&B chart export": lambda at: write.wandb_export(at / "x.bin", {"only": LOSSES}),
    "TensorBoard": lambda at: write.tensorboard(at, LOSSES, tensors=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_is_known_by_its_content_and_read_to_its_last_digit(tmp_path, name):
    WRITERS[name](tmp_path)
    logs = read_logs([tmp_path])
    if name == "Hugging Face Trainer":
        logs = [each.log for each in group(logs, [tmp_path])[0]]    # the last checkpoint alone
    log, = logs
    assert log.format == name
    table = log.table.dropna(subset=["val_loss"])
    assert list(table["iteration"]) == list(STEPS)
    digits = {"nanoGPT": 4, "modded-nanogpt": 5, "llm.c": 4, "nanochat": 6, "TensorBoard": 5}
    assert np.abs(table["val_loss"] - LOSSES).max() <= 0.51 * 10 ** -digits.get(name, 12)
    assert log.unit == ("bits per byte" if name == "nanochat" else "nats")
    assert log.table["loss"].notna().any() == (name not in (
        "modded-nanogpt", "W&B chart export", "TensorBoard"))


def test_the_seconds_are_those_of_the_log(tmp_path):
    write.nanogpt(tmp_path / "a.txt", LOSSES)
    write.modded(tmp_path / "b.txt", [LOSSES])
    write.modded(tmp_path / "c.txt", [LOSSES], unit="ms")
    ends = [log.table["seconds"].iloc[-1] for log in read_logs([tmp_path])]
    assert ends == pytest.approx([0.030 * 1000, 0.15 * 1000, 0.15 * 1000])


def test_older_logs_of_llmc_and_tensors_of_tensorboard_are_read(tmp_path):
    write.llmc(tmp_path / "main.log", LOSSES, old=True)
    write.tensorboard(tmp_path / "tb", LOSSES, tensors=True)
    old, tensors = read_logs([tmp_path])
    assert old.table["learning_rate"].isna().all() and len(old.table) == len(STEPS)
    assert tensors.table["val_loss"].to_numpy() == pytest.approx(LOSSES, abs=1e-5)


def test_code_before_a_log_and_many_runs_in_a_file_are_told_apart(tmp_path):
    ends = [write.curve(3.2, seed) for seed in range(3)]
    write.modded(tmp_path / "many.txt", ends)
    logs = read_logs([tmp_path / "many.txt"])
    assert [log.inner for log in logs] == ["#1", "#2", "#3"]
    assert [log.table["val_loss"].iloc[-1] for log in logs] == pytest.approx(
        [end[-1] for end in ends], abs=1e-5)
    assert {log.total for log in logs} == {1000}      # not the 9 of the lines in the code


def test_a_run_that_went_on_from_a_checkpoint_is_one_run(tmp_path):
    path = tmp_path / "x.txt"
    write.nanogpt(path, LOSSES)
    lines = path.read_text().splitlines()
    again = [line for line in lines if line.startswith("step ")][6:]
    path.write_text("\n".join([*lines[:18], "step 800: train loss 9.0000, val loss 9.0000",
                               "step 850: train loss 9.0000, val loss 9.0000", *again]) + "\n")
    log, = read_logs([path])
    assert list(log.table["iteration"]) == list(STEPS)       # without 850, which was not kept
    assert log.table["val_loss"].max() < 11 and log.table["val_loss"].iloc[8] < 4


def test_autoresearch_gives_one_run_per_experiment_that_did_not_crash(tmp_path):
    path = tmp_path / "results.tsv"
    write.autoresearch(path, [(0.9979, "keep", "baseline"), (0.9985, "keep", "baseline"),
                              (0.9932, "keep", "higher LR"), (0, "crash", "double width")])
    placed, _ = group(read_logs([path]), [path])
    assert [(each.arm, each.log.table["val_loss"].iloc[0]) for each in placed] == [
        ("baseline", 0.9979), ("baseline", 0.9985), ("higher LR", 0.9932)]


def test_any_table_is_read_when_its_columns_are_named(tmp_path):
    (tmp_path / "x.csv").write_text("n;\n")
    path = tmp_path / "y.csv"
    path.write_text("when,held_out,other\n0,5.5,1\n10,4.25,1\n")
    with pytest.raises(BadInput, match="it has when, held_out, other"):
        read_logs([path])
    log, = read_logs([path], named("step=when,val_loss=held_out"))
    assert list(log.table["val_loss"]) == [5.5, 4.25]
    with pytest.raises(BadInput, match="no column 'heldout': did you mean 'held_out'"):
        read_logs([path], named("step=when,val_loss=heldout"))
    path.write_text("\n".join(json.dumps({"when": i, "held_out": 5 - i}) for i in range(3)))
    assert len(read_logs([path], named("step=when,val_loss=held_out"))[0].table) == 3


def test_a_training_loss_is_not_taken_for_a_validation_loss():
    with pytest.raises(BadInput, match="never judged as a validation loss"):
        named("step=step,val_loss=train_loss")


@pytest.mark.parametrize("content", ["", "hello\nworld\n", "a,b\n1,2\n", "{", '{"log_history": 3}',
                                     "[1, 2]", "\0\0\0", "step:1/2 val_loss:", "[" * 100_000,
                                     '{"log_history":' + "[" * 100_000, "a," * 1_000_000,
                                     'step,val_loss\n"' + "1,\n" * 100_000])
def test_what_is_no_log_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(BadInput) as error:
        read_logs([path])
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_history_of_wandb_is_refused_with_the_way_out_where_wandb_is_missing(tmp_path):
    path = tmp_path / "run-abc.wandb"
    path.write_bytes(b":W&B\xe1\xbe\x00" + bytes(range(256)))
    assert reader(path).NAME == "W&B offline"
    with pytest.raises(BadInput, match="wandb"):
        read_logs([path])


@pytest.mark.parametrize("line", ["step:1/1" + " a:1" * 200_000, "step " + "1" * 1_000_000,
                                  "s:1 tel:" + "9" * 1_000_000,
                                  "step:1/2 val_loss:" + "1." * 300_000,
                                  "step 1/2 (1%) | loss: " + "| " * 300_000, "x" * 5_000_000])
def test_hostile_lines_take_linear_time(tmp_path, line):
    path = tmp_path / "x.txt"
    write.nanogpt(path, LOSSES)
    path.write_text(line + "\n" + path.read_text() + line)
    start = time.perf_counter()
    log, = read_logs([path])
    assert time.perf_counter() - start < 5
    assert list(log.table["iteration"]) == list(STEPS)


# --- files that are not as they should be ---

def test_lines_that_end_in_carriage_returns_are_lines(tmp_path):
    write.nanogpt(tmp_path / "a.txt", LOSSES)
    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "b.txt").write_bytes(text.replace("\n", "\r").encode())
    first, second = read_logs([tmp_path])
    assert second.table.equals(first.table)


@pytest.mark.parametrize("writer", [write.nanogpt, write.csvlogger])
def test_a_loss_whose_line_was_cut_off_is_left_out_and_told(tmp_path, writer):
    ends = [3.2811] * len(STEPS)
    path = tmp_path / "a.log"
    if writer is write.csvlogger:
        path.write_text("step,val_loss\n" + "\n".join(f"{s},3.2811" for s in STEPS))
    else:
        writer(path, ends)
        path.write_text(path.read_text().rsplit("\n", 2)[0])       # without its last iter line
    whole, = read_logs([path])
    path.write_text(path.read_text()[:-3])
    cut, = read_logs([path])
    assert whole.table["val_loss"].iloc[-1] == 3.2811 and not whole.problems
    assert set(cut.table["val_loss"].dropna()) == {3.2811}
    assert "cut off" in cut.problems[0]


def test_runs_that_follow_each_other_in_one_table_stay_apart(tmp_path):
    path = tmp_path / "a.csv"
    one = "".join(f"{step},{4 - step / 1000}\n" for step in STEPS)
    two = "".join(f"{step},{5 - step / 1000}\n" for step in STEPS[:4])
    for between in ("", "step,val_loss\n"):
        path.write_text("step,val_loss\n" + one + between + two)
        logs = read_logs([path])
        assert [(log.inner, len(log.table)) for log in logs] == [("#1", 11), ("#2", 4)]
    path.write_text("step,val_loss\n" + one + "700,9.5\n800,9.25\n")    # from a checkpoint
    log, = read_logs([path])
    assert list(log.table["val_loss"].iloc[-3:]) == [4 - 600 / 1000, 9.5, 9.25]


@pytest.mark.parametrize(("rows", "why"), [
    (["0,5.5", "0,5.6", "100,4.5", "100,4.6", "200,3.5", "200,3.6"], "several validation losses"),
    (["200,3.5", "100,4.5", "0,5.5"], "falling steps"),
    (["0,5.5", "0.25,4.5"], "no whole number"),
    (["0,5.5", '100,"3,5"'], "which is no number"),
    (["0,5.5", "1k,3.5"], "which is no number"),
])
def test_a_table_that_could_be_misread_is_refused(tmp_path, rows, why):
    (tmp_path / "a.csv").write_text("step,val_loss\n" + "\n".join(rows) + "\n")
    with pytest.raises(BadInput, match=why):
        read_logs([tmp_path])


def test_an_export_with_two_validation_losses_per_run_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text('"Step","r - val/loss","r - eval/loss"\n0,5.5,6.5\n1,4,5\n')
    with pytest.raises(BadInput, match="could both be the validation loss"):
        read_logs([tmp_path])


def test_steps_with_thousands_separators_and_words_for_nothing_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('step,val_loss\n0,5.5\n500,None\n"1,000",3.5\n')
    log, = read_logs([tmp_path])
    assert log.table.dropna(subset=["val_loss"])["iteration"].tolist() == [0, 1000]
    assert not log.blown_up


# --- arms and seeds ---

@pytest.mark.parametrize(("files", "expected"), [
    (["base.s0.txt", "base.s1.txt", "rope.s0.txt"], [("base", 0), ("base", 1), ("rope", 0)]),
    (["base/seed_0/log.txt", "rope/seed_7/log.txt"], [("base", 0), ("rope", 7)]),
    (["base_seed=3/main.log", "base_seed=4/main.log"], [("base", 3), ("base", 4)]),
    (["window_128.txt", "window_256.txt"], [("window_128", None), ("window_256", None)]),
    (["base_1.txt", "base_2.txt", "rope_1.txt", "rope_2.txt"],
     [("base", None), ("base", None), ("rope", None), ("rope", None)]),
    (["base/a.txt", "base/b.txt", "rope/c.txt", "rope/d.txt"],
     [("base", None), ("base", None), ("rope", None), ("rope", None)]),
    (["m__e69fd378-bccd-4106-9a34-4f7a48883609.txt", "m__e69fd378-bccd-4106-9a34-4f7a48883600.txt"],
     [("m", None), ("m", None)]),
    (["exp/base/s0/log.txt", "exp/base/s1/log.txt", "exp/wide/s0/log.txt"],
     [("base", 0), ("base", 1), ("wide", 0)]),
    (["seed_0/base.txt", "seed_0/rope.txt", "seed_1/base.txt", "seed_1/rope.txt"],
     [("base", 0), ("rope", 0), ("base", 1), ("rope", 1)]),
    (["moe_s4_s0.txt", "moe_s4_s1.txt", "moe_s8_s0.txt"],
     [("moe_s4", 0), ("moe_s4", 1), ("moe_s8", 0)]),
    (["dropout_0.0.txt", "dropout_0.1.txt"], [("dropout_0.0", None), ("dropout_0.1", None)]),
    (["lr_1e-1.txt", "lr_1e-2.txt"], [("lr_1e-1", None), ("lr_1e-2", None)]),
])
def test_names_say_arms_and_seeds(tmp_path, files, expected):
    for number, name in enumerate(files):
        write.nanogpt(tmp_path / name, write.curve(3.2, number))
    assert list(grouped(tmp_path).values()) == expected


def test_the_seed_is_read_from_the_log_or_from_a_configuration_beside_it(tmp_path):
    write.nanogpt(tmp_path / "one" / "log.txt", LOSSES, seed=11)
    write.lingua(tmp_path / "two", LOSSES, seed=12)
    assert list(grouped(tmp_path).values()) == [("one", 11), ("two", 12)]


def test_globs_name_the_arms_and_what_they_leave_is_told(tmp_path):
    for name in ("a1.txt", "a2.txt", "b1.txt"):
        write.nanogpt(tmp_path / name, LOSSES)
    placed, rest = group(read_logs([tmp_path]), [tmp_path], {"first": "a*"})
    assert [each.arm for each in placed] == ["first", "first"] and rest == ["b1.txt"]
    with pytest.raises(BadInput, match="--arm x=c\\*: it takes no run"):
        group(read_logs([tmp_path]), [tmp_path], {"x": "c*"})


def test_no_name_leaves_the_folder_or_the_line(tmp_path):
    path = tmp_path / "x.csv"
    write.wandb_export(path, {"../../\x1b[31mevil": LOSSES, "..": write.curve(3, 1)})
    for label, (arm, _) in grouped(path).items():
        assert "/" not in arm and (arm + label).isprintable() and not arm.startswith(".")
    path.write_text("\x1b[31ma,b\n1,2\n")
    with pytest.raises(BadInput) as error:
        read_logs([path])
    assert str(error.value).isprintable()
