"""
The text that all arms train on. It comes from any files, is tokenised once and split once, and all
arms read it in the same order.

    corpus = open_corpus(config)                      # config: get_default_config(), changed
    batches = corpus.train(block_size, batch_size, seed)
    x, y = batches.batch(t)                           # int64 [B, T], a pure function of (seed, t)
    val = corpus.validation(block_size)               # fixed: x, y, set_id, nbytes [n, T]

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.corpus.batches import TrainBatches
from experiments.corpus.build import built, cache_key, cache_root
from experiments.corpus.corpus import Corpus, Validation
from experiments.corpus.joined import open_store, pieces
from experiments.corpus.mixed import MixedCorpus, open_mixed
from experiments.corpus.mixture import read_mixture, read_sources
from experiments.corpus.packing import PACKS
from experiments.corpus.progress import say
from experiments.corpus.sources import resolve
from experiments.corpus.split import hold_out, split
from experiments.corpus.tokenfiles import BIN_DTYPES
from experiments.corpus.tokenizers import Tokenizer, get_tokenizer
from experiments.corpus.training import DEDUPS, chosen, read_filter
from mingpt.utils import BadInput, did_you_mean
from mingpt.utils import CfgNode as CN

__all__ = ["Corpus", "TrainBatches", "Validation", "cache_root", "check_paths",
           "get_default_config", "open_corpus", "plain_text", "stores_of", "tokenize_part"]


def get_default_config() -> CN:
    """The settings of the section `data`, at their defaults."""
    C = CN()
    C.paths = None  # files, folders, globs or names; None: Python's own standard library
    C.text_key = "text"         # the key or column that holds a record's text
    # the text between the documents of a .txt, such as <|endoftext|>; None: cut every 16 KB
    C.separator = None
    # the type of a .bin without a header, such as nanoGPT writes: uint16, uint32 or int32
    C.bin_dtype = None
    C.tokenizer = "gpt2"        # gpt2, byte, or another tiktoken encoding (fetched once)
    # stream: documents end to end; truncate: one row per document, as in study 002
    C.pack = "stream"
    C.length = None             # tokens per row; None: model.block_size
    C.val_pack = None           # the pack of the validation set; None: that of training
    C.document_mask = False     # attention does not cross the end of a document
    # repeat study 000's fault with padding: see experiments/weights/published_padding.py
    C.published_padding = False
    C.val_fraction = 0.1        # share of documents held out, by hash of their text
    C.val_docs = None           # hold out this many documents at the end instead
    C.val_tokens = 65536        # tokens in the fixed validation set
    C.max_bad = 0.01            # share of lines that may be bad
    C.min_chars = 10            # a shorter document is a bad line
    C.max_docs = None           # read only this many lines (without blank ones) or documents
    C.allow_truncated = False   # use the readable part of a file that ends too early
    # several sources by weight, in place of paths: experiments/corpus/mixture.py
    C.sources = None            # "NAME=PATH" entries
    C.mixture = None            # "NAME=SHARE" entries; None: the sources as they come
    C.repeat_max = None         # how often a source may be read from end to end; None: any number
    C.val_sources = None        # the sources that hold out validation text; None: all
    C.val_paths = None          # files that are the validation set, in place of held-out text
    # what training leaves out, never validation: experiments/corpus/training.py
    C.filter = None             # "min_bytes=N", "max_tokens=N", "match=REGEX", … entries
    C.dedup = "none"            # exact: each text once
    C.set_key = None            # the key that names a JSON record's set; None: meta.pile_set_name
    C.cache = None              # folder of token caches; None: $ABLATE_CACHE or ~/.cache/ablate
    return C


def plain_text() -> dict[str, Any]:
    """The settings that a text of its own is opened with, in place of a run's sources and
    filters."""
    return {"sources": None, "mixture": None, "repeat_max": None, "val_sources": None,
            "val_paths": None, "filter": None, "dedup": "none", "set_key": None}


def check_paths(config: CN) -> None:
    """Raise BadInput where a path of the settings, or of one of their sources, names nothing that
    can be read. Nothing is read or fetched."""
    for each in _given(config):
        if each:
            resolve(each, config.max_docs)


def _given(config: CN) -> list[list[str] | None]:
    """The paths of each text that the settings name."""
    plain = [config.paths] if isinstance(config.paths, str) else config.paths
    named = list(read_sources(config.sources or ()).values())
    return [*(named or [plain]), *([config.val_paths] if config.val_paths else [])]


def _pieces(config: CN) -> list[list]:
    """The sources of every text that the settings name, in the pieces that are tokenised one by
    one."""
    _check(config)
    return [piece for paths in _given(config)
            for piece in pieces(config, resolve(paths, config.max_docs))]


def tokenize_part(config: CN, part: int, parts: int) -> dict[str, int]:
    """Tokenise every `parts`-th piece of the corpus, from number `part` on (from 0): {"pieces",
    "documents", "tokens", "bad"}. Raises BadInput where a file cannot be read."""
    tokenizer, made = get_tokenizer(config.tokenizer), _pieces(config)[part::parts]
    stores = [built(config, piece, tokenizer, alone=False) for piece in made]
    return {"pieces": len(made), "documents": sum(len(store.documents) for store in stores),
            "tokens": sum(int(store.documents["tokens"].sum(dtype="int64")) for store in stores),
            "bad": sum(store.report.bad for store in stores)}


def stores_of(config: CN) -> list[tuple[int, Path]]:
    """(bytes of its files, the folder that its store has or will have) of every piece."""
    return [(sum(source.size for source in piece), cache_root(config) / cache_key(config, piece))
            for piece in _pieces(config)]


def open_corpus(config: CN, announce: bool = True) -> Corpus | MixedCorpus:
    """Open a corpus, and tokenise it first if it is not in the cache. Where no paths are given,
    `announce` says which text is used. Raises BadInput where the corpus cannot be used."""
    _check(config)
    tokenizer = get_tokenizer(config.tokenizer)
    if config.sources:
        return _open_sources(config, tokenizer)
    paths = [config.paths] if isinstance(config.paths, str) else config.paths
    sources = resolve(paths, config.max_docs)
    if not paths and announce:
        say(f"No --data: using {sources[0].name} (its docstrings and sources) as the corpus.")
    _check_use(config, sources)
    return _open(config, sources, tokenizer, "--data", "share")


def _open_sources(config: CN, tokenizer: Tokenizer) -> MixedCorpus:
    """Open a corpus of several sources."""
    paths = read_sources(config.sources)
    found = {name: resolve(each, config.max_docs) for name, each in paths.items()}
    _check_use(config, [source for each in found.values() for source in each])
    for name in config.val_sources or ():
        if name not in paths:
            raise BadInput(f"data.val_sources: no source {name!r}{did_you_mean(name, paths)}")

    weights = read_mixture(config.mixture, list(paths))

    def open_part(given: list[str], name: str, hold: str) -> Corpus:
        sources = found.get(name) if hold != "all" else resolve(given, config.max_docs)
        trained = hold != "all" and (weights is None or weights[name] > 0)
        return _open(config, sources, tokenizer, name, hold, trained)
    return open_mixed(config, paths, weights, open_part)


def _open(config: CN, sources: list, tokenizer: Tokenizer, name: str, hold: str,
          trained: bool = True) -> Corpus:
    """Open some sources as one corpus. `hold` is how much is held out: a "share", "none" or "all".
    `name` is what messages call it. Filters only concern a corpus that is trained on."""
    store = open_store(config, sources, tokenizer)
    _say_markers(store.report.markers)
    documents = store.documents
    parts = (split(documents["hash"], config.val_fraction, config.val_docs, documents["near"])
             if hold == "share" else hold_out(hold, len(documents)))
    if parts.near_copies:
        say(f"{parts.near_copies:,} training documents are left out: each differs from a held-out "
            f"one only in white space.")
    train = chosen(config, store, tokenizer, parts.train, name) if trained else parts.train
    if (dropped := int(parts.train.sum() - train.sum())):
        say(f"{name}: data.filter and data.dedup leave {train.sum():,} of {parts.train.sum():,} "
            f"training documents.")
    parts = replace(parts, train=train, filtered=dropped)
    return Corpus(config, [source.name for source in sources], store, parts, tokenizer)


def _check_use(config: CN, sources: list) -> None:
    """Raise BadInput for a setting that belongs to one kind of file where no source is of that
    kind."""
    for name, suffix in (("separator", ".txt"), ("bin_dtype", ".bin"), ("set_key", ".jsonl")):
        if getattr(config, name) is not None and not any(suffix in source.name.lower()
                                                         for source in sources):
            raise BadInput(f"data.{name} belongs to {suffix} files, and --data names none")


def _say_markers(markers: dict[str, int]) -> None:
    """Tell the user which end-of-document markers of other programs the text holds."""
    for marker, times in markers.items():
        say(f"The text holds {marker!r} {times:,} times. It is read as ordinary text and ends no "
            f"document. In .txt files --data.separator='{marker}' cuts there.")


def _check(config: CN) -> None:
    for name, value in (("pack", config.pack), ("val_pack", config.val_pack or config.pack)):
        if value not in PACKS:
            raise BadInput(f"data.{name}={value!r}{did_you_mean(str(value), PACKS)}")
    if config.bin_dtype not in (None, *BIN_DTYPES):
        raise BadInput(
            f"data.bin_dtype={config.bin_dtype!r}{did_you_mean(str(config.bin_dtype), BIN_DTYPES)}"
        )
    if config.separator is not None and (not isinstance(config.separator, str)
                                         or not config.separator.strip()):
        raise BadInput(f"data.separator={config.separator!r}: give a text that is not blank, such "
                       f"as <|endoftext|>")
    if not 0 <= config.max_bad <= 1:
        raise BadInput(f"data.max_bad={config.max_bad}: give a share from 0 to 1")
    if config.dedup not in DEDUPS:
        raise BadInput(f"data.dedup={config.dedup!r}{did_you_mean(str(config.dedup), DEDUPS)}")
    read_filter(config.filter)
    for name, least in (("val_docs", 1), ("max_docs", 1), ("min_chars", 0), ("val_tokens", 1)):
        _whole(name, getattr(config, name), least, optional=name.endswith("_docs"))


def _whole(name: str, value: Any, least: int, optional: bool) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(f"data.{name}={value!r}: give a whole number from {least}")
