"""A corpus of many files is tokenised piece by piece, and reads as if it had been one file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.corpus import build, joined, open_corpus, stores_of, tokenize_part
from mingpt.utils import BadInput

LAB = Path(__file__).resolve().parents[3] / "lab.py"


@pytest.fixture
def shards(tmp_path):
    """Five files of 40 documents, in three sets; the third file has a bad line and the fourth is
    empty but for one document."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for file in range(5):
        lines = [json.dumps({"text": f"document {n} of file {file}, " + "word " * (n % 7),
                             "meta": {"pile_set_name": f"set {(file + n) % 3}"}})
                 for n in range(1 if file == 3 else 40)]
        (folder / f"{file}.jsonl").write_text("\n".join(lines + ["not JSON"] * (file == 2)) + "\n")
    return folder


@pytest.fixture
def in_pieces(monkeypatch):
    """Every file is a piece of its own."""
    monkeypatch.setattr(joined, "PIECE", 1)


def everything(corpus):
    """What a run reads of a corpus, and what its record says of it."""
    batches, validation = corpus.train(16, 4, seed=3), corpus.validation(16)
    return (corpus.describe(), [batches.batch(t) for t in (0, 1, 50, 500)],
            validation.x, validation.y, validation.set_id, corpus.identify(validation))


def test_pieces_read_as_one_corpus(shards, data_config, monkeypatch):
    whole = open_corpus(data_config(shards, max_bad=0.1))
    monkeypatch.setattr(joined, "PIECE", 1)
    parts = open_corpus(data_config(shards, max_bad=0.1))
    assert len(whole.folders) == 1 and len(parts.folders) == 5
    for one, other in zip(everything(whole), everything(parts), strict=True):
        np.testing.assert_equal(other, one)
    assert parts.describe()["bad_lines"]["kinds"]["not JSON"]["file"].endswith("2.jsonl")


def test_a_killed_build_keeps_the_pieces_that_are_done(shards, data_config, in_pieces, monkeypatch):
    config, made, original = data_config(shards, max_bad=0.1), [], build._build

    def dies_in_the_third(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[-1])
        original(*args)
    monkeypatch.setattr(build, "_build", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_corpus(config)
    monkeypatch.setattr(build, "_build", lambda *args: (made.append(args[-1]), original(*args)))
    open_corpus(config)
    assert len(made) == len(set(made)) == 5


def test_parts_cover_the_corpus_once(shards, data_config, in_pieces, monkeypatch):
    config = data_config(shards, max_bad=0.1)
    found = [tokenize_part(config, part, 3) for part in range(3)]
    assert sum(part["pieces"] for part in found) == 5
    assert sum(part["bad"] for part in found) == 1
    monkeypatch.setattr(build, "_build", None)      # nothing is left to build
    assert sum(part["documents"] for part in found) == open_corpus(config).describe()["documents"]


def test_bad_lines_count_over_all_pieces(shards, data_config, in_pieces):
    (shards / "5.jsonl").write_text("not JSON\n" * 10)      # 11 bad lines of 172
    assert open_corpus(data_config(shards, max_bad=0.07)).describe()["documents"] == 161
    with pytest.raises(BadInput, match=r"11 of 172 lines are bad .*2\.jsonl:41"):
        open_corpus(data_config(shards, max_bad=0.06))


def test_jobs_tokenise_what_is_missing(tmp_path, data_config):
    """Two processes make three pieces of real size, and one that is damaged is made again."""
    for n in range(3):
        text = f"file {n}: " + "the same words again and again " * 2000
        (tmp_path / f"{n}.txt").write_text((text + "\n\n") * 1100)
    command = [sys.executable, str(LAB), "tokenize", "--json", "--jobs", "2",
               "--data", *(str(tmp_path / f"{n}.txt") for n in range(3)),
               "--data.tokenizer=byte", f"--data.cache={tmp_path / 'cache'}"]
    config = data_config(*(tmp_path / f"{n}.txt" for n in range(3)), tokenizer="byte",
                         cache=str(tmp_path / "cache"))
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 pieces" in first.stderr and "2 processes" in first.stderr
    for _, folder in stores_of(config)[:2]:
        (folder / "meta.json").unlink()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 pieces" in again.stderr
    assert json.loads(again.stdout)["hash"] == json.loads(first.stdout)["hash"]
    refused = subprocess.run([*command[:3], "--part", "3/3"], capture_output=True, text=True)
    assert refused.returncode == 2 and "give I/N" in refused.stderr
