"""
What readers hand to the workers: pieces of bounded size, in the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_LINE = 32 << 20   # bytes; a longer line is a bad line and is never held in memory
TARGET = 1 << 19      # bytes of text in a chunk: large against its overhead, small against memory
UNNAMED = "text"      # the set of documents that name none


@dataclass
class Chunk:
    """A piece of one source. `position`: bytes of the file read so far; `cost`: bytes of memory it
    holds."""
    position: int
    cost: int


@dataclass
class LineChunk(Chunk):
    """Whole lines of JSON, or one line too long to hold (`blob` is then empty)."""
    blob: bytes
    too_long: bool = False


@dataclass
class TextChunk(Chunk):
    """Documents that need no parsing: what should be a str (bytes are decoded, the rest counted as
    bad), and sets."""
    texts: list[Any]
    sets: list[str]


@dataclass
class TokenChunk(Chunk):
    """Documents that are tokens already, without their end-of-document token."""
    rows: list[np.ndarray]


class CutShort(Exception):
    """The compressed stream ends too early, or is damaged; all that could be read has been handed
    on."""
