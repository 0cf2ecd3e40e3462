"""What makes arms comparable: random draws keyed by the seed, rehearsals that change nothing, and
the same validation data for all."""

import contextlib

import numpy as np
import torch

from experiments.corpus import open_corpus
from experiments.declare.spec import make_spec
from experiments.declare.study import load_study
from experiments.train.predict import RandomTokens
from experiments.train.seeded import SeededTrainer, build_model

TINY = ["--model.n_layer=1", "--model.block_size=16", "--trainer.batch_size=2",
        "--trainer.device=cpu",
        "--model.resid_pdrop=0.2"]


def losses(rehearsals, steps=4):
    """The losses of the first steps of a run with dropout."""
    settings = make_spec(preset="nano", overrides=[*TINY, f"--trainer.max_iters={steps}"]).settings
    tokens = RandomTokens(settings)
    with contextlib.redirect_stdout(None):
        trainer = SeededTrainer(settings.trainer, build_model(settings, tokens, 0), tokens, seed=0)
    trainer.add_callback("on_train_start", lambda t: t.rehearse(rehearsals))
    seen = []
    trainer.add_callback("on_iteration_end", lambda t: seen.append(float(t.loss)))
    trainer.run()
    return seen, torch.cat([p.flatten() for p in trainer.model.parameters()])


def test_rehearsing_before_the_clock_starts_changes_no_number():
    plain, weights = losses(0)
    rehearsed, same = losses(3)
    assert plain == rehearsed and torch.equal(weights, same)
    assert len(set(plain)) == 4


def test_a_reseeded_baseline_differs_in_nothing_but_its_seed():
    spec = make_spec(preset="nano", study=load_study("aa"), arm="reseeded")
    assert spec.changes == {"run.seed_offset": [0, 1000]}


def test_all_arms_of_data_detail_are_measured_on_the_same_tokens(tmp_path, data_config):
    import argparse
    import inspect
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(inspect.getsource(module)
                                for module in (argparse, contextlib, inspect)))
    held = []
    for arm in ("baseline", "truncate", "document_mask"):
        data = make_spec(preset="nano", study=load_study("data_detail"), arm=arm).settings.data
        corpus = open_corpus(data_config(text, pack=data.pack, val_pack=data.val_pack,
                                         document_mask=data.document_mask, val_docs=1))
        held.append(corpus.validation(64, 4096))
    for other in held[1:]:
        assert np.array_equal(held[0].x, other.x) and np.array_equal(held[0].y, other.y)
