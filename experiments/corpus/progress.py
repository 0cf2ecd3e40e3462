"""
Shows the progress of tokenizing: a bar in a terminal, a line every few seconds elsewhere, nothing
for small corpora.
"""

from __future__ import annotations

import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.system import terminal

QUIET = 2.0    # seconds before anything is shown
PLAIN = 10.0   # seconds between lines without a terminal


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Bar:
    """The progress over `total` bytes of input. It also counts the bytes of text, for the rate."""

    def __init__(self, total: int):
        self.total, self.text, self.done = max(1, total), 0, 0
        self.began = self.shown = time.monotonic()
        self.console = terminal(stderr=True)
        self.bar: Progress | None = None

    def update(self, done: int, text: int) -> None:
        """Report that `done` bytes of the input are read in all, and `text` more bytes of text are
        tokenised."""
        self.done, self.text = min(done, self.total), self.text + text
        now = time.monotonic()
        if now - self.began < QUIET or not self.done:
            return
        if self.console.is_terminal:
            self._draw()
        elif now - self.shown > PLAIN:
            self.shown = now
            left = (now - self.began) * (self.total / max(1, self.done) - 1)
            say(f"  tokenizing: {self.done / self.total:4.0%}, {self.rate:.1f} MB/s, "
                f"{_clock(left)} left")

    @property
    def rate(self) -> float:
        """MB of text per second so far."""
        return self.text / 1e6 / max(1e-9, time.monotonic() - self.began)

    def _draw(self) -> None:
        if self.bar is None:
            columns = (TextColumn("  tokenizing"), BarColumn(),
                       TextColumn("{task.percentage:3.0f}%"),
                       TextColumn("{task.fields[rate]:.1f} MB/s"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", total=self.total, rate=0.0)
            self.bar.start()
        self.bar.update(self.task, completed=self.done, rate=self.rate)

    def stop(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
