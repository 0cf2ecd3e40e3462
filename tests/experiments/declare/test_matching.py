"""Matching an arm's parameters or FLOPs to the baseline's."""

import json

import pytest

import lab
from experiments.declare.matching import TOLERANCE, match, measure
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from mingpt.utils import BadInput


@pytest.fixture
def study(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path
    return write


@pytest.mark.parametrize("preset", ["nano", "laptop", "paper"])
def test_every_arm_of_seven_matched_has_the_baselines_parameters_within_one_percent(preset):
    study = load_study("seven_matched")
    for arm in study.arms:
        spec = make_spec(preset=preset, study=study, arm=arm)
        assert measure(spec.settings, "params") == pytest.approx(
            measure(spec.baseline, "params"), rel=TOLERANCE)
        assert (spec.match is None) == (arm == "baseline")


def test_an_arm_that_is_near_enough_is_left_as_it_is():
    spec = make_spec(preset="laptop", study=load_study("seven_matched"), arm="rmsnorm")
    assert spec.match.mlp_hidden is None and spec.settings.model.mlp_hidden is None
    assert "unchanged" in spec.match.line()


def test_what_was_chosen_is_a_change_and_is_said():
    spec = make_spec(preset="laptop", study=load_study("seven_matched"), arm="rope")
    assert spec.match.mlp_hidden == spec.settings.model.mlp_hidden
    assert spec.changes["model.mlp_hidden"] == [None, spec.match.mlp_hidden]
    assert spec.match.line() == "matched by parameters: mlp_hidden=272 (+0.03%; -3.40% without)"
    json.dumps(spec.match.to_dict())


def test_flops_are_matched_too_and_a_preset_has_no_last_word(study):
    declared = load_study(study('match = "flops"\n[arms.window]\nmodel.schedule = "8*"\n'
                                '[arms.swiglu]\n'))
    narrow = make_spec(preset="laptop", study=declared, arm="window")
    # the FLOPs that attention saves go to the MLP
    assert narrow.match.by == "flops" and narrow.match.mlp_hidden > 256
    assert abs(narrow.match.deviation) <= TOLERANCE
    assert make_spec(preset="paper", study=declared, arm="swiglu").settings.model.mlp_hidden != "4d"


def test_one_arm_can_be_left_out_and_the_points_of_a_grid_follow_their_arm(study):
    declared = load_study(study('match = "params"\nlr = [1e-3]\n[arms.rope]\n[arms.free]\n'
                                'include = ["rope"]\nmatch = "none"\n'))
    assert make_spec(preset="laptop", study=declared, arm="free").match is None
    assert make_spec(preset="laptop", study=declared, arm="rope_lr0.001").match.mlp_hidden == 272
    assert make_spec(preset="laptop", study=declared, arm="baseline_lr0.001").match is None


@pytest.mark.parametrize(("arm", "why"), [("model.mlp_hidden = 999",
                                           "model.mlp_hidden=999 is set by the arm"),
                                          ("model.n_embd = 256",
                                           "even without an MLP it has too many")])
def test_what_cannot_be_matched_is_refused_with_the_way_out(study, arm, why):
    declared = load_study(study(f'match = "params"\n[arms.x]\n{arm}\n'))
    with pytest.raises(BadInput, match=why) as error:
        make_spec(preset="laptop", study=declared, arm="x")
    assert 'give the arm match = "none"' in str(error.value) and "\n" not in str(error.value)


def test_a_width_too_coarse_for_one_percent_names_the_nearest():
    arm, baseline = (make_spec(preset="nano", overrides=["--model.n_embd=3",
                                                         f"--model.n_layer={layers}"]).settings
                     for layers in (48, 40))
    with pytest.raises(BadInput, match="the nearest is model.mlp_hidden=8 with -2.2%"):
        match("x", arm, baseline, "params")
    assert match("x", baseline, baseline, "params").deviation == 0


def test_the_dry_run_prints_what_was_chosen(capsys):
    arguments = ["--study", "seven_matched", "--arm", "rope", "--preset", "nano", "--dry-run"]
    assert lab.main(arguments) == 0
    assert "hidden size       matched by parameters: mlp_hidden=203" in capsys.readouterr().out
    assert lab.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["match"]["mlp_hidden"] == 203
