"""The names of arms whose parts are chosen one by one."""

import pytest

from experiments.declare.arms import NAME
from experiments.declare.names import LONGEST, LONGEST_NAME, makes_an_arm, schedule_name
from experiments.declare.settings import default_settings, walk
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from mingpt import model, trainer
from mingpt.patterns.schedule import NAMED
from mingpt.utils import BadInput


@pytest.mark.parametrize("text, name", [
    ("lms_main", "lms_main"), ("96*", "window96"), ("96/4*", "window96_dilation4"),
    ("sssl", "sssl"),
    ("sssl:128", "sssl-128"), ("f 256*2 f", "f-256x2-f"), ("f 96/4* f", "f-96d4x-f"),
    ("256>1/2*", "256to1d2x"),
    ("progressive:512>16@6", "progressive-512to16at6"), ("(64|s8)&b16x2*", "64ors8.andb16x2x"),
    ("64+g64*", "64+g64x"),
    ("path/to/study000.json:half", "study000.half"), ("mine.json", "mine"),
    ("my own.json:a/b c", "my-own.adb-c"),
])
def test_a_schedule_names_a_file(text, name):
    assert schedule_name(text) == name
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_schedule_keeps_its_name(name):
    assert schedule_name(name) == name


def test_long_schedules_have_names_of_bearable_length_and_their_own():
    texts = [" ".join([f"{w}/3"] * 12 + ["f", last]) for w in (128, 256) for last in ("8", "9")]
    names = {schedule_name(text) for text in texts}
    assert len(names) == 4
    assert max(map(len, names)) <= LONGEST


SIZE = ["--model.n_layer=4", "--model.n_head=4", "--model.n_embd=64", "--model.block_size=64"]


def spec(*words, flags=(), preset="nano", arm=None, size=SIZE):
    return make_spec(preset=preset, flags=flags, arm=arm,
                     overrides=[*size, *(f"--{word}" for word in words)])


@pytest.mark.parametrize("flags, words, name", [
    ([], [], "baseline"), ([], ["trainer.learning_rate=0.5", "data.tokenizer=gpt2",
                                "run.log_every=3"], "baseline"),
    ([], ["model.resid_pdrop=0.1", "trainer.batch_size=2", "trainer.dtype=bfloat16"], "baseline"),
    (["rope"], [], "rope"), ([], ["model.position=rope"], "rope"),
    ([], ["trainer.warmup_steps=0.1"], "warmup"),
    (["warmup"], ["trainer.lr_schedule=cosine"], "cosine"),
    ([], ["trainer.lr_schedule=cosine"], "lr_schedule-cosine"),
    (["cosine"], ["trainer.warmup_steps=0.2"], "cosine_warmup_steps0.2"),
    ([], ["trainer.lr_schedule=wsd"], "wsd"), ([], ["model.qk_norm=true"], "qk_norm"),
    ([], ["model.tie_weights=true"], "tie_weights"), ([], ["model.n_future=4"], "n_future4"),
    (["rope"], ["model.rope_fraction=0.25"], "rope_rope_fraction0.25"),
    ([], ["model.attention=gqa", "model.n_kv_head=2"], "gqa_n_kv_head2"),
    ([], ["model.attention=gqa"], "gqa"),
    ([], ["model.bias=false", "model.norm_eps=1e-6"], "no_bias_norm_eps1e-06"),
    ([], ["model.attention=gqa", "model.n_kv_head=2", "model.mlp=geglu"], "gqa_n_kv_head2_geglu"),
    ([], ["model.schedule=f*"], "baseline"), ([], ["model.schedule=f f f f"], "baseline"),
    ([], ["model.position=none"], "position-none"), ([], ["model.mlp=gelu",
                                                          "model.norm=layernorm"], "baseline"),
    (["rope"], ["model.mlp=geglu", "model.schedule=96/4*"], "rope_geglu_window96_dilation4"),
    ([], ["model.mlp=moe", "model.expert=gelu", "model.n_experts=8"], "moe_n_experts8_expert-gelu"),
    (["swiglu", "rope", "rmsnorm", "warmup"], ["trainer.lr_schedule=cosine"], "all_modifications"),
])
def test_a_name_is_made_from_the_settings(flags, words, name):
    made = spec(*words, flags=flags)
    assert made.arm == name and NAME.fullmatch(name)
    assert bool(made.changes) == (name != "baseline"), ("what is named is what the arm declares, "
                                                        "and nothing else")
    assert all(makes_an_arm(key) for key in made.changes)


def test_under_a_preset_whose_flag_means_more_the_member_alone_is_another_arm():
    ours, theirs = (spec(*words, flags=flags, preset="paper", size=[]) for flags, words in (
        ([], ["model.mlp=swiglu"]), (["swiglu"], [])))
    assert (ours.arm, theirs.arm) == ("mlp-swiglu", "swiglu") and ours.settings != theirs.settings


VALUES = {"model.head_dim": [16, 32], "model.attn_scale": [1.0, 0.5], "model.n_kv_head": [1, 4],
          "model.mlp_hidden": [100, "4d", "8/3d"], "model.rope_local_base": [100.0],
          "model.embd_scale": [2.0, "sqrt"],
          "model.nope_layers": ["3", "1,2", "every 4"], "model.capacity_factor": [1.25],
          "model.logit_softcap": [30.0],
          "model.qkv_bias": [True, False], "model.attn_out_bias": [False],
          "model.parallel_norms": [2],
          "model.kv_lora_rank": [16], "model.q_lora_rank": [8], "model.qk_nope_head_dim": [8],
          "model.v_head_dim": [8],
          "model.qk_rope_head_dim": [8], "model.expert": ["gelu", "relu2"],
          "model.document_end": [5],
          "model.published_padding": [5], "model.rope_fraction": [0.25, 0.5],
          "model.schedule": ["f 8*", "f 8 8 f", "8*", "8/2*", "sssl:8", "half"],
          "trainer.warmup_steps": [5, 0.1, 0.2]}


def choices():
    """Yield (setting, value) for all members and options, with values that are not the default."""
    slots = {f"{section}.{slot}": members for section, slots in (
        ("model", model.SLOTS), ("trainer", trainer.SLOTS))
             for slot, members in slots.items()}
    for key, default in walk(default_settings()):
        if not makes_an_arm(key):
            continue
        if key in slots:
            values = list(slots[key])[1:]
        elif key in VALUES:
            values = VALUES[key]
        elif isinstance(default, bool):
            values = [not default]
        elif not isinstance(default, int | float):
            continue  # an option of a new member; no other value is known for it
        else:
            larger = 2 * default + 1 if isinstance(default, int) else 2 * default
            values = [default / 2 + 0.25 if isinstance(default, float) and default < 1 else larger]
        yield from ((key, value) for value in values)


def test_two_different_arms_never_share_a_default_name():
    """Settings are tried one by one, with the members of each slot, and in pairs. Equal names mean
    equal settings."""
    singles = [f"{key}={value}" for key, value in choices()]
    members = [word for word in singles if word.partition("=")[0].partition(".")[2]
               in {*model.SLOTS, *trainer.SLOTS}]
    named: dict[str, dict] = {}
    made = 0
    for words in [(), *((word,) for word in singles), *((m, word) for m in members
                                                        for word in singles if m != word)]:
        try:
            one = spec(*words)
        except BadInput:
            continue
        made += 1
        tree = one.settings.to_dict()
        assert named.setdefault(one.arm.lower(),
                                tree) == tree, f"{words} are called {one.arm}, as is another arm"
        assert (one.arm == "baseline") == (not one.changes), words
        assert NAME.fullmatch(one.arm) and len(one.arm) <= LONGEST_NAME
    assert made > 500 and len(named) > 300


def test_schedules_whose_letters_could_be_another_ones_are_told_apart():
    names = {spec(f"model.schedule={text}").arm for text in (
        "(8|s4)&16*", "(8|s4&16)*", "8|s4&16*")}
    assert len(names) == 3


@pytest.mark.parametrize("stem, name", [
    ("mine", "mine"), ("rope", "schedule-rope"), ("baseline", "schedule-baseline"),
    ("geglu", "schedule-geglu"),
    ("tie_weights", "schedule-tie_weights"), ("rope_mine", "schedule-rope_mine"),
    ("window8", "schedule-window8"),
    ("half", "schedule-half"), ("f-8x", "schedule-f-8x"), ("Mine", "mine-f57afb7d")])
def test_a_schedules_file_cannot_take_the_name_of_another_arm(tmp_path, stem, name):
    path = tmp_path / f"{stem}.json"
    path.write_text('{"schedules": {"a": {"type": "progressive", "start_window": 8, "end_window": '
                    '2, "n_layer": 4}},'
                    ' "default_schedule": "a"}')
    assert spec(f"model.schedule={path}").arm == name
    with pytest.raises(BadInput, match="its own name is"):
        spec(f"model.schedule={path}", arm="rope")


@pytest.mark.parametrize("flags, name, changes", [([], "baseline", set()),
                                                  (["rope"], "baseline", set()),
                                                  (["rope", "rmsnorm"], "rmsnorm", {"model.norm"})])
def test_a_flag_whose_change_the_preset_has_already_names_nothing(tmp_path, flags, name, changes):
    preset = tmp_path / "p.toml"
    preset.write_text("[model]\nmodel_type = 'gpt-nano'\nblock_size = 32\nposition = 'rope'\n"
                      "[trainer]\nmax_iters = 9\n[data]\ntokenizer = 'byte'\n")
    made = make_spec(preset=str(preset), flags=flags)
    assert (made.arm, set(made.changes)) == (name, changes)
    assert ("-r changes nothing" in (made.note or "")) == ("rope" in flags)


def test_what_differs_in_case_alone_is_one_name(tmp_path):
    with pytest.raises(BadInput, match="its own name is 'baseline'"):
        spec(arm="Rope")
    study = tmp_path / "s.toml"
    study.write_text("[arms.baseline]\n[arms.rope]\n[arms.Rope]\nmodel.position = 'alibi'\n")
    with pytest.raises(BadInput, match="differ only in case"):
        make_spec(preset="nano", study=load_study(study), arm="rope")


@pytest.mark.parametrize("words, flags, arm, told", [
    (["model.position=alibi"], ["rope"], None, "takes back -r"),
    (["model.position=learned"], ["rope"], None, "takes back -r"),
    (["trainer.warmup_steps=0"], ["warmup"], None, "takes back -w"),
    ([], [], "rope", "its own name is 'baseline'"),
    (["model.qk_norm=true"], [], "baseline", "its own name is 'qk_norm'"),
    ([], ["rope"], "../x", "cannot name files"),
    (["model.n_experts=8"], [], None, "belongs to model.mlp=moe"),
    (["model.rope_fraction=0.5"], [], None, "belongs to model.position=rope"),
    (["trainer.min_lr_ratio=0.5"], [], None,
     "belongs to trainer.lr_schedule=cosine or linear or wsd"),
    (["model.mlp=moe", "model.expert=gelu", "model.mlp_scaled_init=false"], [], None,
     "belongs to model.mlp=swiglu"),
    (["model.future_weight=0.5"], [], None, "belongs to model.n_future"),
    (["model.rope_local_base=100"], ["rope"], None, "belongs to a model.schedule with windows"),
    (["model.attention=mla", "model.qk_rope_head_dim=8"], [], None,
     "belongs to model.position=rope"),
    (["model.mlp=moe", "model.expert=gule"], [], None, "no expert 'gule'"),
    (["model.document_end=257"], [], None, "has 257 tokens: give one from 0 to 256"),
    (["data.length=65"], [], None, "longer than model.block_size=64"),
    (["data.val_docs=9", "data.val_fraction=0.5"], [], None,
     "belongs to a corpus without data.val_docs"),
    (["model.attention=gqa", "model.n_head=1"], [], None, "is mha"),
    (["model.attention=gqa", "model.n_kv_head=4"], [], None, "is mha"),
    (["model.vocab_size=320"], [], None, "has 257 tokens"),
    (["trainer.warmup_steps=5000"], [], None, "the full rate is never reached"),
])
def test_a_name_that_would_lie_and_a_setting_that_would_do_nothing_are_refused(
        words, flags, arm, told):
    with pytest.raises(BadInput, match=told):
        spec(*words, flags=flags, arm=arm)


def test_a_studys_arm_may_not_set_what_does_nothing(tmp_path):
    study = tmp_path / "s.toml"
    study.write_text("[arms.baseline]\n[arms.more]\nmodel.n_experts = 8\n")
    with pytest.raises(BadInput, match="belongs to model.mlp=moe"):
        make_spec(preset="nano", study=load_study(study), arm="more")


def test_what_all_arms_of_a_study_are_given_is_refused_where_it_would_do_nothing(tmp_path):
    study = tmp_path / "s.toml"
    study.write_text("[base]\ndata.val_docs = 9\n[arms.baseline]\n[arms.rope]\n")
    with pytest.raises(BadInput, match="belongs to a corpus without data.val_docs"):
        make_spec(preset="nano", study=load_study(study), arm="rope",
                  overrides=["--data.val_fraction=0.5"])


def test_a_preset_may_hold_what_only_some_arms_read():
    assert spec(preset="paper", size=[]).settings.trainer.min_lr_ratio == 1e-4
    # the preset's own value, given explicitly
    assert spec("trainer.min_lr_ratio=1e-4", preset="paper", size=[]).arm == "baseline"
    with pytest.raises(BadInput, match="belongs to trainer.lr_schedule"):
        # the default of the code differs from the preset's value
        spec("trainer.min_lr_ratio=0.1", preset="paper", size=[])


@pytest.mark.parametrize("table",
                         ["[base]\ntrainer.warmup_steps = 500\n[arms.baseline]\n[arms.x]\n",
                                   "[arms.baseline]\n[arms.x]\ntrainer.warmup_steps = 500\n"])
def test_a_warm_up_of_a_study_that_outlasts_its_run_is_refused(tmp_path, table):
    study = tmp_path / "s.toml"
    study.write_text(table.replace("[arms.x]\n", "[arms.x]\nmodel.norm = 'rmsnorm'\n"))
    with pytest.raises(BadInput, match="takes 500 iterations and the run has 60"):
        make_spec(preset="nano", study=load_study(study), arm="x")


def test_a_warm_up_of_the_preset_that_outlasts_a_short_run_is_said():
    short = make_spec(preset="lms", overrides=["--trainer.max_iters=20"])
    assert "the warm-up takes 500 iterations and the run has 20" in short.note
