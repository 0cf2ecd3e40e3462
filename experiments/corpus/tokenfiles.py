"""
Reads files that already hold tokens: study 003's .npy rows, the .bin shards of llm.c and
modded-nanogpt, and nanoGPT's .bin without a header.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.corpus.chunks import CutShort, TokenChunk
from mingpt.utils import BadInput

HEADER, MAGIC, VERSION = 256, 20240520, 1   # int32 values before the uint16 tokens
STEP = 1 << 18                              # tokens read at once
# The types of a .bin without a header. Its numbers are little-endian.
BIN_DTYPES = ("uint16", "uint32", "int32")
LONGEST = 1 << 16                           # most tokens per document; a longer one is cut


def read_npy(path: Path, tokenizer, **_) -> Iterator[TokenChunk]:
    """Read integer rows [n, S + 1], each of which is a document. An array of one dimension is a
    stream, as in a .bin. Raises BadInput for any other array and for ids outside the
    vocabulary."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:     # a damaged header, which is a Python literal, may fail anywhere
        raise BadInput(f"--data {path} cannot be read as .npy: {error}") from None
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise BadInput(f"--data {path} holds {array.dtype} {array.shape}: rows of token ids are "
                       f"integers (n, S + 1)")
    if array.ndim == 1:
        yield from _documents(path, array, 0, tokenizer)
        return
    step = max(1, STEP // max(1, array.shape[1]))
    for start in range(0, len(array), step):
        rows = _checked(path, array[start:start + step], tokenizer)
        done = rows.size * array.itemsize + start * array.shape[1] * array.itemsize
        yield TokenChunk(done, rows.nbytes, list(rows))


def read_bin(path: Path, tokenizer, bin_dtype: str | None = None, **_) -> Iterator[TokenChunk]:
    """Read a token shard or, with `bin_dtype`, tokens without a header. End-of-document tokens
    separate the documents. Raises BadInput for another format, CutShort for a shard that ends too
    early."""
    header = np.fromfile(path, np.int32, HEADER)
    shard = len(header) == HEADER and header[0] == MAGIC
    if bin_dtype is not None:
        if shard:
            raise BadInput(f"--data {path} has a header that gives its type: leave out "
                           f"data.bin_dtype")
        yield from _bare(path, np.dtype(bin_dtype).newbyteorder("<"), tokenizer)
        return
    if not shard:
        found = header[0] if len(header) else "nothing"
        raise BadInput(f"--data {path} is no token shard: it begins with {found}, not {MAGIC} (for "
                       f"a file without a header, such as nanoGPT's train.bin, give its type: "
                       f"--data.bin_dtype={BIN_DTYPES[0]})")
    if header[1] != VERSION:
        raise BadInput(f"--data {path} is a token shard of version {header[1]}: only {VERSION} "
                       f"(uint16) is known")
    if header[2] < 0:
        raise BadInput(f"--data {path} is damaged: its header promises {header[2]} tokens")
    stored = (path.stat().st_size - HEADER * 4) // 2
    if stored:
        tokens = np.memmap(path, np.uint16, "r", HEADER * 4, (min(stored, int(header[2])),))
        yield from _documents(path, tokens, HEADER * 4, tokenizer)
    if stored < header[2]:
        raise CutShort(f"holds {stored:,} of the {header[2]:,} tokens that its header promises")


def _bare(path: Path, dtype: np.dtype, tokenizer) -> Iterator[TokenChunk]:
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise BadInput(f"--data {path} holds {size:,} bytes, which are no whole number of "
                       f"{dtype.name} tokens: give another data.bin_dtype "
                       f"({', '.join(BIN_DTYPES)})")
    if size:
        yield from _documents(path, np.memmap(path, dtype, "r"), 0, tokenizer)


def _documents(path: Path, tokens: np.ndarray, offset: int, tokenizer) -> Iterator[TokenChunk]:
    """Cut a stream of tokens at its end-of-document tokens. These are dropped, because the corpus
    adds its own."""
    rest = np.zeros(0, np.int64)
    for start in range(0, len(tokens), STEP):
        part = np.concatenate([rest, _checked(path, tokens[start:start + STEP], tokenizer)])
        ends = np.flatnonzero(part == tokenizer.eot)
        rows = np.split(part, ends)
        rows = [rows[0], *(row[1:] for row in rows[1:])]
        rest = rows.pop() if len(rows[-1]) < LONGEST and start + STEP < len(tokens) else part[:0]
        pieces = [row[i:i + LONGEST] for row in rows for i in range(0, len(row), LONGEST)]
        yield TokenChunk(offset + (start + STEP) * tokens.itemsize, part.nbytes, pieces)


def _checked(path: Path, ids: np.ndarray, tokenizer) -> np.ndarray:
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
        worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise BadInput(f"--data {path} holds the token {worst}, but {tokenizer.name} has 0 to "
                       f"{tokenizer.vocab_size - 1}: give the right --data.tokenizer=… (or "
                       f"data.bin_dtype)")
    return np.asarray(ids).astype(np.int64)
