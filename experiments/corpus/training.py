"""
Which documents an arm trains on: filters and exact deduplication. They never change which documents
are held out, so arms that filter differently are scored on the same tokens.

    data.filter = ["min_bytes=200", "max_tokens=1000000", "match=^def ", "set=Wikipedia"]
    data.dedup = "exact"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.corpus.store import Store
from experiments.corpus.tokenizers import Tokenizer
from mingpt.utils import BadInput, did_you_mean

DEDUPS = ("none", "exact")
FILTERS = ("min_bytes", "max_bytes", "match", "set", "max_tokens")
NUMBERS = ("min_bytes", "max_bytes", "max_tokens")


def read_filter(entries: Sequence[str] | None) -> dict[str, Any]:
    """The filter of entries such as 'min_bytes=200'. Raises BadInput for an unknown word, a size
    that is no whole number, or a text that is no regular expression."""
    found: dict[str, Any] = {}
    for entry in entries or ():
        word, _, value = entry.partition("=")
        if word not in FILTERS:
            raise BadInput(f"data.filter: no filter {word!r}{did_you_mean(word, FILTERS)}")
        if word in NUMBERS:
            if not value.isdecimal() or len(value) > 15 or not int(value):
                raise BadInput(f"data.filter: {entry}: give a whole number from 1")
            found[word] = int(value)
        elif word == "match":
            try:
                found[word] = re.compile(value)
            except (re.error, RecursionError, OverflowError) as error:
                raise BadInput(f"data.filter: match={value!r} is no regular expression: {error}"
                               ) from None
        else:
            found.setdefault(word, []).append(value)
    return found


def chosen(config, store: Store, tokenizer: Tokenizer, train: np.ndarray, name: str) -> np.ndarray:
    """The documents to train on, bool [documents]: those of `train` that pass data.filter, and with
    data.dedup each text once. `name` says in messages which text this is. Raises BadInput where
    none is left."""
    wanted = read_filter(config.filter)
    keep = train & _passing(wanted, store, tokenizer, train, name)
    if config.dedup == "exact":
        numbers = np.flatnonzero(keep)
        _, first = np.unique(store.documents["hash"][numbers], return_index=True)
        keep = np.zeros(len(train), bool)
        keep[numbers[first]] = True
    if train.any() and not keep.any():
        raise BadInput(f"data.filter leaves no training document of {name}: "
                       f"{', '.join(config.filter or ())}")
    if "max_tokens" in wanted:
        keep = _first_tokens(store, keep, wanted["max_tokens"], name)
    return keep


def _first_tokens(store: Store, keep: np.ndarray, most: int, name: str) -> np.ndarray:
    """Of the documents to keep, in the order of their hashes, as many as `most` tokens need. A
    larger number therefore keeps the same documents and more. Raises BadInput where there are fewer
    tokens."""
    numbers = np.flatnonzero(keep)
    numbers = numbers[np.argsort(store.documents["hash"][numbers], kind="stable")]
    ends = np.cumsum(store.documents["tokens"][numbers], dtype=np.int64)
    if not len(ends) or ends[-1] < most:
        raise BadInput(f"data.filter: max_tokens={most:,}, but {name} has "
                       f"{ends[-1] if len(ends) else 0:,} training tokens")
    few = np.zeros(len(keep), bool)
    few[numbers[:int(np.searchsorted(ends, most)) + 1]] = True
    return few


def _passing(wanted: dict[str, Any], store: Store, tokenizer: Tokenizer, train: np.ndarray,
             name: str) -> np.ndarray:
    """Which documents pass the filter, bool [documents]."""
    size = store.documents["bytes"]
    keep = (size >= wanted.get("min_bytes", 0)) & (size <= wanted.get("max_bytes", 2 ** 32))
    if "set" in wanted:
        for each in wanted["set"]:
            if each not in store.sets:
                raise BadInput(f"data.filter: {name} has no set {each!r}"
                               f"{did_you_mean(each, store.sets)}")
        keep &= np.isin(store.documents["set"], [store.sets.index(each) for each in wanted["set"]])
    if "match" in wanted:
        for number in np.flatnonzero(keep & train):
            keep[number] = bool(wanted["match"].search(document(store, tokenizer, int(number))))
    return keep


def document(store: Store, tokenizer: Tokenizer, number: int) -> str:
    """The text of a stored document, without its end."""
    ids = store.read(int(store.starts[number]), int(store.documents["tokens"][number]) - 1)
    return tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")
