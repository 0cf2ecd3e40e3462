"""An unknown setting is answered with the one that was meant, or with where all are listed."""

import argparse

import pytest

import lab
from commands import compare, sample, study, train
from commands._arguments import Parser
from experiments.declare.hints import FLAGS, NOTES, POINTER, SYNONYMS, flag_hint, hint, meant
from experiments.declare.settings import default_settings, walk
from experiments.declare.spec import make_spec
from mingpt.utils import BadInput

SETTINGS = [key for key, _ in walk(default_settings())]
MEANT = {
    "trainer.lr": "trainer.learning_rate",
    "trainer.log_every": "run.log_every",          # the same name in another section
    "run.log_interval": "run.log_every",
    "model.window": "model.schedule",
    "model.postion": "model.position",             # the nearest spelling
    "trainer.learning-rate": "trainer.learning_rate",
    "optim.weight_decay": "trainer.weight_decay",  # an unknown section
    "modle.position": "model.position",
    "data.batch": "trainer.batch_size",
    "model.heads": "model.n_head",
    "model.eps": "model.norm_eps",                 # of two synonyms the one in the same section
    "trainer.eps": "trainer.adam_eps",
}


@pytest.mark.parametrize("key", MEANT)
def test_the_setting_that_was_meant_is_named(key):
    assert meant(key) == [MEANT[key]]
    with pytest.raises(BadInput, match=f"did you mean '{MEANT[key]}'"):
        make_spec(preset="nano", overrides=[f"--{key}=1"])


def test_a_word_for_several_settings_names_them_all():
    assert meant("model.dropout") == ["model.embd_pdrop", "model.resid_pdrop", "model.attn_pdrop"]
    assert "'model.n_embd' or 'model.mlp_hidden'" in hint("model.hidden")


@pytest.mark.parametrize("key", ["model.zzz", "trainer.x", "nothing.like_it", "run.tea"])
def test_where_nothing_is_near_nothing_is_proposed(key):
    assert hint(key) == f"; {POINTER}"


def test_a_window_is_answered_with_its_flag():
    assert "--window W" in hint("model.window")


def test_a_study_and_a_preset_are_answered_alike(tmp_path):
    path = tmp_path / "mine.toml"
    for line, name in (("model.window = 32", "model.schedule"),
                       ("optim.lr = 1e-3", "trainer.learning_rate"),
                       ("learning_rate = 1e-3", "trainer.learning_rate")):
        path.write_text(f"[arms.baseline]\n[arms.x]\n{line}\n")
        with pytest.raises(BadInput, match=f"did you mean '{name}'"):
            lab.main(["--study", str(path), "--arm", "x", "--preset", "nano", "--dry-run"])
    path.write_text("[model]\nlayers = 2\n")
    with pytest.raises(BadInput, match=r"did you mean 'model.n_layer'"):
        make_spec(preset=str(path))
    path.write_text("[optimizer]\nlr = 2\n")
    with pytest.raises(BadInput, match=r"mine.toml.*did you mean 'trainer.learning_rate'"):
        make_spec(preset=str(path))


@pytest.mark.parametrize("word, name", [
    ("--lr", "--trainer.learning_rate"), ("--layers", "--model.n_layer"),
    ("--log_every", "--run.log_every"), ("--wd", "--trainer.weight_decay"),
    ("--epochs", "--max-iters"), ("--rop", "--rope"), ("--dryrun", "--dry-run"),
    ("--gpu", "--device"), ("--n-layer", "--model.n_layer"), ("--lerning_rate",
                                                              "--trainer.learning_rate")])
def test_a_bare_word_is_answered_with_the_option_or_the_setting(word, name):
    parser = Parser()
    train.add_arguments(parser)
    assert flag_hint(word, parser.known()) == f": did you mean {name!r}?"


def test_every_synonym_leads_to_a_setting_or_an_option_that_exists():
    verbs = (train, study, compare, sample)
    parsers = [argparse.ArgumentParser() for _ in verbs]
    for verb, parser in zip(verbs, parsers, strict=True):
        verb.add_arguments(parser)
    options = {option for parser in parsers for option in parser._option_string_actions}
    assert {name for name in SYNONYMS if name.startswith("--")} <= options
    assert {name for name in SYNONYMS if not name.startswith("--")} <= set(SETTINGS)
    assert set(FLAGS) <= set(SETTINGS) and set(FLAGS.values()) <= options
    assert {name for name in NOTES if "." in name} <= set(SETTINGS)


@pytest.mark.parametrize("word", [
    "lr", "wd", "bs", "batch", "layers", "heads", "ctx", "context", "seq_len", "window", "dropout",
    "steps", "epochs", "iters", "d_model", "hidden", "width", "vocab", "warmup", "betas", "clip",
    "log_interval", "eval_interval"])
def test_the_common_words_are_known(word):
    assert meant(word)
