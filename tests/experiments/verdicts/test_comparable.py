"""A verdict needs the same validation tokens, and equal values of all settings that the arm does
not declare."""

import csv
import json
import re
from html import unescape

import numpy as np
import pytest

from experiments.declare.study import load_study
from experiments.figures.panel import Panel
from experiments.records.runs import find_runs
from experiments.report.page import render
from experiments.verdicts.comparable import compare_records
from experiments.verdicts.costs import AXES
from experiments.verdicts.results import collect
from experiments.verdicts.stats import compare
from experiments.verdicts.summary import notes, to_csv, to_markdown
from experiments.verdicts.trials import gather, load, save
from tests.helpers.synthetic import write_run


def edit(path, change):
    """Edit the record beside a CSV."""
    file = path.with_suffix(".json")
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def studied(folder, change, arms=("rope",), seeds=(0, 1, 2), **more):
    """Results of a baseline and of arms that are 0.5 nats better. `change` edits each record of the
    arms."""
    for k, arm in enumerate(("baseline", *arms)):
        for seed in seeds:
            path = write_run(folder, arm, seed, -0.5 * bool(k), slot=k, **more)
            if k:
                edit(path, change)
    return collect(find_runs(folder))[0]


def put(section, key, value):
    return lambda record: record["config"].setdefault(section, {}).update({key: value})


DIFFERENT = {"trainer.batch_size": put("trainer", "batch_size", 32),
             "trainer.learning_rate": put("trainer", "learning_rate", 0.1),
             "model.n_layer": put("model", "n_layer", 2),
             "the data's hash": lambda record: record["data"].update(hash="f" * 16),
             "validation set": lambda record: record["data"].update(validation={
                 "hash": "b", "text_hash": "b"})}


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_door_gives_a_word_on_an_arm_that_differs_in_more_than_it_declares(name, tmp_path):
    own = {"validation": {"hash": "a", "text_hash": "a"}}

    def change(record):
        record["data"] |= own
        DIFFERENT[name](record)
    results = studied(tmp_path, change)
    for run in results.runs_of("baseline"):
        edit(run.path, lambda record: record["data"].update(own))
    results = collect(find_runs(tmp_path))[0]
    v = results.verdicts["rope"]
    assert (v.word, v.p, v.ci, v.ci_holm, v.difference) == (
        "not comparable", None, None, None, None)
    assert name in v.reason
    assert "not comparable" in v.line() and name in v.line()
    assert "not comparable" in to_markdown(results)
    assert {row["arm"]: row["word"]
            for row in csv.DictReader(to_csv(results).splitlines())}["rope"] == v.word
    assert results.summary()["verdicts"]["rope"]["word"] == v.word
    assert not any(results.budgets.on(axis) for axis in AXES)
    trials = gather(results)
    save(trials, tmp_path)
    again = load(tmp_path / "experiment_results.npz")
    assert {t.verdicts("val_loss")["rope"].word for t in (trials, again)} == {"not comparable"}


@pytest.fixture(scope="module", params=[None, *DIFFERENT])
def planned(request, tmp_path_factory):
    """(Results of a factorial with learning rates, in which every change helps, and what differs).
    What differs is not declared, and only in the runs of `rope` at its own rate; None: nothing."""
    folder, file = tmp_path_factory.mktemp("planned"), tmp_path_factory.mktemp("study") / "my.toml"
    file.write_text('factorial = ["rope", "swiglu"]\nlr = [4e-3]\n[arms.baseline]\n')
    for k, arm in enumerate(load_study(file).arms):
        effect = {"rope": -0.2, "swiglu": -0.3, "swiglu_rope": -0.9, "baseline": 0}
        for seed in range(4):
            path = write_run(folder, arm, seed, sum(effect.get(part, -0.05) for part
                                                    in arm.split("_lr")),
                             study="my", steps=20, slot=k)
            edit(path, lambda record: record["data"].update(
                validation={"hash": "a", "text_hash": "a"}))
            if request.param and arm == "rope":
                edit(path, DIFFERENT[request.param])
    return collect(find_runs(folder), file)[0], request.param


def test_no_effect_is_found_of_a_factorial_with_a_cell_that_is_not_comparable(planned):
    results, name = planned
    (design,) = results.factorials
    if name is None:
        assert {term.word for term in design.main} == {"lowers it"}
        return
    assert {(term.word, term.verdict.difference) for term in design.terms} == {
        ("not comparable", None)}
    assert all(f"rope: {name}" in term.line() or "rope: another validation" in term.line()
               for term in design.main)
    assert "swiglu_rope: not comparable" in design.line()
    told = [line for line in notes(results) if line.startswith("effect of rope: not comparable")]
    assert len(told) == 1 and name in told[0]


def test_no_arm_is_the_sum_of_a_part_that_is_not_comparable(planned):
    results, name = planned
    (both,) = results.sums
    if name is None:
        assert both.word == "lower than the sum"
        return
    assert (both.word, both.observed, both.expected, both.verdict.ci_holm) == (
        "not comparable", None, None, None)
    assert name in both.line()


def test_no_tuned_arm_is_judged_whose_grid_has_runs_that_are_not_comparable(planned):
    """The rate that is chosen is the other one, whose runs are comparable."""
    results, name = planned
    tuned = {each.arm: each for each in results.sensitivity.arms}
    (line,) = [line for line in notes(results) if line.startswith("tuned: rope at")]
    assert tuned["rope"].best.arm == "rope_lr0.004"
    assert tuned["swiglu"].verdict.word == "better"
    if name is None:
        assert tuned["rope"].verdict.word == "better"
        return
    assert (tuned["rope"].verdict.word, tuned["rope"].verdict.difference) == (
        "not comparable", None)
    assert "not comparable" in line and name in line


def test_the_report_gives_no_word_on_what_is_not_comparable_and_says_why(planned, tmp_path):
    """The rows about rope: its verdict, effect, interaction and best rate, and its sum with
    swiglu."""
    results, name = planned
    page = unescape(render(Panel(results), tmp_path))
    words = r"better|worse|equivalent|lowers it|raises it|adds up|lower than|higher than"
    about = {"rope": [], "rope × swiglu": [], "rope + swiglu": []}
    # a row with the note that stands in a row of its own below it
    for row in re.findall(r'<tr.*?</tr>(?:\s*<tr[^>]* class="note".*?</tr>)?', page, re.S):
        cells = [re.sub("<[^>]+>", "", cell).strip()
                 for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for what in about.keys() & cells[:2]:
            if re.search(f"not comparable|{words}", " ".join(cells)):
                about[what].append(re.sub("<[^>]+>", " ", row))
    rows = [row for found in about.values() for row in found]
    assert all(about.values())
    if name is None:
        assert all(re.search(words, row) for row in rows)
        return
    assert [len(found) for found in about.values()] == [3, 1, 1]
    assert not any(re.search(words, row) for row in rows)
    assert all("not comparable" in row and name in row for row in rows)


def test_an_arm_that_cannot_be_compared_leaves_holms_family(tmp_path):
    def change(record):
        if record["arm"] == "swiglu":
            record["config"]["trainer"]["batch_size"] = 32
    results = studied(tmp_path, change, arms=("rope", "swiglu"))
    assert results.verdicts["swiglu"].word == "not comparable"
    assert results.verdicts["rope"].word == "better"
    assert results.verdicts["rope"].p_holm == results.verdicts["rope"].p


def test_a_declared_budget_is_judged_and_said(tmp_path):
    def change(record):
        record["config"]["trainer"]["batch_size"] = 48
        record["changes"] = {"model.thing": ["a", "rope"], "trainer.batch_size": [16, 48]}
        record["result"]["tokens"] *= 3
    v = studied(tmp_path, change).verdicts["rope"]
    assert (v.word, v.reason) == ("better", "with 3× the tokens")


def test_a_change_that_is_declared_from_another_value_than_the_baselines_is_not_comparable(
    tmp_path,
):
    def change(record):
        record["changes"] = {"model.thing": ["a", "rope"], "trainer.batch_size": [8, 16]}
    assert "declared as a change from 8" in studied(tmp_path, change).verdicts["rope"].reason


def test_seeds_that_differ_among_themselves_are_not_comparable(tmp_path):
    def change(record):
        record["config"]["trainer"]["learning_rate"] = 0.001 * (1 + (record["seed"] == 1))
    v = studied(tmp_path, change).verdicts["rope"]
    assert v.word == "not comparable" and "seed 0" in v.reason and "seed 1" in v.reason


def test_seeds_that_were_trained_with_two_versions_of_a_code_file_are_not_comparable(tmp_path):
    def change(record):
        version = "b" if record["seed"] == 1 else "a"
        record["code_files"] = [{"name": "mine.py", "sha256": version * 64, "text": ""}]
    v = studied(tmp_path, change).verdicts["rope"]
    assert v.word == "not comparable"
    assert f"code mine.py {'a' * 12} (seed 0) and {'b' * 12} (seed 1)" in v.reason
    same = studied(tmp_path / "same", lambda record: record.update(
        code_files=[{"name": "mine.py", "sha256": "a" * 64, "text": ""}]))
    assert same.verdicts["rope"].word == "better"     # a file that only the arm uses is declared


def test_what_cannot_change_a_result_may_differ(tmp_path):
    def change(record):
        record["config"]["run"] = {"log_every": 7}
        record["config"]["data"] = {"cache": "elsewhere"}
    assert studied(tmp_path, change).verdicts["rope"].word == "better"


def test_another_tokenizer_over_the_same_text_is_judged_in_bits_per_byte(tmp_path):
    """The arm has 5.7 nats per token more but 2.0 bits per byte less, so it is better."""
    for arm, tokenizer, nats, bits in (("baseline", "byte", 3.0, 4.3), ("rope", "gpt2", 8.7, 2.3)):
        for seed in range(3):
            path = write_run(tmp_path, arm, seed)

            def change(record, shift=0.01 * seed + 0.001 * seed**2 * (arm == "rope"),
                       tokenizer=tokenizer, nats=nats, bits=bits):
                record["result"] |= {"val_loss": nats + shift * nats / bits,
                                     "bits_per_byte": bits + shift}
                record["data"] |= {"tokenizer": tokenizer,
                                   "validation": {"hash": tokenizer, "text_hash": "same"}}
                record["config"]["data"] = {"tokenizer": tokenizer}
                if tokenizer == "gpt2":
                    record["changes"] = {"data.tokenizer": ["byte", "gpt2"],
                                         "model.thing": ["a", "rope"]}
            edit(path, change)
    results = collect(find_runs(tmp_path))[0]
    v = results.verdicts["rope"]
    assert (v.word, v.unit) == ("better", "bits per byte")
    assert v.difference == pytest.approx(-2.0 + 0.005 / 3)
    assert v.margin == pytest.approx(0.01 * 4.3 / 3.0)
    trials = gather(results)
    assert trials.verdicts("val_loss")["rope"].word == "not comparable"
    assert trials.verdicts("bits_per_byte")["rope"].word == "better"
    for run in results.runs_of("rope"):
        edit(run.path, lambda record: record["data"]["validation"].update(text_hash="other"))
    v = collect(find_runs(tmp_path))[0].verdicts["rope"]
    assert v.word == "not comparable" and "data.tokenizer byte (baseline) and gpt2" in v.reason


def test_a_named_size_is_its_layers_heads_and_width():
    def record(size, layers=None, heads=None, width=None, **changes):
        return {"config": {"model": {"model_type": size, "n_layer": layers, "n_head": heads,
                                     "n_embd": width}}, "changes": changes}
    nano = record("gpt-nano")
    assert compare_records(record(None, 3, 3, 48), nano).reason == ""
    assert compare_records(record(None, 4, 3, 48), nano).reason == (
        "model.n_layer 3 (baseline) and 4")
    assert compare_records(record("theirs"), nano).reason.startswith(
        "model.model_type not set (baseline) and theirs; model.n_layer 3 (baseline) and not set")
    declared = {"model.model_type": ["gpt-nano", "gpt-micro"]}
    assert compare_records(record("gpt-micro", **declared), nano).reason == ""


def test_old_records_say_by_their_settings_which_validation_set_they_scored():
    old = {"config": {"data": {"val_fraction": 0.1}}, "changes": {},
           "data": {"hash": "h", "tokenizer": "byte"}}
    arm = {"config": {"data": {"val_fraction": 0.3}}, "changes": {"data.val_fraction": [0.1, 0.3]},
           "data": old["data"]}
    assert "data.val_fraction 0.1 (baseline) and 0.3" in compare_records(arm, old).reason
    assert compare_records(old, old).reason == ""


def test_csvs_alone_are_compared_at_their_last_common_iteration(tmp_path):
    """The curves are equal, but one was cut at 60 of 100 iterations. They do not differ."""
    for arm in ("baseline", "rope"):
        for seed in range(3):
            path = write_run(tmp_path, arm, seed, steps=100, every=10, record=False)
            if arm == "rope":
                lines = path.read_text().splitlines()
                path.write_text("\n".join(lines[:7 if seed == 1 else None]) + "\n")
    results = collect(find_runs(tmp_path))[0]
    assert results.common_iteration == 60
    assert (
        abs(results.verdicts["rope"].difference) < 0.02 and results.verdicts["rope"].word != "worse"
    )
    assert any("all are compared at iteration 60" in line for line in notes(results))


def test_values_of_three_decimals_do_not_raise_the_rate_of_false_words(monkeypatch):
    """Six arms have no effect. Values with sd 0.001 are written with three decimals. At most 5 % of
    studies give a false word."""
    from experiments.verdicts.stats import verdicts
    # statsmodels runs the garbage collector per correction, which would take most of the time
    monkeypatch.setattr("gc.collect", lambda: 0)
    rng, false, studies = np.random.default_rng(0), 0, 150
    for _ in range(studies):
        table = {arm: dict(enumerate(np.round(rng.normal(3, 0.001, 3), 3))) for arm in "bcdefga"}
        found = verdicts(table, "b", margin=1e-9, resamples=0)
        false += any(v.word in ("better", "worse") for v in found.values())
    assert false <= 0.05 * studies + 2 * (studies * 0.05 * 0.95) ** 0.5
    full = {s: 3.0 + x for s, x in enumerate((0.123456789, 0.123456912, 0.123456501))}
    assert compare({s: v + 0.001 for s, v in full.items()},
                   {s: v + 1e-7 * s for s, v in full.items()}, margin=1e-6).word == "worse"


def test_a_declared_mixture_does_not_excuse_other_text_in_a_source():
    def record(mixture, text):
        settings = {"sources": ["a=a.jsonl", "b=b.jsonl"], "mixture": mixture}
        return {"changes": {"data.mixture": [["a=1"], mixture]} if mixture != ["a=1"] else {},
                "config": {"data": settings}, "data": {
                    "hash": text, "validation": {"hash": "v", "text_hash": "v"}}}
    base = record(["a=1"], "one")
    assert not compare_records(record(["b=1"], "one"), base).reason
    assert "the data's hash" in compare_records(record(["b=1"], "two"), base).reason
