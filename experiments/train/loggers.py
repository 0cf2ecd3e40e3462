"""
Loggers send a run's log points to TensorBoard or Weights & Biases. The CSV is always written as
well.

A logger is an Observer: it reads what the run reports and changes nothing in the run.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from experiments.train.observer import Observer
from mingpt.utils import BadInput, did_you_mean


class Observers(Observer):
    """Several observers as one. Each call goes to all members in order."""

    def __init__(self, *members: Observer):
        self.members = members

    def say(self, text: str) -> None:
        for member in self.members:
            member.say(text)

    def start(self, run: Any, resumed_at: int | None) -> None:
        for member in self.members:
            member.start(run, resumed_at)

    def ready(self, run: Any) -> None:
        for member in self.members:
            member.ready(run)

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        for member in self.members:
            member.row(row, evaluation)

    def end(self, run: Any, status: str, message: str | None) -> None:
        for member in self.members:
            member.end(run, status, message)


class TensorBoard(Observer):
    """Writes event files under OUT/tensorboard/[STUDY/]ARM.s<SEED>/, with one scalar per column of
    the CSV."""

    module, package = "torch.utils.tensorboard", "tensorboard"

    def __init__(self, out: Path):
        self.out, self.writer = Path(out), None

    def start(self, run: Any, resumed_at: int | None) -> None:
        """Open the event file and write the run's description as text."""
        from torch.utils.tensorboard import SummaryWriter
        # purge_step hides what an earlier attempt logged after the checkpoint: it is logged again.
        self.writer = SummaryWriter(str(self.out / "tensorboard" / run.files.name),
                                    purge_step=resumed_at or 0)
        described = {key: run.record[key] for key in ("changes", "config", "code", "data", "model")}
        self.writer.add_text("run", f"```\n{json.dumps(described, indent=1)}\n```", resumed_at or 0)

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        for name, value in measured(row).items():
            self.writer.add_scalar(name, value, row["iteration"])
        self.writer.flush()

    def end(self, run: Any, status: str, message: str | None) -> None:
        self.writer.close()


class WandB(Observer):
    """Logs to Weights & Biases, in a project named after the study. With WANDB_MODE=offline, or
    without a network, the data stays under OUT/wandb/."""

    module = package = "wandb"

    def __init__(self, out: Path):
        self.out, self.session = Path(out), None

    def start(self, run: Any, resumed_at: int | None) -> None:
        """Start the W&B run, or resume it: its id is made from the run's name and settings."""
        import wandb
        record = run.record
        self.out.mkdir(parents=True, exist_ok=True)
        self.session = wandb.init(
            project=run.files.study or "ablate", name=f"{run.files.arm}.s{run.seed}",
            group=run.files.arm, id=f"{plain(run.files.name)}-{record['config_hash']}",
            resume="allow", dir=str(self.out), config=record["config"]
            | {"arm": run.files.arm, "seed": run.seed, "changes": record["changes"],
                                       "code": record["code"],
                                       "parameters": record["model"]["parameters"]})

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        self.session.log(measured(row), step=row["iteration"])

    def end(self, run: Any, status: str, message: str | None) -> None:
        """Write the numbers of the result into the summary, as final/NAME."""
        for name, value in (run.record["result"] or {}).items():
            if isinstance(value, int | float):
                self.session.summary[f"final/{name}"] = value
        self.session.finish(exit_code=0 if status == "done" else 1)


LOGGERS: dict[str, type[Observer] | None] = {"none": None, "tensorboard": TensorBoard,
                                             "wandb": WandB}


def make_logger(name: str, out: Path) -> Observer:
    """The logger of that name. Raises BadInput for an unknown name, and where its package cannot be
    imported."""
    if name not in LOGGERS:
        raise BadInput(f"--logger: no logger {name!r}{did_you_mean(name, LOGGERS)}")
    kind = LOGGERS[name]
    if kind is None:
        return Observer()
    try:
        importlib.import_module(kind.module)
    except ImportError as error:
        raise BadInput(f"--logger {name}: the package {kind.package} cannot be imported ({error}): "
                       f"pip install {kind.package}, or leave --logger out; the CSV is written "
                       f"either way") from None
    return kind(out)


def measured(row: dict[str, Any]) -> dict[str, float]:
    """The columns that have a value at this log point."""
    return {name: value for name, value in row.items() if value is not None and name != "iteration"}


def plain(text: str) -> str:
    """The text as an id: ASCII letters, digits, dots, underscores and dashes; a dash replaces any
    other character."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in text)
