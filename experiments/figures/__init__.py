"""
The pictures of a study. Adding one is a function from a Panel to a Figure, and a line in FIGURES.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.figures.arm import arm_figure
from experiments.figures.difference import loss_minus_baseline
from experiments.figures.forest import effects
from experiments.figures.grid import individual_grid
from experiments.figures.lines import against, training_comparison, validation_curves
from experiments.figures.panel import Panel, Skip
from experiments.figures.style import RC
from mingpt.utils import write_atomic

FIGURES: dict[str, Callable[[Panel], Figure]] = {
    "training_comparison": training_comparison,
    "effects": effects,
    "individual_grid": individual_grid,
    "loss_minus_baseline": loss_minus_baseline,
    "validation_curves": validation_curves,
    "loss_against_tokens": against("tokens"),
    "loss_against_seconds": against("seconds"),
    "loss_against_flops": against("flops"),
}

FORMATS = ("png", "svg", "pdf")

__all__ = ["FIGURES", "FORMATS", "Panel", "Skip", "draw"]


def draw(panel: Panel, folder: Path, formats: tuple[str, ...] = ("png",)) -> Iterator[tuple[str, list[Path] | str]]:
    """Draw every figure of a study and one of each arm. Yields (name, files written), or (name, why it was skipped)."""
    jobs = dict(FIGURES) | {arm: lambda panel, arm=arm: arm_figure(panel, arm) for arm in panel.arms}
    for name, function in jobs.items():
        try:
            with rc_context(RC):
                outcome = save(function(panel), folder / name, formats)
        except Skip as skip:
            outcome = str(skip)
        yield name, outcome


def save(figure: Figure, stem: Path, formats: tuple[str, ...]) -> list[Path]:
    """Write a figure in each format, whole or not at all. Dates are left out, so the same runs give the same file."""
    paths = []
    for kind in formats:
        buffer = io.BytesIO()
        undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=undated)
        path = stem.with_name(f"{stem.name}.{kind}")   # with_suffix would eat the end of a name with a dot
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
