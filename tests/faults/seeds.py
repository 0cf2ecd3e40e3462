"""
The well-formed files that fuzzing starts from: one small file of every kind that is read.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from pathlib import Path

TINY = ["--data.tokenizer=byte", "--preset", "nano", "--max-iters", "4",
        "--trainer.batch_size=2", "--model.block_size=16", "--data.val_tokens=64",
        "--model.model_type=None", "--model.n_layer=1", "--model.n_head=1", "--model.n_embd=8",
        "--run.checkpoint_every=2", "--run.log_every=1", "--run.eval_every=2",
        "--run.rehearsals=0", "--run.sample_tokens=2"]
HALF = ["-b", "--arm", "half", "--data", "in/a.jsonl", *TINY, "--max-iters", "60",
        "--run.eval_every=30"]
WORDS = ["one", "change", "in", "a", "model", "is", "trained", "and", "judged", "by", "pairs"]
STUDY = """name = "ab"
question = "which?"
seeds = [0, 1]
margin = 0.01
preset = "nano"

[base]
trainer.max_iters = 4

[arms.rope]
[arms.wide]
model.mlp_hidden = 96
match = "none"
[arms.both]
factorial = ["swiglu", ["rmsnorm"]]
"""
PRESET = """[model]
n_layer = 1
n_head = 1
n_embd = 8
block_size = 16

[trainer]
max_iters = 4
batch_size = 2
betas = [0.9, 0.95]

[data]
tokenizer = "byte"

[arms.warmup]
trainer.warmup_steps = 2
"""
SCHEDULES = {"a": {"layers": {"0": {"layer_idx": 0, "mask_type": "sliding_window",
                                    "window_size": 4, "group_idx": None, "num_groups": None}}},
             "b": {"type": "progressive", "n_layer": 1, "start_layer": 0, "start_window": 8,
                   "end_window": 2}}


def write_data(folder: Path) -> None:
    """One file of text or tokens for every reader of the corpus."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard
    texts = [" ".join(WORDS[n % 5:] + WORDS[:n % 7]) + f" {n}." for n in range(80)]
    lines = "".join(json.dumps({"text": text, "meta": {"pile_set_name": "A"}}) + "\n"
                    for text in texts).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "a.txt").write_text("\n\n".join(text + f" {n}" for n in range(8) for text in texts))
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet")
    tokens = np.frombuffer(lines, np.uint8).astype(np.uint16)
    ends = np.where(tokens == 10, 256, tokens)      # a document's end in place of a line's
    np.save(folder / "a.npy", tokens[:17 * 90].reshape(-1, 17).astype(np.int64))
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    (folder / "a.bin").write_bytes(header.tobytes() + ends.tobytes())


def write_hf(folder: Path) -> None:
    """A Hugging Face model of GPT-2's family, without its tokenizer."""
    import torch
    from safetensors.torch import save_file
    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 257,
              "n_positions": 16, "architectures": ["GPT2LMHeadModel"]}
    shapes = {"wte.weight": (257, 8), "wpe.weight": (16, 8), "ln_f.weight": (8,),
              "ln_f.bias": (8,), "h.0.ln_1.weight": (8,), "h.0.ln_1.bias": (8,),
              "h.0.ln_2.weight": (8,), "h.0.ln_2.bias": (8,), "h.0.attn.c_attn.weight": (8, 24),
              "h.0.attn.c_attn.bias": (24,), "h.0.attn.c_proj.weight": (8, 8),
              "h.0.attn.c_proj.bias": (8,), "h.0.mlp.c_fc.weight": (8, 32),
              "h.0.mlp.c_fc.bias": (32,), "h.0.mlp.c_proj.weight": (32, 8),
              "h.0.mlp.c_proj.bias": (8,)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"transformer.{name}": torch.full(shape, 0.01) for name, shape in shapes.items()},
              folder / "model.safetensors")


def write_seeds(folder: Path) -> Path:
    """Fill a new folder with the seeds: in/ (data, study, preset, schedule, Hugging Face model),
    cache/, home/ and out/, which holds the study `ab` of four runs and a run that was
    interrupted."""
    from tests.faults.sandbox import attempt, preload, start
    preload()
    for name in ("in", "out", "cache", "home"):
        (folder / name).mkdir(parents=True)
    write_data(folder / "in")
    (folder / "in" / "study.toml").write_text(STUDY)
    (folder / "in" / "preset.toml").write_text(PRESET)
    (folder / "in" / "schedule.json").write_text(
        json.dumps({"schedules": SCHEDULES, "default_schedule": "a"}))
    write_hf(folder / "in" / "hf")
    study = [["--study", "in/study.toml", "--arm", arm, "--seed", seed]
             for arm in ("baseline", "rope") for seed in ("0", "1")]
    for words in study:
        run = attempt([*words, "--data", "in/a.jsonl", *TINY, "--out", "out"], folder, codes=(0,))
        assert not run.faults, run
    child = start([*HALF, "--out", "out"], folder, folder / "cache" / ".output")
    while not (folder / "out/checkpoints/half.s0/state-previous.json").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (folder / "cache" / ".output").unlink()
    (folder / "out/page.md").write_text("<!-- table: ab -->\n<!-- /table: ab -->\n")
    plot = attempt(["plotter.py", "out/losses", "--out", "out/visualizations", "--comparison"],
                   folder, codes=(0,))
    assert not plot.faults, plot
    logs = folder / "out" / "logs" / "ab"
    logs.mkdir(parents=True)
    (logs / "plan-1.json").write_text(json.dumps(
        {"study": "in/study.toml", "job": None,
         "runs": [{"arm": "rope", "seed": 0, "arguments": ["audit", "-r", *TINY]}]}))
    return folder
