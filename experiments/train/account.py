"""
What a run writes down about itself: the parts of its record, its counts, and the rows of its CSV.
"""

from __future__ import annotations

import collections
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from experiments.audit import first_failure
from experiments.declare.spec import Spec
from experiments.records import codefiles
from experiments.records.record import (
    SCHEMA,
    RunFiles,
    at,
    code_version,
    config_hash,
    environment,
    new_id,
    now,
    process,
)
from experiments.train.audited import audited
from experiments.train.process import peak_memory_mb
from experiments.train.seeded import SeededTrainer, describe_model, row_length
from mingpt.parallel.processes import Processes
from mingpt.trainer import Trainer, find_device
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

DONE, FAILED, INTERRUPTED = 0, 1, 3   # exit codes; run_single.sh knows 3


def exit_code(status: str) -> int:
    """The exit code of a run that ended with this status."""
    return {"done": DONE, "interrupted": INTERRUPTED}.get(status, FAILED)


def new_record(spec: Spec, files: RunFiles, data: dict[str, Any], command: str) -> dict[str, Any]:
    """A run's record before its model is built. `data` describes the corpus."""
    config = codefiles.without_unused(spec.settings.to_dict())
    return {"schema": SCHEMA, "study": files.study,
            "study_hash": spec.study.hash if spec.study else None,
            "declaration": spec.study.declaration(spec.arm) if spec.study else None,
            "match": spec.match and spec.match.to_dict(), "arm": files.arm,
            "seed": files.seed, "id": new_id(), "notes": [spec.note] if spec.note else [],
            "status": "running", "message": None, "process": process(), "command": command,
            "changes": spec.changes, "config": config,
            "config_hash": config_hash(config), "preset": spec.preset,
            "code": code_version(), "code_files": codefiles.describe(config), "data": data,
            "start": now(), "end": None, "result": None}


def describe_built(record: Mapping[str, Any], files: RunFiles, trainer: SeededTrainer,
                   settings: CN) -> dict[str, Any]:
    """What a record says of the model as it was built, with its audit. Raises BadInput where the
    audit fails and the settings do not allow that."""
    model = trainer.model
    found = {"environment": environment(find_device(settings.trainer.device)),
             "model": describe_model(model, row_length(settings)), "init": model.begun}
    found["audit"] = audited({**record, **found}, files, trainer, settings)
    failure = first_failure(found["audit"])
    if failure and not settings.run.allow_audit_fail:
        raise BadInput(f"audit of {files.arm}: {failure}; --allow-audit-fail trains it anyway")
    return found


def refuse_repeats(batches, settings: CN) -> None:
    """Raise BadInput where the run would read a source more often than data.repeat_max allows."""
    trainer, most = settings.trainer, settings.data.repeat_max
    if most is None:
        return
    for name, used in batches.used(trainer.max_iters * trainer.accumulation_steps).items():
        if used["epochs"] > most:
            raise BadInput(f"data.repeat_max={most:g}: {trainer.max_iters:,} iterations would read "
                           f"the source {name} {used['epochs']:.2f} times: give it more text, a "
                           f"smaller share, or fewer iterations")


def validation_note(found: int, asked: int) -> list[str]:
    """A note where the validation set has much fewer tokens than asked for; else none."""
    if found >= 0.9 * asked:
        return []
    return [f"the validation set has {found:,} tokens, where data.val_tokens asks for {asked:,}: "
            f"the held-out documents have no more"]


@dataclass
class Counters:
    """What a run has counted so far. `loss_sum` and `loss_count` cover the iterations since the
    last row of the CSV."""
    OPTIONAL: ClassVar = ("tokens", "row_tokens")

    loss_sum: Any = 0.0         # a tensor while training, so that no iteration waits for the device
    loss_count: int = 0
    seconds: float = 0.0        # of training, without evaluations and checkpoints
    tokens: int | None = 0      # predicted tokens; None: the checkpoint is older than this count
    row_iteration: int = 0      # this and the next two are the counts at the last row
    row_seconds: float = 0.0
    row_tokens: int | None = 0
    best: dict[str, Any] | None = None        # best evaluation: val_loss, iteration, file if kept
    bad_evaluations: int = 0                  # evaluations since the best one
    evaluation: dict[str, Any] | None = None  # the last one

    def to_dict(self) -> dict[str, Any]:
        """The counts as a checkpoint stores them, ready for JSON."""
        return {**asdict(self), "loss_sum": float(self.loss_sum)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Counters:
        """The counts that a checkpoint's state holds. Older checkpoints have no token counts, which
        are then None."""
        stored = {"tokens": None, "row_tokens": None, **state}
        for f in fields(cls):
            value = stored.get(f.name)
            number = type(value) in (int, float) or value is None and f.name in cls.OPTIONAL
            measured = type(at(value, "val_loss")) in (int, float) or value is None
            if not (measured if f.name in ("best", "evaluation") else number):
                raise BadInput(f"the checkpoint's {f.name} is {value!r:.60}: --resume restart "
                               f"begins again")
        return cls(**{f.name: stored.get(f.name) for f in fields(cls)})

    def add(self, trainer: Trainer) -> None:
        """Count the iteration that the trainer has just done, without waiting for the device."""
        self.loss_sum = self.loss_sum + trainer.loss.double()
        self.loss_count += 1
        self.tokens += trainer.targets

    def mean_loss(self) -> float:
        """The mean loss since the last row. Waits for the device."""
        return float(self.loss_sum) / self.loss_count

    def start_clock(self) -> None:
        """Begin to measure the training time. Called again after evaluating and saving, whose time
        does not count."""
        self.clock = time.perf_counter()

    def tick(self) -> None:
        """Add the seconds since the clock was started to the training time, and start it again."""
        self.seconds += time.perf_counter() - self.clock
        self.start_clock()

    def add_evaluation(self, evaluation: dict[str, Any], iteration: int) -> bool:
        """Keep an evaluation. Returns whether it is the best so far."""
        self.evaluation = evaluation
        if self.best is not None and not evaluation["val_loss"] < self.best["val_loss"]:
            self.bad_evaluations += 1
            return False
        self.best = {"val_loss": evaluation["val_loss"], "iteration": iteration}
        self.bad_evaluations = 0
        return True

    def row(self, trainer: Trainer, loss: float | None, flops_per_step: int,
            measured: bool, memory_mb: float) -> dict[str, Any]:
        """One row of the CSV; the counts of the next one begin. Without `measured` the row has no
        val_loss. `memory_mb` is the peak memory so far."""
        by_source = {key: value for key, value in self.evaluation.items()
                     if measured and key.startswith("val_loss_") and key != "val_loss_by_set"}
        n, tokens = trainer.iter_num, self.tokens - self.row_tokens
        seconds = self.seconds - self.row_seconds
        self.loss_sum, self.loss_count = 0.0, 0
        self.row_iteration, self.row_seconds, self.row_tokens = n, self.seconds, self.tokens
        return {"iteration": n, "loss": loss,
                "val_loss": self.evaluation["val_loss"] if measured else None,
                "learning_rate": trainer.lr if n else None,
                "grad_norm": float(trainer.grad_norm) if n else None,
                "tokens": self.tokens, "flops": n * flops_per_step, "seconds": self.seconds,
                "tokens_per_second": tokens / seconds if seconds > 0 else None,
                "peak_memory_mb": memory_mb, **by_source}

    def result(self, trainer: Trainer, flops_per_step: int, memory_mb: float) -> dict[str, Any]:
        """The result of a finished run, for its record."""
        best = {key: self.best[key] for key in ("val_loss", "iteration")}
        return {**self.evaluation, "best": best, "iterations": trainer.iter_num,
                "tokens": self.tokens, "flops": trainer.iter_num * flops_per_step,
                "tokens_per_second": self.tokens / self.seconds if self.seconds else None,
                "peak_memory_mb": memory_mb, "seconds": self.seconds,
                "read": trainer.train_dataset.used(
                    trainer.iter_num * trainer.config.accumulation_steps)}


def shared(processes: Processes, trainer: Trainer) -> tuple[float, dict[str, Any]]:
    """(the peak memory of all processes together in MB, what the model counts about itself as
    {"statistics": …}, which is empty where it counts nothing). The counts are those of the step's
    last micro-batch, which the last process computes."""
    everyone = processes.gather((peak_memory_mb(trainer.device), trainer.model.statistics()))
    counted = everyone[-1][1]
    return sum(memory for memory, _ in everyone), {"statistics": counted} if counted else {}


def hosts(processes: Processes) -> dict[str, Any]:
    """What a record says of the processes that train together: how many, and on which hosts."""
    return {"count": processes.count,
            "hosts": dict(collections.Counter(processes.gather(socket.gethostname())))}
