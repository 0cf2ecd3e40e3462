"""
The files that a run writes while it trains. Of several processes that train one model, the first
has a Writer, and the others a Bystander, which writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from experiments.records.record import Log, RunFiles, at, now, read_record, write_record
from experiments.system import Held, patiently
from experiments.weights import checkpoint
from mingpt.pretrained.weights import Tensors
from mingpt.utils import BadInput


class Writer:
    """Writes a run's record, CSV and checkpoints. While the disk is full it waits, and says so with
    `say`; where `asked` to end, the error of the full disk is raised."""

    def __init__(self, files: RunFiles, say: Callable[[str], None], asked: Callable[[], Any]):
        self.files, self.say, self.asked = files, say, asked
        self.log: Log | None = None

    def locked(self) -> contextlib.AbstractContextManager:
        """Inside, no other run can write to this run's folder. Waits where one does."""
        return checkpoint.locked(self.files.checkpoint, lambda: self.say(
            f"another process trains {self.files.name}: waiting until it ends"))

    def _patiently(self, write: Callable[[], Any]) -> Any:
        return patiently(write, lambda why: self.say(f"  {self.files.name}: {why}"), self.asked)

    def record(self, record: Mapping[str, Any], wait: bool = True) -> None:
        """Write the run's record."""
        write = partial(write_record, self.files.json, record)
        self._patiently(write) if wait else write()

    def open_log(self, before: bytes | None, more: Sequence[str] = ()) -> None:
        """Begin the CSV, or continue it after the content `before`. `more` are further columns."""
        self.log = Log(self.files.csv, before, more)

    def row(self, row: Mapping[str, Any]) -> None:
        """Write one row of the CSV."""
        self._patiently(self.log.row(row))

    def best(self, iteration: int, weights: Tensors) -> str:
        """Save the best weights so far, and return the file's name."""
        return self._patiently(lambda: checkpoint.save_weights(
            self.files.checkpoint, f"best-{iteration:06d}", weights))

    def checkpoint(self, iteration: int, weights: Tensors, optimizer: Tensors | None,
                   state: dict[str, Any]) -> None:
        """Save a checkpoint, with a copy of the CSV so far."""
        self._patiently(lambda: checkpoint.save(
            self.files.checkpoint, iteration, weights, optimizer, state, self.log.content()))

    def close(self) -> None:
        """Close the CSV."""
        if self.log is not None:
            self.log.close()


class Bystander(Writer):
    """A Writer that writes nothing: another process writes the run's files."""

    def locked(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def record(self, record: Mapping[str, Any], wait: bool = True) -> None: ...

    def open_log(self, before: bytes | None, more: Sequence[str] = ()) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None: ...

    def best(self, iteration: int, weights: Tensors) -> str:
        return ""

    def checkpoint(self, iteration: int, weights: Tensors, optimizer: Tensors | None,
                   state: dict[str, Any]) -> None: ...


def mark_interrupted(files: RunFiles, message: str) -> bool:
    """Write into a run's record that it was interrupted, where the process that should write it has
    ended. Returns whether that was so: the record says `running`, and nobody has locked the run."""
    with contextlib.suppress(BadInput, Held), checkpoint.locked(files.checkpoint, None):
        record = read_record(files.json)
        if at(record, "status") == "running":
            write_record(files.json, {**record, "status": "interrupted", "message": message,
                                      "end": now()})
            return True
    return False
