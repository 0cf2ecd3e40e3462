"""One tree of settings, whose later layers win and whose names are checked."""

import pytest

from experiments.settings import DEFAULT_PRESET, default_settings, make_spec, presets, walk
from mingpt.utils import BadInput


def test_later_layers_win():
    spec = make_spec(preset="nano", overrides=["--trainer.max_iters=7"])
    assert spec.settings.trainer.max_iters == 7          # the command line over the preset
    assert spec.settings.trainer.batch_size == 8         # the preset over the default
    assert spec.settings.trainer.grad_norm_clip == 1.0   # the default where nobody speaks


def test_an_arm_is_what_differs_from_its_baseline():
    spec = make_spec(preset="nano", flags=["rope", "swiglu"])
    assert spec.arm == "swiglu_rope"
    assert spec.changes == {"model.position": ["learned", "rope"], "model.mlp": ["gelu", "swiglu"]}


def test_what_all_arms_share_is_no_change_of_the_arm():
    spec = make_spec(preset="nano", flags=["rope"], overrides=["--model.n_layer=2"])
    assert list(spec.changes) == ["model.position"] and spec.baseline.model.n_layer == 2


def test_a_slot_chosen_by_override_names_the_arm():
    assert make_spec(preset="nano", overrides=["--model.mlp=geglu"]).arm == "geglu"
    assert make_spec(preset="nano", flags=["rope"], overrides=["--model.mlp=geglu"]).arm == "rope_geglu"


def test_a_layer_count_over_a_named_size_keeps_the_rest_of_that_size():
    model = make_spec(preset="nano", overrides=["--model.n_layer=2"]).settings.model
    assert (model.model_type, model.n_layer, model.n_head, model.n_embd) == (None, 2, 3, 48)


def test_a_named_size_over_numbers_replaces_them():
    model = make_spec(preset="nano", overrides=["--model.n_layer=2", "--model.model_type=gpt-micro"]).settings.model
    assert (model.model_type, model.n_layer) in {("gpt-micro", None), (None, 2)}


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_for_every_flag(name):
    for flags in ([], ["all_modifications"]):
        assert make_spec(preset=name, flags=flags).settings.model.block_size


def test_the_paper_preset_is_study_002():
    spec = make_spec(preset="paper", flags=["all_modifications"])
    model, trainer, data = spec.settings.model, spec.settings.trainer, spec.settings.data
    assert (model.model_type, model.block_size, model.mlp_hidden, model.mlp_scaled_init) == ("gpt2", 512, "4d", False)
    assert (trainer.learning_rate, trainer.max_iters, trainer.warmup_steps, trainer.min_lr_ratio) \
        == (5e-6, 175_000, 1000, 1e-4)
    assert (data.pack, data.val_docs, data.max_docs) == ("truncate", 1000, 50_000)
    plain = make_spec(preset="paper").settings   # the numbers of an arm stay out of the others
    assert (plain.model.mlp_hidden, plain.model.norm_eps, plain.trainer.warmup_steps) == (None, 1e-5, 0)


@pytest.mark.parametrize("override, words", [
    ("--model.postion=rope", "did you mean 'model.position'"),
    ("--modle.position=rope", "did you mean 'model'"),
    ("--trainer.max_iters=many", "takes a number"),
    ("--trainer.max_iters=0", "from 1"),
    ("--run.log_every=0", "from 1"),
    ("--model.attn_pdrop=1.5", "share"),
    ("--trainer.learning_rate=-1", "above 0"),
    ("--trainer.compile=7", "true or false"),
    ("--model.n_head=5", "does not divide"),
    ("--model.mlp", "--section.key=value"),
])
def test_a_wrong_setting_says_what_where_and_the_nearest_right_one(override, words):
    with pytest.raises(BadInput, match=words):
        make_spec(preset="nano", overrides=[override])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'laptop'"):
        make_spec(preset="latpop")


def test_the_default_preset_exists():
    assert DEFAULT_PRESET in presets()


def test_every_setting_is_a_plain_value():
    for key, value in walk(default_settings()):
        assert value is None or isinstance(value, bool | int | float | str | list), key
