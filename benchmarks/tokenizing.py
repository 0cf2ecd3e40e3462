"""
Compare the speed of our tokenizer with Hugging Face's `tokenizers`, with the same vocabulary.

    python -m benchmarks.tokenizing [FILE.jsonl] [--rounds 5]

The sides take turns on the same texts, and medians are compared. `corpus` is everything that
`lab.py tokenize` does: reading, parsing, checking, hashing, encoding and writing. The other two
only encode texts in memory. `tokenizers` returns ids without offsets, which is its fastest way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.kit.options import RESULTS
from benchmarks.kit.tables import save
from experiments.corpus import get_default_config, open_corpus
from experiments.corpus.stdlib import StdlibSource
from experiments.corpus.tokenizers import get_tokenizer
from mingpt.bpe import get_encoder


def hugging_face():
    """GPT-2's tokenizer in `tokenizers`, from the shipped vocabulary. It uses all cores itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    encoder = get_encoder()
    merges = sorted(encoder.bpe_ranks, key=encoder.bpe_ranks.get)
    tokenizer = Tokenizer(models.BPE(encoder.encoder, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def read_texts(path: Path | None) -> list[str]:
    """The texts of a .jsonl file; without a file, those of the embedded corpus."""
    if path is not None:
        return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()
                if line.strip()]
    return [text for chunk in StdlibSource().chunks() for text in chunk.texts]


def whole_path(texts: list[str], folder: Path) -> Callable[[], None]:
    """Return a function that tokenizes the texts from a file into a new, empty cache."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")

    def build() -> None:
        config = get_default_config()
        config.paths, config.max_bad = [str(path)], 1.0
        config.cache = tempfile.mkdtemp(dir=folder)
        open_corpus(config)
    return build


def measure(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side. The first turn is not measured."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the speed of each side in MB/s; write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.jsonl",
                        help="the texts to encode (default: Python's own library)")
    parser.add_argument("--rounds", type=int, default=5, help="samples per side (default 5)")
    parser.add_argument("--quick", action="store_true", help="measure only one round")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS,
                        help="folder of the JSON file")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    texts = read_texts(args.file)
    theirs, ours = hugging_face(), get_tokenizer("gpt2")
    same = sum(list(ours.encode(t)) == theirs.encode(t).ids for t in texts[:200])
    print(f"same ids in {same} of {len(texts[:200])} texts; {os.cpu_count()} cores")
    size = sum(len(text.encode("utf-8", "ignore")) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"tokenizers": lambda: theirs.encode_batch_fast(texts),
                 "encode": lambda: ours.encode_batch(texts),
                 "corpus": whole_path(texts, Path(folder))}
        seconds = measure(sides, args.rounds)
    rows = {name: {"mb_per_second": size / 1e6 / value, "times": seconds["tokenizers"] / value}
            for name, value in seconds.items()}
    for name, row in rows.items():
        print(f"{name:<12}{row['mb_per_second']:8.2f} MB/s{row['times']:8.2f}×")
    save(args.out, "tokenizing", {"rounds": args.rounds, "cores": os.cpu_count(), "same_ids": same,
                                  "rows": rows})


if __name__ == "__main__":
    main()
