"""
Turns a chunk into tokens: parses it, sorts out lines that are no documents, and encodes the rest.
Many worker threads do this at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.corpus.chunks import MAX_LINE, UNNAMED, Chunk, LineChunk, TextChunk, TokenChunk
from experiments.corpus.readers import BYTE_ORDER_MARK
from experiments.corpus.tokenizers import Tokenizer, grouped

# One entry per document. tokens includes the end-of-document token. hash is the hash of the text;
# near is the hash of the text with white space normalised, so near-copies share it.
DOCUMENT = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("set", "<u2"), ("hash", "<u8"),
                     ("near", "<u8")])


class BadLine(Exception):
    """A line that is no document. Its args are the kind, one of KINDS, and a hint for the user or
    ''."""


KINDS = ("not JSON", "no text", "text not a string", "invalid UTF-8", "too short", "NUL bytes",
         "too long")
LEVELS = 100     # levels of nesting that are read where Python cannot read all of a line's
# Texts that other programs use for the end of a document.
MARKERS = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>")
DIGITS = 4300    # the most digits of an integer that Python converts
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{}\]]')    # a string, or a bracket


@dataclass
class Digest:
    """The result of cleaning a chunk. `lines` counts all lines, including blank ones; `items`
    counts the lines that are not blank."""
    lines: int = 0
    items: int = 0
    at: list[int] = field(default_factory=list)          # each document's item number
    ids: list[np.ndarray] = field(default_factory=list)  # each document's tokens, with its end
    # per document: tokens, bytes, set, hash, near
    rows: list[tuple[int, int, str, int, int]] = field(default_factory=list)
    # per bad line: item, line in the chunk, kind, hint
    bad: list[tuple[int, int, str, str]] = field(default_factory=list)
    # item, one of MARKERS, how often the item holds it
    markers: list[tuple[int, str, int]] = field(default_factory=list)

    def first(self, items: int) -> Digest:
        """The digest of the first `items` items only."""
        keep = sum(1 for i in self.at if i < items)
        return Digest(self.lines, min(items, self.items), self.at[:keep], self.ids[:keep],
                      self.rows[:keep],
                      [bad for bad in self.bad if bad[0] < items],
                      [held for held in self.markers if held[0] < items])


@dataclass(frozen=True)
class Cleaner:
    """Turns chunks into digests under fixed settings."""
    tokenizer: Tokenizer
    text_key: str
    min_chars: int
    set_key: str | None = None

    def __call__(self, chunk: Chunk) -> Digest:
        """Parse and check a chunk's lines one by one, then encode its documents together."""
        digest, good = Digest(), []
        for item in _items(chunk):
            digest.lines += 1
            if item is not None:
                self._sort_out(digest, good, chunk, item)
                digest.items += 1
        contents = [content for content, *_ in good]
        digest.ids = (self._ended(contents) if isinstance(chunk, TokenChunk)
                      else self._encoded(contents))
        digest.rows = [(len(ids), *row) for ids, (_, *row) in zip(digest.ids, good, strict=True)]
        return digest

    def _sort_out(self, digest: Digest, good: list, chunk: Chunk, item: Any) -> None:
        """Add an item to the good ones, as (content, bytes, set, hash, near), or to the bad
        lines."""
        try:
            good.append(self._tokens(item) if isinstance(chunk, TokenChunk)
                        else self._text(chunk, item))
        except BadLine as bad:
            digest.bad.append((digest.items, digest.lines, *bad.args))
        else:
            digest.at.append(digest.items)
            if isinstance(text := good[-1][0], str):
                digest.markers += [(digest.items, mark, times)
                                   for mark in MARKERS if (times := text.count(mark))]

    def _text(self, chunk: Chunk, item: Any) -> tuple[str, int, str, int, int]:
        text, name = (parse(item, self.text_key, self.set_key)
                      if isinstance(chunk, LineChunk) else item)
        text, raw = checked(text, self.min_chars)
        return text, len(raw), name, hash64(raw), near64(text)

    def _tokens(self, ids: np.ndarray) -> tuple[np.ndarray, int, str, int, int]:
        if not len(ids):
            raise BadLine("too short", "")
        size = int(self.tokenizer.token_bytes[ids].sum())
        ids = ids.astype(self.tokenizer.dtype)
        text = self.tokenizer.decode_bytes(ids).decode("utf-8", errors="surrogateescape")
        return ids, size, UNNAMED, hash64(ids.tobytes()), near64(text)

    def _encoded(self, texts: list[str]) -> list[np.ndarray]:
        return [ids for group in grouped(texts) for ids in self.tokenizer.encode_documents(group)]

    def _ended(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return [np.append(ids, np.array(self.tokenizer.eot, ids.dtype)) for ids in rows]


def _items(chunk: Chunk) -> Iterator[Any]:
    """Yield a chunk's lines or documents, and None for a blank line."""
    if isinstance(chunk, TokenChunk):
        yield from (row for row in chunk.rows)
    elif isinstance(chunk, TextChunk):
        yield from zip(chunk.texts, chunk.sets, strict=True)
    elif chunk.too_long:
        yield b""
    else:
        for line in chunk.blob.removesuffix(b"\n").split(b"\n"):
            yield line if line.strip() else None


def parse(line: bytes, text_key: str, set_key: str | None = None) -> tuple[Any, str]:
    """A line of JSON → (the value under the key, the name of its set). The set is what `set_key`
    leads to, such as 'meta.lang'; None: the Pile's meta.pile_set_name. Raises BadLine where there
    is no text."""
    if not line or len(line) > MAX_LINE:   # the reader yields an empty line for one beyond it
        raise BadLine("too long", f"more than {MAX_LINE >> 20} MB")
    if b"\0" in line:
        raise BadLine("NUL bytes", "")
    try:
        record = _record(line.removeprefix(BYTE_ORDER_MARK).decode("utf-8"))
    except UnicodeDecodeError:
        raise BadLine("invalid UTF-8", "") from None
    except ValueError:
        raise BadLine("not JSON", "") from None
    if not isinstance(record, dict) or text_key not in record:
        keys = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise BadLine("no text", f"it has {keys[:100]}")
    name = record
    for key in (set_key or "meta.pile_set_name").split("."):
        name = name.get(key) if isinstance(name, dict) else None
    name = str(name) if set_key and isinstance(name, int | float) else name
    return record[text_key], name if isinstance(name, str) and name else UNNAMED


def _record(line: str) -> Any:
    """The value of a line of JSON, for any depth of nesting and any length of its numbers. Raises
    ValueError if the line is not JSON."""
    try:
        return json.loads(line, parse_int=_integer)
    except RecursionError:
        return json.loads(_shallow(line), parse_int=_integer)


def _integer(digits: str) -> int:
    """An integer of a record, or 0 where it has more digits than Python converts. No setting reads
    an integer."""
    return int(digits) if len(digits) <= DIGITS else 0


def _shallow(line: str) -> str:
    """The same JSON with null in place of every value that nests deeper than LEVELS. Of the values
    left out only the brackets are checked. Raises ValueError where brackets do not match."""
    kept, opened, done = [], [], 0
    for mark in _MARK.finditer(line):
        if mark[0] in "[{":
            if len(opened) == LEVELS:
                kept += [line[done:mark.start()], "null"]
            opened.append(mark[0])
        elif mark[0] in "]}":
            if not opened or opened.pop() + mark[0] not in ("[]", "{}"):
                raise ValueError("brackets do not match")
            if len(opened) == LEVELS:
                done = mark.end()
    if opened:
        raise ValueError("a bracket is not closed")
    return "".join([*kept, line[done:]])


def checked(text: Any, min_chars: int) -> tuple[str, bytes]:
    """A document's text as (str, UTF-8 bytes). Raises BadLine where it is not fit."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        if not isinstance(text, str):
            raise BadLine("text not a string", f"it is {type(text).__name__}")
        raw = text.encode("utf-8")   # fails for half of a surrogate pair, which is no character
    except UnicodeError:
        raise BadLine("invalid UTF-8", "") from None
    if b"\0" in raw:
        raise BadLine("NUL bytes", "")
    if len(text) < min_chars:
        raise BadLine("too short", f"{len(text)} characters")
    return text, raw


def hash64(raw: bytes) -> int:
    """A document's 64-bit hash. It decides the document's side of the split and finds its
    copies."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def near64(text: str) -> int:
    """The hash of a text with white space normalised: each run of it becomes one blank, and none
    remains at either end.

    Letter case and Unicode normal forms are not changed. Bytes that are not UTF-8 arrive as lone
    surrogates.
    """
    return hash64(" ".join(text.split()).encode("utf-8", errors="surrogateescape"))
