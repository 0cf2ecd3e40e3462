"""docs/adding_an_arm.md: each example is short, and works through every door of the program."""

import importlib
import json
import re
import warnings
from pathlib import Path

import pytest

import lab
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from mingpt import model, trainer
from mingpt.config import check_members
from tests.mingpt import test_config as pairwise

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "adding_an_arm.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (mingpt/\S+)\.py\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^    python lab.py (--.*)$", PAGE, re.MULTILINE)


@pytest.fixture(params=list(EXAMPLES))
def added(request):
    """(section, slot, member) of an example, which stands in its slot for one test."""
    slots = {f"model.{slot}": members for slot, members in model.SLOTS.items()}
    slots |= {f"trainer.{slot}": members for slot, members in trainer.SLOTS.items()}
    before = {slot: dict(members) for slot, members in slots.items()}
    module = importlib.import_module(request.param.replace("/", "."))
    held = dict(vars(module))
    exec(compile(EXAMPLES[request.param], request.param, "exec"), vars(module))
    new = [(*slot.split("."), name) for slot, members in slots.items()
           for name in members.keys() - before[slot].keys()]
    yield new
    for slot, members in slots.items():
        members.clear()
        members.update(before[slot])
    for name in vars(module).keys() - held.keys():
        delattr(module, name)


def test_there_is_an_example_for_every_slot_that_users_extend_and_each_is_short():
    assert len(EXAMPLES) == len(COMMANDS) == 6
    for name, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 20, name


def test_an_example_works_through_command_line_audit_pairs_and_study(added, tmp_path):
    (section, slot, member), = added
    slots = model.SLOTS if section == "model" else trainer.SLOTS
    check_members({slot: slots[slot]})
    command = next(c for c in COMMANDS if c.endswith((f"={member}", f" {member}")))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Line {n} of a text that has {n * n} words." for n in range(900)))
    assert lab.main([*command.split(), "--preset", "nano", "--max-iters", "2", "--device", "cpu",
                     "--data", str(text), f"--data.cache={tmp_path / 'cache'}",
                     "--data.val_tokens=512", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "losses" / f"{member}.s0.json").read_text())
    assert record["status"] == "done" and record["audit"]["passed"]
    assert record["config"][section][slot] == member
    if section == "model" and slot != "position":
        assert f"model.{slot}={member} has no reference" in record["audit"]["unchecked"]
    path = tmp_path / "mine.toml"
    path.write_text('question = "Does it help?"\nbaseline = "baseline"\nseeds = [0, 1]\n'
                    f'[arms.baseline]\n[arms.{member}]\n{section}.{slot} = "{member}"\n')
    study = load_study(path)
    assert list(study.arms) == ["baseline", member]
    assert getattr(getattr(make_spec(study=study, arm=member).settings, section), slot) == member


def test_an_example_stands_beside_a_member_of_every_other_slot(added):
    (section, slot, member), = added
    if section == "trainer":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pairwise.test_every_pair_of_the_trainers_slots_lowers_the_loss({slot: member})
        return
    for other, members in model.SLOTS.items():
        changes = {slot: member} | ({other: list(members)[1]} if other != slot else {})
        try:
            pairwise.test_no_pair_sees_the_future_and_every_pair_uses_the_past(changes)
            pairwise.test_every_pair_is_rebuilt_from_its_seed_and_its_state(changes)
            pairwise.test_every_pair_reads_token_by_token_what_it_reads_at_once(changes)
        except pytest.skip.Exception as refused:   # no pair here is to be refused
            pytest.fail(f"{changes}: {refused}")
