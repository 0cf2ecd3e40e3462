"""
What the pictures of a comparison are drawn from: the trials, and how their arms look.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.panel import Skip
from experiments.figures.style import ArmStyle, arm_styles
from experiments.verdicts.results import known_arms
from experiments.verdicts.trials import Trials

MANY = 24             # arms that still have room beside each other
LOWER = ("final_loss", "val_loss", "seconds", "peak_memory_mb")   # is better


@dataclass
class Pictures:
    """Trials and how their arms look."""
    trials: Trials
    styles: dict[str, ArmStyle] = field(init=False)

    def __post_init__(self) -> None:
        self.styles = arm_styles(self.trials.arms, self.trials.baseline, known_arms())

    @property
    def quality(self) -> str:
        """The loss that quality is judged by: the validation loss where there is one."""
        return next((m for m in ("val_loss", "final_loss") if self.trials.values(m)), "final_loss")

    def arrays(self, measure: str) -> dict[str, np.ndarray]:
        """Arm → its runs' values. Raises Skip where no run has one."""
        found = {arm: np.array(list(v.values())) for arm, v in self.trials.values(measure).items()}
        if not found:
            raise Skip(f"no finished run has {measure}")
        if len(found) > MANY:
            raise Skip(f"{len(found)} arms have no room beside each other")
        return found

    def measured(self, *wanted: str) -> list[str]:
        """Those of the measures that any run has. Raises Skip when there is none."""
        found = [measure for measure in wanted if self.trials.values(measure)]
        if not found:
            raise Skip(f"no finished run has {' or '.join(wanted)}")
        return found

    def ratios(self, measure: str) -> dict[str, np.ndarray]:
        """Arm → its runs' values over the baseline's of the same seed, or over its mean where no
        seed is shared."""
        values = self.trials.values(measure)
        base = values.get(self.trials.baseline)
        if not base:
            raise Skip(f"no run of the baseline {self.trials.baseline!r} has {measure}")
        mean = float(np.mean(list(base.values())))
        return {arm: np.array([value / (base.get(seed, mean) or np.nan) for seed,
                               value in runs.items()])
                for arm, runs in values.items()}

    def caption(self, text: str) -> str:
        counts = sorted({len(self.trials.of(arm)) for arm in self.trials.arms})
        runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{runs} finished run{'s' * (counts != [1])} an arm; {text}"


def legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9,
                borderaxespad=0.0, handlelength=2.4)
