"""
Write made-up logs as other programs write them: each line is formatted as that program's own print
statement formats it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

STEPS = tuple(range(0, 1001, 100))


def curve(end: float, seed: int, noise: float = 0.002, start: float = 10.9) -> list[float]:
    """Return a validation loss per step of STEPS that falls from about `start` to about `end`."""
    jitter = np.random.default_rng(seed).normal(size=len(STEPS)) * noise
    falls = end + (start - end) * np.exp(-np.arange(len(STEPS)) / 1.5)
    falls[-1] = end
    return list(falls + jitter * (np.arange(len(STEPS)) > 0))


def nanogpt(path: Path, losses, steps=STEPS, seed: int | None = None) -> None:
    """Write standard output of nanoGPT's train.py."""
    lines = [f"Overriding: seed = {seed}"] if seed is not None else []
    lines.append("tokens per iteration will be: 16,384")
    for step, val in zip(steps, losses, strict=True):
        lines.append(f"step {step}: train loss {val - 0.05:.4f}, val loss {val:.4f}")
        lines.append(f"iter {step}: loss {val + 0.01:.4f}, time {30.0:.2f}ms, mfu {17.3:.2f}%")
    _write(path, lines)


def modded(path: Path, runs, total: int = STEPS[-1], steps=STEPS, unit: str = "s") -> None:
    """Write a log of modded-nanogpt with its source code first, and one or more runs."""
    code = ["import os", "# an example of the output:", "step:0/9 val_loss:1.0000 train_time:0ms "
            "step_avg:nanms", "step:9/9 val_loss:0.5000 train_time:9ms step_avg:1.00ms",
            'print0(f"step:{step}/{train_steps} val_loss:{val_loss:.4f} train_time:{t:.0f}ms")',
            'print0("="*100)', "=" * 100, "Running Python 3.12.7", "=" * 100]
    for losses in runs:
        for step, val in zip(steps, losses, strict=True):
            spent = f"{0.15 * step:.3f}s" if unit == "s" else f"{150.0 * step:.0f}ms"
            average = f"{150.0:.2f}" if step else "nan"
            if step:
                code.append(f"step:{step - 1}/{total} train_time:{spent} step_avg:{average}ms")
            code.append(f"step:{step}/{total} val_loss:{val:.5f} train_time:{spent} "
                        f"step_avg:{average}ms")
    _write(path, code)


def llmc(path: Path, losses, old: bool = False) -> None:
    """Write llm.c's main.log; older versions have no learning rate and no norm."""
    lines = []
    for step, val in zip(STEPS, losses, strict=True):
        lines += [f"s:{step} tel:{val:.4f}", f"s:{step} eval:{0.25:.4f}"]
        more = "" if old else f" lr:{3e-4:.6f} norm:{0.9:.2f}"
        lines.append(f"s:{step} trl:{val + 0.01:.4f}{more}")
    _write(path, lines)


def nanochat(path: Path, losses) -> None:
    """Write standard output of nanochat's base_train.py."""
    lines = []
    for step, val in zip(STEPS, losses, strict=True):
        lines.append(f"Step {step:05d} | Validation bpb: {val:.6f}")
        lines.append(f"step {step:05d}/{STEPS[-1]:05d} ({step / 10:.2f}%) | loss: {3 * val:.6f} | "
                     f"lrm: {1.0:.2f} | dt: {441.2:.2f}ms | tok/sec: {1188000:,} | bf16_mfu: "
                     f"{47.1:.2f} | epoch: 1 | total time: {1.5:.2f}m")
    _write(path, lines)


def huggingface(folder: Path, losses) -> None:
    """Write the trainer_state.json of two checkpoints; the later one holds the whole history."""
    history = []
    for step, val in zip(STEPS, losses, strict=True):
        history.append({"epoch": step / 1000, "grad_norm": 0.9, "learning_rate": 3e-4,
                        "loss": round(val + 0.01, 4), "step": step})
        history.append({"epoch": step / 1000, "eval_loss": val, "eval_runtime": 1.5, "step": step})
        if step in (500, STEPS[-1]):
            state = {"best_metric": None, "epoch": step / 1000, "global_step": step,
                     "log_history": history, "max_steps": STEPS[-1], "is_world_process_zero": True}
            path = folder / f"checkpoint-{step}" / "trainer_state.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(state, indent=2))


def csvlogger(path: Path, losses) -> None:
    """Write the metrics.csv of Lightning's CSVLogger: training and validation in rows of their
    own."""
    rows = []
    for step, val in zip(STEPS, losses, strict=True):
        rows.append({"epoch": 0, "step": step, "train_loss": val + 0.01, "val_loss": ""})
        rows.append({"epoch": 0, "step": step, "train_loss": "", "val_loss": val})
    _csv(path, list(rows[0]), rows)


def lingua(folder: Path, losses, seed: int) -> None:
    """Write lingua's dump_dir: metrics.jsonl, metrics.validation.jsonl and config.yaml."""
    _write(folder / "metrics.jsonl", [json.dumps(
        {"global_step": step, "acc_step": 0, "speed/wps": 1e5, "optim/grad_norm": 0.9,
         "optim/lr": 3e-4, "optim/total_tokens": step * 4096, "loss/out": val + 0.01,
         "created_at": "2026-01-01T00:00:00+00:00"})
        for step, val in zip(STEPS, losses, strict=True)])
    _write(folder / "metrics.validation.jsonl", [json.dumps(
        {"created_at": "2026-01-01T00:00:00", "global_step": step,
         "c4": {"nll": 900.0, "nll_per_token": val, "nll_per_char": val / 4, "avg_seqlen": 300.0}})
        for step, val in zip(STEPS, losses, strict=True)])
    _write(folder / "config.yaml", ["name: x", f"seed: {seed}", "model:", "  dim: 64"])


def wandb_export(path: Path, runs: dict[str, list[float]]) -> None:
    """Write a chart that W&B exported as CSV."""
    head = ["Step"] + [f"{run} - val_loss{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    rows = [dict(zip(head, [step, *(losses[i] for losses in runs.values() for _ in range(3))],
                     strict=True)) for i, step in enumerate(STEPS)]
    _csv(path, head, rows, quoting=csv.QUOTE_ALL)


def tensorboard(folder: Path, losses, tensors: bool) -> None:
    """Write an event file with scalars as simple values or as tensors."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto
    writer = EventFileWriter(str(folder))
    for step, val in zip(STEPS, losses, strict=True):
        value = (Summary.Value(tag="val/loss", tensor=make_tensor_proto(np.float32(val)))
                 if tensors else Summary.Value(tag="val/loss", simple_value=val))
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()


def autoresearch(path: Path, rows) -> None:
    """Write results.tsv from (val_bpb, status, description)."""
    _write(path, ["commit\tval_bpb\tmemory_gb\tstatus\tdescription",
                  *(f"{i:07x}\t{val:.6f}\t44.0\t{status}\t{text}"
                    for i, (val, status, text) in enumerate(rows))])


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _csv(path: Path, head: list[str], rows: list[dict], **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, head, **how)
        writer.writeheader()
        writer.writerows(rows)
