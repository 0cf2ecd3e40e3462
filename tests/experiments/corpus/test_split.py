"""Training and validation: the split is stable and fixed, and no document is in both."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import open_corpus
from experiments.corpus.clean import hash64
from experiments.corpus.split import split
from mingpt.utils import BadInput

HASHES = st.lists(st.integers(0, 60).map(lambda n: hash64(b"%d" % n)), min_size=2,
                  max_size=80).filter(
    lambda found: len(set(found)) > 1).map(lambda found: np.array(found, np.uint64))


@given(hashes=HASHES, fraction=st.floats(0.001, 0.999))
@settings(deadline=None)
def test_by_hash_every_document_is_on_one_side_with_its_copies(hashes, fraction):
    parts = split(hashes, fraction, None)
    train, val = hashes[parts.train], hashes[parts.val]
    assert len(train) and len(val) and len(train) + len(val) == len(hashes)
    assert not set(train.tolist()) & set(val.tolist())


@given(hashes=HASHES, more=HASHES)
@settings(deadline=None)
def test_a_held_out_document_stays_held_out_when_the_file_grows(hashes, more):
    limit = 0.3 * 2.0 ** 64
    before, after = split(hashes, 0.3, None), split(np.r_[hashes, more], 0.3, None)
    # only if both sides get a document without force
    if (hashes < limit).any() and (hashes >= limit).any():
        held = np.zeros(len(hashes) + len(more), bool)
        held[after.val] = True
        assert (held[:len(hashes)] == ~before.train).all()


@given(hashes=HASHES, data=st.data())
@settings(deadline=None)
def test_copies_of_the_last_documents_are_not_trained_on(hashes, data):
    count = data.draw(st.integers(1, len(hashes) - 1))
    held = set(hashes[-count:].tolist())
    if set(hashes.tolist()) == held:
        with pytest.raises(BadInput, match="is a copy"):
            split(hashes, 0.1, count)
        return
    parts = split(hashes, 0.1, count)
    assert sorted(parts.val) == list(range(len(hashes) - count, len(hashes)))
    assert not set(hashes[parts.train].tolist()) & held
    assert parts.dropped == sum(h in held for h in hashes[:-count].tolist())


def test_the_share_held_out_is_about_the_share_asked_for():
    hashes = np.array([hash64(b"%d" % n) for n in range(20_000)], np.uint64)
    assert abs(len(split(hashes, 0.05, None).val) / 20_000 - 0.05) < 0.005


@pytest.mark.parametrize("settings_, why", [
    ({"val_fraction": 0.0}, "val_fraction=0.0"), ({"val_fraction": 1.0}, "val_fraction=1.0"),
    ({"val_docs": 50}, "give 1 to 49"), ({"val_docs": 0}, "val_docs=0"),
    ({"val_docs": 1.5}, "whole number"),
    ({"max_docs": -1}, "max_docs=-1"), ({"max_bad": 2}, "max_bad=2"),
    ({"val_tokens": 0}, "val_tokens=0"),
    ({"pack": "trunc"}, "did you mean 'truncate'"), ({"tokenizer": "bite"}, "did you mean 'byte'")])
def test_settings_without_meaning_are_refused(tmp_path, data_config, settings_, why):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document number {n}"}) + "\n" for n in range(50)))
    with pytest.raises(BadInput, match=why):
        open_corpus(data_config(path, **settings_))


def test_the_account_adds_up_and_names_the_dropped(tmp_path, data_config):
    texts = [f"document number {n}" for n in range(50)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n"
                            for t in [*texts, texts[3], texts[45], texts[49]]))
    account = open_corpus(data_config(path, val_docs=3)).describe()
    halves = account["split"]
    assert (account["documents"], halves["train"]["documents"],
            halves["val"]["documents"]) == (53, 47, 3)
    assert halves["dropped"] == 3 and halves["by"] == "the last 3 documents"
    assert json.loads(json.dumps(account)) == account
    config = data_config(val_docs=3)
    config.paths = str(path)   # a single path, as --data.paths=… gives it
    assert open_corpus(config).describe()["paths"] == account["paths"] == [str(path)]


@pytest.mark.parametrize("how", [{"val_fraction": 0.3}, {"val_docs": 10}])
def test_documents_that_differ_in_white_space_alone_never_stand_on_both_sides(
        tmp_path, data_config, capsys, how):
    texts = [f"document number {n}" for n in range(40)]
    near = [f"\n document\tnumber\u00a0 {n}\n" for n in range(10, 40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*near, *texts]))
    corpus = open_corpus(data_config(path, **how))
    read = [corpus.tokenizer.decode(corpus.store.read(int(s), int(n) - 1))
            for s, n in zip(corpus.store.starts, corpus.store.documents["tokens"], strict=True)]
    held = {" ".join(read[n].split()) for n in corpus.split.val}
    sides = split(corpus.store.documents["hash"], how.get("val_fraction"), how.get("val_docs"))
    left_out = [n for n in np.flatnonzero(sides.train) if " ".join(read[n].split()) in held]
    assert left_out and corpus.split.near_copies == len(left_out)
    assert corpus.describe()["split"]["near_copies"] == len(left_out)
    # the held-out documents do not change
    assert corpus.split.val.tolist() == sides.val.tolist()
    assert np.flatnonzero(corpus.split.train).tolist() == sorted(
        {*np.flatnonzero(sides.train)} - {*left_out})
    assert f"{len(left_out)} training documents are left out" in capsys.readouterr().err


def test_rows_of_tokens_that_differ_in_white_space_alone_are_near_copies(tmp_path, data_config):
    rows = [f"row {n:02d} of some" for n in range(20)] + ["row\n19 of\nsome"]
    # these are not UTF-8, so they are near copies only if all bytes are equal
    invalid = [[0xFF, 0xFE, 65, *range(200, 210), n] for n in (0x80, 0x81)]
    np.save(tmp_path / "a.npy", np.array([*invalid, *(list(row.encode()) for row in rows)]))
    corpus = open_corpus(data_config(tmp_path / "a.npy", val_docs=1))
    assert corpus.split.near_copies == 1 and not corpus.split.train[21]
    assert corpus.store.documents["near"][0] != corpus.store.documents["near"][1]


def test_a_corpus_of_near_copies_alone_is_refused():
    hashes = np.array([hash64(b"%d" % n) for n in range(9)], np.uint64)
    with pytest.raises(BadInput, match="only in white space"):
        split(hashes, 0.3, None, np.zeros(9, np.uint64))
