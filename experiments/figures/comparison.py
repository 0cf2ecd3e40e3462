"""
The ten pictures of a comparison: curves, values, and quality against speed and memory. They are
drawn from the trials alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.figures.panel import Skip
from experiments.figures.pictures import Pictures
from experiments.figures.saving import save
from experiments.figures.style import RC
from experiments.figures.trial_curves import convergence, final_losses, training_curves
from experiments.figures.trial_scatter import memory_quality, memory_speed, speedup_quality
from experiments.figures.trial_values import distributions, metrics_comparison, per_run, summary
from experiments.verdicts.trials import Trials

TEN: dict[str, Callable[[Pictures], Figure]] = {
    "1_training_curves": training_curves, "2_final_losses": final_losses,
    "3_metrics_comparison": metrics_comparison,
    "4_speedup_quality": speedup_quality, "5_memory_quality": memory_quality,
    "6_memory_speed": memory_speed,
    "7_distributions": distributions, "8_per_run": per_run, "9_summary": summary,
    "10_convergence": convergence,
}


def draw_ten(trials: Trials, folder: Path,
             formats: tuple[str, ...]) -> Iterator[tuple[str, list[Path] | str]]:
    """Draw all ten pictures. Yield (name, files written), or (name, why it was skipped)."""
    pictures = Pictures(trials)
    for name, function in TEN.items():
        try:
            with rc_context(RC):
                yield name, save(function(pictures), folder / name, formats)
        except Skip as skip:
            yield name, str(skip)
