"""
Tokenises sources once: reads, cleans and encodes them into a store. Stores are in a cache, keyed by
content and settings.

One thread reads and writes; all others parse and encode. The data in flight is bounded, so memory
does not grow with the corpus. The store is built in a temporary folder and renamed when it is
complete. A killed build therefore leaves no incomplete store, and the next build removes its
folder. Two processes that want the same corpus take turns at a lock; the second finds it built.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from experiments.corpus.chunks import Chunk, CutShort
from experiments.corpus.clean import Cleaner, Digest
from experiments.corpus.progress import Bar, say
from experiments.corpus.report import Report
from experiments.corpus.store import Store, Writer
from experiments.corpus.tokenizers import Tokenizer
from experiments.system import Held, expanded, held
from mingpt.utils import BadInput

FORMAT = 3                # version of the store's format; old caches are ignored, not misread
THREADS = min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
              else os.cpu_count() or 1)
IN_FLIGHT = 64 << 20      # bytes of chunks read and not yet written
OURS = re.compile(r"[0-9a-f]{24}")   # the names that cache_key gives
WHOLE = 256 << 20         # bytes of tokens up to which opening verifies all, at 3.5 GB per second
SURE = 1000               # lines to read before a corpus can be given up early


def cache_root(config) -> Path:
    """The folder of all token caches: `data.cache`, or $ABLATE_CACHE, or ~/.cache/ablate."""
    return expanded(config.cache or os.environ.get("ABLATE_CACHE") or "~/.cache/ablate")


def cache_key(config, sources: list) -> str:
    """The name of a store: a hash of the sources' content, in order, and of every setting that
    changes the stored tokens."""
    settings = {"format": FORMAT, "tokenizer": config.tokenizer, **_reading(config),
                "min_chars": config.min_chars, "max_docs": config.max_docs,
                "sources": [source.fingerprint() for source in sources]}
    if config.set_key is not None:
        settings["set_key"] = config.set_key
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()


def _reading(config) -> dict[str, str | None]:
    """The settings that the readers need."""
    return {"text_key": config.text_key, "separator": config.separator,
            "bin_dtype": config.bin_dtype}


def built(config, sources: list, tokenizer: Tokenizer, alone: bool = True) -> Store:
    """The store of these sources, from the cache or built now. `alone` says that they are the whole
    corpus. Then a small store is verified now and not when it is read, and too many bad lines end
    the build early. Raises BadInput where the cache cannot be written."""
    root, key = cache_root(config), cache_key(config, sources)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with held(root / f"{key}.lock", _waiting):
            store = finished(root / key, verify=alone)
            if store is None:
                _clear(root)
                _build(config, sources, tokenizer, alone, root / key)
                store = Store(root / key)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
                               errno.ENOTDIR, errno.EEXIST):
            raise
        raise BadInput(f"the token cache {root} cannot be written ({error.strerror}): "
                       "choose another folder with --data.cache=DIR or $ABLATE_CACHE") from None
    return store


def _waiting() -> None:
    say("another process is tokenizing this corpus: waiting for it")


def _clear(root: Path) -> None:
    """Remove what killed builds left: temporary folders of stores whose lock nobody holds. Other
    names are not ours."""
    for stale in root.glob("*.tmp"):
        if OURS.fullmatch(stale.stem):
            with suppress(Held), held(stale.with_suffix(".lock")):
                shutil.rmtree(stale, ignore_errors=True)


def finished(folder: Path, verify: bool) -> Store | None:
    """The store in a folder, or None where there is none. A damaged one is reported to the user and
    counts as none. A large one, or without `verify` any, is verified when it is read."""
    try:
        store = Store(folder)
        if verify and store.nbytes <= WHOLE:
            store.verify()
        return store
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if folder.exists():
            say(f"the token cache is damaged and is made again: {error}")
        return None


def _build(config, sources: list, tokenizer: Tokenizer, alone: bool, folder: Path) -> None:
    temporary = folder.with_suffix(".tmp")
    for stale in (temporary, folder):   # no other process uses them, since this one holds the lock
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir()
    bar = Bar(sum(source.size for source in sources))
    try:
        builder = Builder(config, sources, tokenizer, alone, temporary, bar)
        builder.run()
        os.replace(temporary, folder)
    finally:
        bar.stop()
        shutil.rmtree(temporary, ignore_errors=True)


class Builder:
    """Builds one store from several sources. Digests are written in the order in which their chunks
    were read, so the number of threads changes nothing."""

    def __init__(self, config, sources: list, tokenizer: Tokenizer, alone: bool, folder: Path,
                 bar: Bar):
        self.config, self.sources, self.tokenizer, self.bar = config, sources, tokenizer, bar
        self.alone = alone      # whether the sources are the whole corpus
        self.names = [source.name for source in sources]
        self.writer, self.report = Writer(folder, tokenizer.dtype), Report()
        self.clean = Cleaner(tokenizer, config.text_key, config.min_chars, config.set_key)
        self.left = config.max_docs if config.max_docs else float("inf")   # items still wanted
        self.before = self.total = 0  # bytes of the sources that are done, and of all sources

    def run(self) -> None:
        """Build and close the store."""
        self.total = self.bar.total
        with ThreadPoolExecutor(THREADS) as pool:
            for number, source in enumerate(self.sources):
                self._read(number, source, pool)
                self.before += source.size
        if self.alone:
            self.report.check(self.names, self.config.max_bad, self.config.allow_truncated)
        self.writer.close(self.report)

    def _read(self, number: int, source, pool: ThreadPoolExecutor) -> None:
        pending: deque[tuple[Chunk, Future[Digest]]] = deque()
        self.line, held, before, cut = 0, 0, self.writer.documents, None
        chunks = source.chunks(**_reading(self.config), tokenizer=self.tokenizer)
        try:
            for chunk in chunks:
                if self.left <= 0:
                    break
                pending.append((chunk, pool.submit(self.clean, chunk)))
                held += chunk.cost
                while pending and (held > IN_FLIGHT or len(pending) > 2 * THREADS):
                    held -= self._take(number, *pending.popleft())
        except CutShort as error:
            cut = str(error)
        finally:
            chunks.close()
        while pending:
            self._take(number, *pending.popleft())
        if cut:
            self.report.cut_short.append((number, self.writer.documents - before, cut))

    def _take(self, number: int, chunk: Chunk, future: Future[Digest]) -> int:
        """Write a chunk's digest to the store. Returns the bytes of memory that this frees."""
        digest = future.result()
        if digest.items > self.left:
            digest = digest.first(int(self.left))
        self.left -= digest.items
        self.report.lines += digest.items
        for _, line, kind, hint in digest.bad:
            self.report.add(kind, number, self.line + line, hint)
        for _, marker, times in digest.markers:
            self.report.markers[marker] = self.report.markers.get(marker, 0) + times
        self.line += digest.lines
        self.writer.add(digest)
        self.bar.update(self.before + chunk.position, sum(row[1] for row in digest.rows))
        self._give_up_early(chunk)
        return chunk.cost

    def _give_up_early(self, chunk: Chunk) -> None:
        """Raise BadInput before the end where there are already twice as many bad lines as the
        whole corpus may have."""
        lines, done = self.report.lines, (self.before + chunk.position) / max(1, self.total)
        expected = min(lines / max(done, 1e-9), self.config.max_docs or float("inf"))
        if self.alone and lines >= SURE and self.report.bad > 2 * self.config.max_bad * expected:
            self.report.refuse(self.names, lines, self.config.max_bad)
