"""GPT-2's encoding, compared with reference ids and with the published files."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingpt import bpe
from mingpt.utils import BadInput

REFERENCE = {
    "": [],
    "Hello world": [15496, 995],
    "Hello!! I'm Andrej Karpathy. It's 2022. w00t :D 🤗": [
        15496, 3228, 314, 1101, 10948, 73, 509, 5117, 10036, 13, 632, 338, 33160, 13, 266, 405, 83,
        1058, 35, 12520, 97, 245],
    "a\n\n  b\t\tc": [64, 628, 220, 275, 197, 197, 66],
    "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29],
    "日本語テスト": [33768, 98, 17312, 105, 45739, 252, 24336, 43302],
    "\r\nwin\r\n": [201, 198, 5404, 201, 198],
    "don't WE'LL they're I'd": [9099, 470, 12887, 6, 3069, 484, 821, 314, 1549],
    "def f(x):\n    return x+1\n": [4299, 277, 7, 87, 2599, 198, 220, 220, 220, 1441, 2124, 10, 16,
                                    198],
}


@pytest.fixture(scope="module")
def encoder():
    return bpe.get_encoder()


@pytest.mark.parametrize("text", REFERENCE)
def test_texts_encode_to_the_reference_ids(encoder, text):
    assert encoder.encode(text) == REFERENCE[text]
    assert encoder.encode_and_show_work(text)["bpe_idx"] == REFERENCE[text]


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_decoding_undoes_encoding_and_the_two_paths_agree(encoder, text):
    ids = encoder.encode(text)
    assert encoder.decode(ids) == text
    assert encoder.encode_and_show_work(text)["bpe_idx"] == ids


def test_the_merges_and_ids_are_the_published_files(encoder, real_text):
    lines = real_text("gpt2_bpe/vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    assert list(encoder.bpe_ranks) == [tuple(line.split()) for line in lines]
    assert encoder.encoder == json.loads(real_text("gpt2_bpe/encoder.json").read_text())


def test_there_are_fifty_thousand_merges_and_the_first_is_a_blank_before_t(encoder):
    assert len(encoder.bpe_ranks) == 50_000 and len(encoder.encoder) == 50_257
    assert next(iter(encoder.bpe_ranks)) == ("Ġ", "t")
    assert (
        encoder.encoder["<|endoftext|>"] == 50_256 and encoder.decode([50_256]) == "<|endoftext|>"
    )


def test_published_reference_encodings(encoder, real_text):
    for case in json.loads(real_text("gpt2_bpe/reference_encodings.json").read_text()):
        assert encoder.encode(case["text"]) == case["ids"], case["text"]


def test_every_byte_has_a_printable_character_of_its_own():
    table = bpe.bytes_to_unicode()
    assert sorted(table) == list(range(256)) and len(set(table.values())) == 256
    assert all(c.isprintable() and not c.isspace() for c in table.values())
    assert table[32] == "Ġ" and table[ord("!")] == "!"


def test_pairs_are_neighbours():
    assert bpe.get_pairs(("a", "b", "a")) == {("a", "b"), ("b", "a")}
    assert bpe.get_pairs("x") == set()


def test_a_character_cut_in_half_decodes_to_the_replacement_character(encoder):
    assert encoder.decode(encoder.encode("🤗")[:1]).endswith("\ufffd")


def test_bpe_shows_its_merges_and_remembers_them(encoder):
    assert encoder.bpe("ĠKarpathy") == "ĠK arp athy"
    assert encoder.cache["ĠKarpathy"] == "ĠK arp athy"


def test_an_encoder_whose_ids_are_not_in_merge_order_still_merges_by_rank():
    own = bpe.Encoder({c: n for n, c in enumerate(["b", "aa", "a", "ab"])},
                      [("a", "a"), ("a", "b")])
    assert own.encode("aaab") == [1, 3]


@pytest.mark.parametrize("blanks", [" " * 1_200_000, "\n" * 1_200_000])
def test_a_million_blanks_before_a_word_do_not_overflow(encoder, blanks):
    assert encoder.decode(encoder.encode("a" + blanks + "b")) == "a" + blanks + "b"


def test_a_long_run_of_blanks_is_cut_where_the_encoding_cuts_it_anyway(encoder, monkeypatch):
    text = "x" + " " * 120_000 + "end of it " + "\n" * 100_001 + "more"
    assert len(bpe.safe_pieces(text)) == 3
    in_pieces = encoder.encode(text)
    monkeypatch.setattr(bpe, "safe_pieces", lambda text: [text])
    assert encoder.encode(text) == in_pieces


CLASSES = [" ", "\n", " \n\t", "\u00a0 \u3000", "a", "1", "!", "é", "中", "\u00a0"]


@pytest.mark.parametrize("blanks", [" ", "\n", " \n\t", "\u00a0 \u3000"])
def test_a_run_of_blanks_is_read_from_its_first_blank_only(blanks):
    """This counts steps, not seconds. A partial match is a start from which the search reads to the
    end of the text."""
    text = "word" + (blanks * 2000)[:2000]
    starts = [at for at in range(len(text)) if bpe.LONG_BLANKS.match(text, at, partial=True)]
    assert len(starts) <= 2   # the run's first blank, and the end of the text


@given(run=st.sampled_from(CLASSES), count=st.integers(0, 40),
       before=st.sampled_from(["", "x", "1", ".", "'"]),
       after=st.sampled_from(["", "x", "1", ".", "é", "'s"]), least=st.integers(2, 12))
@settings(max_examples=200, deadline=None)
def test_cutting_long_runs_leaves_every_id_as_tiktoken_has_it(run, count, before, after, least):
    text = before + (run * 40)[:count] + after
    cuts = bpe.regex.compile(bpe.LONG_BLANKS.pattern.replace("100000", str(least)))
    pieces = bpe.cut_runs(text, cuts)
    ids = bpe.gpt2_encoding().encode_ordinary(text)
    assert "".join(pieces) == text
    assert [i for piece in pieces for i in bpe.gpt2_encoding().encode_ordinary(piece)] == ids


@pytest.mark.parametrize("run", CLASSES)
def test_a_run_of_140_000_characters_of_one_class_is_encoded_at_once(encoder, run):
    text = "word" + (run * 140_000)[:140_000]
    assert encoder.decode(encoder.encode(text)) == text
    assert encoder.encode(text) == bpe.gpt2_encoding().encode_ordinary(text)


def test_encoders_copy_and_pickle(encoder):
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other.encode("Hello world") == [15496, 995]


def test_the_tokenizer_speaks_tensors():
    torch = pytest.importorskip("torch")
    tokenizer = bpe.BPETokenizer()
    ids = tokenizer("Hello world")
    assert ids.dtype == torch.long and ids.tolist() == [[15496, 995]]
    assert tokenizer.decode(ids[0]) == "Hello world"
    with pytest.raises(AssertionError):
        tokenizer(["a list"])


def test_another_vocabulary_file_is_refused(tmp_path, monkeypatch):
    fake = tmp_path / "gpt2.tiktoken"
    fake.write_bytes(bpe.VOCABULARY.read_bytes()[:-1])
    monkeypatch.setattr(bpe, "VOCABULARY", fake)
    with pytest.raises(BadInput, match="is not GPT-2's vocabulary"):
        bpe.gpt2_ranks.__wrapped__()


def test_the_worked_example_runs_without_torch():
    out = subprocess.run([sys.executable, "-X", "importtime", "-m", "mingpt.bpe"],
                         capture_output=True, text=True)
    assert out.returncode == 0 and str(REFERENCE["Hello world"][:1])[1:-1] in out.stdout
    assert "'token_merged': ['ĠK', 'arp', 'athy']" in out.stdout
    assert "| torch\n" not in out.stderr
