"""Tokenizers: text to ids and back, and the number of bytes of text per id."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import tokenizers
from experiments.corpus.tokenizers import get_tokenizer
from mingpt.utils import BadInput

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=100)


@pytest.mark.parametrize("name", ["gpt2", "byte"])
@given(texts=st.lists(TEXT, max_size=4))
@settings(max_examples=50, deadline=None)
def test_decoding_undoes_encoding_and_bytes_add_up(name, texts):
    tokenizer = get_tokenizer(name)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.uint16 and tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("name, size, eot", [("gpt2", 50_257, 50_256), ("byte", 257, 256)])
def test_the_end_of_a_document_is_the_last_id_and_stands_for_no_text(name, size, eot):
    tokenizer = get_tokenizer(name)
    assert (tokenizer.vocab_size, tokenizer.eot) == (size, eot)
    assert tokenizer.token_bytes.shape == (size,) and tokenizer.token_bytes[eot] == 0
    assert (np.delete(tokenizer.token_bytes, eot) > 0).all()


def test_the_special_token_written_out_is_text():
    tokenizer = get_tokenizer("gpt2")
    assert tokenizer.eot not in tokenizer.encode("<|endoftext|>")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'gpt2'"):
        get_tokenizer("gpt-2")


def test_an_encoding_that_cannot_be_fetched_is_refused_in_one_line(monkeypatch):
    def no_network(name):
        raise ConnectionError("no network")
    monkeypatch.setattr("tiktoken.get_encoding", no_network)
    with pytest.raises(BadInput, match="use gpt2 or byte"):
        tokenizers._fetched("o200k_base")


def test_a_vocabulary_beyond_uint16_gets_uint32():
    class Wide(tokenizers.ByteTokenizer):
        def __init__(self):
            tokenizers.Tokenizer.__init__(self, "wide", vocab_size=100_000, eot=99_999)
    assert Wide().dtype == np.uint32 and Wide().encode("é").dtype == np.uint32


@pytest.mark.parametrize("name", ["gpt2", "byte"])
@given(texts=st.lists(st.one_of(TEXT, st.sampled_from(["\0", "a\0b", " ", "", "\n\n",
                                                       "<|endoftext|>"])), max_size=8))
@settings(max_examples=100, deadline=None)
def test_documents_encoded_together_are_encoded_as_each_alone(name, texts):
    tokenizer = get_tokenizer(name)
    together = tokenizer.encode_documents(texts)
    assert [ids.tolist() for ids in together] == [[*tokenizer.encode(text).tolist(), tokenizer.eot]
                                                  for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [
        ids.tolist()[:-1] for ids in together]


def test_groups_keep_the_order_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(tokenizers, "GROUP", 10)
    texts = [str(n) * n for n in range(12)]
    groups = list(tokenizers.grouped(texts))
    assert [text for group in groups for text in group] == texts and len(groups) > 3
    assert [get_tokenizer("gpt2").decode(ids)
            for ids in get_tokenizer("gpt2").encode_batch(texts)] == texts
