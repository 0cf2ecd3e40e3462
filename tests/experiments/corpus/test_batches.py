"""Batches: the same for every arm. Each block comes once per epoch, and each validation token is
predicted once."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import open_corpus
from experiments.corpus.batches import ROUNDS, shuffled
from experiments.corpus.packing import IGNORE_INDEX
from mingpt.utils import BadInput

EOT = 256


@pytest.fixture
def opened(tmp_path, data_config):
    """opened(texts, **settings): a corpus of these documents, split into two sets."""
    def make(texts, **changes):
        path = tmp_path / "a.jsonl"
        lines = [json.dumps({"text": t, "meta": {"pile_set_name": f"S{n % 2}"}})
                 for n, t in enumerate(texts)]
        path.write_text("\n".join(lines))
        return open_corpus(data_config(path, **{"min_chars": 0, **changes}))
    return make


def documents(count: int, longest: int = 60, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [f"{n}:" + "abcdefghij"[n % 10] * int(draw.integers(1, longest)) for n in range(count)]


def stream_of(corpus, chosen) -> np.ndarray:
    """The tokens of the chosen documents, joined as the store holds them."""
    store = corpus.store
    return np.concatenate([store.read(int(store.starts[d]), int(store.documents["tokens"][d]))
                           for d in chosen])


@given(n=st.integers(1, 3000), keys=st.lists(st.integers(0, 2 ** 64 - 1), min_size=ROUNDS,
                                             max_size=ROUNDS))
@settings(deadline=None)
def test_the_shuffle_is_a_permutation(n, keys):
    assert sorted(shuffled(np.arange(n), n, list(np.array(keys, np.uint64)))) == list(range(n))


def test_the_shuffle_leaves_no_order_that_can_be_seen():
    out = np.array([
        shuffled(np.arange(1000), 1000,
                 list(np.random.default_rng(s).integers(0, 2 ** 63, ROUNDS).astype(np.uint64)))
        for s in range(30)])
    correlations = [np.corrcoef(row, np.arange(1000))[0, 1] for row in out]
    neighbours = [np.corrcoef(row[1:], row[:-1])[0, 1] for row in out]
    assert np.abs(correlations).max() < 0.15 and np.abs(neighbours).max() < 0.15
    assert abs(out[:, 0].mean() - 500) < 200   # the first block differs between keys


@pytest.mark.parametrize("pack", ["stream", "truncate"])
def test_a_batch_depends_on_seed_and_step_alone(opened, pack):
    corpus = opened(documents(80), pack=pack)
    first, second = corpus.train(16, 4, seed=5), corpus.train(16, 4, seed=5)
    forwards = [first.batch(t) for t in range(60)]
    for t in reversed(range(60)):
        for a, b in zip(forwards[t], second.batch(t), strict=True):
            assert a.dtype == np.int64 and a.shape == (4, 16) and (a == b).all()
    other = corpus.train(16, 4, seed=6)
    assert any((other.batch(t)[0] != forwards[t][0]).any() for t in range(3))


def test_a_batch_far_away_is_there_at_once(opened):
    x, y = opened(documents(80)).train(16, 4, seed=0).batch(10 ** 12)
    assert (x[:, 1:] == y[:, :-1]).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_every_epoch_predicts_every_token_of_the_stream_once(opened, batch_size):
    texts, block = documents(60), 16
    # make the stream a whole number of blocks
    texts[0] += "z" * (-sum(len(text) + 1 for text in texts[:55]) % block)
    corpus = opened(texts, val_docs=5)
    stream = stream_of(corpus, range(55))
    batches = corpus.train(block, batch_size, seed=1)
    assert (
        batches.blocks_per_epoch == len(stream) // block
        and batches.positions_per_batch == batch_size * block
    )
    epochs = 2
    steps = -(-epochs * batches.blocks_per_epoch // batch_size)
    y = np.concatenate([batches.batch(t)[1] for t in range(steps)])
    for epoch in range(epochs):
        seen = y[epoch * batches.blocks_per_epoch:(epoch + 1) * batches.blocks_per_epoch]
        assert (np.bincount(seen.ravel(), minlength=257) == np.bincount(
            stream, minlength=257)).all()


def test_blocks_are_pieces_of_the_ring_of_documents_and_their_ends(opened):
    corpus = opened(documents(60), val_docs=5)
    ring = "".join(map(chr, np.tile(stream_of(corpus, range(55)), 2)))
    starts = set()
    for t in range(40):
        for row in zip(*corpus.train(32, 2, seed=3).batch(t), strict=True):
            text = "".join(map(chr, np.r_[row[0], row[1][-1]]))
            assert text in ring
            starts.add(ring.index(text) % 32)
    assert chr(EOT) in ring and len(starts) > 3   # offsets differ between epochs


def test_held_out_documents_are_never_in_a_batch(opened):
    texts = documents(60)
    corpus = opened(texts, val_fraction=0.3)
    held = [texts[d].split(":")[0] + ":" for d in corpus.split.val]
    batches = corpus.train(64, 1, seed=0)
    seen = {"".join(map(chr, batches.batch(t)[0][0])) for t in range(3 * batches.blocks_per_epoch)}
    assert held and not any(f"{chr(EOT)}{name}" in text for name in held for text in seen)


def test_a_document_across_shards_and_gaps_is_read_right(opened, monkeypatch):
    monkeypatch.setattr("experiments.corpus.store.SHARD", 200)
    monkeypatch.setattr("experiments.corpus.readers.TARGET", 100)
    monkeypatch.setattr("experiments.corpus.streams.READ", 100)
    corpus = opened(documents(60), val_fraction=0.3)
    assert len(corpus.store.shards) > 3
    stream = stream_of(corpus, np.flatnonzero(corpus.split.train))
    pack = corpus.train(len(stream) - 1, 1, seed=0).pack
    for offset in (0, 17, len(stream) - 3):
        assert (pack.rows(np.array([0]), offset)[0] == np.roll(stream, -offset)).all()


@given(block=st.integers(2, 90), limit=st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_each_validation_token_is_predicted_once_whatever_the_block(shared_corpus, block, limit):
    corpus = shared_corpus
    stream = stream_of(corpus, corpus.split.val)[:limit]
    val = corpus.validation(block, limit)
    used = val.y != IGNORE_INDEX
    assert (val.y[used] == stream).all() and val.tokens == len(stream) == used.sum()
    assert (val.x.ravel()[used.ravel()] == np.r_[EOT, stream[:-1]]).all()
    assert (
        val.x.shape
        == val.y.shape
        == val.set_id.shape
        == val.nbytes.shape
        == (-(-len(stream) // block), block)
    )
    assert ((val.set_id == -1) == ~used).all() and (val.nbytes[used] == (stream != EOT)).all()
    assert not val.nbytes[~used].any()


@pytest.fixture(scope="module")
def shared_corpus(tmp_path_factory):
    from experiments.corpus import get_default_config
    folder = tmp_path_factory.mktemp("shared")
    lines = [json.dumps({"text": t, "meta": {"pile_set_name": f"S{n % 2}"}})
             for n, t in enumerate(documents(150))]
    (folder / "a.jsonl").write_text("\n".join(lines))
    config = get_default_config()
    config.merge_from_dict({"paths": [str(folder / "a.jsonl")], "tokenizer": "byte", "min_chars": 0,
                            "val_fraction": 0.4, "cache": str(folder)})
    return open_corpus(config)


def test_a_target_belongs_to_the_set_of_its_document(opened):
    texts = documents(40)
    corpus = opened(texts, val_docs=20)
    val = corpus.validation(32)
    assert val.set_names == ["S0", "S1"]
    for number in (0, 1):
        own = sum(len(t) for n, t in enumerate(texts) if n >= 20 and n % 2 == number)
        assert val.nbytes[val.set_id == number].sum() == own
    parts = list(val.batches(3))
    assert all((np.concatenate(column) == whole).all() for column, whole in
               zip(zip(*parts, strict=True), (val.x, val.y, val.set_id, val.nbytes), strict=True))


def test_the_validation_set_is_the_same_after_opening_again(opened):
    first, again = opened(documents(50)).validation(16), opened(documents(50)).validation(16)
    assert (first.x == again.x).all() and (first.y == again.y).all()


def test_truncated_documents_are_rows_padded_and_not_predicted_there(opened):
    texts = ["short one", "x", "a document that is longer than the block of sixteen",
             "exactly seventeen", "12"]
    corpus = opened(texts, pack="truncate", val_docs=1)
    x, y = corpus.train(16, 3, seed=0).batch(0)   # 'x' has no target, so it is not a row
    rows = {bytes(row[row != EOT].astype(np.uint8)).decode(): target
            for row, target in zip(x, y, strict=True)}
    assert set(rows) == {"short one", "a document that ", "exactly seventee"}
    assert rows["short one"].tolist() == [*b"hort one"] + [-1] * 8
    assert rows["exactly seventee"].tolist() == [*b"xactly seventeen"]
    val = corpus.validation(16)
    assert val.x.tolist() == [[ord("1"), ord("2")] + [EOT] * 14] and val.y.tolist() == [
        [ord("2")] + [-1] * 15]
    assert val.nbytes.sum() == 1 and val.set_id.tolist() == [[0] + [-1] * 15]


def test_truncated_validation_stops_at_the_limit_with_whole_rows(opened):
    corpus = opened(documents(60), pack="truncate", val_docs=30)
    assert corpus.validation(16).x.shape[0] == 30
    some = corpus.validation(16, 100)
    assert some.tokens <= 100 and 0 < len(some.x) < 30


def test_the_ignored_target_is_the_models():
    losses = pytest.importorskip("mingpt.losses")
    assert losses.IGNORE_INDEX == IGNORE_INDEX


def test_a_corpus_smaller_than_a_block_says_so(opened):
    corpus = opened(documents(4))
    with pytest.raises(BadInput, match=r"training tokens: one block needs 1,025 .*block_size"):
        corpus.train(1024, 2, seed=0)
