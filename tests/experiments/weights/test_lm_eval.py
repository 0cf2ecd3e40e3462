"""lm_eval scores an exported run offline, on a task made from this repository's own pages."""

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.corpus import open_corpus
from experiments.declare.spec import make_spec
from experiments.train.run import Run
from experiments.weights.export import export_run
from experiments.weights.saved import find_run, load_run

pytest.importorskip("transformers")
needs_lm_eval = pytest.mark.skipif(any(importlib.util.find_spec(name) is None
                                       for name in ("lm_eval", "accelerate")),
                                   reason="lm_eval is not installed: pip install '.[eval]'")
ROOT = Path(__file__).resolve().parents[3]
TASKS = ROOT / "docs" / "lm_eval"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the nano preset with a context of 256 tokens, and its folder."""
    out, rng = tmp_path_factory.mktemp("out"), random.Random(0)
    data = out / "words.jsonl"
    texts = (" ".join(rng.choices(["every", "arm", "of", "a", "study"], k=60)) + "."
             for _ in range(60))
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    spec = make_spec(preset="nano", flags=["rope"], data=[str(data)], overrides=[
        "--trainer.max_iters=10", "--trainer.batch_size=2", "--trainer.device=cpu",
        "--model.block_size=256",
        "--data.val_tokens=512", f"--data.cache={out / 'cache'}"])
    assert Run(spec, 0, out, open_corpus(spec.settings.data)).execute() == 0
    return find_run("rope.s0", out), out


@needs_lm_eval
def test_lm_eval_gives_an_exported_run_the_bits_per_byte_that_the_run_itself_has(run, tmp_path):
    files, _ = run
    export_run(files, tmp_path / "hf")
    words = ["run", "--model", "hf", "--model_args", f"pretrained={tmp_path / 'hf'},dtype=float32",
             "--tasks",
             "pages_ends,pages_text", "--include_path", str(TASKS), "--device", "cpu",
             "--batch_size", "8",
             "--output_path", str(tmp_path / "results")]
    done = subprocess.run([sys.executable, "-m", "lm_eval", *words], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "HF_HUB_OFFLINE": "1",
                                          "HF_DATASETS_OFFLINE": "1",
                               "HF_DATASETS_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next((tmp_path / "results").rglob("results_*.json")).read_text())[
        "results"
    ]
    items = [json.loads(line) for line in (TASKS / "pages.jsonl").read_text().splitlines()]
    model, tokenizer, _ = load_run(files, "cpu")
    bits = sum(nats(model, tokenizer, item["text"]) for item in items) / math.log(2)
    nbytes = sum(len(item["text"].encode()) for item in items)
    assert results["pages_text"]["bits_per_byte,none"] == pytest.approx(bits / nbytes, abs=1e-4)
    right = 0
    for item in items:
        ends = [-nats(model, tokenizer, end, before=item["begin"]) for end in item["choices"]]
        right += ends.index(max(ends)) == item["answer"]
    assert results["pages_ends"]["acc,none"] == pytest.approx(right / len(items))


@torch.no_grad()
def nats(model, tokenizer, text, before=None):
    """Nats of a text after the text `before`, or after the end of a document."""
    begin = [tokenizer.eot] if before is None else tokenizer.encode(before).tolist()
    ids = torch.tensor([begin + tokenizer.encode(text).tolist()])
    losses = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0][0], ids[0, 1:],
                                               reduction="none")
    return losses[len(begin) - 1:].sum().item()


def test_the_task_is_made_of_sentences_whose_ends_are_among_the_choices_once():
    items = [json.loads(line) for line in (TASKS / "pages.jsonl").read_text().splitlines()]
    assert len(items) >= 16
    for item in items:
        assert item["begin"] + item["choices"][item["answer"]] == item["text"]
        assert len(set(item["choices"])) == 4
        assert len(item["text"].encode()) < 256
