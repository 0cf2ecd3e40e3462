"""
The input of the pictures of a comparison: the trials, and how their arms look.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.panel import Skip
from experiments.figures.style import ArmStyle, arm_styles, study_text
from experiments.verdicts.results import known_arms
from experiments.verdicts.trials import Trials

LOWER = ("final_loss", "val_loss", "seconds", "peak_memory_mb")   # measures where lower is better


@dataclass
class Pictures:
    """Trials and how their arms look."""
    trials: Trials
    styles: dict[str, ArmStyle] = field(init=False)

    def __post_init__(self) -> None:
        self.styles = arm_styles(self.trials.arms, self.trials.baseline, known_arms())

    @property
    def quality(self) -> str:
        """The loss by which quality is judged: the validation loss where there is one, else the
        final training loss."""
        return next((m for m in ("val_loss", "final_loss") if self.trials.values(m)), "final_loss")

    def arrays(self, measure: str) -> dict[str, np.ndarray]:
        """Return arm → the values of its runs. Raises Skip where no run has one."""
        found = {arm: np.array(list(v.values())) for arm, v in self.trials.values(measure).items()}
        if not found:
            raise Skip(f"no finished run has {measure}")
        return found

    def measured(self, *wanted: str) -> list[str]:
        """Return those of the wanted measures that any run has. Raises Skip when there is none."""
        found = [measure for measure in wanted if self.trials.values(measure)]
        if not found:
            raise Skip(f"no finished run has {' or '.join(wanted)}")
        return found

    def ratios(self, measure: str) -> dict[str, np.ndarray]:
        """Return arm → the values of its runs, each divided by the baseline's value of the same
        seed, or by the baseline's mean where it lacks that seed. Raises Skip where the baseline has
        no value."""
        values = self.trials.values(measure)
        base = values.get(self.trials.baseline)
        if not base:
            raise Skip(f"no run of the baseline {self.trials.baseline!r} has {measure}")
        mean = float(np.mean(list(base.values())))
        return {arm: np.array([value / (base.get(seed, mean) or np.nan)
                               for seed, value in runs.items()])
                for arm, runs in values.items()}

    def caption(self, text: str) -> str:
        """Return the caption: the study, the number of runs per arm, then the text."""
        counts = sorted({len(self.trials.of(arm)) for arm in self.trials.arms})
        runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return (f"{study_text(self.trials.study)}{runs} finished run{'s' * (counts != [1])} per "
                f"arm; {text}")


def legend(axes: Axes) -> None:
    """Draw the picture's legend to the right of the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9,
                borderaxespad=0.0, handlelength=1.2)


def tell_start(axes: Axes, *along: str) -> None:
    """Add to the label of each axis ("x" or "y") that it does not start at zero, where it does
    not."""
    for name in along:
        axis, (low, high) = getattr(axes, f"{name}axis"), getattr(axes, f"get_{name}lim")()
        if not low <= 0 <= high:
            label, between = axis.get_label_text(), "\n" if name == "y" else "; "
            axis.set_label_text(label + between * bool(label) + "the axis does not start at 0")
