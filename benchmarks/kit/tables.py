"""
The output of a benchmark: one table, which is plain text outside a terminal, and JSON.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from benchmarks.kit.floors import Floor
from benchmarks.kit.options import quiet
from mingpt.utils import write_atomic

PLAIN_WIDTH = 150    # characters per line where no terminal gives its width


class Table:
    """Rows of cells under a title. A note is a row with one text instead of figures."""

    def __init__(self, title: str, columns: tuple[str, ...]):
        self.title, self.columns, self.rows = title, columns, []

    def row(self, *cells: str) -> None:
        """Add a row, with one cell per column."""
        self.rows.append(cells)

    def note(self, name: str, text: str) -> None:
        """Add a note, which is printed below the table."""
        self.rows.append((name, text))

    def print(self) -> None:
        """Print the table and then its notes to stdout."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as Drawn
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(width=PLAIN_WIDTH, highlight=False)
        drawn = Drawn(box=box.SIMPLE, title=self.title, title_justify="left", title_style="bold",
                      pad_edge=False)
        for column in self.columns:
            drawn.add_column(column, justify="left" if column in ("", "floor") else "right",
                             no_wrap=True)
        notes = []
        for cells in self.rows:
            if len(cells) == len(self.columns):
                drawn.add_row(*cells)
            else:
                notes.append(cells)
        quiet()
        console.print(drawn)
        for name, text in notes:
            console.print(f"{name}: {text}", markup=False)


def time_cell(ms: dict[str, float]) -> str:
    """Format times in ms as "median (quartiles)"; one decimal below 100."""
    def digits(value: float) -> str:
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{digits(ms['median'])} ({digits(ms['low'])}–{digits(ms['high'])})"


def ratio_cell(ratio: dict[str, float] | float, floor: Floor | None) -> tuple[str, str]:
    """Two cells: the ratio with its quartiles, and its floor with whether it is met."""
    if isinstance(ratio, dict):
        middle, text = (ratio["median"],
                        f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})")
    else:
        middle, text = ratio, f"{ratio:.2f}"
    return text, verdict(middle, floor)


def verdict(value: float, floor: Floor | None) -> str:
    """Format a floor and whether it is met; an empty text without a floor."""
    return "" if floor is None else f"{floor} {'✓' if floor.met(value) else '✗'}"


def percent_cell(share: dict[str, float], floor: Floor | None) -> str:
    """Format a share in percent, with its floor."""
    text = f"{share['median']:.0%}"
    return text if floor is None else (
        f"{text} ({floor.sense} {floor.value:.0%} {'✓' if floor.met(share['median']) else '✗'})")


def memory_cell(found: dict[str, Any]) -> str:
    """Format the peak memory of the process; in brackets, the part that the step added."""
    return f"{found['peak_mb']:.0f} ({found['own_mb']:.0f})"


def save(folder: Path, name: str, results: dict[str, Any], figure=None) -> None:
    """Write the results as JSON and the figure, if there is one, as PNG; print the paths."""
    path = Path(folder) / f"{name}.json"
    write_atomic(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if figure is not None:
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        write_atomic(path.with_suffix(".png"), picture.getvalue())
    print(f"written: {path}"
          + (f" and {path.with_suffix('.png').name}" if figure is not None else "") + "\n")
