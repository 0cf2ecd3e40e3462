"""
The figure of one arm: every seed, their mean, and the baseline behind it.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.lines import draw_strays
from experiments.figures.panel import Panel
from experiments.figures.series import Series, points, settled_range
from experiments.figures.style import BASELINE, label_x, name_of, page


def arm_figure(panel: Panel, arm: str) -> Figure:
    """Draw the arm's curve with the baseline's behind it. Raises Skip when the arm has no curve."""
    own = panel.require(arm)
    shown = {arm: own} | baseline_line(panel, arm)
    verdict = panel.results.verdicts.get(arm)
    said = (" ".join(verdict.line().split()).removeprefix(f"{arm} ") if verdict
            else _role(panel, arm))
    note = panel.timing_note(panel.x)
    figure, (axes,) = page(4.6, f"{arm}: {name_of(panel.metric)}",
                           panel.caption({arm: own}, panel.metric, band=False),
                           subtitle=said, headed=False, second_line=bool(note))
    draw_arm(axes, panel, arm, shown)
    val = panel.mean(arm, panel.x, "val_loss") if panel.metric == "loss" else None
    if val is not None:
        axes.plot(val.x, val.y, color=panel.styles[arm].color, ls="", marker="o", ms=5,
                  mfc="white", mew=1.4, label="validation loss", zorder=4)
    axes.set_ylim(settled_range([*shown.values(), *([val] if val else [])]))
    label_x(axes, panel.x, own.x[-1], ticks=8, note=note)
    axes.set_ylabel(panel.label(panel.metric))
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return figure


def draw_arm(axes: Axes, panel: Panel, arm: str, shown: dict[str, Series], *,
             width: float = 2.0) -> None:
    """Draw each seed as a thin line, their mean as a bold line, and the baseline in black behind
    them."""
    style, own = panel.styles[arm], shown[arm]
    for other, line in shown.items():
        if other != arm:
            axes.plot(line.x, line.y, color=BASELINE, lw=0.6 * width, alpha=0.65, label=other,
                      zorder=2)
    runs = panel.shown(arm)
    each = f"each of {len(runs)} {panel.results.replicates}"
    if len(runs) > 1:
        for i, run in enumerate(runs):
            axes.plot(*points(run, panel.x, panel.metric), color=style.color, lw=0.35 * width,
                      alpha=0.55, label=each if i == 0 else None, zorder=2.2)
    axes.plot(own.x, own.y, color=style.color, lw=width,
              label=f"{arm}, mean" if len(runs) > 1 else arm, zorder=3,
              marker="o" if len(own.x) == 1 else None)
    draw_strays(axes, panel, arm, panel.x, panel.metric, style.color)


def baseline_line(panel: Panel, arm: str) -> dict[str, Series]:
    """Return {baseline: its mean}; empty where the arm is the baseline or the baseline has no
    curve."""
    if arm == panel.baseline or panel.baseline not in panel.arms:
        return {}
    line = panel.mean(panel.baseline, panel.x, panel.metric)
    return {panel.baseline: line} if line is not None else {}


def _role(panel: Panel, arm: str) -> str:
    return ("the baseline" if arm == panel.baseline
            else f"no run of the baseline {panel.baseline!r} to compare with")
