"""
The curves of a comparison: the whole run, its end, and the whole run smoothed.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.labels import SIZE, label_ends, margin
from experiments.figures.lines import MANY, draw_line, emphasised, pale_text
from experiments.figures.panel import Skip
from experiments.figures.pictures import Pictures, tell_start
from experiments.figures.scales import Bent, bend, dwarfing, loss_frame
from experiments.figures.series import Series, mean
from experiments.figures.style import LABELS, label_x, page
from experiments.verdicts.trials import Trials

SMOOTH = 0.1          # the picture of convergence averages over this share of a run


def training_curves(p: Pictures) -> Figure:
    """Draw the training loss over tokens: the mean and the range over the runs."""
    return _curves(p, "Training loss", 0.0)


def final_losses(p: Pictures) -> Figure:
    """Draw the training loss over the last tenth of the runs."""
    return _curves(p, "Training loss over the last tenth of training", 0.9)


def convergence(p: Pictures) -> Figure:
    """Draw the training loss, averaged over a tenth of the run."""
    return _curves(p, "Training loss, smoothed", 0.0,
                   f"training loss averaged over {SMOOTH:.0%} of a run; ", smooth=SMOOTH)


def _curves(p: Pictures, title: str, start: float, note: str = "", smooth: float = 0.0) -> Figure:
    lines = {arm: line for arm in p.trials.arms
             if (line := mean_curve(p.trials, arm, smooth)) is not None}
    if not lines:
        raise Skip("no finished run has a curve of two points")
    end = max(line.x[-1] for line in lines.values())
    lines = {arm: _from(line, start * end) for arm, line in lines.items()
             if line.x[-1] >= start * end}
    styles, pale = emphasised(p.styles, p.trials.baseline, lines)
    band = "; band: from the lowest to the highest run" * (len(lines) <= MANY)
    caption = p.caption(f"{note}line: mean{band}{pale_text(lines, pale)}")
    (low, high), scale = _limits(lines, late=start > 0)
    figure, (axes,) = page(5.2, title, caption, headed=False, left=1.1 if scale else 0.9,
                           second_line=start > 0,
                           right=margin([arm for arm in lines if arm not in pale], SIZE))
    for number, (arm, line) in enumerate(lines.items()):
        draw_line(axes, line, styles[arm], band=len(lines) <= MANY, shift=number / len(lines))
    axes.set_xlim(start * end, end)
    said = bend(axes, scale, low, high)
    label_x(axes, p.trials.over, end)
    axes.set_ylabel(LABELS["loss"] + f"\n{said}" * bool(said))
    tell_start(axes, "y", *(["x"] if start else []))
    label_ends(axes, {arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()
                      if arm not in pale}, styles, SIZE)
    return figure


def _limits(lines: dict[str, Series], *,
            late: bool) -> tuple[tuple[float, float], Bent | None]:
    """Return the y-limits and the scale. The whole run goes without its first drop. Late in a run,
    the arms that dwarf the others are outside."""
    if not late:
        return loss_frame(lines, 0.08)
    far = dwarfing({arm: line.ends for arm, line in lines.items()})
    banded = len(lines) <= MANY
    inside = np.concatenate([values for arm, line in lines.items() if arm not in far
                             for values in ((line.low, line.high) if banded else (line.y,))])
    room = 0.1 * (inside.max() - inside.min()) or 0.01
    return (inside.min() - room, inside.max() + room), None


def _from(line: Series, x: float) -> Series:
    keep = line.x >= x
    return Series(line.x[keep], line.y[keep], line.low[keep], line.high[keep], line.n)


def mean_curve(trials: Trials, arm: str, smooth: float = 0.0) -> Series | None:
    """Return an arm's mean and range over the stretch that all its runs cover. None where no run
    has two points."""
    return mean([(trial.curve[:, 0], running_mean(trial.curve[:, 1], smooth))
                 for trial in trials.of(arm) if len(trial.curve) > 1])


def running_mean(values: np.ndarray, share: float) -> np.ndarray:
    """Return each value averaged with its neighbours over a window of `share` of all values. At the
    ends the window is shorter, so that it stays centred."""
    reach = int(share * len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    near = np.minimum(reach, np.minimum(i, len(values) - 1 - i))
    return (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)
