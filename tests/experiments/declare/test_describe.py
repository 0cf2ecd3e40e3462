"""The list of settings is complete, and comes from where the settings are declared."""

import pytest

from experiments.declare.describe import describe, first_sentence, search, text_of
from experiments.declare.names import all_slots
from experiments.declare.ranges import SECTIONS
from experiments.declare.settings import default_settings, walk
from mingpt import mlps
from mingpt.config import options_of
from mingpt.utils import BadInput

SETTINGS = {setting.key: setting for setting in describe(["none", "tensorboard"])}


def keys(word):
    return [setting.key for setting in search(list(SETTINGS.values()), word)]


def test_every_setting_is_listed_with_its_default_its_meaning_and_what_it_may_be():
    assert {key: setting.default for key, setting in SETTINGS.items()} == dict(
        walk(default_settings()))
    assert {key.partition(".")[0] for key in SETTINGS} == set(SECTIONS)
    assert all(setting.meaning and setting.allowed for setting in SETTINGS.values())
    line, = (line for line in text_of(list(SETTINGS.values())).splitlines()
             if line.startswith("trainer.grad_norm_clip "))
    assert line.split(maxsplit=2)[1:] == [
        "1.0", "largest norm of the gradient; 0 and None: no clipping: a number from 0 to 1e+30 or "
        "None"]


def test_every_member_of_a_slot_is_listed_with_a_meaning_and_its_options():
    for slot, members in all_slots().items():
        choices = {choice.name: choice for choice in SETTINGS[slot].choices}
        assert list(choices) == list(members)
        for name, member in members.items():
            assert choices[name].meaning, f"{slot} {name} has no docstring"
            assert choices[name].options == options_of(member)
            for option in options_of(member):
                assert f"{slot}={name}" in SETTINGS[f"{slot.partition('.')[0]}.{option}"].belongs


def test_an_option_of_a_new_member_is_listed_without_a_row(monkeypatch):
    class Leaky(mlps.MLP):
        """A leaky MLP, (…, C) → (…, C). It leaks."""
        options = {**mlps.MLP.options, "leak": 0.1}
    monkeypatch.setitem(mlps.MLPS, "leaky", Leaky)
    found = {setting.key: setting for setting in describe()}
    assert (found["model.leak"].default, found["model.leak"].belongs) == (
        0.1, ("model.mlp=leaky",))
    text = text_of(search(list(found.values()), "leak"))
    assert "model.leak " in text and "leaky" in text
    assert "A leaky MLP, (…, C) → (…, C) [mlp_hidden=None, leak=0.1]" in text


def test_settings_that_are_chosen_by_name_list_their_names():
    for key in ("model.model_type", "model.schedule", "model.backend", "model.expert",
                "trainer.dtype", "data.pack", "data.bin_dtype", "run.init_heads", "run.logger"):
        assert len(SETTINGS[key].choices) > 1, key
    assert "one of auto, float32, bfloat16" in text_of([SETTINGS["trainer.dtype"]])


@pytest.mark.parametrize("word, found", [
    ("learning_rate", "trainer.learning_rate"),     # its name
    ("lr", "trainer.learning_rate"),                # another name for it
    ("validation tokens", "run.eval_every"),        # its meaning
    ("SwiGLU", "model.mlp"),                        # one of its members
    ("muon", "trainer.muon_momentum"),
])
def test_a_word_finds_names_meanings_members_and_synonyms(word, found):
    assert found in keys(word) and len(keys(word)) < len(SETTINGS) / 2


def test_a_word_about_nothing_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="'lerning_rate': did you mean 'trainer.learning_rate'"):
        keys("lerning_rate")
    with pytest.raises(BadInput, match="without a word, all are listed"):
        keys("zebra")


def test_a_sentence_ends_at_its_full_stop_not_at_a_dot_inside():
    def f():
        """Keeps 4.5 of x.y per pass (see kinds.py). Then more."""
    assert first_sentence(f) == "Keeps 4.5 of x.y per pass (see kinds.py)"
