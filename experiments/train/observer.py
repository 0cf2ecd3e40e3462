"""
The interface through which a run reports while it trains. Loggers and the progress line are
observers.
"""

from __future__ import annotations

from typing import Any


class Observer:
    """Receives what happens in a run. This base class ignores all of it."""

    def say(self, text: str) -> None:
        """Receive one line of text for the user."""

    def start(self, run: Any, resumed_at: int | None) -> None:
        """Training starts, or resumes at iteration `resumed_at`."""

    def ready(self, run: Any) -> None:
        """The rehearsals are over and the first step follows. `run.forecast` knows the time."""

    def row(self, row: dict[str, Any], evaluation: dict[str, Any] | None) -> None:
        """Receive one log point: the row of the CSV and the last evaluation."""

    def end(self, run: Any, status: str, message: str | None) -> None:
        """Training has ended with this status."""
