"""docs/adding_an_arm.md: each example is a short file that works through every door of the program,
and each command works as printed."""

import json
import re
import shlex
import warnings
from pathlib import Path

import pytest

import lab
from experiments.declare import members
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from experiments.records import codefiles
from mingpt import model, trainer
from mingpt.config import check_members
from tests.mingpt import test_config as pairwise

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "adding_an_arm.md").read_text()
EXAMPLES = {}       # the name of a file → its text
COMMANDS = re.findall(r"^    (python lab.py .*|bash run_all.sh .*)$", PAGE, re.MULTILINE)
for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
    first = block.splitlines()[0].removeprefix("# ")
    EXAMPLES[re.search(r"my_\w+\.py", first)[0]] = block
    COMMANDS += [first] if first.startswith("python") else []
STUDY, = re.findall(r"```toml\n# my_study.toml\n(.*?)```", PAGE, re.DOTALL)
SIZE = ["--preset", "nano", "--device", "cpu", "--max-iters", "2", "--data.val_tokens=512",
        "--run.rehearsals=0"]


@pytest.fixture
def text(tmp_path):
    """The options of a small run on a small text, all of whose files are under tmp_path."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Line {n} of a text that has {n * n} words." for n in range(900)))
    yield [*SIZE, "--data", str(path), f"--data.cache={tmp_path / 'cache'}"]
    members.forget()


@pytest.fixture(params=list(EXAMPLES))
def added(request, tmp_path):
    """(file, section, slot, member) of an example, which stands in its slot for one test."""
    path = tmp_path / request.param
    path.write_text(EXAMPLES[request.param])
    members.load([path])
    (slot, (member,)), = codefiles.LOADED[0].members.items()
    yield (path, *slot.split("."), member)
    members.forget()


def test_there_is_an_example_for_every_slot_and_each_is_short():
    assert len(EXAMPLES) == 9 and len(COMMANDS) == 15
    for table in members.TABLES:
        assert any(f"\n{table} = " in code for code in EXAMPLES.values()) and f"`{table}`" in PAGE
    for name, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 22, name


def test_an_example_works_through_command_line_audit_pairs_and_study(added, text, tmp_path):
    path, section, slot, member = added
    slots = model.SLOTS if section == "model" else trainer.SLOTS
    check_members({slot: slots[slot]})
    command = next(c for c in COMMANDS if f"--code {path.name} " in c
                   and c.endswith((f"={member}", f" {member}")))
    words = shlex.split(command.replace(path.name, str(path)))[2:]
    assert lab.main([*words, *text, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "losses" / f"{member}.s0.json").read_text())
    assert record["status"] == "done" and record["audit"]["passed"]
    assert record["sample"]["text"]
    assert record["config"][section][slot] == member
    if section == "model" and slot != "position":
        assert f"model.{slot}={member} has no reference" in record["audit"]["unchecked"]
    study = tmp_path / "mine.toml"
    study.write_text('question = "Does it help?"\nbaseline = "baseline"\nseeds = [0, 1]\n'
                     f'code = "{path.name}"\n'
                     f'[arms.baseline]\n[arms.{member}]\n{section}.{slot} = "{member}"\n')
    members.forget()
    study = load_study(study)
    assert list(study.arms) == ["baseline", member]
    assert getattr(getattr(make_spec(study=study, arm=member).settings, section), slot) == member


def test_an_example_stands_beside_a_member_of_every_other_slot(added):
    _, section, slot, member = added
    if section == "trainer":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pairwise.test_every_pair_of_the_trainers_slots_lowers_the_loss({slot: member})
        return
    caches = getattr(model.SLOTS[slot][member], "no_cache", None) is None
    for other, named in model.SLOTS.items():
        changes = {slot: member} | ({other: list(named)[1]} if other != slot else {})
        try:
            pairwise.test_no_pair_sees_the_future_and_every_pair_uses_the_past(changes)
            pairwise.test_every_pair_is_rebuilt_from_its_seed_and_its_state(changes)
            if caches:
                pairwise.test_every_pair_reads_token_by_token_what_it_reads_at_once(changes)
        except pytest.skip.Exception as refused:   # no pair here is to be refused
            pytest.fail(f"{changes}: {refused}")


def test_the_flops_of_a_layer_applied_twice_are_counted_twice(tmp_path):
    (path := tmp_path / "my_model.py").write_text(EXAMPLES["my_model.py"])
    members.load([path])
    try:
        once, twice = (pairwise.quiet_gpt(pairwise.small(block=name)) for name in ("pre", "twice"))
    finally:
        members.forget()
    head = 3 * 2 * once.lm_head.weight.numel()
    assert twice.flops_per_token() - head == 2 * (once.flops_per_token() - head)


def test_the_ten_lines_work_in_their_order(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_norm.py").write_text(EXAMPLES["my_norm.py"])
    Path("my_study.toml").write_text(STUDY)
    for command in (c for c in COMMANDS if "my_norm.py" in c or "my_study.toml" in c):
        _, door, *words = shlex.split(command)
        words = ["study", *words, "--local", "--dry-run"] if door == "run_all.sh" else words
        if words[0] == "compare":
            words += ["--local", "--jobs", "2"]
        more = {"sample": ["--tokens", "4"], "settings": []}.get(words[0], text)
        if words[0] == "audit":
            more = [word for word in text if word not in ("--max-iters", "2")]
        members.forget()
        assert lab.main([*words, *more]) == 0, command
    verdicts = json.loads(next(Path().rglob("verdicts.json")).read_text())
    assert "dyt" in json.dumps(verdicts)
