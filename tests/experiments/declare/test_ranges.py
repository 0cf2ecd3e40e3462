"""Every numeric setting has a range. Any other value is refused at once, in one line."""

import math
import time

import pytest

from experiments.declare.ranges import OTHERS, RANGES
from experiments.declare.settings import default_settings, walk
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from mingpt import mlps, model, trainer
from mingpt.config import slot_defaults
from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import BadInput, CfgNode

SETTINGS = dict(walk(default_settings()))
NOT_NUMBERS = {key for key in OTHERS if SETTINGS[key] is None}
HOSTILE = ["None", "-1", "0", "nan", "inf", "-inf", "1e9", "1e308", str(10**30), "0.5", "abc",
           "[]", "{}", "true", "''", "[1, 2, 3]", "[None]", "(1,)", "1e-320"]


OPTIONS = {f"{section}.{option}" for section, slots in (("model", model.SLOTS),
                                                        ("trainer", trainer.SLOTS))
           for option in slot_defaults(slots)}


def test_every_numeric_setting_has_a_range():
    numeric = {key for key, default in SETTINGS.items()
               if isinstance(default, int | float) and not isinstance(default, bool)
               or default is None and key not in NOT_NUMBERS}
    assert set(RANGES) <= numeric and numeric - set(RANGES) <= OPTIONS, (
        "an option of a new member needs no row")


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "[]", "None", "true", "1e300"])
def test_an_option_of_a_new_member_takes_finite_numbers_without_a_row(monkeypatch, value):
    class Leaky(mlps.MLP):
        options = {**mlps.MLP.options, "leak": 0.1}
    monkeypatch.setitem(mlps.MLPS, "leaky", Leaky)
    chosen = make_spec(preset="nano", overrides=["--model.mlp=leaky", "--model.leak=0.2"])
    assert (chosen.arm, chosen.settings.model.leak) == ("leaky_leak0.2", 0.2)
    with pytest.raises(BadInput, match="model.leak=.*give a number"):
        make_spec(preset="nano", overrides=["--model.mlp=leaky", f"--model.leak={value}"])


def test_a_number_of_thousands_of_digits_is_refused_in_one_line():
    with pytest.raises(BadInput, match="trainer.batch_size=a number of thousands of digits"):
        make_spec(preset="nano", overrides=["--trainer.batch_size=0x" + "f" * 5000])


def test_a_thousand_layers_of_a_million_tokens_are_checked_at_once():
    begun = time.monotonic()
    make_spec(preset="nano", overrides=["--model.n_layer=1000", "--model.n_head=1",
                                        "--model.block_size=1048576",
                                        "--model.schedule=8/2*"])
    assert time.monotonic() - begun < 2


def test_the_defaults_lie_in_their_ranges():
    required = {"model.block_size", "trainer.max_iters"}     # these have no default
    outside = {key for key, allowed in RANGES.items() if not allowed.holds(SETTINGS[key])}
    assert outside == required


def test_every_setting_has_a_row_in_one_of_the_two_tables():
    assert not set(RANGES) & set(OTHERS)
    assert set(SETTINGS) - set(RANGES) - set(OTHERS) <= OPTIONS, (
        "an option of a new member needs no row")
    assert set(RANGES) | set(OTHERS) <= set(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_hostile_value_gives_a_spec_or_one_line(key):
    for value in HOSTILE:
        begun = time.monotonic()
        try:
            settings = make_spec(preset="nano", overrides=[f"--{key}={value}"]).settings
        except BadInput as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            section, _, leaf = key.partition(".")
            kept = getattr(getattr(settings, section), leaf)
            assert key not in RANGES or RANGES[key].holds(kept)
        assert time.monotonic() - begun < 2, (key, value)


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_range_holds_in_a_study_and_a_preset_too(tmp_path, value):
    study, preset = tmp_path / "s.toml", tmp_path / "p.toml"
    study.write_text(f"[arms.baseline]\n[arms.other]\ntrainer.learning_rate = {value}\n")
    preset.write_text(f"[model]\nmodel_type = 'gpt-nano'\nblock_size = 8\n[trainer]\nmax_iters = "
                      f"3\n"
                      f"learning_rate = {value}\n")
    for given in ({"study": load_study(study), "arm": "other", "preset": "nano"},
                  {"preset": str(preset)}):
        with pytest.raises(BadInput, match="trainer.learning_rate=.*give a number above 0"):
            make_spec(**given)


@pytest.mark.parametrize("clip", [-1, math.nan])
def test_the_trainer_itself_refuses_a_clip_that_would_ascend(clip):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": "gpt-nano", "vocab_size": 5, "block_size": 4})
    with pytest.raises(BadInput, match="grad_norm_clip"):
        Trainer(CfgNode(grad_norm_clip=clip, device="cpu"), GPT(config), None)
