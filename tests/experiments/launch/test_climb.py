"""A ladder's rungs: their sizes and lengths, and the prediction that comes first; then what is said
of them together."""

import json
import math
import tomllib

import numpy as np
import pytest

import plotter
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from experiments.launch import climb
from experiments.launch.plan import Request
from experiments.launch.rates import best_rate, extrapolated, rate_rungs, tuned
from experiments.verdicts.extrapolation import predict
from mingpt.utils import BadInput
from tests.helpers.synthetic import write_run, write_study

LADDER = """
question = "Does it hold?"
seeds = [0, 1, 2]
baseline = "baseline"
margin = 0.01
[ladder]
rungs = [{model.n_embd = 8}, {model.n_embd = 16}, {model.n_embd = 32}, {model.n_embd = 48}]
tokens_per_parameter = 10
seeds = [3, 3, 3, 2]
[base]
model.n_layer = 2
model.n_head = 2
model.block_size = 32
trainer.batch_size = 4
trainer.learning_rate = 4e-3
[arms.baseline]
[arms.rope]
"""


@pytest.fixture
def request_(tmp_path):
    (tmp_path / "scale.toml").write_text(LADDER)
    return Request(load_study(tmp_path / "scale.toml"), tmp_path)


def parameters(C: int) -> int:
    """Of two GPT-2 blocks and the last norm, counted by hand."""
    return 2 * (12 * C * C + 13 * C) + 2 * C


def train(request, rung, effect: float, seeds) -> None:
    """Runs of a rung's two arms, four times as long at every rung. Larger baselines are better."""
    steps = 40 * 4 ** rung.number
    for slot, (arm, added) in enumerate((("baseline", 0.0), ("rope", effect))):
        for seed in seeds:
            study = climb.request_of(request, rung).study
            write_run(request.out / "losses", arm, seed, added - 0.2 * rung.number, slot=slot,
                      study=rung.name, steps=steps, every=steps // 10, noise=0.002,
                      changes={} if arm == "baseline" else {"model.position": ["learned", "rope"]},
                      study_hash=study.hash, declaration=study.declaration(arm))


def test_iterations_rates_and_batches_follow_from_the_size(request_):
    planned = climb.rungs(request_)
    sizes = [parameters(C) for C in (8, 16, 32, 48)]
    assert [rung.parameters for rung in planned] == sizes
    assert [rung.name for rung in planned] == ["scale-1760", "scale-6592", "scale-25k",
                                               "scale-57k"]
    assert [rung.held_out for rung in planned] == [False, False, False, True]
    for rung, n in zip(planned, sizes, strict=True):
        times = n / sizes[0]
        assert rung.rate == pytest.approx(4e-3 * times ** (-1 / 3), rel=1e-3)
        assert rung.batch_size == round(4 * times ** (2 / 3))
        assert rung.iterations == round(10 * n / (rung.batch_size * 32))


def test_a_rungs_file_is_the_study_at_that_size(request_):
    rung = climb.rungs(request_)[1]
    until = climb.written(request_, rung, [])
    study = load_study(request_.out / "studies" / "scale-6592.toml")
    assert (study.place.number, study.place.of, study.place.studies[1]) == (2, 4, "scale-6592")
    settings = make_spec(study=study, arm="rope").settings
    plain = make_spec(study=request_.study.at_one_size(), arm="rope").settings
    assert until.study.hash == study.hash and study.seeds == [0, 1, 2] and study.margin == 0.01
    assert (settings.model.n_embd, settings.model.position, settings.trainer.max_iters) == (
        16, "rope", rung.iterations)
    assert settings.model.block_size == plain.model.block_size == 32


def test_a_prediction_is_made_of_the_rungs_below_and_never_changed(request_):
    *below, top = climb.rungs(request_)
    for rung in below:
        train(request_, rung, -0.1, (0, 1, 2))
    first = climb.written(request_, top, below).study
    told = first.place.prediction["rope"]
    effects = np.array([[_value(request_, rung, "rope", s) - _value(request_, rung, "baseline", s)
                         for s in (0, 1, 2)] for rung in below])
    again = predict(np.log([rung.flops for rung in below]), effects.mean(1),
                    ((effects - effects.mean(1, keepdims=True)) ** 2).sum(1), np.full(3, 3),
                    math.log(top.flops), 2)
    assert (told.effect, told.low, told.high) == pytest.approx(
        (float(again.effect), float(again.low), float(again.high)))
    train(request_, below[0], 0.5, (0, 1, 2))          # the runs below become others
    assert climb.written(request_, top, below).study.place.rests_on != first.place.rests_on
    train(request_, top, -0.1, (0,))                   # the rung has begun
    held = climb.written(request_, top, below).study.place
    train(request_, below[0], -0.5, (0, 1, 2))
    assert climb.written(request_, top, below).study.place == held


def test_a_rung_that_has_begun_gets_no_prediction_afterwards(request_):
    *below, top = climb.rungs(request_)
    for rung in (*below, top):
        train(request_, rung, -0.1, (0, 1, 2))
    place = climb.written(request_, top, below).study.place
    assert not place.held_out and not place.prediction


def _value(request, rung, arm: str, seed: int) -> float:
    record = json.loads((request.out / "losses" / rung.name / f"{arm}.s{seed}.json").read_text())
    return record["result"]["val_loss"]


def test_the_page_says_what_holds_and_which_predictions_did(request_, capsys):
    *below, top = climb.rungs(request_)
    for rung in below:
        train(request_, rung, -0.1, (0, 1, 2))
        climb.written(request_, rung, [])
    climb.written(request_, top, below)
    train(request_, top, -0.1, (0, 1, 2))
    losses, out = request_.out / "losses", request_.out / "seen"
    assert plotter.main([str(losses), "--ladder", "scale", "--html", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "rope  holds" in said, said
    assert "found −0." in said and said.count(": held") == 1
    found = json.loads((out / "scale" / "ladder.json").read_text())
    assert found["arms"]["rope"]["word"] == "holds" and found["foretold"][0]["held"] is True
    assert {path.name for path in (out / "scale").iterdir()} == {
        "report.html", "ladder.json", "effect_against_size.png", "loss_against_compute.png",
        "gain_against_compute.png"}
    page = (out / "scale" / "report.html").read_text()
    assert "1 of 1 predictions held" in page and "../scale-25k/report.html" in page
    assert plotter.main([str(losses), "--ladder", "other", "--out", str(out)]) == 2


def test_a_page_of_documentation_gets_the_ladders_table(request_, tmp_path):
    for rung in climb.rungs(request_):
        train(request_, rung, -0.1, (0, 1, 2))
        climb.written(request_, rung, [])
    page = tmp_path / "page.md"
    write_study(request_.out / "losses", {"baseline": 0.0, "rope": -0.1}, study="plain")
    page.write_text("<!-- answers: all -->\n<!-- /answers: all -->\n"
                    "<!-- table: scale -->\n<!-- /table: scale -->\n"
                    "<!-- notes: scale -->\n<!-- /notes: scale -->\n")
    assert plotter.main([str(request_.out / "losses"), "--tables", str(page)]) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert rows == ["| `plain` | Study plain | **better**: rope | 232,960 | 3 | rope holds |"]
    assert "| rope | **holds** | −0." in page.read_text() and "| 56,640 | predicted at 4 ×" in (
        page.read_text())


def test_a_ladder_is_no_study_of_one_size(request_):
    with pytest.raises(BadInput, match="is a ladder, whose rungs are studies of their own"):
        make_spec(study=request_.study, arm="rope")


def test_sizes_that_do_not_grow_and_predictions_too_far_ahead_are_refused(request_, tmp_path):
    for text, said in ((LADDER.replace("16}, {model.n_embd = 32", "32}, {model.n_embd = 32"),
                        "rung 3 has"),
                       (LADDER.replace("n_embd = 48", "n_embd = 512"), "at most 10 times")):
        (tmp_path / "scale.toml").write_text(text)
        with pytest.raises(BadInput, match=said):
            climb.rungs(Request(load_study(tmp_path / "scale.toml"), tmp_path))


def test_a_budget_cuts_at_the_top_and_three_rungs_are_the_fewest():
    class Costs:
        seconds = 3600.0
    assert climb.within([Costs()] * 5, None) == 5 and climb.within([Costs()] * 5, 4.5) == 4
    assert climb.within([Costs()] * 5, 4.5, first=3600.0) == 3
    with pytest.raises(BadInput, match="3 rungs, the fewest that say anything, need 3 h"):
        climb.within([Costs()] * 5, 2.5)
    assert [rung.held_out for rung in _cut_to_three()] == [False, False, True]


def _cut_to_three():
    study = load_study("ladder")
    return climb.rungs(Request(study, study.path.parent), 3)


# -- rates -----------------------------------------------------------------------------------------

def test_tuned_rates_lie_on_the_power_law_through_two_grids(request_, tmp_path):
    text = LADDER.replace("tokens_per", 'lr = "tuned"\ngrid = [1e-3, 2e-3, 4e-3]\ntokens_per')
    (tmp_path / "scale.toml").write_text(text)
    request = Request(load_study(tmp_path / "scale.toml"), tmp_path)
    planned = climb.rungs(request)
    for grid, best in zip(rate_rungs(request, planned), (4e-3, 2e-3), strict=True):
        study = climb.request_of(request, grid).study
        assert not set(study.seeds) & set(request.study.seeds)
        assert set(study.arms) == {"baseline", "rope", *(f"{arm}_lr{rate}" for arm in
                                                         ("baseline", "rope")
                                                         for rate in ("0.002", "0.004"))}
        for arm in study.arms:
            rate = float(arm.partition("_lr")[2] or 1e-3)
            for seed in study.seeds:
                write_run(request.out / "losses", arm, seed, math.log(rate / best) ** 2, steps=40,
                          every=4, study=grid.name, noise=1e-6, declaration=study.declaration(arm))
    rates = [rung.table["arms"]["rope"]["trainer.learning_rate"]
             for rung in tuned(request, planned)]
    slope = math.log(0.5) / math.log(6592 / 1760)
    assert rates == pytest.approx([4e-3 * (parameters(C) / 1760) ** slope for C in (8, 16, 32, 48)],
                                  rel=0.02)
    assert tomllib.loads(climb.tomli_w.dumps(tuned(request, planned)[3].table))["arms"]["rope"][
        "include"] == ["rope"]


def test_a_rate_is_the_lowest_point_of_a_parabola_and_its_exponent_is_bounded():
    class Results:
        name, values = "x", {"a": {0: 1.04}, "a_lr0.002": {0: 1.0}, "a_lr0.004": {0: 1.02}}
    a, b, _ = np.polyfit(np.log([1e-3, 2e-3, 4e-3]), [1.04, 1.0, 1.02], 2)
    assert best_rate(Results, "a", (1e-3, 2e-3, 4e-3)) == pytest.approx(math.exp(-b / (2 * a)))
    assert best_rate(Results, "a", (1e-3, 2e-3)) == pytest.approx(2e-3)     # at the edge
    Results.values = {"a": {0: math.nan}}
    with pytest.raises(BadInput, match="no run of a ended with a finite loss"):
        best_rate(Results, "a", (1e-3, 2e-3))
    assert extrapolated(1e-3, 2e-3, 10, 20, 1000) == 1e-3       # no rate rises with size
    assert extrapolated(8e-3, 1e-3, 10, 20, 80) == pytest.approx(1e-3)
