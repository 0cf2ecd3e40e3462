"""Several sources: the shares are exact, the order is a pure function of (seed, mixture), and every
arm is scored on the same tokens, none of which it trains on."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import get_default_config, open_corpus
from experiments.corpus.mixture import CYCLE, quotas, read_mixture
from mingpt.utils import BadInput

LETTERS = {"a": ord("a"), "b": ord("b"), "c": ord("c")}


def _write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _documents(letter, count, words=40):
    """Documents of one letter only, so that a row shows which source it is from."""
    return [" ".join(letter * (2 + (n * 7 + w * w) % 9) for w in range(words)) + letter * n
            for n in range(count)]


@pytest.fixture
def open_sources(tmp_path):
    def go(mixture=None, texts=None, **settings):
        texts = texts or {name: _documents(name, 60) for name in LETTERS}
        config = get_default_config()
        config.merge_from_dict({
            "tokenizer": "byte", "cache": str(tmp_path / "cache"), "val_tokens": 3000,
            "sources": [f"{name}={_write(tmp_path / f'{name}.jsonl', each)}"
                        for name, each in texts.items()],
            "mixture": mixture, **settings})
        return open_corpus(config)
    return go


def _letters(rows):
    """The source of each row, by the letter that it holds."""
    return [next(name for name, letter in LETTERS.items() if (row == letter).any())
            for row in rows]


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6).filter(any))
@settings(deadline=None)
def test_a_cycle_holds_each_source_its_share(parts):
    weights = {f"s{n}": part / sum(parts) for n, part in enumerate(parts)}
    rows = quotas(weights)
    assert rows.sum() <= CYCLE and (rows >= 0).all()
    for row, weight in zip(rows, weights.values(), strict=True):
        assert abs(row / rows.sum() - weight) <= 1 / CYCLE
        assert (row == 0) == (weight < 1 / CYCLE / 2) or row <= 1


@pytest.mark.parametrize("mixture", [["a=0.7", "b=0.3"], ["a=0.125", "b=0.5", "c=0.375"],
                                     ["a=0.333", "b=0.333", "c=0.334"]])
def test_the_rows_of_a_run_have_the_shares_that_were_asked_for(open_sources, mixture):
    batches = open_sources(mixture).train(16, 8, seed=3)
    seen = [name for t in range(250) for name in _letters(batches.batch(t)[0])]
    asked = read_mixture(mixture, list(LETTERS))
    told = batches.used(250)
    for name, share in asked.items():
        assert abs(seen.count(name) / len(seen) - share) <= (0.001 if share else 0)
        if share:
            assert told[name]["rows"] == seen.count(name)


def test_a_source_gives_the_same_rows_in_the_same_order_whatever_it_is_mixed_with(open_sources):
    def rows_of(name, mixture):
        batches = open_sources(mixture).train(16, 8, seed=5)
        rows = np.concatenate([batches.batch(t)[0] for t in range(60)])
        return rows[[each == name for each in _letters(rows)]]
    alone, half, less = (rows_of("a", m) for m in (["a=1"], ["a=0.5", "b=0.5"], ["a=0.2", "c=0.8"]))
    assert len(alone) > len(half) > len(less)
    assert (alone[:len(half)] == half).all() and (alone[:len(less)] == less).all()


def test_a_batch_is_a_pure_function_of_seed_step_and_mixture(open_sources):
    mixture = ["a=0.3", "b=0.7"]
    first, again = (open_sources(mixture).train(16, 8, seed=1) for _ in range(2))
    held = [first.batch(t) for t in range(9)]
    for t in (8, 0, 5):
        assert all((x == y).all() for x, y in zip(held[t], again.batch(t), strict=True))
    other = open_sources(mixture).train(16, 8, seed=2)
    assert any((held[t][0] != other.batch(t)[0]).any() for t in range(9))


def test_all_arms_are_scored_on_the_same_tokens_of_every_source(open_sources):
    arms = [open_sources(None), open_sources(["a=1"]), open_sources(["b=0.5", "c=0.5"]),
            open_sources(["a=1"], dedup="exact", filter=["min_bytes=100"])]
    held = [arm.validation(16) for arm in arms]
    assert len({arm.identify(v)["hash"] for arm, v in zip(arms, held, strict=True)}) == 1
    assert held[0].set_names == list(LETTERS)
    counts = np.bincount(held[0].set_id[held[0].set_id >= 0])
    assert (counts == 1000).all()
    assert len({arm.describe()["hash"] for arm in arms}) == 1


def test_a_planted_copy_of_the_validation_set_is_found_and_dropped(open_sources):
    texts = {name: _documents(name, 60) for name in LETTERS}
    plain = open_sources(["a=1"], texts)
    part = plain.parts["b"]
    from experiments.corpus.training import document
    stolen = [document(part.store, plain.tokenizer, int(n)) for n in part.split.val]
    texts["a"] = [*texts["a"], *(f"  {text.replace(' ', chr(10), 1)}\n" for text in stolen)]
    corpus = open_sources(["a=1"], texts)
    # a copy with other white space has another hash, so the source a may hold it out itself
    held = [document(corpus.parts["a"].store, corpus.tokenizer, int(n))
            for n in corpus.parts["a"].split.val]
    assert corpus.left_out["a"] == len(stolen) - sum("b" in text for text in held) > 0
    assert corpus.describe()["split"]["copies_of_validation"]["a"] == corpus.left_out["a"]
    rows = np.concatenate([corpus.train(16, 8, seed=0).batch(t)[0] for t in range(200)])
    assert not (rows == LETTERS["b"]).any()
    assert corpus.identify(corpus.validation(16))["tokens"] == 3000


def test_validation_may_be_a_file_of_its_own_or_some_of_the_sources(open_sources, tmp_path):
    own = _write(tmp_path / "own.jsonl", _documents("d", 5))
    corpus = open_sources(["a=1"], val_paths=[own])
    assert corpus.validation(16).set_names == ["validation"]
    assert corpus.parts["a"].split.train.all()
    assert open_sources(["a=1"], val_sources=["b"]).validation(16).set_names == ["b"]


def test_filters_choose_what_is_trained_on(open_sources):
    texts = {"a": [*_documents("a", 30), *_documents("a", 30), *["a" * n for n in range(20, 40)]],
             "b": _documents("b", 30)}
    every = open_sources(["a=1"], texts).parts["a"].split
    once = open_sources(["a=1"], texts, dedup="exact").parts["a"]
    kept = once.store.documents["hash"][once.split.train]
    assert len(set(kept.tolist())) == len(kept) < every.train.sum()
    short = open_sources(["a=1"], texts, filter=["max_bytes=50"]).parts["a"]
    assert (short.store.documents["bytes"][short.split.train] <= 50).all()
    blanks = open_sources(["a=1"], texts, filter=["match= "]).parts["a"]
    assert (blanks.store.documents["bytes"][blanks.split.train] > 50).all()
    few, more = (open_sources(["a=1"], texts, filter=[f"max_tokens={n}"]).parts["a"]
                 for n in (2000, 4000))
    tokens = few.store.documents["tokens"][few.split.train].sum()
    assert 2000 <= tokens < 2000 + few.store.documents["tokens"].max()
    assert (more.split.train | ~few.split.train).all()      # the smaller set is part of the larger


def test_a_field_of_the_records_names_their_sets(tmp_path):
    rows = [{"text": f"{lang} document number {n}", "meta": {"lang": lang}}
            for n in range(40) for lang in ("en", "de")]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = get_default_config()
    config.merge_from_dict({"paths": [str(path)], "tokenizer": "byte", "set_key": "meta.lang",
                            "cache": str(tmp_path / "cache"), "filter": ["set=de"]})
    corpus = open_corpus(config)
    text = bytes(corpus.train(16, 64, seed=0).batch(0)[0].clip(0, 255).astype(np.uint8).ravel())
    assert b"de document" in text and b"en document" not in text


@pytest.mark.parametrize(("settings", "told"), [
    ({"mixture": ["a=0.7", "b=0.2"]}, "sum to 0.9, not to 1"),
    ({"mixture": ["a=0.7", "d=0.3"]}, "no source 'd'"),
    ({"mixture": ["a=-1", "b=2"]}, "from 0 to 1"),
    ({"mixture": ["a=x"]}, "no NAME=SHARE"),
    ({"mixture": ["a=0.3", "a=0.5", "b=0.5"]}, "a has several shares"),
    ({"mixture": ["a=0.00001", "b=0.99999"]}, "nothing of it would be read"),
    ({"texts": {"a": _documents("a", 60), "b": _documents("a", 60)[::-1]}},
     "a and b hold the same text"),
    ({"mixture": ["a=nan"]}, "from 0 to 1"),
    ({"filter": ["size=3"]}, "no filter 'size'"),
    ({"filter": ["match=("]}, "no regular expression"),
    ({"filter": ["min_bytes=99999"]}, "leaves no training document"),
    ({"filter": ["max_tokens=999999999"]}, "training tokens"),
    ({"filter": ["set=Wikipedia"]}, "has no set 'Wikipedia'"),
    ({"dedup": "fuzzy"}, "data.dedup='fuzzy'"),
    ({"val_sources": ["z"]}, "no source 'z'"),
])
def test_what_cannot_be_mixed_is_refused(open_sources, settings, told):
    with pytest.raises(BadInput, match=told):
        open_sources(**{"mixture": ["a=1"], **settings}).train(16, 8, seed=0)


def test_an_absent_source_is_refused_with_its_path(tmp_path):
    config = get_default_config()
    config.merge_from_dict({"sources": ["a=/no/such/file.jsonl"], "cache": str(tmp_path)})
    with pytest.raises(BadInput, match=r"/no/such/file\.jsonl"):
        open_corpus(config)
