"""Arms, their names, and the declaration of a study."""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.declare.arms import catalogue, combine, make_arm
from experiments.declare.study import load_study, parse_seeds, shipped
from mingpt.utils import BadInput
from tests.helpers.sources import small

FIVE = ["swiglu", "rope", "rmsnorm", "warmup", "cosine"]


@pytest.fixture
def study(tmp_path):
    """load_study on a text."""
    def load(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text)
        return load_study(path)
    return load


def message(call, *args):
    with pytest.raises(BadInput) as error:
        call(*args)
    text = str(error.value)
    assert "\n" not in text
    return text


# -- names -----------------------------------------------------------------------------------------

def test_flags_combine_in_the_order_of_the_catalogue_whatever_order_they_came_in():
    for order in itertools.permutations(["rope", "warmup", "swiglu"]):
        assert combine(order)[0] == "swiglu_rope_warmup"


def test_cosine_brings_warmup_along_and_is_named_once():
    name, settings = combine(["warmup", "cosine"])
    assert name == "cosine"
    assert settings == combine(["cosine"])[1] == {"trainer.warmup_steps": 0.1,
                                                  "trainer.lr_schedule": "cosine"}
    assert combine(["rope", "cosine"])[0] == "rope_cosine"


def test_all_five_together_are_all_modifications_and_so_are_the_four_that_imply_them():
    assert combine(FIVE) == combine(["all_modifications"])
    assert combine([name for name in FIVE if name != "warmup"])[0] == "all_modifications"
    assert combine(["all_modifications", "rope"])[0] == "all_modifications"


def test_every_combination_has_its_own_name_and_its_own_settings():
    cells = [set(c) for k in range(6) for c in itertools.combinations(FIVE, k)]
    named = {combine(cell)[0]: combine(cell)[1] for cell in cells}
    # 2^5, minus the 8 that name cosine without the warm-up that it includes
    assert len(named) == 24
    assert len({str(sorted(settings.items())) for settings in named.values()}) == 24


def test_nothing_at_all_is_the_baseline():
    assert combine([]) == combine(["baseline"]) == ("baseline", {})


@pytest.mark.parametrize("other", [["rope"], ["all_modifications"], ["rope", "warmup"]])
def test_the_baseline_cannot_stand_with_another_flag(other):
    assert "-b changes nothing, so it cannot be combined with -" in message(
        combine, ["baseline", *other])


def test_two_arms_that_set_one_thing_to_different_values_are_refused():
    arms = dict(catalogue())
    arms["alibi"] = make_arm("alibi", {"model": {"position": "alibi"}}, arms, "here")
    assert "'rope' and 'alibi' both set model.position" in message(combine, ["alibi", "rope"], arms)


def test_the_long_flags_of_study_002_are_there():
    flags = {flag for arm in catalogue().values() for flag in arm.flags}
    assert {"-b", "-r", "-s", "-n", "-w", "-c", "-a", "--use_rope", "--use_swiglu",
            "--use_rmsnorm", "--use_warmup",
            "--use_cosine_scheduler", "--baseline", "--all"} <= flags


# -- declarations ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", shipped())
def test_every_shipped_study_declares_a_question_and_has_its_baseline(name):
    study = load_study(name)
    assert study.name == name and study.question and study.hypothesis
    assert study.baseline in study.arms and len(study.seeds) >= 2


@pytest.mark.parametrize("name", shipped())
def test_every_arm_of_every_shipped_study_makes_a_model_that_differs_from_the_baseline(name):
    from experiments.declare.settings import walk
    from experiments.declare.spec import make_spec
    from experiments.train.seeded import build_model
    study = load_study(name).at_one_size()
    for arm in study.arms:
        spec = make_spec(preset="nano", study=study, arm=arm, overrides=small(name))
        theirs = dict(walk(spec.baseline))
        assert set(spec.changes) >= {key for key, value in study.arms[arm].items()
                                     if theirs[key] != value}
        assert bool(spec.changes) == (study.arms[arm] != study.arms[study.baseline])
        build_model(spec.settings, argparse.Namespace(vocab_size=257, eot=256), seed=0)


OF_PARTS = ("aa", "seven_matched", "leave_one_out", "factorial_full", "lr_grid", "norm_detail",
            "data_detail", "embd_scale", "logits")


def test_every_model_of_the_studies_of_parts_passes_its_audit():
    """factorial_full contains all models of seven and factorial_arch. test_audit audits the
    schedules."""
    from experiments.audit import audit, first_failure
    from experiments.declare.spec import make_spec
    from experiments.train.predict import RandomTokens
    from experiments.train.seeded import build_model
    seen = set()
    for name in OF_PARTS:
        study = load_study(name)
        for arm in study.arms:
            spec = make_spec(preset="nano", study=study, arm=arm)
            shape = str([spec.settings.model.to_dict(), spec.settings.data.document_mask])
            if shape in seen:
                continue
            seen.add(shape)
            tokens = RandomTokens(spec.settings)
            model = build_model(spec.settings, tokens, seed=0)
            assert first_failure(audit(model, spec.settings.trainer,
                                       tokens)) is None, f"{name}: {arm}"
    assert len(seen) >= 15


def test_the_readmes_example_is_a_study(study):
    text = (Path(load_study("seven").path).parent.parent / "README.md").read_text()
    example = study(text.split("```toml\n")[1].split("```")[0])
    assert list(example.arms) == ["baseline", "rope", "rmsnorm", "both"]


def test_leave_one_out_takes_exactly_one_thing_back_in_each_arm():
    study = load_study("leave_one_out")
    whole = study.arms[study.baseline]
    for arm in set(study.arms) - {study.baseline}:
        changed = {k for k in whole if study.arms[arm].get(k) not in (whole[k],)}
        assert len(changed) == 1, arm


def test_an_arm_holds_only_what_it_changes_and_include_merges_earlier_ones(study):
    arms = study('[arms.rope]\n[arms.wide]\nmodel.n_embd = 64\n[arms.both]\ninclude = ["rope", '
                 '"wide"]\n'
                 'model.n_embd = 32\n').arms
    assert list(arms) == ["baseline", "rope", "wide", "both"]
    # the arm's own setting overrides those of the arms that it includes
    assert arms["both"] == {"model.position": "rope", "model.n_embd": 32}


def test_an_arm_can_include_one_of_the_catalogue_that_the_study_does_not_list(study):
    assert list(study('[arms.x]\ninclude = ["warmup"]\ntrainer.learning_rate = 1e-3').arms) == [
        "baseline",
        "x",
    ]


def test_the_baseline_under_another_name_is_an_arm(study):
    assert study('[arms.baseline]\n[arms.again]\ninclude = ["baseline"]').arms == {
        "baseline": {}, "again": {}}


def test_a_factorial_of_k_arms_is_two_to_the_k(study):
    arms = study('factorial = ["rope", "swiglu", "rmsnorm"]\n').arms
    assert len(arms) == 8 and "swiglu_rope_rmsnorm" in arms and arms["baseline"] == {}
    assert study('[arms.grid]\nfactorial = ["rope", "swiglu", "rmsnorm"]').arms == arms


def test_a_factor_may_have_several_levels(study):
    arms = study('factorial = ["rope", ["warmup", "cosine"]]').arms
    assert list(arms) == ["baseline", "warmup", "cosine", "rope", "rope_warmup", "rope_cosine"]


def test_a_factorial_mixes_the_studys_own_arms_with_the_catalogues(study):
    arms = study('factorial = ["rope", "wide"]\n[arms.wide]\nmodel.n_embd = 64').arms
    assert arms["rope_wide"] == {"model.position": "rope", "model.n_embd": 64}


def test_the_hash_tells_a_changed_hypothesis(study):
    first = study('hypothesis = "a"\n[arms.rope]')
    assert first.hash != study('hypothesis = "b"\n[arms.rope]').hash
    assert first.hash == study('hypothesis = "a"\n[arms.rope]').hash


def test_a_study_in_a_path_with_spaces_written_on_windows_loads(tmp_path):
    path = tmp_path / "my studies" / "first try.toml"
    path.parent.mkdir()
    path.write_bytes(b'\xef\xbb\xbfseeds = "0-4"\r\n[arms.rope]\r\n')
    study = load_study(str(path))
    assert study.name == "first try" and study.seeds == [0, 1, 2, 3, 4]


def test_a_grid_adds_an_arm_for_every_rate_that_the_arm_does_not_have_anyway(study):
    found = study('lr = [1e-3, 4e-3]\n[base]\ntrainer.learning_rate = 1e-3\n[arms.rope]\nlr = '
                  '[8e-3]\n')
    assert found.grids == {"baseline": {"baseline_lr0.004": 4e-3}, "rope": {"rope_lr0.008": 8e-3}}
    assert list(found.arms) == ["baseline", "rope", "baseline_lr0.004", "rope_lr0.008"]
    assert found.arms["rope_lr0.008"] == {"model.position": "rope", "trainer.learning_rate": 8e-3}
    assert found.grid_arms == {"baseline_lr0.004", "rope_lr0.008"}


def test_a_factorial_knows_its_cells_and_what_each_arm_is_made_of(study):
    found = study('factorial = ["rope", ["warmup", "cosine"]]')
    (design,) = found.designs
    assert design.factors == ((None, "rope"), (None, "warmup", "cosine"))
    assert design.cells["rope_cosine"] == ("rope", "cosine") and design.arm((
        None, None)) == "baseline"
    assert found.parts == {"rope_warmup": ("rope", "warmup"), "rope_cosine": ("rope", "cosine")}


def test_several_looks_share_the_error(study):
    found = study('seeds = "0-9"\nstop = [3, 5, 10]\nalpha = 0.06\n[arms.rope]')
    assert found.stop == (3, 5, 10) and found.level == pytest.approx(0.02)
    assert study('stop = "all"\n[arms.rope]').level == 0.05


def test_what_was_declared_can_be_told_from_a_record(study):
    declared = study(
        'hypothesis = "It does."\nseeds = "0-4"\nmatch = "params"\n[arms.rope]'
    ).declaration("rope")
    assert declared == {"question": "", "hypothesis": "It does.", "baseline": "baseline",
                        "seeds": [0, 1, 2, 3, 4],
                        "metric": "val_loss", "margin": 0.01, "alpha": 0.05, "stop": [],
                        "match": "params",
                        "selection_seeds": None, "expect": {},
                        "arm": {"model.position": "rope"},
                        "file": {"hypothesis": "It does.", "seeds": "0-4", "match": "params",
                                 "arms": {"rope": {}}}}


BAD = {
    "a key of an arm that is spelled wrongly": (
        '[arms.mine]\nincldue = ["rope"]', "[arms.mine]: unknown key 'incldue': did you mean "
                                           "'include'?"),
    "a value that is Python's and not TOML's": (
        "[arms.rope]\n[base]\nmodel.bias = True", "true and false are lower case"),
    "an expected verdict of an arm that is not there": (
        'expect = {rop = "better"}\n[arms.rope]', "expect: no arm 'rop' to judge: did you mean "
                                                  "'rope'"),
    "an expected verdict of the baseline": ('expect = {baseline = "worse"}\n[arms.rope]',
                                            "expect: no arm 'baseline' to judge"),
    "an expected word that no verdict has": ('expect = {rope = "beter"}\n[arms.rope]',
                                             "did you mean 'better'"),
    "expected verdicts that are no table": ('expect = "better"\n[arms.rope]',
                                            "expect is a table such as"),
    "a match of nothing known": ('match = "param"\n[arms.rope]', "did you mean 'params'"),
    "an arm's match of nothing known": ('[arms.rope]\nmatch = "size"',
                                        "[arms.rope]: match: no 'size'"),
    "a grid of one number": ("lr = 1e-3\n[arms.rope]", "lr is a list of learning rates"),
    "a grid with a rate twice": ("[arms.rope]\nlr = [1e-3, 1e-3]", "names a rate twice"),
    "a grid with no rate": ("[arms.rope]\nlr = [0]", "lr is a list of learning rates"),
    "a grid with two rates of one name": ("lr = [0.001, 0.0010000001]\n[arms.rope]",
                                          "names a rate twice"),
    "a grid whose name is taken": ('lr = [1e-3]\n[arms.rope]\n[arms."rope_lr0.001"]\nmodel.n_embd '
                                   '= 8', "is taken"),
    "selection without a grid": ("selection_seeds = [0]\n[arms.rope]", "no arm has a grid"),
    "selection of all seeds": ("selection_seeds = [0, 1]\nlr = [1e-3]\n[arms.rope]",
                               "fewer than two of the seeds"),
    "selection of other seeds": ("selection_seeds = [77]\nlr = [1e-3]\n[arms.rope]",
                                 "none of the seeds [0, 1, 2]"),
    "a stop of a word": ('stop = "soon"\n[arms.rope]', 'stop is "all", or the numbers of seeds'),
    "looks that fall": ("stop = [3, 2]\n[arms.rope]", "must rise"),
    "looks beyond the seeds": ("stop = [2, 5]\n[arms.rope]", "end with 3"),
    "a look at one seed": ("stop = [1, 3]\n[arms.rope]", "numbers of seeds at which to look"),
    "a typo in a key": ('hypotesis = "x"\n[arms.rope]', "did you mean 'hypothesis'"),
    "a section at the top": ("trainer.max_iters = 5\n[arms.rope]", "stand under [base]"),
    "a setting at the top": ("steps = 5\n[arms.rope]", "did you mean 'trainer.max_iters'?"),
    "a seed at the top": ("seed = 5\n[arms.rope]", "did you mean 'seeds'"),
    "a typo in an arm": ("[arms.swiglo]", "did you mean 'swiglu'"),
    "a typo in include": ('[arms.x]\ninclude = ["roep"]', "did you mean 'rope'"),
    "a later arm": ('[arms.x]\ninclude = ["y"]\n[arms.y]\nmodel.n_embd = 8', "no earlier arm 'y'"),
    "no such section": ("[arms.x]\nmodle.n_embd = 8", "did you mean 'model.n_embd'"),
    "a section that is no table": ("[arms.x]\nmodel = 8", "a setting is model.KEY"),
    "an arm that is no table": ('[arms]\nrope = "yes"', "an arm is a table"),
    "an unknown baseline": ('baseline = "bass"\n[arms.rope]', "no arm 'bass'"),
    "no arms": ('question = "?"', "declares no arms"),
    "a seed twice": ("seeds = [1, 1]\n[arms.rope]", "names a seed twice"),
    "no seeds": ("seeds = []\n[arms.rope]", "seeds is a list"),
    "a seed that no array holds": (f"seeds = [0, {10**20}]\n[arms.rope]", "is too large"),
    "a range of too many seeds": ('seeds = "0-9999999999"\n[arms.rope]', "more than 10,000 seeds"),
    "a negative seed": ("seeds = [-1]\n[arms.rope]", "seeds is a list"),
    "an unknown metric": ('metric = "val_los"\n[arms.rope]', "did you mean 'val_loss'"),
    "a margin of nothing": ("margin = 0\n[arms.rope]", "margin must be above 0"),
    "a margin without end": ("margin = inf\n[arms.rope]", "margin must be above 0 and finite"),
    "a margin that overflows": ("margin = 1e400\n[arms.rope]", "margin must be above 0 and finite"),
    "a margin that is no number": ("margin = nan\n[arms.rope]",
                                   "margin must be above 0 and finite"),
    "a margin of 401 digits": (f"margin = {10**400}\n[arms.rope]",
                               "not 10000000000000000000… and 0.05"),
    "a number of 5,000 digits": (f"margin = {'9' * 5000}\n[arms.rope]", "not TOML"),
    "brackets without end": (f"seeds = {'[' * 5000}", "not TOML"),
    "a flag that is a number": ("[arms.x]\nflags = 5\nmodel.n_embd = 8",
                                "flags is a list of names"),
    "a help that is a number": ("[arms.x]\nhelp = 5\nmodel.n_embd = 8", "help is a text"),
    "a margin of text": ('margin = "small"\n[arms.rope]', "margin is a number"),
    "an alpha of one": ("alpha = 1.0\n[arms.rope]", "alpha between"),
    "factors that include each other": ('factorial = ["warmup", "cosine"]',
                                        "list them as the levels of one factor"),
    "an unknown factor": ('factorial = ["rope", "swigl"]', "did you mean 'swiglu'"),
    "more beside a factorial": ('[arms.g]\nfactorial = ["rope"]\nmodel.n_embd = 8',
                                "factorial must be the only key"),
    "an arm's name with a slash": ('[arms."a/b"]\nmodel.n_embd = 8', "cannot name an arm"),
    "a study's name with a slash": ('name = "a/b"\n[arms.rope]', "cannot name a file or a folder"),
    "no TOML": ("[arms.rope]\nmodel.position = rope", "line 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_in_a_study_is_named_in_one_line_with_the_file(study, case):
    text, part = BAD[case]
    said = message(study, text)
    assert part in said and "mine.toml" in said


def test_an_unknown_study_lists_the_shipped_ones():
    assert "did you mean 'seven'" in message(load_study, "sevn")
    assert all(name in message(load_study, "nothing_like_it") for name in shipped())
    assert "no study file 'x/y.toml'" in message(load_study, "x/y.toml")


def test_seeds_are_ranges_and_lists():
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("3, 0-1,1") == [3, 0, 1]
    for text in ("", "4-0", "a", "1-", "-1", "0..4", "0-9999999999", "0-9,5-10009", "9" * 30,
                 "9" * 5000, "٤" * 30):
        assert "seeds" in message(parse_seeds, text)


def test_reading_a_study_needs_no_torch():
    code = ("import sys; from experiments.declare.study import load_study; load_study('seven'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
