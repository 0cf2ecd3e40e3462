"""
The figures of a study. To add one, write a function from a Panel to a Figure and add a line to
FIGURES.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.figures.arm import arm_figure
from experiments.figures.difference import loss_minus_baseline
from experiments.figures.factorial import factorial_effects
from experiments.figures.forest import effects, pages
from experiments.figures.grid import individual_grid
from experiments.figures.lines import against, training_comparison, validation_curves
from experiments.figures.panel import NotDeclared, Panel, Skip
from experiments.figures.saving import FORMATS, save
from experiments.figures.sensitivity import learning_rates
from experiments.figures.style import RC

FIGURES: dict[str, Callable[[Panel], Figure]] = {
    "training_comparison": training_comparison,
    "effects": effects,
    "factorial_effects": factorial_effects,
    "learning_rates": learning_rates,
    "individual_grid": individual_grid,
    "loss_minus_baseline": loss_minus_baseline,
    "validation_curves": validation_curves,
    "loss_against_tokens": against("tokens"),
    "loss_against_seconds": against("seconds"),
    "loss_against_flops": against("flops"),
}

__all__ = ["FIGURES", "FORMATS", "Panel", "Skip", "draw", "save"]


def draw(panel: Panel, folder: Path, formats: tuple[str, ...] = ("png",),
         ) -> Iterator[tuple[str, list[Path] | str]]:
    """Draw every figure that the study declares, and one figure per arm. Yield (name, files
    written), or (name, why it was skipped)."""
    jobs = dict(FIGURES)
    for part in range(1, pages(panel.results)):
        jobs[f"effects_{part + 1}"] = lambda panel, part=part: effects(panel, part)
    for arm in sorted(panel.drawn, key=lambda arm: arm in FIGURES):
        jobs[_free(arm, jobs)] = lambda panel, arm=arm: arm_figure(panel, arm)
    for name, function in jobs.items():
        try:
            with rc_context(RC):
                outcome = save(function(panel), folder / name, formats)
        except NotDeclared:
            continue
        except Skip as skip:
            outcome = str(skip)
        yield name, outcome
    if left := len(panel.arms) - len(panel.drawn):
        yield f"the figures of {left} arms", "only the baseline, the best and the worst have one"


def _free(arm: str, taken: Container[str]) -> str:
    """Return the name of an arm's figure: the arm's own name, with `arm_` in front where a figure
    of the study already has that name."""
    while arm in taken:
        arm = f"arm_{arm}"
    return arm
