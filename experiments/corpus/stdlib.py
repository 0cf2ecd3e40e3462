"""
The corpus that every machine has: the docstrings and sources of the running Python's standard
library.

It is real English and real code and needs no download. Docstrings are removed from the sources, so
that a text held out in one set is not learned from the other.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from experiments.corpus.chunks import Chunk, TextChunk
from experiments.corpus.readers import cut_text
from mingpt.utils import BadInput

VERSION = 1    # version of the way documents are made; part of the fingerprint
SETS = ("PythonDocstrings", "PythonSource")
# the names of --data and data.sources for this corpus → the sets that it then has
NAMES = {"stdlib": SETS, "stdlib:docstrings": SETS[:1], "stdlib:source": SETS[1:]}
# Folders that do not belong to the library itself, or hold tables rather than text.
LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages",
            "__pycache__", "turtledemo", "_bundled", "lib-dynload", "encodings", "pydoc_data"}
SHORTEST = 64  # characters; shorter documents are left out, as they are little more than a header


class StdlibSource:
    """Python's standard library as documents of the sets given, which are some of SETS."""

    def __init__(self, root: Path | None = None, sets: tuple[str, ...] = SETS):
        self.sets = sets
        self.root = root or Path(sysconfig.get_paths()["stdlib"])
        self.files = sorted(_sources(self.root))
        if not self.files:
            raise BadInput(f"no --data, and {self.root} holds no Python sources to read instead: "
                           f"give --data PATH")

    @property
    def name(self) -> str:
        """The source's name in messages and records."""
        only = "" if self.sets == SETS else f", {' and '.join(self.sets)} alone"
        return f"the standard library of Python {sys.version.split()[0]}{only}"

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(path.stat().st_size for path in self.files)

    def fingerprint(self) -> str:
        """A hash of the files' names and sizes. That is enough, because the library changes only
        with Python's version."""
        names = "\n".join(f"{p.relative_to(self.root)} {p.stat().st_size}" for p in self.files)
        only = "" if self.sets == SETS else " ".join(["", *self.sets])
        return hashlib.blake2b(f"stdlib {VERSION}{only}\n{names}".encode(),
                               digest_size=16).hexdigest()

    def chunks(self, **_) -> Iterator[Chunk]:
        """Yield at least two documents per file, file by file in the order of their names, then the
        topics of the manual. Documents below SHORTEST are left out."""
        position = 0
        for path in self.files:
            position += path.stat().st_size
            text, tree = _parse(path)
            texts = [(SETS[0], docs(path.stem, tree)),
                     *((SETS[1], piece) for piece in source(text, tree))]
            yield self._chunk(position, [(s, t) for s, t in texts if len(t) >= SHORTEST])
        yield self._chunk(position, [(SETS[0], topic) for topic in _manual()])

    def _chunk(self, position: int, documents: list[tuple[str, str]]) -> TextChunk:
        documents = [(name, text) for name, text in documents if name in self.sets]
        texts = [text for _, text in documents]
        return TextChunk(position, sum(map(len, texts)), texts, [name for name, _ in documents])


def _sources(root: Path) -> Iterator[Path]:
    """Yield the library's .py files. Folders that are left out are not entered: site-packages
    alone can hold more files than the library."""
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        inside[:] = [name for name in inside if name not in LEFT_OUT
                     and not (here == root and name.startswith("config-"))]
        yield from (here / name for name in names if name.endswith(".py"))


def _parse(path: Path) -> tuple[str, ast.Module]:
    text = path.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
    try:
        return text, ast.parse(text)
    except SyntaxError:   # the file is a template, or written for another version of Python
        return "", ast.parse("")


def _documented(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield (dotted name, node) of the module and of each class and function with a docstring."""
    if ast.get_docstring(tree, clean=False):
        yield prefix, tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(node, f"{prefix}.{node.name}".strip("."))


def docs(module: str, tree: ast.Module) -> str:
    """A module's docstrings, each under the name that it documents, as `help` shows them."""
    parts = [(name or module, ast.get_docstring(node) or "") for name, node in _documented(tree)]
    return "\n\n".join(f"{name}\n{textwrap.indent(text, '    ')}"
                       for name, text in parts if text.strip())


def source(text: str, tree: ast.Module) -> list[str]:
    """A module's source without its docstrings, in pieces of at most 16 KB."""
    lines = text.split("\n")
    for _, node in _documented(tree):
        first = node.body[0]
        lines[first.lineno - 1:first.end_lineno] = [None] * (first.end_lineno - first.lineno + 1)
    kept = "\n".join(line for line in lines if line is not None).strip()
    pieces, rest = cut_text(kept.encode("utf-8"))
    return [piece.decode("utf-8", errors="ignore") for piece in (*pieces, rest)]


def _manual() -> list[str]:
    """The language reference by topic, as `help('LAMBDAS')` prints it. Empty in distributions that
    leave it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [topics[name].strip() for name in sorted(topics) if len(topics[name]) >= SHORTEST]
