"""Write made-up runs in the format of a study.

The losses fall, the arms of one seed share noise, and the arms differ by a little.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

HEADER = ("iteration,loss,val_loss,learning_rate,grad_norm,tokens,flops,seconds,"
          "tokens_per_second,peak_memory_mb")
EFFECTS = {"baseline": 0.0, "rope": -0.083, "swiglu": -0.03, "rmsnorm": 0.002, "warmup": -0.012,
           "cosine": -0.05, "all_modifications": -0.15}


def write_study(losses: Path, effects: dict[str, float] | None = None, *, seeds=(0, 1, 2),
                study: str | None = "seven", steps: int = 600, every: int = 5,
                noise: float = 0.004) -> Path:
    """Write a CSV and a JSON per arm and seed under `losses`, and return `losses`.

    An effect is what the arm adds to the final loss, in nats.
    """
    for k, (arm, effect) in enumerate((EFFECTS if effects is None else effects).items()):
        for seed in seeds:
            write_run(losses, arm, seed, effect, study=study, steps=steps, every=every,
                      noise=noise, slot=k)
    return losses


def write_run(losses: Path, arm: str, seed: int, effect: float = 0.0, *, study: str | None = None,
              steps: int = 600, every: int = 5, noise: float = 0.004, status: str = "done",
              slot: int = 0, record: bool = True, **more) -> Path:
    """Write one run and return the path of its CSV. `more` replaces parts of its record."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, slot, 7])
    iterations = np.arange(every, steps + 1, every)
    level = (
        5.2
        + 5.6 * np.exp(-iterations / (0.09 * steps))
        + 0.9 * (1 - iterations / steps)
        + 0.01 * shared.normal()
    )
    shift = effect * (1 - np.exp(-iterations / (0.25 * steps)))
    train = (level + shift + 0.05 * shared.normal(size=len(iterations))
             + 0.008 * own.normal(size=len(iterations)))
    val = level + shift + 0.08 + noise * own.normal() * np.sqrt(iterations / steps)
    rows = [HEADER]
    for i, (it, a, v) in enumerate(zip(iterations, train, val, strict=True)):
        measured = f"{v:.6f}" if it % (steps // 10) == 0 else ""
        flops, seconds = (it * 4096 * 6.1e6 * (1 + 0.03 * slot),
                          it * (0.31 + 0.02 * slot) + 0.1 * own.random())
        rows.append(f"{it},{a:.6f},{measured},0.001,{1 + own.random():.4f},{it * 4096},"
                    f"{flops:.6g},{seconds:.3f},{13000 + i},812.5")
    folder = losses / study if study else losses
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arm}.s{seed}.csv"
    path.write_text("\n".join(rows) + "\n")
    if record:
        result = {"val_loss": float(val[-1]), "perplexity": float(np.exp(val[-1])),
                  "seconds": seconds, "tokens_per_second": 13000.0 - 500 * slot,
                  "peak_memory_mb": 812.5 + 20 * slot, "tokens": steps * 4096, "flops": flops,
                  "iterations": steps} if status == "done" else None
        path.with_suffix(".json").write_text(json.dumps({
            "schema": 1, "study": study, "arm": arm, "seed": seed, "status": status,
            "message": None, "result": result,
            "changes": {} if arm == "baseline" else {"model.thing": ["a", arm]}}
            | circumstances(arm, seed, slot, study)
            | config_of(more) | more))
    return path


def config_of(more: dict) -> dict:
    """A config that agrees with the record's declared changes; empty for the usual change."""
    if "model.thing" in more.get("changes", {"model.thing": None}):
        return {}
    return {"config": {"model": {"n_layer": 4, "thing": "a"},
                       "trainer": {"batch_size": 16, "learning_rate": 0.001}}}


def circumstances(arm: str, seed: int, slot: int, study: str | None) -> dict:
    """The parts of a record that say how a run was made.

    All runs have one machine and one commit, and follow one another in time.
    """
    start = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=10 * (100 * seed + slot))
    return {"process": {"host": "node1", "pid": 100 + slot}, "preset": "laptop",
            "config_hash": f"{slot:012x}",
            "command": f"python lab.py train --study {study} --arm {arm} --seed {seed}",
            "config": {"model": {"n_layer": 4, "thing": "a" if arm == "baseline" else arm},
                       "trainer": {"batch_size": 16, "learning_rate": 0.001}},
            "code": {"version": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567",
                     "dirty": False},
            "environment": {"python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6",
                            "platform": "Linux", "cpu": "a processor", "threads": 2,
                            "device": "cpu"},
            "data": {"hash": "736a05abbb3fc2ad", "tokenizer": "byte", "documents": 1183,
                     "tokens": 9303685,
                     "split": {"by": "hash below 0.1", "train": {"tokens": 8507064},
                               "val": {"tokens": 796621}}},
            "model": {"parameters": 232960 + 1000 * slot, "non_embedding": 200064 + 1000 * slot,
                      "trainable": 232960 + 1000 * slot,
                      "flops_per_token": 1476480.0 * (1 + 0.03 * slot)},
            "audit": {"passed": True, "checks": {"no layer sees a later position": True,
                                                 "a target is the next token": True}},
            "start": start.isoformat(), "end": (start + timedelta(minutes=9)).isoformat()}


def write_two_columns(losses: Path, effects: dict[str, float], *, steps: int = 88,
                      noise: float = 0.34) -> Path:
    """Write `iteration,loss` files without seed or record, with one row per 1,000 iterations."""
    losses.mkdir(parents=True, exist_ok=True)
    for k, (arm, effect) in enumerate(effects.items()):
        rng, iterations = np.random.default_rng(k), np.arange(1, steps + 1) * 1000
        values = 3.4 + 5 * np.exp(-iterations / 6000) + effect + noise * rng.normal(size=steps)
        (losses / f"{arm}.csv").write_text("iteration,loss\n" + "".join(
            f"{i},{v:.6f}\n" for i, v in zip(iterations, values, strict=True)))
    return losses
