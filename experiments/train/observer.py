"""
What a run tells while it trains. Loggers and the progress line are observers.
"""

from __future__ import annotations

from typing import Any


class Observer:
    """Told what happens in a run; shows nothing."""

    def say(self, text: str) -> None:
        """A line for the reader."""

    def start(self, run: Any, resumed_at: int | None) -> None:
        """Training begins, or goes on from an iteration."""

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        """A log point."""

    def end(self, run: Any, status: str, message: str | None) -> None:
        """Training is over."""
