"""A code file of the user adds members to slots and does nothing else. What is wrong with it is one
line that names the file and the line."""

import random
import sys

import numpy as np
import pytest
import torch

import lab
from experiments.declare import members
from experiments.declare.names import all_slots
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from mingpt.mlps import MLP
from mingpt.utils import BadInput
from tests.helpers.planted_code import DYT, HEAD

BAD = {
    "a syntax error": ("x = 1\ndef f(:\n    pass\n", ":2: SyntaxError: invalid syntax"),
    "a name that does not exist": ("x = 1\n\ny = nope\n", ":3: NameError: name 'nope'"),
    "an error in a function of its own": ("def f():\n    return 1 / 0\n\nf()\n",
                                          ":2: ZeroDivisionError"),
    "a module that is not installed": ("import no_such_module\n", ":1: ModuleNotFoundError"),
    "the end of the program": ("import sys\nsys.exit(3)\n", ":2: SystemExit: 3"),
    "nothing": ("x = 1\n", "adds no member to any slot: define at least one of BLOCKS"),
    "an empty table": ("NORMS = {}\n", "adds no member to any slot"),
    "a misspelled table": ("ATTENTION = {'own': 1}\n", ":1: no slot's table is called ATTENTION: "
                                                       "did you mean 'ATTENTIONS'?"),
    "a table that is none": ("x = 1\nNORMS = ['a']\n", ":2: NORMS is a dict from names to members"),
    "a number for a class": ("NORMS = {'own': 3}\n", ":1: norm 'own' is a class derived from "
                                                     "torch.nn.Module, not 3"),
    "a class for a function": ("class Own:\n    pass\n\nOPTIMIZERS = {'own': Own}\n",
                               ":1: optimizer 'own' is a function of (groups, config)"),
    "a taken name": ("from mingpt.mlps import MLP\nMLPS = {'swiglu': MLP}\n",
                     "the name 'swiglu' is taken: --model.mlp=swiglu is a member of this program"),
    "a name with capitals": ("from mingpt.mlps import MLP\nMLPS = {'Own': MLP}\n",
                             ":2: MLPS: 'Own' cannot name a member"),
    "a name that is a value": ("from mingpt.mlps import MLP\nMLPS = {'true': MLP}\n",
                               "cannot name a member"),
    "other arguments": ("from torch import nn\n\nclass Own(nn.Module):\n"
                        "    def __init__(self, width):\n        super().__init__()\n"
                        "    def forward(self, x):\n        return x\n\nMLPS = {'own': Own}\n"
                        "NORMS = {'own': Own}\n", ":3: norm 'own' is called with (dim, config)"),
    "a forward without the cache": ("from mingpt.blocks import Block\nclass Own(Block):\n"
                                    "    def forward(self, x):\n        return x\n"
                                    "BLOCKS = {'own': Own}\n",
                                    ":2: block 'own': forward is called with (self, x, allowed, "
                                    "cache)"),
    "no forward": ("from torch import nn\nclass Own(nn.Module):\n"
                   "    def __init__(self, config):\n        super().__init__()\n"
                   "MLPS = {'own': Own}\n", ":2: mlp 'own' lacks forward"),
    "an option of every arm": ("from mingpt.mlps import MLP\nclass Own(MLP):\n"
                               "    options = {'n_layer': 3}\nMLPS = {'own': Own}\n",
                               ":2: option 'n_layer' of own: model.n_layer is a setting of every "
                               "arm"),
    "an option with another default": ("from mingpt.norms import RMSNorm\nclass Own(RMSNorm):\n"
                                       "    options = {'norm_eps': 1e-6}\nNORMS = {'own': Own}\n",
                                       "its default is 1e-06, but model.norm_eps has 1e-05"),
    "an option that is no value": ("from mingpt.mlps import MLP\nclass Own(MLP):\n"
                                   "    options = {'kind': MLP}\nMLPS = {'own': Own}\n",
                                   "its default is a number, a text"),
    "a member put into our own slot": ("from mingpt.mlps import MLP, MLPS\nMLPS['own'] = MLP\n",
                                       "adds 'own' to the MLPS of mingpt.mlps"),
    "a change of this program": ("from mingpt.mlps import MLP\nMLP.forward = lambda s, x: x\n"
                                 "MLPS = {'own': MLP}\n", "changes mingpt.mlps.MLP.forward"),
    "a function of its own for all of torch": (
        "import torch\nbefore = torch.relu\ntorch.relu = lambda x: before(x)\n",
        "changes torch.relu"),
    "a change of torch": ("import torch\ntorch.set_default_dtype(torch.float64)\n",
                          "changes torch's default dtype"),
}


@pytest.fixture
def file(tmp_path):
    """A function: text → a code file. What files changed is undone after the test."""
    dtype, forward, relu = torch.get_default_dtype(), MLP.forward, torch.relu

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path
    yield write
    torch.set_default_dtype(dtype)
    MLP.forward, torch.relu = forward, relu
    members.forget()


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_one_line_with_its_place(name, file):
    text, words = BAD[name]
    path, before = file(text), {slot: dict(found) for slot, found in all_slots().items()}
    with pytest.raises(BadInput) as refusal:
        members.load([path])
    assert words in str(refusal.value) and str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)
    assert all_slots() == before


def test_a_file_that_is_missing_a_folder_or_no_text_is_refused(tmp_path, file):
    (tmp_path / "bytes.py").write_bytes(b"x = 1\n# \xff\n")
    (tmp_path / "large.py").write_text("#" * (members.LARGEST + 1))
    file("y = 1", "helper.py")
    beside = file("import helper\n")
    for path, words in ((tmp_path / "none.py", "No such file"), (tmp_path, "Is a directory"),
                        (tmp_path / "bytes.py", ":2: not UTF-8 text"),
                        (tmp_path / "large.py", "at most 1,000,000"),
                        (beside, ":1: ModuleNotFoundError: No module named 'helper': a code file "
                                 "stands alone")):
        with pytest.raises(BadInput, match=words):
            members.load([path])


def test_every_slot_has_a_table_of_the_name_that_its_dict_has():
    slots = all_slots()
    assert sorted(members.TABLES.values()) == sorted(slots)
    for table, slot in members.TABLES.items():
        assert any(vars(module).get(table) is slots[slot] for name, module in sys.modules.items()
                   if name.startswith("mingpt."))


def test_a_member_has_options_a_name_hints_and_help_like_a_built_in_one(file, capsys):
    path = file(HEAD + DYT)
    members.load([path, path])        # the same file twice is one file
    spec = make_spec("nano", overrides=["--model.norm=dyt", "--model.dyt_alpha=0.7"])
    assert (spec.arm, spec.settings.model.dyt_alpha) == ("dyt_dyt_alpha0.7", 0.7)
    assert spec.changes["model.dyt_alpha"] == [0.5, 0.7]
    for overrides, words in ((["--model.dyt_alpha=0.7"], "it belongs to model.norm=dyt"),
                             (["--model.norm=dyt", "--model.dyt_alfa=1"], "dyt_alpha"),
                             (["--model.norm=dyd"], "did you mean 'dyt'"),
                             (["--model.norm=dyt", "--model.dyt_alpha=x"], "give a number")):
        with pytest.raises(BadInput, match=words):
            make_spec("nano", overrides=overrides)
    assert lab.main(["settings", "dyt", "--code", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "tanh(α·x) · weight + bias" in shown and "model.dyt_alpha" in shown
    with pytest.raises(SystemExit):
        lab.main(["train", "--help", "--code", str(file(
            "from mingpt.attention.heads import CausalSelfAttention\n"
            "ATTENTIONS = {'twin': CausalSelfAttention}\n", "second.py"))])
    assert "twin" in " ".join(capsys.readouterr().out.split())


def test_a_file_may_import_what_is_installed_and_more_of_this_program(file):
    members.load([file("import scipy.stats, torch._dynamo, torch.distributed\n"
                       "from torch.nn.attention import flex_attention\n"
                       "from mingpt.mlps import *\nfrom mingpt.sparse.flex import *\n"
                       "import mingpt.pretrained.upcycle, experiments.train.run\n"
                       "class Own(MLP):\n    pass\nMLPS = {'own': Own}\n")])
    assert "own" in all_slots()["model.mlp"]


def test_two_files_may_not_have_one_name(file):
    members.load([file(HEAD + DYT)])
    with pytest.raises(BadInput, match=r"'dyt' is taken: --model.norm=dyt is a member of .*mine"):
        members.load([file(HEAD + DYT, "other.py")])


def test_a_study_names_its_files_relative_to_its_own_place(file, tmp_path):
    file(HEAD + DYT)
    path = tmp_path / "study.toml"
    path.write_text('code = "mine.py"\nmatch = "params"\npreset = "nano"\n[arms.baseline]\n'
                    '[arms.dyt]\nmodel.norm = "dyt"\nmodel.mlp = "swiglu"\n')
    study = load_study(path)
    assert "dyt" not in all_slots()["model.norm"]       # reading a study runs nothing
    spec = make_spec(study=study, arm="dyt")
    assert spec.settings.model.norm == "dyt" and abs(spec.match.deviation) < 0.01
    for code, words in (('"gone.py"', r"study.toml: code: there is no file .*gone.py"),
                        ("3", "code is a list of names, not 3")):
        path.write_text(f"code = {code}\n[arms.baseline]\n")
        with pytest.raises(BadInput, match=words):
            load_study(path)


def test_a_file_leaves_the_random_state_and_stdout_alone_and_draws_the_same_each_time(file, capsys):
    text = HEAD + DYT + "\nprint('hello')\nN = (random.random(), float(torch.rand(1)))\n"
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
        members.load([file(text)])
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
        assert before[:2] == after[:2] and torch.equal(before[2], after[2])
        drawn.append(next(module.N for name, module in sys.modules.items()
                          if name.startswith("code_file_mine")))
        members.forget()
    assert drawn[0] == drawn[1]
    assert capsys.readouterr().out == ""
