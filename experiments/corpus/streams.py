"""
Reads a file's bytes in blocks and decompresses them where needed. Blocks stay small, however well
the file is compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from experiments.corpus.chunks import CutShort
from mingpt.utils import BadInput

Block = tuple[int, bytes]   # (bytes of the file read so far, data)

READ = 1 << 18        # bytes read at once
# Bytes fed to the zstd decoder at once. A few KB can expand to 100 MB of one character, so little
# input keeps the output small.
ZSTD_FEED = 1 << 13
ZLIB_OUT = 1 << 20    # most bytes per decompressed block
# The longest zstd window that is read, in bytes (--long=31). The decoder holds one window in
# memory.
ZSTD_WINDOW = 1 << 31


def plain_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file that is not compressed."""
    position = 0
    with open(path, "rb") as f:
        while data := f.read(READ):
            position += len(data)
            yield position, data


def gzip_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a .gz file of one or several members. Raises CutShort where it ends too early
    or is damaged."""
    member = None
    for position, data in plain_blocks(path):
        while data:
            if member is None:
                data = data.lstrip(b"\0")   # padding between members, which gzip skips too
                if not data:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                out = member.decompress(data, ZLIB_OUT)
            except zlib.error as error:
                raise CutShort(f"is damaged near byte {position:,} ({error})") from None
            if out:
                yield position, out
            data = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        yield from _last(member, path)


def _last(member, path: Path) -> Iterator[Block]:
    """The data that zlib still holds at the end of a file. Raises CutShort where the member is not
    complete."""
    size = path.stat().st_size
    if out := member.flush():
        yield size, out
    if not member.eof:
        raise CutShort(f"is cut short at byte {size:,}")


def zstd_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a .zst file of one or several frames. Raises CutShort where it ends too early
    or is damaged, and BadInput where its window is too long."""
    frame, position = None, 0
    for data in _small(path):
        position += len(data)
        while data:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
            try:
                out = frame.decompress(data)
            except (zstandard.ZstdError, MemoryError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error):
                    raise BadInput(f"--data {path} needs a longer zstd window than fits (limit "
                                   f"{ZSTD_WINDOW >> 20:,} MB): unpack it first with zstd -d "
                                   f"--long=31 --memory=4096MB {path.name}") from None
                raise CutShort(f"is damaged near byte {position:,} ({error})") from None
            for start in range(0, len(out), ZLIB_OUT):
                yield position, out[start:start + ZLIB_OUT]
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise CutShort(f"is cut short at byte {position:,}")


def _small(path: Path) -> Iterator[bytes]:
    for _, data in plain_blocks(path):
        for start in range(0, len(data), ZSTD_FEED):
            yield data[start:start + ZSTD_FEED]
