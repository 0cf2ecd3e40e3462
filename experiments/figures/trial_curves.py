"""
The curves of a comparison: the whole run, its end, and the whole run smoothed.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t

from experiments.figures.labels import shortened
from experiments.figures.panel import Skip
from experiments.figures.pictures import Pictures, legend
from experiments.figures.style import LABELS, label_x, page
from experiments.verdicts.trials import Trials

LEVEL = 0.95          # of the confidence bands
POINTS = 200          # points of a drawn curve
SMOOTH = 0.1          # the picture of convergence averages over this share of a run


def training_curves(p: Pictures) -> Figure:
    """Draw the training loss over tokens: the mean and its confidence band."""
    return _curves(p, "Training loss", 0.0, 1.0,
                   "line: mean; band: 95 % confidence interval of the mean")


def final_losses(p: Pictures) -> Figure:
    """Draw the training loss over the last tenth of the runs."""
    return _curves(p, "The last tenth of training", 0.9, 1.0,
                   "line: mean; band: 95 % confidence interval of the mean")


def convergence(p: Pictures) -> Figure:
    """Draw the training loss, averaged over a tenth of the run."""
    return _curves(p, "Convergence", 0.0, 1.0,
                   f"training loss averaged over {SMOOTH:.0%} of a run; band: 95 % "
                   "confidence interval of the mean", smooth=SMOOTH)


def _curves(p: Pictures, title: str, start: float, stop: float, caption: str,
            smooth: float = 0.0) -> Figure:
    curves = {arm: line for arm in p.trials.arms
              if (line := mean_curve(p.trials, arm, smooth)) is not None}
    if not curves:
        raise Skip("no finished run has a curve of two points")
    end = max(x[-1] for x, *_ in curves.values())
    figure, (axes,) = page(5.2, f"{title}: {p.trials.title}", p.caption(caption), right=2.3,
                           headed=False)
    inside = []
    for arm, (x, y, half) in curves.items():
        style, keep = p.styles[arm], (x >= start * end) & (x <= stop * end)
        axes.plot(x[keep], y[keep], color=style.color, ls=style.dash, lw=style.width,
                  label=shortened(arm, 24))
        if len(p.trials.of(arm)) > 1 and len(curves) <= 9:
            axes.fill_between(x[keep], (y - half)[keep], (y + half)[keep], color=style.color,
                              alpha=0.12, lw=0)
        inside += list(y[keep & (x >= 0.08 * end)])
    if inside:
        room = (0.3 if start else 0.06) * (max(inside) - min(inside)) or 0.01
        axes.set_ylim(min(inside) - room, max(inside) + room)
    label_x(axes, p.trials.over, end)
    axes.set_ylabel(LABELS["loss"])
    legend(axes)
    return figure


def mean_curve(trials: Trials, arm: str, smooth: float = 0.0,
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return (x, mean over runs, half the confidence interval), each (POINTS,), on a grid that all
    of an arm's runs cover. None where no run has two points."""
    curves = [trial.curve for trial in trials.of(arm) if len(trial.curve) > 1]
    if not curves:
        return None
    grid = np.linspace(max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves), POINTS)
    ys = np.stack([np.interp(grid, c[:, 0], running_mean(c[:, 1], smooth)) for c in curves])
    n = len(curves)
    half = (t.ppf((1 + LEVEL) / 2, n - 1) * ys.std(0, ddof=1) / np.sqrt(n) if n > 1
            else np.zeros(POINTS))
    return grid, ys.mean(0), half


def running_mean(values: np.ndarray, share: float) -> np.ndarray:
    """Return each value averaged with its neighbours over a window of `share` of all values. At the
    ends the window is shorter, so that it stays centred."""
    reach = int(share * len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    near = np.minimum(reach, np.minimum(i, len(values) - 1 - i))
    return (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)
