"""
A corpus of several sources: each is tokenised once, all share one validation set, and an arm's
mixture decides from which of them its training rows come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from experiments.corpus.corpus import Corpus, Validation, totals
from experiments.corpus.mixture import CYCLE, MixedBatches, source_seed, unread
from experiments.corpus.progress import say
from mingpt.utils import IGNORE_INDEX, BadInput


class MixedCorpus:
    """Several opened corpora under one config, with the interface of one Corpus. `parts` maps a
    source's name to its corpus; `scored` holds the corpora that the validation set is made of,
    which are the sources that hold out text, or one of validation files alone."""

    def __init__(self, config, parts: Mapping[str, Corpus], scored: Mapping[str, Corpus],
                 weights: Mapping[str, float] | None):
        self.config, self.parts, self.scored = config, dict(parts), dict(scored)
        first = next(iter(self.parts.values()))
        self.tokenizer, self.vocab_size, self.eot = first.tokenizer, first.vocab_size, first.eot
        self.left_out = self._keep_validation_out()
        self.weights = dict(weights) if weights else self._natural()

    def _keep_validation_out(self) -> dict[str, int]:
        """Take every document that the validation set holds, in whatever white space, out of every
        source's training documents. Returns how many per source, and tells the user."""
        held = np.concatenate([each.store.documents["near"][each.split.val]
                               for each in self.scored.values()])
        counts = {}
        for name, part in self.parts.items():
            copies = part.split.train & np.isin(part.store.documents["near"], held)
            counts[name] = int(copies.sum())
            part.split = replace(part.split, train=part.split.train & ~copies)
            if counts[name]:
                say(f"{name}: {counts[name]:,} training documents are left out, because the "
                    f"validation set holds them.")
            if not part.split.train.any():
                raise BadInput(f"data.sources: every document of {name} is in the validation set")
        return counts

    def _natural(self) -> dict[str, float]:
        """The shares of the sources where an arm names none: those of their training tokens."""
        tokens = {name: totals(part.store.documents, part.split.train)["tokens"]
                  for name, part in self.parts.items()}
        return {name: count / sum(tokens.values()) for name, count in tokens.items()}

    def train(self, block_size: int, batch_size: int, seed: int) -> MixedBatches:
        """The training batches; `.batch(t)` is a pure function of (seed, t, mixture). Raises
        BadInput where a source with a share has not enough text for one block."""
        for name in unread(self.weights):
            say(f"{name}: nothing of it is read, because it has less than one row in {CYCLE:,} of "
                f"the training text. data.mixture gives it a share.")
        sources = {name: self.parts[name].train(block_size, batch_size, source_seed(seed, name))
                   for name, weight in self.weights.items() if weight}
        return MixedBatches(sources, self.weights, batch_size, seed, self.eot)

    def validation(self, block_size: int, max_tokens: int | None = None) -> Validation:
        """The fixed validation set. Each source has the same number of tokens in it, as far as it
        holds out that many, and `set_names` are the sources."""
        limit = self.config.val_tokens if max_tokens is None else max_tokens
        share = max(1, limit // len(self.scored))
        found = [each.validation(block_size, share) for each in self.scored.values()]
        set_id = [np.where(v.y != IGNORE_INDEX, number, -1).astype(np.int32)
                  for number, v in enumerate(found)]
        x, y, nbytes = (np.concatenate([getattr(v, key) for v in found])
                        for key in ("x", "y", "nbytes"))
        return Validation(x, y, np.concatenate(set_id), nbytes, list(self.scored),
                          by_source=True)

    @property
    def folders(self) -> list:
        """The folders of the token caches."""
        return list(dict.fromkeys(folder for part in (*self.parts.values(), *self.scored.values())
                                  for folder in part.folders))

    def describe(self) -> dict:
        """The corpus's description for a record, as Corpus.describe gives it. `sources` and `sets`
        are by source, and `hash` covers the stores of all sources."""
        told = {name: part.describe() for name, part in {**self.parts, **self.scored}.items()}
        mine = [told[name] for name in self.parts]
        text = "\n".join(f"{name} {each['hash']}" for name, each in told.items())
        return {**mine[0],
                "paths": list(self.config.sources),
                "sources": {"count": sum(each["sources"]["count"] for each in mine),
                            "first": mine[0]["sources"]["first"]},
                "hash": hashlib.sha256(text.encode()).hexdigest()[:32],
                **_sum(mine),
                "split": {"by": mine[0]["split"]["by"], "train": _sum(e["split"]["train"] for e
                                                                      in mine),
                          "val": _sum(told[name]["split"]["val"] for name in self.scored),
                          **{key: sum(each["split"][key] for each in mine)
                             for key in ("dropped", "near_copies", "filtered")},
                          "copies_of_validation": self.left_out},
                "sets": {name: {key: each[key] for key in ("documents", "tokens", "bytes")}
                         for name, each in told.items()},
                "bad_lines": _bad_lines(each["bad_lines"] for each in told.values()),
                "markers": _counts(each["markers"] for each in mine),
                "weights": self.weights}

    def identify(self, validation: Validation) -> dict:
        """Identify the tokens and the text that a validation set scores, as Corpus.identify
        does."""
        used = validation.y != IGNORE_INDEX
        scored, bytes_ = hashlib.sha256(self.tokenizer.name.encode()), int(validation.nbytes.sum())
        scored.update(validation.y[used].astype("<i8").tobytes())
        scored.update(validation.set_id[used].astype("<i4").tobytes())
        text = hashlib.sha256()
        for each in self.scored.values():
            text.update(each.store.documents["hash"][each.split.val].astype("<u8").tobytes())
        text.update(str(bytes_).encode())
        return {"hash": scored.hexdigest()[:32], "text_hash": text.hexdigest()[:32],
                "tokens": validation.tokens, "bytes": bytes_,
                "held_out_documents": sum(len(e.split.val) for e in self.scored.values())}


def open_mixed(config, sources: Mapping[str, list[str]], weights: Mapping[str, float] | None,
               open_part: Callable[..., Corpus]) -> MixedCorpus:
    """Open every source, and the validation files where there are any. `open_part(paths, name,
    hold)` opens one; `hold` is "share", "none" or "all" of its documents. Raises BadInput where one
    cannot be used."""
    if config.val_paths:
        parts = {name: open_part(paths, name, "none") for name, paths in sources.items()}
        scored = {"validation": open_part(list(config.val_paths), "validation", "all")}
    else:
        held = config.val_sources or list(sources)
        parts = {name: open_part(paths, name, "share" if name in held else "none")
                 for name, paths in sources.items()}
        scored = {name: parts[name] for name in sources if name in held}
    _refuse_same_text(parts)
    return MixedCorpus(config, parts, scored, weights)


def _refuse_same_text(parts: Mapping[str, Corpus]) -> None:
    """Raise BadInput where two sources hold the same documents: arms that mix them differently
    would train on the same text."""
    for (one, mine), (other, theirs) in combinations(parts.items(), 2):
        texts = [each.store.documents["hash"] for each in (mine, theirs)]
        if len(texts[0]) == len(texts[1]) and np.array_equal(*map(np.sort, texts)):
            raise BadInput(f"data.sources: {one} and {other} hold the same text")


def _sum(described) -> dict[str, int]:
    described = list(described)
    return {key: sum(each[key] for each in described) for key in ("documents", "tokens", "bytes")}


def _bad_lines(reports) -> dict:
    """The reports of several sources as one; each kind of bad line names the first file."""
    reports = list(reports)
    kinds: dict[str, dict] = {}
    for report in reports:
        for kind, found in report["kinds"].items():
            first = kinds.setdefault(kind, {**found, "count": 0})
            first["count"] += found["count"]
    return {"lines": sum(report["lines"] for report in reports),
            "bad": sum(report["bad"] for report in reports), "kinds": kinds,
            "cut_short": [cut for report in reports for cut in report["cut_short"]]}


def _counts(dicts) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in dicts:
        for key, count in each.items():
            total[key] = total.get(key, 0) + count
    return total
