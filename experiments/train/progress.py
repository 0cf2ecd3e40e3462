"""
Shows the progress of a run: a progress bar in a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from experiments.records.record import begun_line, near, trainable_line
from experiments.system import terminal
from experiments.train.observer import Observer


class Reporter(Observer):
    """Shows a run: on stderr its training and validation loss, rate, memory and time left, and at
    the end its result, on stdout unless something else is to be printed there."""

    PLAIN_SECONDS = 5   # least seconds between plain lines without a validation loss
    NARROW = 110        # columns below which the bar's text leaves out learning rate and memory

    def __init__(self, result_on_stdout: bool = True) -> None:
        self.console = terminal(stderr=True)
        self.results = terminal(stderr=not result_on_stdout)
        self.bar: Progress | None = None

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def start(self, run: Any, resumed_at: int | None) -> None:
        record, self.max_iters = run.record, run.settings.trainer.max_iters
        self.statistics = lambda: run.statistics.get("statistics", {})
        model, data = record["model"], record["data"]
        self.say(
            f"{run.files.name}: {model['parameters']:,} parameters, "
            f"{model['flops_per_token'] / 1e6:.1f} MFLOP per token, "
            f"{data['tokens']:,} tokens of data, on {record['environment']['device']}"
        )
        if record["init"]:
            self.say(f"  {begun_line(record['init'])}")
        if line := trainable_line(model):
            self.say(line)
        for note in record["notes"]:
            self.say(f"  {note}")
        if not record["audit"]["passed"]:
            for claim, seen in record["audit"]["checks"].items():
                if seen is not True:
                    self.say(f"  audit: claim fails: {claim}: {seen}")
        if resumed_at is not None:
            self.say(f"  resuming from the checkpoint at iteration {resumed_at:,}")
        self.forecast, self.shown, self.busy = run.forecast, 0.0, False
        if self.console.is_terminal:
            # The text may fill a narrow terminal, so the bar takes the rest of the line.
            columns = (MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
                       TextColumn("{task.description}"), BarColumn(None))
            self.bar = Progress(*columns, console=self.console, transient=True, expand=True)
            self.task = self.bar.add_task("", total=self.max_iters, completed=resumed_at or 0,
                                          left="")
            self.bar.start()

    def ready(self, run: Any) -> None:
        if line := self.forecast.first_line():
            self.say(f"  {line}")

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        narrow = self.bar is not None and self.console.width < self.NARROW
        text = self._line(row, evaluation, narrow)
        left, _, busy = self.forecast.line().partition("; ")
        left = left if row["iteration"] < self.max_iters else ""
        if busy and not self.busy:
            self.say(f"  {busy}")
        self.busy = bool(busy)
        if self.bar is not None:
            self.bar.update(self.task, completed=row["iteration"], description=text, left=left)
        elif row["val_loss"] is not None or time.monotonic() - self.shown > self.PLAIN_SECONDS:
            self.shown = time.monotonic()
            self.say(f"  iter {row['iteration']:>6,}/{self.max_iters:,}  "
                     f"{text}  {left}".rstrip())

    def _line(self, row: dict[str, Any], evaluation: dict[str, Any] | None,
              narrow: bool = False) -> str:
        parts = [f"loss {row['loss']:.4f}" if row["loss"] is not None else "loss      -",
                 _measured(row, evaluation)]
        if row["learning_rate"] is not None and not narrow:
            parts.append(f"lr {row['learning_rate']:.2e}")
        if row["tokens_per_second"]:
            parts.append(f"{row['tokens_per_second']:,.0f} tok/s")
        counted = (f"{name} {value:.3g}" for name, value in self.statistics().items())
        memory = [] if narrow else [f"{row['peak_memory_mb']:,.0f} MB"]
        return "  ".join([*parts, *memory, *counted])

    def end(self, run: Any, status: str, message: str | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        if status == "done":
            result = run.record["result"]
            lines = [f"{run.files.name}: val loss {result['val_loss']:.4f} nats per token, "
                     f"perplexity {result['perplexity']:.2f}"
                     + (f", {result['bits_per_byte']:.4f} bits per byte"
                        if result["bits_per_byte"] else "")
                     + f", {result['seconds']:.1f} s of training"
                     + (f" ({message})" if message else "")]
            if run.record["sample"]:
                lines.append(f"  sample: {run.record['sample']['text']!r}")
            csv, record, checkpoint = map(near, (run.files.csv, run.files.json,
                                                 run.files.checkpoint))
            lines.append(f"  {csv}, {record}, {checkpoint}/")
            for line in lines:
                self.results.print(line, soft_wrap=True)
        else:
            how = "; start it again to continue" if status == "interrupted" else ""
            self.say(f"  {status} at iteration {run.trainer.iter_num:,}: {message}{how}")


def _measured(row: dict[str, Any], evaluation: dict[str, Any] | None) -> str:
    """The last validation loss, marked as `last` where this row does not hold a new one."""
    if not evaluation:
        return ""
    return f"{'last ' if row['val_loss'] is None else ''}val {evaluation['val_loss']:.4f}"
