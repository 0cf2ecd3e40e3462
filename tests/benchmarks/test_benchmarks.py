"""Benchmarks: what is computed from the times. The times themselves are not tested."""

import argparse
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as every
from benchmarks import arms, generation, step
from benchmarks.kit import floors, options, ours, peers, tables, tuning
from benchmarks.kit.cases import CASES, CUDA_CASES, Case
from benchmarks.kit.figure import FigurePanel, ratio_figure
from benchmarks.kit.floors import AT_MOST, Floor
from benchmarks.kit.turns import Built, Side, take_turns
from mingpt.sparse import tiles
from mingpt.utils import BadInput

NANO = Case("nano", 2, 2, 64, 16, 2, vocab_size=99)
LLAMA = replace(NANO, family="llama")
NOTHING = {"--mingpt": None, "--nanogpt": None}


def arguments(**given):
    return argparse.Namespace(**{"rounds": 2, "device": "cpu", "threads": 1, "copies": NOTHING,
                                 **given})


# -- turns -----------------------------------------------------------------------------------------

def counting(start: int) -> Built:
    runs = iter(range(start, 1000))
    return Built(lambda: float(next(runs)), {"began": start}, timed=True)


def broken() -> Built:
    raise ArithmeticError("no such thing")


def ending() -> Built:
    raise SystemExit(7)


def test_sides_answer_once_a_round_and_one_that_fails_says_why():
    sides = [Side("a", f"{__name__}:counting", {"start": 10}, sample_seconds=0),
             Side("b", f"{__name__}:broken")]
    results = take_turns(sides, rounds=3)
    # the first two runs warm up
    assert results["a"]["seconds"] == [12, 13, 14] and results["a"]["began"] == 10
    assert results["a"]["peak_mb"] > 1
    assert "ArithmeticError: no such thing" in results["b"]["failed"]


def test_a_process_that_ends_is_an_error_that_names_it():
    with pytest.raises(RuntimeError, match="'gone' ended with exit code 7"):
        take_turns([Side("gone", f"{__name__}:ending")], rounds=1)


# -- what is counted -------------------------------------------------------------------------------

@pytest.mark.parametrize("case", [NANO, LLAMA], ids=lambda case: case.family)
def test_the_flops_of_a_size_are_those_of_our_model(case):
    trainer_side = ours.build(case)
    assert trainer_side.about["flops"] == pytest.approx(case.flops)


def test_the_flops_of_a_size_by_hand():
    case = Case("by hand", n_layer=1, n_head=1, n_embd=2, block_size=3, batch_size=1, vocab_size=5)
    # 3 tokens: attention's four matrices, the MLP's two, the head
    products = 3 * (4 * 2 * 2 + 2 * 2 * 8 + 2 * 5)
    scores = (1 + 2 + 3) * 2 * 2  # per query and key: a score and a weighted value of width 2
    assert case.flops == 3 * 2 * (products + scores)


def test_peers_share_processes_with_ours_as_far_as_memory_goes():
    names = ["minGPT", "nanoGPT", "transformers", "litgpt"]
    assert step.groups(names, NANO, math.inf) == [names]
    assert step.groups(names, NANO, 0) == [[name] for name in names]
    pair = NANO.megabytes(tied=True) * 2 + NANO.megabytes(tied=False) * 2
    # two peers, and ours, tied and untied
    assert step.groups(names, NANO, pair + 1)[0] == ["minGPT", "nanoGPT"]


# -- peers -----------------------------------------------------------------------------------------

def test_an_absent_peer_says_what_to_give(monkeypatch, tmp_path):
    assert peers.absent(peers.PEERS["nanoGPT"], NOTHING) == "no copy given: --nanogpt PATH"
    with pytest.raises(BadInput, match="no mingpt/model.py there"):
        peers.absent(peers.PEERS["minGPT"], {"--mingpt": str(tmp_path)})
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert "litgpt is not installed" in peers.absent(peers.PEERS["litgpt"], NOTHING)


def test_without_a_compiler_the_compiled_peer_is_absent(monkeypatch, tmp_path):
    (tmp_path / "model.py").touch()
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    copies = {"--nanogpt": str(tmp_path)}
    assert "C++ compiler" in peers.absent(peers.PEERS["nanoGPT compiled"], copies)
    assert peers.absent(peers.PEERS["nanoGPT"], copies) is None


@pytest.mark.parametrize("name, family", [(name, family) for name, peer in peers.PEERS.items()
                                          for family in peer.families if not peer.compiled])
def test_a_peer_trains_at_a_nano_size(name, family, monkeypatch):
    copies = {"--mingpt": options.os.environ.get("MINGPT"),
              "--nanogpt": options.os.environ.get("NANOGPT")}
    reason = peers.absent(peers.PEERS[name], copies)
    if reason:
        pytest.skip(reason)
    side = peers.build(name, replace(NANO, family=family),
                       path=copies.get(peers.PEERS[name].source))
    assert side.about["loss"] == pytest.approx(math.log(99), abs=0.6)
    losses = [float(side.run()) for _ in range(24)]
    assert losses[-1] < losses[0]


def test_our_step_and_transformers_begin_with_the_same_loss_from_the_same_weights():
    theirs, _, loss_of, _ = peers.load("transformers", NANO, "cpu", None)
    model = ours.model_of(NANO, {"model.tie_weights": True})
    weights = theirs.state_dict()
    for name, tensor in model.state_dict().items():
        # transformers stores GPT-2's matrices as (in, out)
        transposed = name.endswith("weight") and ".c_" in name
        tensor.copy_(weights[name].t() if transposed else weights[name])
    x, y = next(peers.batches(NANO, "cpu"))
    with torch.no_grad():
        assert float(model(x, y)[1]) == pytest.approx(float(loss_of(x, y)[1]), abs=1e-5)


def test_all_train_on_the_same_tokens_one_position_ahead():
    (x, y), again = next(peers.batches(NANO, "cpu")), next(peers.batches(NANO, "cpu"))
    assert torch.equal(x[:, 1:], y[:, :-1]) and torch.equal(x, again[0])
    assert x.shape == (2, 16) and int(x.max()) < 99


# -- step, generation, arms ------------------------------------------------------------------------

def test_a_step_is_compared_with_ours_and_the_absent_are_named(capsys):
    result = step.measure(NANO, ["minGPT", "transformers"], arguments())
    assert result["absent"] == {"minGPT": "no copy given: --mingpt PATH"}
    assert list(result["rows"]) == ["transformers", "ours"]
    found = result["rows"]["transformers"]
    assert (
        found["against"] == "ours"
        and found["speed"]["median"] > 0
        and 0 < found["own_mb"] < found["peak_mb"]
    )
    step.table(NANO, result, "cpu").print()
    shown = capsys.readouterr().out
    assert "minGPT: absent: no copy given" in shown and "transformers" in shown
    results = {"machine": step.describe("cpu", 1), "rounds": 2, "cases": {"nano": result}}
    assert step.figure(results, "cpu").axes[0].get_title(loc="left") == "nano"


@pytest.mark.parametrize("only, sizes, names", [
    ([], list(CASES), list(peers.PEERS)), (["gpt2"], ["gpt2"], list(peers.PEERS)),
    (["litgpt", "gpt-mini"], ["gpt-mini"], ["litgpt"])])
def test_only_names_sizes_and_peers(only, sizes, names):
    assert step.chosen(only, CASES) == (sizes, names)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'gpt-mini'"):
        step.chosen(["gptmini"], CASES)


@pytest.mark.parametrize("name", ["ours", "transformers"])
def test_generation_times_one_further_token(name):
    case = replace(NANO, block_size=32)
    side = generation.build(name, case, "cpu", prompt=8, tokens=3)
    assert side.timed and side.run() > 0 and side.about["to_the_first"] > 0


def test_generation_that_skips_a_token_is_an_error():
    model = torch.nn.Module()
    model.lm_head = torch.nn.Identity()
    run = generation.timed(model, lambda: model.lm_head(torch.zeros(1)), 3, "cpu", lambda: None, {})
    with pytest.raises(RuntimeError, match="1 times logits for 4 tokens"):
        run()


def test_an_arm_is_charged_for_its_time_not_for_its_flops():
    taken = {"baseline": {"seconds": [1.0, 2.0], "flops": 100},
             "arm": {"seconds": [1.5, 3.0], "flops": 150}}
    found = arms.row(taken, "arm")
    assert (
        found["time"]["median"] == 1.5
        and found["flops"] == 1.5
        and found["per_flop"]["median"] == 1
    )


def test_members_are_single_changes_that_no_arm_makes():
    found = dict(arms.members())
    assert (
        "position=alibi" in found and "position=rope" not in found and "norm=rmsnorm" not in found
    )
    assert found["position=alibi"] == {"settings": {"model.position": "alibi"}}


# -- floors and tables -----------------------------------------------------------------------------

def test_floors_are_of_sizes_and_peers_that_there_are():
    for table, cases in ((floors.SPEED, CASES), (floors.MEMORY, CASES),
                         (floors.CUDA_SPEED, CUDA_CASES)):
        for (benchmark, case), each in table.items():
            assert benchmark in ("step",
                                 "generation") and case in cases and set(each) <= set(peers.PEERS)


@pytest.mark.parametrize("floor, value, met", [(Floor(2.0), 1.996, True), (Floor(2.0), 1.99, False),
                                               (Floor(0.45, AT_MOST), 0.45, True),
                                               (Floor(0.45, AT_MOST), 0.46, False)])
def test_a_floor_is_met_as_printed(floor, value, met):
    assert floor.met(value) is met
    assert tables.verdict(value, floor) == f"{floor} {'✓' if met else '✗'}"


def test_a_figure_shows_what_is_missed():
    ratio = {"median": 1.2, "low": 1.1, "high": 1.3}
    results = {"machine": step.describe("cpu", 1), "rounds": 5}
    assert ratio_figure("title", "ours", [FigurePanel("empty", [])], results) is None
    figure = ratio_figure("title", "ours", [FigurePanel("one", [("peer", ratio, Floor(1.5))])],
                          results, log=True)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["peer"]


def test_options_of_one_benchmark_are_not_given_to_all(capsys):
    assert every.split(["step", "--only", "litgpt"]) == (["step"], ["--only", "litgpt"])
    assert every.main(["--rounds=3"]) == 2 and "name the one benchmark" in capsys.readouterr().err
    assert every.main(["stepp"]) == 2 and "known: step" in capsys.readouterr().err


@pytest.mark.parametrize("name", every.NAMES)
def test_each_of_them_is_found_and_explains_itself(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["before"])
    assert every.run(name, ["--help"]) == 0
    assert "usage:" in capsys.readouterr().out
    assert every.run(name, ["--no-such-option"]) == 2


def test_the_help_needs_no_packages_and_make_installs_nothing_for_it(tmp_path):
    root = Path(every.__file__).parents[1]
    for words in ([], ["step"]):
        # -S leaves out installed packages
        done = subprocess.run([sys.executable, "-S", "-m", "benchmarks", *words, "--help"],
                              capture_output=True, text=True, cwd=root)
        assert (done.returncode, done.stderr) == (0, "")
        assert "whole training step" in done.stdout
    assert all(f"\n  {name} " in every.overview() for name in every.NAMES)
    for words in ("--help", "step --help", "-h"):
        done = subprocess.run(["make", "-n", "bench", f"ARGS={words}", f"VENV={tmp_path}"],
                              capture_output=True, text=True, cwd=root)
        assert done.returncode == 0 and "pip" not in done.stdout


def test_quick_is_fewer_rounds_and_none_is_refused():
    made = options.parser("step", "doc", 5, 3)
    assert options.parse(made, ["--device=cpu"]).rounds == 5
    assert options.parse(made, ["--device=cpu", "--quick"]).rounds == 3
    with pytest.raises(BadInput, match="at least 1"):
        options.parse(made, ["--rounds=0"])


def test_a_reader_that_closes_the_pipe_of_the_help_is_no_error():
    with subprocess.Popen([sys.executable, "-S", "-m", "benchmarks", "--help"],
                          cwd=Path(every.__file__).parents[1], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)


# -- the choices of the attention backends ---------------------------------------------------------

def test_the_table_has_the_largest_share_below_which_banded_never_loses():
    def cell(T, share, ratio, parts=1):
        return tuning.Cell(T, 16, "8", parts, share, ratio, "dense")
    grid = [cell(256, 0.44, 0.6), cell(256, 0.75, 1.02), cell(256, 0.94, 1.2),
            cell(256, 0.3, 1.1, parts=2), cell(128, 0.2, 1.3), cell(512, 0.9, 0.9)]
    assert list(tuning.table(grid)) == [(512, 1.0, 0.0), (256, 0.75, 0.0)]
    assert [cell.wrong for cell in grid] == [True, False, False, False, False, True]


def test_tuning_measures_this_machine_and_leaves_its_tables_alone(monkeypatch):
    had = dict(tiles.WORKING_SET)
    monkeypatch.setattr(tuning, "SHAPES", [(1, 2, 64, 8)])
    monkeypatch.setattr(tuning, "LENGTHS", (64,))
    monkeypatch.setattr(tuning, "HEAD_SIZES", (8,))
    lines = tuning.tune(1, lambda text: None)
    assert had == tiles.WORKING_SET
    assert any(f"{tiles.processor()}: {size >> 20} << 20," in lines[1] for size in tuning.SETS)
    assert len([*tuning.cells((64,), (8,), 1)]) == 11 and "of 11 cells" in "".join(lines)
