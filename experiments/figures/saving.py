"""
Write a figure atomically, with the same bytes for the same runs.
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from mingpt.utils import write_atomic

FORMATS = ("png", "svg", "pdf")


def save(figure: Figure, stem: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write STEM.png, STEM.svg or STEM.pdf for each format, atomically; return their paths. Dates
    are left out, so the same runs give the same file."""
    paths = []
    for kind in formats:
        buffer = io.BytesIO()
        undated = {"png": {"Software": None}, "svg": {"Date": None},
                   "pdf": {"CreationDate": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=undated)
        # with_suffix would cut off the end of a name that contains a dot
        path = stem.with_name(f"{stem.name}.{kind}")
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
