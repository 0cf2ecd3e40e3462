"""Settings, seeding, and files that are written whole or not at all."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingpt.utils import CfgNode, did_you_mean, parse_value, set_seed, setup_logging, write_atomic


def tree():
    return CfgNode(seed=1, model=CfgNode(n_layer=None, name="gpt", deep=CfgNode(path="")))


@pytest.mark.parametrize("argument, value", [
    ("--model.deep.path=/data/pile/00.jsonl", "/data/pile/00.jsonl"),
    ("--model.deep.path=../x y/é.txt", "../x y/é.txt"),
    ("--model.deep.path=s3://a/b?c=d&e=f", "s3://a/b?c=d&e=f"),
    ("--model.deep.path=a=b=c", "a=b=c"),
    ("--model.deep.path=", ""),
    ("--model.deep.path=4d", "4d"),
    ("--model.deep.path=8/3d", "8/3d"),
    ("--model.deep.path=gpt-nano", "gpt-nano"),
    ("--model.deep.path=3e-4", 3e-4),
    ("--model.deep.path=(0.9, 0.95)", (0.9, 0.95)),
    ("--model.deep.path=None", None),
    ("--model.deep.path=False", False),
    ("--model.deep.path=false", False),
    ("--model.deep.path='12'", "12"),
])
def test_an_override_may_hold_a_path_and_equals_signs(argument, value):
    node = tree()
    node.merge_from_args([argument])
    assert node.model.deep.path == value
    assert type(node.model.deep.path) is type(value)


@given(st.text())
def test_any_text_is_a_value(text):
    value = parse_value(text)
    assert (
        value == text
        or not isinstance(value, str)
        or repr(value)[1:-1] in text
        or text.strip()[0] in "'\"(rRbBuU"
    )


@pytest.mark.parametrize("text", ["{[]: 1}", "(" * 500, "\0", "1" * 5000, "{'a': {[1]}}",
                                  "-" * 100_000 + "1",
                                  "lambda: 0", "b'", "1_"], ids=lambda text: text[:9])
def test_what_python_cannot_evaluate_stays_text(text):
    assert parse_value(text) == text


def test_settings_can_be_copied_and_the_copy_is_its_own():
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        node = tree()
        twin = copied(node)
        assert twin == node
        twin.model.deep.path = "elsewhere"
        assert twin != node
        assert node.model.deep.path == ""


def test_settings_print_as_an_indented_tree_and_become_nested_dicts():
    assert str(CfgNode(a=1, model=CfgNode(b=None, c="x"),
                       d=2)) == "a: 1\nmodel:\n    b: None\n    c: x\nd: 2\n"
    assert tree().to_dict() == {"seed": 1, "model": {"n_layer": None, "name": "gpt",
                                                     "deep": {"path": ""}}}


def test_a_dict_merges_unchecked():
    node = tree()
    node.merge_from_dict({"seed": 2, "new": 3})
    assert (node.seed, node.new, node.model) == (2, 3, tree().model)


def test_a_seed_sets_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_seed(3)
    first = draw()
    second = draw()
    set_seed(3)
    assert draw() == first != second


def test_a_run_leaves_its_command_line_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adder.py", "--a=1"])
    config = CfgNode(system=CfgNode(work_dir=str(tmp_path / "out" / "adder")), betas=(0.9, 0.95))
    setup_logging(config)
    setup_logging(config)   # a second time, into the same folder
    assert (tmp_path / "out/adder/args.txt").read_text() == "adder.py --a=1"
    text = (tmp_path / "out/adder/config.json").read_text()
    assert json.loads(text)["betas"] == [0.9, 0.95]
    assert text.startswith('{\n    "system": {\n')


def test_a_near_name_is_proposed_and_else_all_are_listed():
    assert did_you_mean("postion", ["position", "norm"]) == ": did you mean 'position'?"
    assert did_you_mean("zzz", ["position", "norm"]) == "; known: position, norm"
    assert did_you_mean(7, ["a"]) == "; known: a"


@pytest.mark.parametrize("content", ["é\n", b"\x00\xff"])
def test_a_file_is_written_whole_into_folders_that_are_made(tmp_path, content):
    path = tmp_path / "a" / "b.json"
    write_atomic(path, content)
    write_atomic(str(path), content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(path.parent) == ["b.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_small_things_come_without_torch():
    code = "import sys, mingpt.utils, mingpt.lr_schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
