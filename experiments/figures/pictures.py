"""
The input of the pictures of a comparison: the trials, and how their arms look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.panel import Skip
from experiments.figures.scales import dwarfing
from experiments.figures.style import BUSY, ArmStyle, arm_styles, busy_text, study_text
from experiments.verdicts.study_runs import known_arms
from experiments.verdicts.trials import Trials

RANGE = "whisker: from the lowest to the highest run"
TIMES = ("tokens_per_second", "seconds")
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

    def timing_note(self, measure: str) -> str:
        """Return the mark of times that are in doubt; empty for anything else."""
        return BUSY if measure in TIMES and self.trials.busy else ""

    def doubt_text(self, measures: list[str]) -> str:
        """Return the end of the caption about times that are in doubt, where times are drawn."""
        return busy_text(self.trials.busy) if set(TIMES) & set(measures) else ""


def far_text(*drawn: Mapping[str, np.ndarray]) -> str:
    """Return the part of a caption about arms that are outside the frame of what is drawn."""
    far = sorted({arm for values in drawn for arm in dwarfing(values)})
    return f"; outside a frame, far from the others: {', '.join(far)}" if far else ""


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
            label = axis.get_label_text()
            axis.set_label_text("\n".join(filter(None, (label, "the axis does not start at 0"))))


def frame(axes: Axes, along: str, values: Mapping[str, np.ndarray], *, around: float | None = None,
          ) -> dict[str, float]:
    """Set the limits along x or y so that arms that dwarf the others do not hide them; return the
    means of those, which are outside. `around` is a value that stays inside."""
    far = dwarfing(values)
    if far:
        near = np.concatenate([v for arm, v in values.items() if arm not in far]
                              + ([[around]] if around is not None else []))
        room = 0.12 * (near.max() - near.min()) or 0.01
        axes.set(**{f"{along}lim": (near.min() - room, near.max() + room)})
    return {arm: float(values[arm].mean()) for arm in values if arm in far}
