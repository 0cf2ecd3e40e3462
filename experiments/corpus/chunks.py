"""
The chunks that readers hand to the workers: pieces of bounded size, in the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_LINE = 32 << 20   # bytes; a longer line is a bad line and is never held in memory
TARGET = 1 << 19      # bytes of text per chunk: large relative to its overhead, small in memory
UNNAMED = "text"      # the set of documents that name no set


@dataclass
class Chunk:
    """A piece of one source. `position` is the bytes of the file read so far; `cost` is the bytes
    of memory that the piece takes."""
    position: int
    cost: int


@dataclass
class LineChunk(Chunk):
    """Complete lines of JSON, or one line that is too long to hold (`blob` is then empty)."""
    blob: bytes
    too_long: bool = False


@dataclass
class TextChunk(Chunk):
    """Documents that need no parsing, and their sets. A text should be a str; bytes are decoded,
    and any other value counts as a bad line."""
    texts: list[Any]
    sets: list[str]


@dataclass
class TokenChunk(Chunk):
    """Documents that are tokens already, without their end-of-document token."""
    rows: list[np.ndarray]


class CutShort(Exception):
    """The file ends too early or is damaged. The reader has already yielded all that could be
    read."""
