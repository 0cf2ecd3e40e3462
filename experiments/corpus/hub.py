"""
Data sets that are known by name and streamed from the Hugging Face hub with the `datasets` library.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from experiments.corpus.chunks import UNNAMED, Chunk, TextChunk
from mingpt.utils import BadInput

Record = dict
# Documents read from the Pile, unless --data.max_docs is given: study 002's share of its 825 GB.
PILE_DOCUMENTS = 50_000
GROUP = 64                # documents per chunk


def articles(records: Iterable[Record]) -> Iterator[Record]:
    """Join the lines of each article, from one ' = Title = ' to the next. WikiText has one line per
    record."""
    title, lines = re.compile(r"^ = [^=].*[^=] = \n?$"), []
    for record in records:
        if title.match(record["text"]) and "".join(lines).strip():
            yield {"text": "".join(lines)}
            lines = []
        lines.append(record["text"])
    if "".join(lines).strip():
        yield {"text": "".join(lines)}


def as_they_are(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records unchanged: each is a document."""
    yield from records


@dataclass(frozen=True)
class Named:
    """A data set's place on the Hugging Face hub, and how its records become documents."""
    path: str
    config: str | None
    size: int                       # approximate bytes of text, for the progress bar
    documents: Callable[[Iterable[Record]], Iterator[Record]] = as_they_are
    max_docs: int | None = None


NAMED = {
    "tinystories": Named("roneneldan/TinyStories", None, 1_900_000_000),
    "wikitext-103": Named("Salesforce/wikitext", "wikitext-103-raw-v1", 540_000_000, articles),
    "pile": Named("monology/pile-uncopyrighted", None, 300_000_000, max_docs=PILE_DOCUMENTS),
}


class HubSource:
    """A data set's train split, streamed. Only its tokens are kept, in the cache."""

    def __init__(self, name: str, max_docs: int | None):
        self.name, self.named = name, NAMED[name]
        self.max_docs = max_docs or self.named.max_docs
        self.size = self.named.size

    def fingerprint(self) -> str:
        """A hash of the data set's path and configuration and of the number of documents read."""
        return hashlib.blake2b(
            f"hub {self.named.path} {self.named.config} {self.max_docs}".encode(), digest_size=16
        ).hexdigest()

    def chunks(self, text_key: str, **_) -> Iterator[Chunk]:
        """Yield the documents in the order of the hub. Raises BadInput where the library or the
        network is missing."""
        documents = itertools.islice(self.named.documents(self._records()), self.max_docs)
        read = 0
        while group := list(itertools.islice(documents, GROUP)):
            texts = [record.get(text_key, record.get("text")) for record in group]
            sets = [(record.get("meta") or {}).get("pile_set_name") or UNNAMED for record in group]
            size = sum(len(text or "") for text in texts)
            read += size
            yield TextChunk(read, size, texts, sets)

    def _reach(self) -> None:
        """Raise BadInput where the hub does not answer. The library would retry for half a minute
        and print one line per try."""
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"),
                                   timeout=10).close()
        except urllib.error.HTTPError:
            return   # an HTTP error is an answer too
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> BadInput:
        why = getattr(error, "reason", None) or type(error).__name__
        return BadInput(f"--data {self.name}: {self.named.path} could not be fetched ({why}; is "
                        f"there a network?): give a file instead")

    def _records(self) -> Iterator[Record]:
        try:
            import datasets
        except ImportError:
            raise BadInput(f"--data {self.name} needs the `datasets` library: pip install "
                           f"'ablate[hub]', or give a file instead") from None
        self._reach()
        try:
            yield from datasets.load_dataset(self.named.path, self.named.config, split="train",
                                             streaming=True)
        except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(error) from None
