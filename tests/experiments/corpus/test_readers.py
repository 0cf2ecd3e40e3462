"""What is read from each kind of file, and the message about lines that are no documents."""

import gzip
import json

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import open_corpus
from experiments.corpus.chunks import MAX_LINE
from experiments.corpus.clean import KINDS
from experiments.corpus.readers import PIECE, cut_text, line_chunks, separated
from mingpt.utils import BadInput

STORIES = [f"Story number {n} is about the number {n * n}." for n in range(40)]
LINES = [json.dumps({"text": text, "meta": {"pile_set_name": f"Set{n % 2}"}})
         for n, text in enumerate(STORIES)]
JSONL = ("\n".join(LINES) + "\n").encode()


def texts(corpus) -> list[str]:
    """The stored documents, as text."""
    store = corpus.store
    ids = [store.read(int(s), int(n)) for s, n in zip(store.starts, store.documents["tokens"],
                                                      strict=True)]
    assert all(row[-1] == corpus.eot and (row[:-1] != corpus.eot).all() for row in ids)
    return [corpus.tokenizer.decode(row[:-1]) for row in ids]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name, pack", [
    ("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress),
    ("two_members.jsonl.gz", lambda b: gzip.compress(b[:700]) + gzip.compress(b[700:]) + b"\0"
     * 100),
    ("two_frames.jsonl.zst", lambda b: zstandard.compress(b[:700]) + zstandard.compress(b[700:])),
    ("bom_and_crlf.jsonl", lambda b: b"\xef\xbb\xbf" + b.replace(b"\n", b"\r\n")),
    ("no_last_newline.jsonl", lambda b: b[:-1]), ("blank_lines.jsonl",
                                                  lambda b: b.replace(b"\n", b"\n\n \r\n"))])
def test_json_lines_read_the_same_however_they_are_packed(tmp_path, data_config, name, pack):
    corpus = open_corpus(data_config(write(tmp_path / name, pack(JSONL))))
    assert texts(corpus) == STORIES
    account = corpus.describe()
    assert account["bad_lines"] == {"lines": 40, "bad": 0, "kinds": {}, "cut_short": []}
    assert account["sets"]["Set0"]["documents"] == account["sets"]["Set1"]["documents"] == 20
    assert account["bytes"] == sum(len(s.encode()) for s in STORIES) == account["tokens"] - 40


def test_gpt2_is_the_default_and_reads_the_same(tmp_path, data_config):
    assert texts(open_corpus(data_config(write(tmp_path / "a.jsonl", JSONL),
                                         tokenizer="gpt2"))) == STORIES


BAD = {"not JSON": b'{"text": "half a li', "no text": b'{"body": "the wrong key"}',
       "too short": b'{"text": "tiny"}',
       "text not a string": b'{"text": ["a", "list"]}',
       "invalid UTF-8": b'{"text": "caf\xe9 au lait"}',
       "NUL bytes": b'{"text": "a zero \\u0000 in it"}',
       "too long": b'{"text": "' + b"x" * MAX_LINE + b'"}'}
VARIANTS = {"no text": [b"[1, 2]", b"7", b"null"],
            "text not a string": [b'{"text": null}', b'{"text": 3}'],
            "NUL bytes": [b'{"text": "a raw \0 zero"}'],
            "invalid UTF-8": [b'{"text": "half \\ud800 a pair"}'],
            "not JSON": [b"plain words", b"[" * 100_000,
                         b'{"a": ' + b"[" * 3000 + b"]" * 2999 + b"}"],
            "too short": [b'{"text": ""}']}


def test_every_kind_of_bad_line_is_tried():
    assert set(BAD) == set(KINDS)


@pytest.mark.parametrize("kind, line", [(k, line) for k in BAD
                                        for line in (BAD[k], *VARIANTS.get(k, []))],
                         ids=lambda value: value if isinstance(value, str) else value[:20].hex())
def test_a_bad_line_is_counted_by_kind_with_file_and_line(tmp_path, data_config, kind, line):
    lines = JSONL.splitlines()
    path = write(tmp_path / "a.jsonl", b"\n".join([*lines[:7], b"", line, *lines[7:], line]))
    corpus = open_corpus(data_config(path, max_bad=0.1))
    assert texts(corpus) == STORIES
    assert corpus.describe()["bad_lines"]["kinds"] == {kind: {
        "count": 2, "file": str(path), "line": 9}}
    with pytest.raises(BadInput,
                       match=rf"2 of 42 lines are bad .*2 {kind} \(first: "
                             rf".*a.jsonl:9.*data\.max_bad=0\.048"):
        open_corpus(data_config(path, max_bad=0.01))


@pytest.mark.parametrize("value", [b"7" * 5000, b"-" + b"7" * 5000, b"[" * 3000 + b"]" * 3000,
                                   b'{"a": [' * 2000 + b'"]}[{", 1' + b"]}" * 2000])
def test_long_integers_and_deep_nesting_are_valid_json(tmp_path, data_config, value):
    line = b'{"id": ' + value + b', "text": "a document all the same"}'
    assert texts(open_corpus(data_config(write(tmp_path / "a.jsonl", JSONL + line)))) == [
        *STORIES,
        "a document all the same",
    ]


def test_a_zstd_frame_with_a_long_window_is_read_or_says_what_to_do(
        tmp_path, data_config, monkeypatch):
    options = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    # its header gives no size
    packer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    path = write(tmp_path / "a.jsonl.zst", packer.compress(JSONL) + packer.flush())
    assert texts(open_corpus(data_config(path))) == STORIES
    monkeypatch.setattr("experiments.corpus.streams.ZSTD_WINDOW", 1 << 27)
    with pytest.raises(BadInput, match="unpack it first with zstd -d --long=31"):
        open_corpus(data_config(path, min_chars=1))


def test_a_bad_line_in_the_second_file_names_that_file(tmp_path, data_config):
    first, second = (write(tmp_path / "a.jsonl", JSONL),
                     write(tmp_path / "b.jsonl", b"\n\nnot json\n" + JSONL))
    kinds = open_corpus(data_config(first, second, max_bad=0.1)).describe()["bad_lines"]["kinds"]
    assert kinds == {"not JSON": {"count": 1, "file": str(second), "line": 3}}


def test_a_blank_line_is_not_a_bad_line(tmp_path, data_config):
    corpus = open_corpus(data_config(write(tmp_path / "a.jsonl", b"\n \n\t\r\n" + JSONL + b"\n\n")))
    assert corpus.describe()["bad_lines"]["lines"] == 40


def test_a_line_of_any_length_between_good_ones_is_skipped_in_bounded_pieces():
    blocks = [(0, b"first\nsecond\n" + b"x" * 100)] + [(0, b"y"
                                                        * (1 << 20))] * 200 + [(0, b"z\nlast\n")]
    chunks = list(line_chunks(blocks))
    assert [c.too_long for c in chunks] == [False, True, False]
    assert b"".join(c.blob for c in chunks) == b"first\nsecond\nlast\n"
    assert max(len(c.blob) for c in chunks) < 100


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_line_chunks_lose_nothing(blocks):
    assert b"".join(c.blob for c in line_chunks((0, block) for block in blocks)) == b"".join(blocks)


def test_a_wrong_key_gives_up_at_once_and_names_the_keys_there_are(tmp_path, data_config):
    path = write(tmp_path / "a.jsonl", b'{"content": "something to read"}\n' * 100_000)
    with pytest.raises(BadInput,
                       match=r"no text \(first: .*:1, it has content\).*text_key") as error:
        open_corpus(data_config(path, max_bad=0.01))
    assert int(str(error.value).split(" of ")[1].split(" ")[0].replace(",", "")) < 100_000
    path = write(tmp_path / "b.jsonl", JSONL.replace(b'"text"', b'"content"'))
    assert texts(open_corpus(data_config(path, text_key="content"))) == STORIES


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_file_cut_short_names_its_readable_part_and_stops_unless_allowed(
        tmp_path, data_config, suffix, compress):
    stories = [f"{n} " + np.random.default_rng(n).bytes(300).hex() for n in range(2000)]
    many = "".join(json.dumps({"text": story}) + "\n" for story in stories)
    whole = compress(many.encode())
    path = write(tmp_path / f"a.jsonl{suffix}", whole[:len(whole) // 2])
    with pytest.raises(BadInput,
                       match=r"is cut short at byte .*: ([\d,]+) documents could be "
                             r"read.*allow_truncated"):
        open_corpus(data_config(path))
    account = open_corpus(data_config(path, allow_truncated=True)).describe()
    assert 800 < account["documents"] < 1100 and account["bad_lines"]["bad"] == 0
    assert account["bad_lines"]["cut_short"][0]["documents"] == account["documents"]
    with pytest.raises(BadInput, match="is cut short"):   # also when read from the cache
        open_corpus(data_config(path))


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_damaged_file_is_refused(tmp_path, data_config, suffix, compress):
    with pytest.raises(BadInput, match=r"is damaged near byte"):
        open_corpus(data_config(write(tmp_path / f"a.jsonl{suffix}", b"no archive at all, this")))


def test_a_short_text_is_one_document_and_a_long_one_is_cut_at_blank_lines(tmp_path, data_config):
    folder = tmp_path / "books"
    folder.mkdir()
    paragraphs = [f"Paragraph {n}. " + "Words follow words. " * 20 for n in range(300)]
    write(folder / "long.txt", b"\xef\xbb\xbf" + "\r\n\r\n".join(paragraphs).encode())
    write(folder / "short.txt", "A short text,\nof two lines.\n")
    read = texts(open_corpus(data_config(folder)))
    assert read[-1] == "A short text,\nof two lines.\n"
    assert "".join(read[:-1]) == "\n\n".join(paragraphs)
    assert all(len(text) <= PIECE and text.endswith("\n\n") for text in read[:-2]) and len(read) > 5


@given(text=st.text(alphabet="ab é\n🤗", max_size=2000), times=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_cutting_a_text_keeps_every_character_whole(text, times):
    data = text.encode() * times
    pieces, rest = cut_text(data)
    assert b"".join([*pieces, rest]) == data and all(0 < len(p) <= PIECE for p in pieces)
    assert all(p.decode() for p in pieces)


def test_utf16_is_refused_by_name(tmp_path, data_config):
    with pytest.raises(BadInput, match="is UTF-16"):
        open_corpus(data_config(write(tmp_path / "a.txt", "some text".encode("utf-16"))))


def test_parquet_reads_its_text_column_and_sets(tmp_path, data_config):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"text": s, "meta": {"pile_set_name": "P"}}
            for s in STORIES] + [{"text": None, "meta": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    corpus = open_corpus(data_config(tmp_path / "a.parquet", max_bad=0.1))
    assert texts(corpus) == STORIES and list(corpus.describe()["sets"]) == ["P"]
    assert corpus.describe()["bad_lines"]["kinds"]["text not a string"]["line"] == 41
    with pytest.raises(BadInput, match="no column 'txt': did you mean 'text'"):
        open_corpus(data_config(tmp_path / "a.parquet", text_key="txt"))
    with pytest.raises(BadInput, match="cannot be read as parquet"):
        open_corpus(data_config(write(tmp_path / "b.parquet", b"nothing of the kind")))
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 4], np.int32).tobytes()),
                                         pa.py_buffer(b"ab\xa0c"))     # not UTF-8
    pq.write_table(pa.table({"text": broken}), tmp_path / "c.parquet")
    with pytest.raises(BadInput, match="c.parquet cannot be read as parquet: .*codec"):
        open_corpus(data_config(tmp_path / "c.parquet"))


def test_rows_of_tokens_are_documents(tmp_path, data_config):
    rows = np.arange(20 * 33).reshape(20, 33) % 200
    np.save(tmp_path / "a.npy", rows.astype(np.int64))
    corpus = open_corpus(data_config(tmp_path / "a.npy", pack="truncate", val_docs=5))
    store = corpus.store
    assert (np.stack([store.read(int(s), 33) for s in store.starts]) == rows).all()
    assert corpus.describe()["bytes"] == rows.size
    x, y = corpus.train(32, 15, seed=0).batch(0)
    assert sorted(map(tuple, np.c_[x, y[:, -1:]])) == sorted(map(tuple, rows[:15]))


@pytest.mark.parametrize("array, why", [(np.zeros((3, 4)), "float64"),
                                        (np.full((3, 40), 257), "the token 257"),
                                        (np.full((3, 40), -1), "the token -1")])
def test_rows_that_are_no_tokens_are_refused(tmp_path, data_config, array, why):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadInput, match=why):
        open_corpus(data_config(tmp_path / "a.npy"))


def shard(path, tokens, promised=None, magic=20240520, version=1):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens) if promised is None else promised
    return write(path, header.tobytes() + np.asarray(tokens, np.uint16).tobytes())


def test_a_token_shard_is_cut_at_the_ends_of_documents(tmp_path, data_config, monkeypatch):
    # documents cross the borders of the parts that are read at once
    monkeypatch.setattr("experiments.corpus.tokenfiles.STEP", 50)
    documents = [np.random.default_rng(n).integers(0, 256, 5 + n) for n in range(30)]
    path = shard(tmp_path / "a.bin", np.concatenate([np.r_[256, d] for d in documents]))
    corpus = open_corpus(data_config(path))
    store = corpus.store
    stored = [list(store.read(int(s), int(n) - 1))
              for s, n in zip(store.starts, store.documents["tokens"], strict=True)]
    assert stored == [list(d) for d in documents]


def test_a_token_shard_without_any_end_is_cut_all_the_same(tmp_path, data_config):
    tokens = np.random.default_rng(0).integers(0, 256, 300_000)
    corpus = open_corpus(data_config(shard(tmp_path / "a.bin", tokens)))
    assert corpus.describe()["documents"] == 5
    assert sum(int(n) - 1 for n in corpus.store.documents["tokens"]) == 300_000


def test_token_shards_of_another_kind_or_length_are_refused(tmp_path, data_config):
    for name, changes, why in (("a", {"magic": 1}, "no token shard"),
                               ("b", {"version": 7}, "version 7"),
                               ("c", {"promised": 500}, "holds 100 of the 500 tokens")):
        with pytest.raises(BadInput, match=why):
            open_corpus(data_config(shard(tmp_path / f"{name}.bin", np.arange(100), **changes)))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
def test_bare_tokens_are_read_with_a_declared_type(tmp_path, data_config, dtype):
    documents = [np.random.default_rng(n).integers(0, 256, 15 + n) for n in range(30)]
    bare = write(tmp_path / "train.bin", np.concatenate([np.r_[d, 256] for d
                                                         in documents]).astype(dtype).tobytes())
    store = open_corpus(data_config(bare, bin_dtype=dtype)).store
    assert [list(store.read(int(s), int(n) - 1))
            for s, n in zip(store.starts, store.documents["tokens"], strict=True)
            ] == [list(d) for d in documents]
    with pytest.raises(BadInput,
                       match="as nanoGPT's train.bin, give its type: --data.bin_dtype=uint16"):
        open_corpus(data_config(bare))


def test_bare_tokens_of_another_type_than_declared_are_refused(tmp_path, data_config):
    words = write(tmp_path / "train.bin", np.arange(100, dtype=np.uint16).tobytes())
    for dtype, why in (("uint32", r"holds the token \d+, but byte has .*\(or data.bin_dtype\)"),
                       ("uint8", "'uint8'")):
        with pytest.raises(BadInput, match=why):
            open_corpus(data_config(words, bin_dtype=dtype))
    with pytest.raises(BadInput, match="201 bytes, which are no whole number of uint16 tokens"):
        open_corpus(data_config(write(tmp_path / "odd.bin", bytes(201)), bin_dtype="uint16"))
    with pytest.raises(BadInput, match="has a header that gives its type"):
        open_corpus(data_config(shard(tmp_path / "a.bin", np.arange(100)), bin_dtype="uint16"))
    with pytest.raises(BadInput,
                       match="data.bin_dtype belongs to .bin files, and --data names none"):
        open_corpus(data_config(write(tmp_path / "a.jsonl", JSONL), bin_dtype="uint16"))


MARK = "<|endoftext|>"


@given(st.lists(st.text("ab<|>\n\r", max_size=12), max_size=12), st.integers(1, 40),
       st.sampled_from([MARK, "aa", "\n"]))
def test_documents_between_separators_are_those_of_a_split_of_the_whole(parts, block, mark):
    text = mark.join(parts).encode()
    blocks = [(i, text[i:i + block]) for i in range(0, len(text), block)]
    read = [t for chunk in separated(blocks, mark.encode()) for t in chunk.texts]
    assert read == [t.strip(b"\n") for t in text.split(mark.encode()) if t.strip(b"\n")]


def test_a_document_between_separators_that_is_too_long_is_a_bad_line(monkeypatch):
    monkeypatch.setattr("experiments.corpus.readers.MAX_LINE", 50)
    text = b"one" + MARK.encode() + b"x" * 500 + MARK.encode() + b"two"
    chunks = list(separated([(i, text[i:i + 10]) for i in range(0, len(text), 10)], MARK.encode()))
    assert [getattr(chunk, "texts", "too long") for chunk in chunks] == [
        [b"one"], "too long", [b"two"]]


def test_end_markers_in_a_text_are_said_and_a_separator_cuts_at_them(tmp_path, data_config, capsys):
    # the stories together exceed 16 KB, so without a separator the text is cut
    stories = [story * 20 for story in STORIES]
    path = write(tmp_path / "stories.txt", f"\r\n{MARK}\r\n".join(stories))
    for _ in range(2):  # the message also appears for a corpus from the cache
        corpus = open_corpus(data_config(path))
        assert f"The text holds {MARK!r} {len(STORIES) - 1:,} times" in capsys.readouterr().err
    assert corpus.describe()["markers"] == {MARK: len(STORIES) - 1}
    corpus = open_corpus(data_config(path, separator=MARK))
    assert texts(corpus) == stories and "ordinary text" not in capsys.readouterr().err
    write(tmp_path / "a.jsonl", JSONL)
    with pytest.raises(BadInput,
                       match="data.separator belongs to .txt files, and --data names none"):
        open_corpus(data_config(tmp_path / "a.jsonl", separator=MARK))
    with pytest.raises(BadInput, match="give a text that is not blank"):
        open_corpus(data_config(path, separator=""))


def test_folders_and_globs_are_read_in_the_order_of_names(tmp_path, data_config):
    (tmp_path / "d" / "e").mkdir(parents=True)
    write(tmp_path / "d" / "b.jsonl", "\n".join(LINES[20:]))
    write(tmp_path / "d" / "a.jsonl", "\n".join(LINES[:10]))
    write(tmp_path / "d" / "e" / "c.jsonl.gz", gzip.compress("\n".join(LINES[10:20]).encode()))
    write(tmp_path / "d" / "notes.md", "not read")
    order = STORIES[:10] + STORIES[20:] + STORIES[10:20]
    assert texts(open_corpus(data_config(tmp_path / "d"))) == order
    assert texts(open_corpus(data_config(tmp_path / "d" / "**" / "*.jsonl*"))) == order


@pytest.mark.parametrize("given_path, why", [
    ("a.json", "no such file: did you mean 'a.jsonl'"),
    ("empty", "holds no file that can be read; known: .jsonl"),
    ("a.jsn", "cannot read this kind of file: did you mean '.jsonl'"),
    ("*.zst", "no file matches this pattern"),
    ("tinystory", "no data set's name")])
def test_what_cannot_be_read_is_refused_with_the_nearest_that_can(
        tmp_path, data_config, given_path, why):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.jsonl", JSONL)
    write(tmp_path / "a.jsn", JSONL)
    with pytest.raises(BadInput, match=why) as error:
        open_corpus(data_config(tmp_path / given_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", LINES[0].encode(),
                                     f"{LINES[0]}\n{LINES[0]}\n".encode()])
def test_an_empty_corpus_says_so(tmp_path, data_config, content):
    with pytest.raises(BadInput, match="holds (no|only one) document"):
        open_corpus(data_config(write(tmp_path / "a.jsonl", content)))


def test_only_the_first_lines_are_read_on_demand_bad_ones_among_them(tmp_path, data_config):
    path = write(tmp_path / "a.jsonl", b"\n\nnot json\n" + JSONL)
    corpus = open_corpus(data_config(path, max_docs=11, max_bad=0.1))
    assert texts(corpus) == STORIES[:10] and corpus.describe()["bad_lines"]["lines"] == 11


def test_real_text_reads_whole(real_text, data_config):
    path = real_text("pile_real_permissive.jsonl")
    corpus = open_corpus(data_config(path, tokenizer="gpt2"))
    assert texts(corpus) == [json.loads(line)["text"] for line
                             in path.read_text(encoding="utf-8").splitlines()]
