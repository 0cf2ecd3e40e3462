"""lab.py is the one command: bad input gives one line and exit code 2."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from experiments.declare.arms import catalogue
from experiments.declare.ranges import SECTIONS
from experiments.declare.settings import default_settings, walk
from experiments.train.loggers import LOGGERS
from mingpt.attention.heads import ATTENTIONS
from mingpt.patterns.schedule import NAMED
from mingpt.pretrained.read import GPT2_SIZES
from mingpt.sparse.backends import BACKENDS
from mingpt.utils import BadInput

ROOT = Path(__file__).resolve().parents[2]


def run(*args, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "lab.py"), *args], capture_output=True,
                          text=True, cwd=cwd)


@pytest.mark.parametrize("args, words", [
    (["trian"], "did you mean 'train'"),
    (["--rop"], "did you mean '--rope'"),
    (["-r", "--model.postion=rope"], "did you mean 'model.position'"),
    (["-b", "-r"], "changes nothing"),
    (["--preset", "latpop"], "did you mean 'laptop'"),
    (["--study", "sevn", "--arm", "rope"], "did you mean 'seven'"),
    (["--study", "seven", "--arm", "rpoe"], "did you mean 'rope'"),
    (["--study", "seven"], "needs --arm"),
    (["--model.mlp"], "give it a value"),
    (["--model.mlp=swigloo", "--preset", "nano", "--dry-run"], "did you mean 'swiglu'"),
    (["--schedule", "f 8", "--dry-run"], "'f 8' is for 2 of the model's 4 layers"),
    (["--schedule", "hafl", "--dry-run"], "did you mean 'half'"),
    (["--schedule", "half", "--window", "8"], "leave out --schedule half"),
    (["--window", "0", "--dry-run"], "the least is 1"),
    (["--dilation", "4"], "give --window W as well"),
    (["--backend", "flsh", "--preset", "nano", "--dry-run"], "did you mean 'flash'"),
    (["--backend", "flash", "--window", "8", "--preset", "nano", "--dry-run"], "use auto or dense"),
    (["--attention", "mhaa", "--preset", "nano", "--dry-run"], "did you mean 'mha'"),
    (["bench", "--rounds", "3"], "the least is 5"),
    (["bench", "--window", "0"], "the least is 1"),
    (["--seed", "x"], "--seed: 'x' is no whole number"),
    (["--seed", "99999999999999999999", "--preset", "nano", "--dry-run"],
     "a whole number from 0 to"),
    (["--data", "/nowhere/at/all.jsonl", "--preset", "nano"], "nowhere"),
    (["-b", "--preset", "nano", "--device", "abacus"], "this machine has"),
    (["sample", "nobody"], "no run 'nobody'"),
    (["sample", "nobody", "--model.n_layer=2"], "takes no settings: leave out --model.n_layer=2"),
    (["--lr", "1e-3"], "did you mean '--trainer.learning_rate'?"),
    (["--layers", "4"], "did you mean '--model.n_layer'?"),
    (["study", "--steps", "4"], "did you mean '--max-iters'?"),
    (["bench", "--log_every=1"], "did you mean '--run.log_every'?"),
    (["--warmup", "100"], "--warmup takes no value: did you mean '--trainer.warmup_steps'?"),
    (["--rope", "yes"], "--rope takes no value: did you mean '--model.position'?"),
    (["--dry-run", "yes"], "yes: --dry-run takes no value"),
    (["--zebra", "1"], "`python lab.py settings` lists all settings"),
    (["sample", "nobody", "--lr", "1"], "(see lab.py sample --help)"),
    (["settings", "zebra"], "no setting is about 'zebra'"),
    (["--init", "rope.s9", "--dry-run"], "no run 'rope.s9'"),
    (["--preset", "zebra"], "known: gpt2, laptop"),
    (["--attention", "zebra", "--preset", "nano", "--dry-run"], "known: mha, gqa"),
])
def test_bad_input_is_one_line_and_exit_2(args, words, tmp_path):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is half written"


@pytest.mark.parametrize("line, words", [
    ("-r --window-size 64", "did you mean '--window'?"),
    ("-r --seeds 0-2", "did you mean '--seed' (several seeds: lab.py compare"),
    ("study --seed 3", "did you mean '--seeds'?"),
    ("-r --name small", "did you mean '--arm'?"),
    ("-r --no-audit", "did you mean '--allow-audit-fail'?"),
    ("-r lr=2", "did you mean '--trainer.learning_rate=2'?"),
    ("-r nonsense=2", "settings are written --section.key=value"),
    ("-r --model n_layer=2", "settings are written --model.KEY=VALUE"),
    ("-r --trainer.learning_rate --dry-run", "--trainer.learning_rate: give it a value"),
    ("-rz", "no flag -z"),
    ("rope", "no verb 'rope': did you mean the flag '-r'?"),
    ("compare rope swiglu", "did you mean '-r'?"),
    ("tokenize README.md", "did you mean '--data README.md'?"),
    ("sample rope.s0 --temp 0.5", "did you mean '--temperature'?"),
    ("sample rope.s0 --max-new-tokens 9", "did you mean '--tokens'?"),
    ("compare -r --margin x", "--margin: 'x' is no number"),
    ("-r --model.n_layer=0", "model.n_layer=0: give a whole number from 1"),
    ("-r --data nowhere.txt --dry-run", "--data nowhere.txt: no such file"),
    ("-r --device gpu --preset nano", "'gpu': no such device; this machine has"),
])
def test_a_guessed_word_finds_what_was_meant(line, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(BadInput) as error:
        lab.main(line.split())
    assert words in str(error.value)


def test_the_version_is_told(capsys):
    assert lab.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ablate ")


@pytest.mark.parametrize("verb", lab.verbs())
def test_every_verb_explains_itself(verb):
    done = run(verb, "--help")
    assert done.returncode == 0 and "usage" in done.stdout


@pytest.mark.parametrize("verb", lab.verbs())
def test_every_argument_of_every_verb_has_a_help_text(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"commands.{verb}").add_arguments(parser)
    assert not [action.dest for action in parser._actions if not action.help]


def test_the_help_lists_what_an_option_can_be_and_where_the_settings_are():
    shown = " ".join(run("train", "--help").stdout.split())
    presets = [path.stem for path in (ROOT / "experiments/presets").glob("*.toml")]
    for names in (ATTENTIONS, BACKENDS, GPT2_SIZES, LOGGERS, NAMED, SECTIONS, presets):
        assert all(f" {name}" in shown for name in names), names
    assert "`python lab.py settings [WORD]` lists them" in shown
    for verb in ("sample", "eval", "export", "settings", "status"):
        assert "settings, each given as" not in run(verb, "--help").stdout
        refused = run(verb, "x", *["y"] * (verb == "export"), "--model.n_layer=2")
        assert refused.stderr.endswith("takes no settings: leave out --model.n_layer=2\n")


def test_settings_lists_all_of_them_as_text_and_as_json():
    text, data = run("settings").stdout, json.loads(run("settings", "--json").stdout)
    keys = [key for key, _ in walk(default_settings())]
    assert [setting["key"] for setting in data] == keys
    assert [line.split()[0] for line in text.splitlines() if line[0] != " "] == keys
    found = run("settings", "wd")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("trainer.weight_decay  0.1  ")


def test_help_lists_the_verbs_and_needs_no_torch():
    code = "import sys, lab; lab.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and all(verb in done.stdout for verb in lab.verbs())


def test_a_first_word_that_is_no_verb_means_train(tmp_path):
    assert run("-r", "--preset", "nano", "--dry-run", "--device", "cpu",
               cwd=tmp_path).stdout.startswith("arm ")


def test_the_options_about_attention_are_settings():
    from commands import train
    from commands._arguments import attention_overrides
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)

    def settings(*words):
        return attention_overrides(parser.parse_args(words))
    assert settings("--window", "96", "--dilation", "4") == ["--model.schedule=96/4*"]
    assert settings("--window", "96", "--backend", "dense") == [
        "--model.schedule=96*", "--model.backend=dense"]
    assert settings("--schedule", "f 8*", "--attention", "mha") == [
        "--model.schedule=f 8*", "--model.attention=mha"]
    assert settings() == []


def test_both_forms_of_every_arm_flag_are_known():
    from commands import train
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    for arm in catalogue().values():
        for flag in arm.flags:
            assert parser.parse_args([flag]).flags == [arm.name]


def test_settings_are_read_with_and_without_the_equals_sign():
    assert lab.split_overrides(["-r", "--data.tokenizer", "byte", "--model.n_layer=2", "--data",
                                "a=b.txt"]) \
        == (["-r", "--data", "a=b.txt"], ["--data.tokenizer=byte", "--model.n_layer=2"])
