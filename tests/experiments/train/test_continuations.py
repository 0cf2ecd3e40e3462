"""BLEU and speed of what a model writes after held-out text."""

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.corpus.tokenizers import get_tokenizer
from experiments.train.continuations import bleu, continuations, generation_seconds
from mingpt.model import GPT

sacrebleu = pytest.importorskip("sacrebleu")

BYTES = get_tokenizer("byte")
TEXTS = ["the red house on the green hill is old", "a blue bird sat in the old green tree .",
         "one two three four five six seven eight"]


def held_out(*texts, T=32):
    """A validation set with one row per text, cut or padded to T tokens."""
    rows = [np.concatenate([BYTES.encode(text), np.full(T + 1, BYTES.eot, np.uint16)])[:T + 1]
            for text in texts]
    x, y = np.stack(rows)[:, :-1].astype(np.int64), np.stack(rows)[:, 1:].astype(np.int64)
    y[y == BYTES.eot] = -1
    return SimpleNamespace(x=x, y=y)


class Parrot(torch.nn.Module):
    """A model that writes the given texts, row by row."""

    def __init__(self, texts, T=32):
        super().__init__()
        self.weight, self.block_size, self.rows = (
            torch.nn.Parameter(torch.zeros(1)),
            T,
            held_out(*texts, T=T).x,
        )

    def generate(self, idx, tokens):
        start = idx.size(1)
        return torch.cat((idx, torch.from_numpy(self.rows[:len(idx), start:start + tokens])), 1)


def test_a_model_that_writes_what_stands_there_scores_100_and_any_other_less():
    assert bleu(Parrot(TEXTS), BYTES, held_out(*TEXTS))["score"] == pytest.approx(100)
    turned = [TEXTS[1], TEXTS[2], TEXTS[0]]
    assert bleu(Parrot(turned), BYTES, held_out(*TEXTS))["score"] < 20


def test_the_score_is_sacrebleus_of_the_second_halves():
    model = Parrot([TEXTS[0], TEXTS[1][:20] + TEXTS[0][20:], TEXTS[2]])
    written = [TEXTS[0][16:32], (TEXTS[1][:20] + TEXTS[0][20:])[16:32], TEXTS[2][16:32]]
    assert continuations(model, BYTES, held_out(*TEXTS),
                         rows=3) == (written, [text[16:32] for text in TEXTS])
    found = bleu(model, BYTES, held_out(*TEXTS))
    assert found["score"] == sacrebleu.corpus_bleu(written, [[text[16:32] for text in TEXTS]]).score
    assert "tok:13a" in found["signature"]


def test_rows_that_end_early_are_left_out():
    assert bleu(Parrot(TEXTS), BYTES, held_out(*TEXTS, "short"))["rows"] == 3
    assert bleu(Parrot(TEXTS), BYTES, held_out("short")) is None
    assert bleu(Parrot(TEXTS), BYTES, held_out(*TEXTS), rows=2)["rows"] == 2


def test_generation_is_timed_on_a_real_model():
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 1, "n_head": 1, "n_embd": 8,
                            "vocab_size": 257,
                            "block_size": 32})
    with contextlib.redirect_stdout(io.StringIO()):
        model = GPT(config)
    model.train()
    assert generation_seconds(model, tokens=4) > 0
    assert model.training
