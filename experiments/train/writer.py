"""
The files that a run writes while it trains. Of several processes that train one model, the first
has a Writer, and the others a Bystander, which writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from experiments.records.record import Log, RunFiles, at, now, read_record, write_record
from experiments.weights import checkpoint
from mingpt.utils import BadInput


class Writer:
    """Writes a run's record, CSV and checkpoints."""

    def __init__(self, files: RunFiles):
        self.files = files
        self.log: Log | None = None

    def locked(self) -> contextlib.AbstractContextManager:
        """Inside, no other run can write to this run's folder. Raises BadInput where one does."""
        return checkpoint.locked(self.files.checkpoint)

    def record(self, record: Mapping[str, Any]) -> None:
        """Write the run's record."""
        write_record(self.files.json, record)

    def open_log(self, before: bytes | None, more: Sequence[str] = ()) -> None:
        """Begin the CSV, or continue it after the content `before`. `more` are further columns."""
        self.log = Log(self.files.csv, before, more)

    def row(self, row: Mapping[str, Any]) -> None:
        """Write one row of the CSV."""
        self.log.row(row)

    def best(self, iteration: int, model: torch.nn.Module) -> str:
        """Save the best weights so far, and return the file's name."""
        return checkpoint.save_weights(self.files.checkpoint, f"best-{iteration:06d}", model)

    def checkpoint(self, iteration: int, model: torch.nn.Module,
                   optimizer: torch.optim.Optimizer | None, state: dict[str, Any]) -> None:
        """Save a checkpoint, with a copy of the CSV so far."""
        checkpoint.save(self.files.checkpoint, iteration, model, optimizer, state,
                        self.log.content())

    def close(self) -> None:
        """Close the CSV."""
        if self.log is not None:
            self.log.close()


class Bystander(Writer):
    """A Writer that writes nothing: another process writes the run's files."""

    def locked(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def record(self, record: Mapping[str, Any]) -> None: ...

    def open_log(self, before: bytes | None, more: Sequence[str] = ()) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None: ...

    def best(self, iteration: int, model: torch.nn.Module) -> str:
        return ""

    def checkpoint(self, iteration: int, model: torch.nn.Module,
                   optimizer: torch.optim.Optimizer | None, state: dict[str, Any]) -> None: ...


def mark_interrupted(files: RunFiles, message: str) -> bool:
    """Write into a run's record that it was interrupted, where the process that should write it has
    ended. Returns whether that was so: the record says `running`, and nobody has locked the run."""
    with contextlib.suppress(BadInput), checkpoint.locked(files.checkpoint):
        record = read_record(files.json)
        if at(record, "status") == "running":
            write_record(files.json, {**record, "status": "interrupted", "message": message,
                                      "end": now()})
            return True
    return False
