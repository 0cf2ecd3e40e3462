"""One tree of settings. Later layers override earlier ones, and names are checked."""

import pytest

from experiments.declare.presets import DEFAULT_PRESET, presets
from experiments.declare.settings import default_settings, walk
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study, shipped
from experiments.train.seeded import build_model, describe_model
from mingpt.utils import BadInput
from tests.helpers.sources import small


def test_later_layers_win():
    spec = make_spec(preset="nano", overrides=["--trainer.max_iters=7"])
    assert spec.settings.trainer.max_iters == 7          # the command line overrides the preset
    assert spec.settings.trainer.batch_size == 8         # the preset overrides the default
    assert spec.settings.trainer.grad_norm_clip == 1.0   # the default, where nothing overrides it


def test_an_arm_is_what_differs_from_its_baseline():
    spec = make_spec(preset="nano", flags=["rope", "swiglu"])
    assert spec.arm == "swiglu_rope"
    assert spec.changes == {"model.position": ["learned", "rope"], "model.mlp": ["gelu", "swiglu"]}


def test_what_all_arms_share_is_no_change_of_the_arm():
    spec = make_spec(preset="nano", flags=["rope"], overrides=["--model.n_layer=2"])
    assert list(spec.changes) == ["model.position"] and spec.baseline.model.n_layer == 2


def test_a_slot_chosen_by_override_names_the_arm():
    assert make_spec(preset="nano", overrides=["--model.mlp=geglu"]).arm == "geglu"
    assert make_spec(preset="nano", flags=["rope"],
                     overrides=["--model.mlp=geglu"]).arm == "rope_geglu"


def test_a_schedule_is_an_arm_and_a_backend_is_none():
    spec = make_spec(preset="nano", flags=["rope"], overrides=[
        "--model.schedule=96/4*", "--model.backend=dense"])
    assert spec.arm == "rope_window96_dilation4"
    assert spec.changes == {"model.position": ["learned", "rope"],
                            "model.schedule": ["full", "96/4*"]}
    assert spec.settings.model.backend == spec.baseline.model.backend == "dense"


def test_what_is_chosen_but_changes_nothing_names_nothing():
    assert make_spec(preset="nano", overrides=["--model.schedule=full",
                                               "--model.attention=mha"]).arm == "baseline"


def test_a_schedule_of_another_depth_leaves_a_note_and_so_does_one_that_hides_nothing():
    assert make_spec(preset="nano").note is None
    assert "written for 12 layers" in make_spec(preset="nano",
                                                overrides=["--model.schedule=half"]).note
    assert (
        "hides nothing at model.block_size=64"
        in make_spec(preset="nano", overrides=["--model.schedule=64*"]).note
    )
    assert make_spec(preset="nano", overrides=["--model.schedule=63*"]).note is None


def test_a_schedules_file_is_written_out_in_the_settings(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"schedules": {"a": {"type": "progressive", "start_window": 8, "end_window": '
                    '2, "n_layer": 3}}}')
    spec = make_spec(preset="nano", overrides=[f"--model.schedule={path}:a"])
    assert (spec.arm, spec.settings.model.schedule) == ("mine.a", "8 4 2")
    path.write_text(path.read_text().replace("8", "9"))
    assert make_spec(preset="nano",
                     overrides=[f"--model.schedule={path}:a"]).settings.model.schedule == "9 4 2"


def test_a_shipped_schedule_file_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = make_spec(preset="lms", overrides=["--model.schedule=study000.json:lms_main"])
    assert (spec.arm, spec.settings.model.schedule) == ("study000.lms_main",
                                                        "f 256*2 f 128*4 f 256*2 f")


def test_a_number_is_a_text_where_a_text_is_due():
    settings = make_spec(preset="nano", overrides=["--model.schedule=8",
                                                   "--model.n_layer=1"]).settings
    assert settings.model.schedule == "8"


def test_the_lms_preset_is_study_000_and_the_sliding_preset_study_003():
    lms, sliding = (make_spec(preset=name).settings for name in ("lms", "sliding"))
    assert (lms.model.block_size, lms.trainer.batch_size, lms.trainer.accumulation_steps) == (
        1024, 8, 2)
    assert (lms.trainer.learning_rate, lms.trainer.warmup_steps,
            lms.trainer.weight_decay) == (5e-5, 500, 0.01)
    assert (
        lms.trainer.max_iters == 2 * 50_000 // 16
        and lms.data.max_docs - lms.data.val_docs == 50_000
    )
    model, trainer = sliding.model, sliding.trainer
    assert (model.n_embd, model.n_head, model.n_layer, model.block_size) == (512, 16, 8, 256)
    assert (trainer.batch_size, trainer.learning_rate, trainer.warmup_steps, trainer.lr_schedule) \
        == (8, 3e-4, 500, "cosine")


@pytest.mark.parametrize("name", shipped())
def test_every_arm_of_every_shipped_study_is_a_model(name):
    study = load_study(name).at_one_size()
    for arm in study.arms:
        spec = make_spec(study=study, arm=arm, overrides=small(name))
        model = build_model(spec.settings, Corpus, seed=0)
        assert bool(spec.changes) == (study.arms[arm] != study.arms[study.baseline]), (
            f"{arm} changes nothing"
        )
        assert len(model.schedule) == model.config.n_layer
        assert (
            spec.settings.model.schedule == "full" or describe_model(model)["compute_sparsity"] > 0
        )


class Corpus:
    """The attributes of a corpus that a model needs."""
    vocab_size, eot = 257, 256


def test_published_padding_needs_padding():
    build_model(make_spec(preset="nano", overrides=["--data.published_padding=true",
                                                    "--data.pack=truncate"]).settings,
                Corpus, seed=0)
    with pytest.raises(BadInput, match="data.pack=stream pads nothing"):
        build_model(make_spec(preset="nano", overrides=["--data.published_padding=true"]).settings,
                    Corpus, seed=0)


def test_a_layer_count_over_a_named_size_keeps_the_rest_of_that_size():
    model = make_spec(preset="nano", overrides=["--model.n_layer=2"]).settings.model
    assert (model.model_type, model.n_layer, model.n_head, model.n_embd) == (None, 2, 3, 48)


def test_a_named_size_over_numbers_replaces_them():
    model = make_spec(preset="nano", overrides=["--model.n_layer=2",
                                                "--model.model_type=gpt-micro"]).settings.model
    assert (model.model_type, model.n_layer) == ("gpt-micro", None)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_for_every_flag(name):
    for flags in ([], ["all_modifications"]):
        assert make_spec(preset=name, flags=flags).settings.model.block_size


def test_the_paper_preset_is_study_002():
    spec = make_spec(preset="paper", flags=["all_modifications"])
    model, trainer, data = spec.settings.model, spec.settings.trainer, spec.settings.data
    assert (model.model_type, model.block_size, model.mlp_hidden,
            model.mlp_scaled_init) == ("gpt2", 512, "4d", False)
    assert (trainer.learning_rate, trainer.max_iters, trainer.warmup_steps, trainer.min_lr_ratio) \
        == (5e-6, 175_000, 1000, 1e-4)
    assert (data.pack, data.val_docs, data.max_docs) == ("truncate", 1000, 50_000)
    plain = make_spec(preset="paper").settings   # the settings of one arm do not change other arms
    assert (plain.model.mlp_hidden, plain.model.norm_eps, plain.trainer.warmup_steps) == (
        None, 1e-5, 0)


@pytest.mark.parametrize("override, words", [
    ("--model.postion=rope", "did you mean 'model.position'"),
    ("--modle.position=rope", "no section 'modle': did you mean 'model.position'"),
    ("--trainer.max_iters=many", "give a whole number"),
    ("--trainer.max_iters=0", "from 1"),
    ("--run.log_every=0", "from 1"),
    ("--model.attn_pdrop=1.5", "give a number from 0 to below 1"),
    ("--trainer.learning_rate=-1", "above 0"),
    ("--trainer.compile=7", "true or false"),
    ("--model.n_head=5", "does not divide"),
    ("--model.mlp", "--section.key=value"),
    ("--model.schedule=f 8 f 8", "of the model's 3 layers"),
    ("--model.schedule=lms_mian", "did you mean 'lms_main'"),
    ("--model.schedule=0*", "the least is 1"),
    ("--model.schedule=nowhere.json:half", "no schedule file nowhere.json"),
    ("--model.schedule=[8, 8]", "a text"),
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


@pytest.mark.parametrize("key, value", [
    ("model.bias", ["x"]), ("model.mlp", ["gelu"]), ("model.model_type", "x"),
    ("trainer.betas", None), ("trainer.device", [1]), ("data.sources", [1]),
    ("data.filter", True), ("data.tokenizer", []), ("run.logger", [["x"]])])
def test_a_record_whose_setting_is_of_another_kind_is_refused(key, value):
    from experiments.declare.settings import recorded
    config = make_spec(preset="nano").settings.to_dict()
    recorded(config, "as it was")
    section, _, name = key.partition(".")
    config[section][name] = value
    with pytest.raises(BadInput, match=f"there: .*{key}"):
        recorded(config, "there")
