"""If the file of a study changes after its first run, the report says what changed."""

from experiments.declare.study import load_study
from experiments.records.runs import find_runs
from experiments.verdicts.results import collect
from tests.helpers.synthetic import write_run

TEXT = ('question = "Does it?"\nhypothesis = "{hypothesis}"\nmargin = '
        '{margin}\n{more}[arms.baseline]\n[arms.rope]\n')


def changed(tmp_path, first, then, declaration=True):
    """The lines about a study that ran with the file `first` and whose file is now `then`."""
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.format(**first))
    study = load_study(path)
    for seed in (0, 1):
        for arm in study.arms:
            told = {"declaration": study.declaration(arm)} if declaration else {}
            write_run(tmp_path / "losses", arm, seed, study="mine", steps=20,
                      study_hash=study.hash, **told)
    path.write_text(TEXT.format(**then))
    (results,) = collect(find_runs(tmp_path / "losses"), path)
    return [change.line() for change in results.changed]


PLAIN = {"hypothesis": "It does.", "margin": 0.01, "more": ""}


def test_the_first_run_is_the_earliest_in_utc_whatever_the_zones_of_the_records(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.format(**PLAIN))
    study = load_study(path)
    for seed, start in enumerate(("2026-03-01T00:30:00+00:00", "2026-03-01T01:10:00+09:00")):
        write_run(tmp_path / "losses", "baseline", seed, study="mine", steps=20, start=start,
                  study_hash=study.hash, declaration=study.declaration("baseline"))
    path.write_text(TEXT.format(**PLAIN | {"margin": 0.5}))
    (results,) = collect(find_runs(tmp_path / "losses"), path)
    assert "the first on 2026-02-28 at 16:10" in results.changed[0].line()


def test_an_unchanged_study_and_a_comment_say_nothing(tmp_path):
    assert changed(tmp_path, PLAIN, PLAIN) == []
    assert changed(tmp_path, PLAIN, PLAIN | {"more": "# a comment\n"}) == []


def test_a_hypothesis_and_a_margin_that_follow_the_data_are_named_with_both_versions(tmp_path):
    lines = changed(tmp_path, PLAIN, PLAIN | {"hypothesis": "It does not.", "margin": 0.5})
    assert lines == ["hypothesis changed after 4 runs (baseline.s0, the first on 2026-03-01 at "
                     "00:00): "
                     "'It does.' → 'It does not.'",
                     "margin changed after 4 runs (baseline.s0, the first on 2026-03-01 at 00:00): "
                     "0.01 → 0.5"]


def test_so_are_the_metric_the_seeds_and_an_arm(tmp_path):
    lines = changed(tmp_path, PLAIN, PLAIN | {"more": 'metric = "perplexity"\nseeds = "0-9"\n'})
    assert [line.split(" changed")[0] for line in lines] == ["seeds", "metric"]
    first = PLAIN | {"more": ""}
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.format(**first))
    assert load_study(path).declaration("rope")["arm"] == {"model.position": "rope"}


def test_an_older_record_can_only_say_that_something_was_changed(tmp_path):
    (line,) = changed(tmp_path, PLAIN, PLAIN | {"margin": 0.5}, declaration=False)
    assert line.startswith("study file changed after 4 runs")


def test_an_arm_that_means_something_else_now_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[arms.x]\nmodel.n_embd = 8\n")
    study = load_study(path)
    write_run(tmp_path / "losses", "x", 0, study="mine", steps=20, study_hash=study.hash,
              declaration=study.declaration("x"))
    path.write_text("[arms.x]\nmodel.n_embd = 16\n")
    (results,) = collect(find_runs(tmp_path / "losses"), path)
    assert [(c.key, c.was, c.now) for c in results.changed] == [(
        "arm x", {"model.n_embd": 8}, {"model.n_embd": 16})]
