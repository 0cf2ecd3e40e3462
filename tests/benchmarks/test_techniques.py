"""docs/techniques.md: every command of the page runs, its table lists all of them, and every
section has a source and a switch."""

import importlib
import json
import re
import shlex
import warnings
from pathlib import Path

import pytest

import lab
from benchmarks import techniques
from experiments.declare.study import shipped
from mingpt import model as models
from mingpt import trainer as trainers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "techniques.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (python .*|torchrun .*)$", TEXT, re.MULTILINE)
TRAINED = [c for c in COMMANDS if c.startswith("python lab.py -")]
SAMPLED = [c for c in COMMANDS if c.startswith("python lab.py sample")]
RINGS = [c for c in COMMANDS if "benchmarks.ring" in c]
# train() adds the 4 layers of the laptop preset, for which some schedules are written
SMALL = ["--preset", "nano", "--model.n_embd=32", "--model.n_head=4", "--model.block_size=32",
         "--trainer.batch_size=2", "--max-iters", "2", "--data.val_tokens=64",
         "--run.sample_tokens=1", "--device", "cpu", "--run.log_every=1"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The arguments that make a run small, with its data and its folder. The runs of the page are
    trained in this folder one by one."""
    folder = tmp_path_factory.mktemp("techniques")
    lines = (json.dumps({"text": f"{n} red green blue " * 9}) + "\n" for n in range(40))
    (folder / "words.jsonl").write_text("".join(lines))
    return [*SMALL, "--data", str(folder / "words.jsonl"), f"--data.cache={folder}", "--out",
            str(folder / "o")]


def words(command):
    return shlex.split(command)[2:]


def train(command, small, *more):
    layers = [] if "n_layer" in command else ["--model.n_layer=4"]
    return lab.main([*words(command), *small, *layers, *more])


def test_every_command_is_one_of_those_that_are_run():
    assert len(COMMANDS) == len(TRAINED) + len(SAMPLED) + len(RINGS)
    assert len(TRAINED) > 30 and len(SAMPLED) == 2 and len(RINGS) == 2
    assert not re.search(r"^```", TEXT,
                         re.MULTILINE), "commands are indented, so that none is overlooked"


@pytest.mark.parametrize("command", TRAINED)
def test_a_technique_trains(command, small):
    folder = Path(small[-1])
    name = ["--arm", f"t{TRAINED.index(command)}"] if "--arm" not in command else []
    assert train(command, small, *name) == 0
    name = words(command)[words(command).index("--arm") + 1] if not name else name[1]
    record = json.loads((folder / "losses" / f"{name}.s0.json").read_text())
    assert record["status"] == "done" and record["progress"]["iteration"] == 2
    assert record["audit"]["passed"] != ("--allow-audit-fail" in command)
    experts = "mlp=moe" in command
    assert ("statistics" in record["result"]) == experts == ("statistics" in record["progress"])
    if experts:
        assert (
            0
            <= record["result"]["statistics"]["dropped"]
            < 1
            <= record["result"]["statistics"]["busiest expert"]
        )


@pytest.mark.parametrize("command", SAMPLED)
def test_drafting_works_with_the_runs_of_the_page(command, small, capsys):
    for line in TRAINED:
        if "--arm" in line:
            assert train(line, small) == 0      # returns at once if it was trained before
    assert lab.main([*words(command), "--tokens", "12", "--out", small[-1], "--device", "cpu"]) == 0
    assert re.search(r"drafted \d+ tokens, [\d.]+% were kept: [\d.]+ tokens per pass",
                     capsys.readouterr().out)


@pytest.mark.parametrize("command", RINGS)
def test_the_ring_is_exact_from_the_command_line(command, capfd):
    module, *options = command.partition("-m ")[2].split()
    if "--window" in options:
        options[options.index("--window") + 1] = "8"
    options += ["--ranks", "2", "--length", "64", "--heads", "2", "--head-dim", "8"]
    assert importlib.import_module(module).main(options) == 0
    told = capfd.readouterr().out
    assert float(re.search(r"outputs and gradients: (\S+)", told)[1]) < 1e-5
    assert "computed: 3 of 4, skipped: 1" in told


def test_every_section_has_a_source_a_switch_and_a_finding():
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        assert re.search(r"https?://", section), f"{title}: no source"
        if not title.startswith("Not here"):
            assert re.search(r"^    (python|torchrun) ", section,
                             re.MULTILINE), f"{title}: no command"


SHIPPED = {"post", "parallel", "sandwich", "gqa", "mqa", "mla", "msla", "msla_published", "rmsnorm",
           "swiglu", "geglu", "relu2", "gelu_erf", "moe", "rope", "alibi", "none", "cosine",
           "linear", "wsd", "muon"}


def test_every_member_of_every_slot_but_the_defaults_is_on_the_page():
    flags = {"rope": "-r", "rmsnorm": "-n", "swiglu": "-s", "cosine": "-c"}
    told = set()
    for slots in (models.SLOTS, trainers.SLOTS):
        for slot, members in slots.items():
            for member in list(members)[1:]:
                said = flags.get(member, f"{slot}={member}"), f"--{slot} {member}"
                if any(word in line for line in TRAINED for word in said):
                    told.add(member)
                else:
                    warnings.warn(f"{slot} {member} has no command in docs/techniques.md",
                                  stacklevel=1)
    assert told >= SHIPPED, f"no command for {', '.join(SHIPPED - told)}"


def test_every_study_that_the_page_names_is_shipped():
    named = re.findall(r"[Ss]tud(?:y|ies) ((?:`\w+`(?:, | and )?)+)", TEXT)
    assert set(re.findall(r"`(\w+)`", " ".join(named))) <= set(shipped())
    assert len(named) >= 6


def test_the_table_has_a_row_for_every_command():
    table = TEXT.partition(techniques.BEGIN)[2].partition(techniques.END)[0]
    rows = [techniques.switch(line) for line in table.splitlines() if techniques.switch(line)]
    assert rows == list(techniques.commands(TEXT))


def test_some_commands_measured_again_leave_the_other_lines():
    empty = (f"    python lab.py -n\n    python lab.py -r --arm "
             f"x\n{techniques.BEGIN}{techniques.END}\nb")
    head, later = (["| switch |", "|---|", f"| baseline | {n} |"] for n in (1, 2))
    page = techniques.written(empty, [*head, "| `-r` | 1 |"])
    page = techniques.written(page, [*later, "| `-n` | 2 |"])
    assert page.partition(techniques.BEGIN)[2].split("\n")[1:6] == [
        *head, "| `-n` | 2 |", "| `-r` | 1 |"]
    whole = [*later, "| `-n` | 3 |", "| `-r` | 3 |"]
    assert techniques.written(page, whole).partition(techniques.BEGIN)[2].split("\n")[1:6] == whole


def test_costs_are_measured_against_the_baseline():
    seen = techniques.rows({"-n": ["-n"], "--attention mqa": ["--attention", "mqa"]}, rounds=1)
    assert seen[2].startswith("| baseline | ") and len(seen) == 5
    assert re.fullmatch(r"\| `-n` \| −0\.2% \| \+0\.0% \| [\d.]+× \([\d.]+ to [\d.]+\) \|",
                        seen[3]), seen[3]
    assert "| −" in seen[4]
