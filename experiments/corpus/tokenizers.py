"""
Tokenizers turn text into integers and back: GPT-2's byte pairs (needs no network), plain bytes, or
any encoding that tiktoken knows.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tiktoken

from mingpt.bpe import gpt2_encoding, safe_pieces
from mingpt.utils import BadInput, did_you_mean

SMALL_VOCABULARY = 2 ** 16   # the most ids that uint16 can hold
GROUP = 1 << 18              # characters encoded in one call
SEPARATOR = "\0"             # between documents in such a call; a corpus refuses texts that hold it


class Tokenizer(ABC):
    """A tokenizer with its name, vocab_size and eot, the id that ends a document. Ids are uint16,
    or uint32 for larger vocabularies."""

    def __init__(self, name: str, vocab_size: int, eot: int):
        self.name, self.vocab_size, self.eot = name, vocab_size, eot
        self.dtype = np.dtype(np.uint16 if vocab_size <= SMALL_VOCABULARY else np.uint32)

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """One text → its ids (n,). It mostly runs without the GIL, so that threads run in
        parallel."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Ids → text. Bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def decode_bytes(self, ids: np.ndarray) -> bytes:
        """Ids (n,) of one document → the bytes of its text."""

    @property
    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """The number of bytes of text that each id stands for, int32 [vocab_size]. It is 0 for the
        end of a document."""

    def encode_documents(self, texts: list[str]) -> list[np.ndarray]:
        """Texts → the ids of each, followed by eot."""
        eot = np.array([self.eot], self.dtype)
        return [np.concatenate([self.encode(text), eot]) for text in texts]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Texts → one array of ids per text, without eot. Uses as many threads as there are
        cores."""
        groups = list(grouped(texts))
        if len(groups) < 2:
            return [ids[:-1] for group in groups for ids in self.encode_documents(group)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [ids[:-1] for group in pool.map(self.encode_documents, groups) for ids in group]


def grouped(texts: list[str]) -> Iterator[list[str]]:
    """Yield neighbouring texts in groups of about GROUP characters. Each group is encoded in one
    call of compiled code."""
    group, size = [], 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


class ByteTokenizer(Tokenizer):
    """The 256 byte values of UTF-8, and the id 256 for the end of a document. Its small vocabulary
    gives a small head, for small models."""

    def __init__(self):
        super().__init__("byte", vocab_size=257, eot=256)

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids if i != self.eot).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: np.ndarray) -> bytes:
        return ids[ids != self.eot].astype(np.uint8).tobytes()

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], np.int32)


class TiktokenTokenizer(Tokenizer):
    """A byte pair encoding of tiktoken."""

    def __init__(self, name: str, encoding):
        super().__init__(name, encoding.n_vocab, encoding.eot_token)
        self.encoding = encoding

    def encode(self, text: str) -> np.ndarray:
        # '<|endoftext|>' in a text is ordinary text: only the corpus ends documents.
        parts = [self.encoding.encode_to_numpy(piece, disallowed_special=())
                 for piece in safe_pieces(text)]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(self.dtype)

    @functools.cached_property
    def _joined(self) -> tiktoken.Encoding:
        """The same encoding with SEPARATOR as its only special token, which ends a document."""
        return tiktoken.Encoding(f"{self.name}-joined", pat_str=self.encoding._pat_str,
                                 mergeable_ranks=self.encoding._mergeable_ranks,
                                 special_tokens={SEPARATOR: self.eot})

    def encode_documents(self, texts: list[str]) -> list[np.ndarray]:
        """Texts → the ids of each, followed by eot."""
        # One call encodes all texts. With one call per text, threads would wait for each other at
        # the GIL after every text.
        if any(SEPARATOR in text or len(safe_pieces(text)) > 1 for text in texts):
            return super().encode_documents(texts)
        joined = SEPARATOR.join([*texts, ""])
        ids = self._joined.encode_to_numpy(joined, allowed_special={SEPARATOR},
                                           disallowed_special=())
        ends = np.flatnonzero(ids == self.eot) + 1
        return np.split(ids.astype(self.dtype), ends[:-1]) if texts else []

    def decode(self, ids: Iterable[int]) -> str:
        return self.encoding.decode([int(i) for i in ids])

    def decode_bytes(self, ids: np.ndarray) -> bytes:
        return self.encoding.decode_bytes(ids.tolist())

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        sizes = np.zeros(self.vocab_size, np.int32)
        for token in self.encoding.token_byte_values():
            sizes[self.encoding.encode_single_token(token)] = len(token)
        return sizes


@functools.cache
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name: `gpt2`, `byte`, or an encoding that tiktoken fetches once, such
    as `o200k_base`. Raises BadInput where it is unknown or cannot be fetched."""
    if name == "gpt2":
        return TiktokenTokenizer("gpt2", gpt2_encoding())
    if name == "byte":
        return ByteTokenizer()
    return TiktokenTokenizer(name, _fetched(name))


def _fetched(name: str):
    known = ["gpt2", "byte", *(n for n in tiktoken.list_encoding_names() if n != "gpt2")]
    if name not in known:
        raise BadInput(f"data.tokenizer: no tokenizer {name!r}{did_you_mean(str(name), known)}")
    try:
        return tiktoken.get_encoding(name)
    except OSError as error:   # requests' errors are OSErrors
        raise BadInput(f"data.tokenizer: {name!r} must be fetched and the network did not answer "
                       f"({type(error).__name__}): use gpt2 or byte, which need no network"
                       ) from None
