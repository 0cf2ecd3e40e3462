"""
Measures a trained run: its quality (loss, perplexity, bits per byte), its speed and its size.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.declare.members import load_same
from experiments.declare.settings import recorded
from experiments.records import codefiles
from experiments.records.record import RunFiles, read_record
from experiments.train.continuations import ROWS, TOKENS, bleu, generation_seconds
from experiments.train.evaluate import evaluate, evaluating
from experiments.train.process import peak_memory_mb
from experiments.train.seeded import describe_model
from experiments.weights.saved import load_run

LENGTHS = (128, 256, 512, 1024)
REPEATS = 30   # forward passes per length; their 99th percentile is close to the slowest one


def evaluate_run(files: RunFiles, *, device: str = "auto", data: list[str] | None = None,
                 which: str = "model", lengths: tuple[int, ...] = LENGTHS,
                 bleu_rows: int = ROWS) -> dict[str, Any]:
    """Measure one run in this process and return everything that `lab.py eval` reports of it."""
    from experiments.corpus import open_corpus, plain_text
    model, tokenizer, _ = load_run(files, device, which)
    record = read_record(files.json, needs=("config",))
    settings = recorded(record["config"], str(files.json))
    data_config = settings.data
    if data:      # in place of all that the run was trained on and scored on
        data_config.merge_from_dict({**plain_text(), "paths": list(data)})
    corpus = open_corpus(data_config, announce=False)
    validation = corpus.validation(data_config.length or model.block_size, data_config.val_tokens)
    batch = settings.run.eval_batch_size or settings.trainer.batch_size
    begun = time.perf_counter()
    quality = evaluate(model, validation, batch)
    seconds = time.perf_counter() - begun
    trained, written = record.get("result") or {}, generation_seconds(model)
    return {"run": files.name, "arm": files.arm, "seed": files.seed, "study": files.study,
            "weights": which,
            "eval_loss": quality["val_loss"], **quality, **describe_model(model),
            "eval_seconds": seconds, "eval_samples_per_second": len(validation.x) / seconds,
            "eval_tokens_per_second": validation.x.size / seconds,
            "latency_ms": {str(T): latency(model, T) for T in lengths if model.block_size >= T}
            or {str(model.block_size): latency(model, model.block_size)},
            "peak_memory_mb": peak_memory_mb(str(next(model.parameters()).device)),
            "train_seconds": trained.get("seconds"),
            "train_tokens_per_second": trained.get("tokens_per_second"),
            "train_peak_memory_mb": trained.get("peak_memory_mb"),
            "generation_seconds": written, "generation_tokens_per_second": TOKENS / written,
            "bleu": bleu(model, tokenizer, validation, bleu_rows) if bleu_rows else None,
            "data": {"paths": data_config.paths, "hash": corpus.describe()["hash"],
                     "tokenizer": tokenizer.name, "validation": corpus.identify(validation)}}


def latency(model: torch.nn.Module, T: int, repeats: int = REPEATS) -> dict[str, float]:
    """The milliseconds of a forward pass over one sequence of T tokens: mean, sd, min, max, median,
    p95, p99."""
    device = next(model.parameters()).device
    idx = torch.randint(model.config.vocab_size, (1, T),
                        generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    with evaluating(model):
        for n in range(repeats + 3):   # the first three warm up caches and threads
            begun = time.perf_counter()
            model(idx)[0][0, -1, 0].item()   # .item() waits for the device
            if n >= 3:
                times.append((time.perf_counter() - begun) * 1e3)
    ms = np.array(times)
    return {"mean": float(ms.mean()), "sd": float(ms.std(ddof=1)), "min": float(ms.min()),
            "max": float(ms.max()),
            "median": float(np.median(ms)), "p95": float(np.percentile(ms, 95)),
            "p99": float(np.percentile(ms, 99))}


def evaluate_runs(runs: list[RunFiles], **options: Any) -> list[dict[str, Any]]:
    """Measure each run in its own process, so that each peak memory is the run's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1,
                             initializer=load_same, initargs=(codefiles.LOADED,)) as pool:
        try:
            return [pool.submit(evaluate_run, files, **options).result() for files in runs]
        except BrokenProcessPool:
            raise MemoryError("a process that measures a run was killed") from None


def results_path(out: Path) -> Path:
    """The file of `lab.py eval`'s results under an output folder."""
    return Path(out) / "evaluation_results.json"
