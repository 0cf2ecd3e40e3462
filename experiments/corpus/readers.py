"""
One reader per kind of file. A reader is a generator of chunks and holds only a small part of the
file at a time.

`READERS`, at the end of this file, lists the kinds of file that `--data` accepts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.corpus.chunks import (
    MAX_LINE,
    TARGET,
    UNNAMED,
    Chunk,
    CutShort,
    LineChunk,
    TextChunk,
)
from experiments.corpus.streams import Block, gzip_blocks, plain_blocks, zstd_blocks
from experiments.corpus.tokenfiles import read_bin, read_npy
from mingpt.utils import BadInput, did_you_mean

# Most bytes of a document from a .txt. A longer text is cut, so that a part of it can be held out
# for validation.
PIECE = 16 << 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def text_blocks(path: Path, open_blocks) -> Iterator[Block]:
    """Yield the file's bytes without a byte-order mark. Raises BadInput for UTF-16, of which every
    line would be bad."""
    first = True
    for position, data in open_blocks(path):
        if first and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadInput(f"--data {path} is UTF-16: convert it to UTF-8 first")
        yield position, data.removeprefix(BYTE_ORDER_MARK) if first else data
        first = False


def read_lines(path: Path, open_blocks, **_) -> Iterator[Chunk]:
    """Read JSON lines, in chunks that end where a line ends."""
    return line_chunks(text_blocks(path, open_blocks))


def line_chunks(blocks: Iterable[Block]) -> Iterator[LineChunk]:
    """Group blocks into chunks of complete lines. A line beyond MAX_LINE is skipped while it is
    read."""
    held: list[bytes] = []      # the beginning of a chunk: complete lines, then a part of one
    size, lines_end, skipping, position = 0, 0, False, 0
    try:
        for position, data in blocks:
            if skipping:
                newline = data.find(b"\n")
                if newline < 0:
                    continue
                data, skipping = data[newline + 1:], False
            newline = data.rfind(b"\n")
            held.append(data)
            if newline >= 0:
                lines_end = size + newline + 1
            size += len(data)
            if lines_end >= TARGET or (lines_end and size - lines_end > MAX_LINE):
                whole = b"".join(held)
                yield LineChunk(position, lines_end, whole[:lines_end])
                held, size, lines_end = [whole[lines_end:]], size - lines_end, 0
            if size > MAX_LINE and not lines_end:
                yield LineChunk(position, 0, b"", too_long=True)
                held, size, skipping = [], 0, True
    except CutShort:
        if lines_end:
            yield LineChunk(position, lines_end, b"".join(held)[:lines_end])
        raise  # the incomplete last line counts neither as a document nor as a bad line
    if size:
        yield LineChunk(position, size, b"".join(held))


def read_text(path: Path, open_blocks, separator: str | None = None, **_) -> Iterator[Chunk]:
    """Read a plain text as one document, or as one per 16 KB, cut after a blank line or else after
    a line. With a separator, the documents are the texts between separators."""
    blocks, rest, position = _unix_lines(text_blocks(path, open_blocks)), b"", 0
    if separator is not None:
        yield from separated(blocks, separator.replace("\r\n", "\n").encode())
        return
    for position, data in blocks:
        pieces, rest = cut_text(rest + data)
        if pieces:
            yield TextChunk(position, sum(map(len, pieces)), pieces, [UNNAMED] * len(pieces))
    if rest:
        yield TextChunk(position, len(rest), [rest], [UNNAMED])


def separated(blocks: Iterable[Block], mark: bytes) -> Iterator[Chunk]:
    """Yield the documents between marks, without the line ends next to a mark. A document beyond
    MAX_LINE is skipped while it is read."""
    rest, position, skipping = b"", 0, False
    for position, data in blocks:
        *whole, rest = (rest + data).split(mark)
        if skipping and whole:
            whole, skipping = whole[1:], False
        if skipping:
            rest = rest[-len(mark):]     # a mark may begin in this block and end in the next
        yield from _documents(position, whole)
        if len(rest) > MAX_LINE:
            yield LineChunk(position, 0, b"", too_long=True)
            rest, skipping = rest[-len(mark):], True
    if not skipping:
        yield from _documents(position, [rest])


def _documents(position: int, texts: list[bytes]) -> Iterator[TextChunk]:
    """Yield one chunk of the texts that are not empty, if there are any."""
    texts = [text for text in (text.strip(b"\n") for text in texts) if text]
    if texts:
        yield TextChunk(position, sum(map(len, texts)), texts, [UNNAMED] * len(texts))


def _unix_lines(blocks: Iterable[Block]) -> Iterator[Block]:
    carried, position = b"", 0
    for position, data in blocks:
        data = carried + data
        carried = b"\r" if data.endswith(b"\r") else b""   # its "\n" may be in the next block
        yield position, data.removesuffix(carried).replace(b"\r\n", b"\n")
    if carried:
        yield position, carried


def cut_text(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut a text into (pieces of at most PIECE bytes, the rest). Joined, they are the text
    again."""
    pieces, start = [], 0
    while len(data) - start > PIECE:
        end = _cut(data, start)
        pieces.append(data[start:end])
        start = end
    return pieces, data[start:]


def _cut(data: bytes, start: int) -> int:
    """The end of the piece that begins at `start`: after the last blank line in it, else the last
    line, else the last blank, else the last whole character."""
    for mark in (b"\n\n", b"\n", b" "):
        found = data.rfind(mark, start + PIECE // 4, start + PIECE)
        if found >= 0:
            return found + len(mark)
    end = start + PIECE
    while end > start + PIECE - 4 and data[end] & 0xC0 == 0x80:   # inside a UTF-8 character
        end -= 1
    return end


def read_parquet(path: Path, text_key: str, **_) -> Iterator[TextChunk]:
    """Read the text column, and the Pile's set names where there are any, in batches of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        file = pq.ParquetFile(path)
        columns = _parquet_columns(path, file.schema_arrow, text_key)
        read = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            read += batch.num_rows
            texts = batch.column(text_key).to_pylist()
            position = int(path.stat().st_size * read / max(1, file.metadata.num_rows))
            yield TextChunk(position, batch.nbytes, texts, _parquet_sets(batch, columns))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"--data {path} cannot be read as parquet: "
                       f"{str(error).splitlines()[0]}") from None


def _parquet_columns(path: Path, schema, text_key: str) -> list[str]:
    import pyarrow as pa
    if schema.names.count(text_key) > 1:
        raise BadInput(f"--data {path} has {schema.names.count(text_key)} columns {text_key!r}")
    if text_key not in schema.names:
        strings = [f.name for f in schema if pa.types.is_string(f.type)
                   or pa.types.is_large_string(f.type)]
        raise BadInput(f"--data {path} has no column {text_key!r}{did_you_mean(text_key, strings)} "
                       "(choose with --data.text_key=…)")
    meta = schema.field("meta").type if schema.names.count("meta") == 1 else None
    named = (meta is not None and pa.types.is_struct(meta)
             and meta.get_field_index("pile_set_name") >= 0)
    return [text_key, "meta"] if named else [text_key]


def _parquet_sets(batch, columns: list[str]) -> list[str]:
    if "meta" not in columns:
        return [UNNAMED] * batch.num_rows
    return [(meta or {}).get("pile_set_name") or UNNAMED
            for meta in batch.column("meta").to_pylist()]


READERS = {
    ".jsonl": functools.partial(read_lines, open_blocks=plain_blocks),
    ".jsonl.gz": functools.partial(read_lines, open_blocks=gzip_blocks),
    ".jsonl.zst": functools.partial(read_lines, open_blocks=zstd_blocks),
    ".txt": functools.partial(read_text, open_blocks=plain_blocks),
    ".parquet": read_parquet,
    ".npy": read_npy,
    ".bin": read_bin,
}
