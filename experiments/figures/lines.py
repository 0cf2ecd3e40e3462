"""
All arms in one figure: the whole run, and its last third magnified, where arms differ.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.labels import font_size, label_ends, margin
from experiments.figures.panel import Panel, Skip
from experiments.figures.series import Series, points, settled_range
from experiments.figures.style import LABELS, ArmStyle, label_x, page, short, unit_of

LAST = 1 / 3        # the last part of the x range that is magnified
MANY = 7            # with more arms, lines have markers and no bands, which would hide other lines


def training_comparison(panel: Panel) -> Figure:
    """Draw every arm's chosen metric over the chosen x."""
    return overlay(panel, panel.x, panel.metric)


def validation_curves(panel: Panel) -> Figure:
    """Draw the validation loss of every arm, measured on the same tokens for every arm and seed."""
    return overlay(panel, panel.x, "val_loss", dots=True)


def against(x: str):
    """Return the function that draws a figure over a cost. It shows which arm is lower at equal
    tokens, seconds or FLOPs, and where arms last cross the baseline.

    The figure shows the validation loss where it was measured, as the verdicts at equal budgets
    rest on it.
    """
    def figure(panel: Panel) -> Figure:
        if x in ("seconds", "flops") and not any(run.table[x].gt(0).any()
                                                 for run in panel.results.runs):
            raise Skip(f"no run has {x}")
        measured = any(run.table["val_loss"].count() > 1 for run in panel.results.runs)
        y = "val_loss" if measured else panel.metric
        return overlay(panel, x, y, crossings=panel.crossings(x, y))
    return figure


def overlay(panel: Panel, x: str, y: str, *, dots: bool = False,
            crossings: dict[str, tuple[float, float]] | None = None) -> Figure:
    """Draw two axes side by side, the whole run and its last third, with the arms' names at the
    ends of the lines. `crossings` maps arm → (x, y) of a ring to draw."""
    lines = panel.lines(x, y)
    height = min(12.0, max(4.9, 2.0 + 0.155 * len(lines)))
    size = font_size(len(lines), height - 1.9)
    caption = panel.caption(lines, y, band=len(lines) <= MANY) + (
        "; time at each arm's undisturbed pace, the lower quartile of its log points"
        if x == "seconds" else "")
    if crossings is not None:
        caption += _crossed(crossings, panel, x)
    figure, (whole, late) = page(height, panel.results.title, caption, columns=(1.1, 1.0),
                                 right=margin(list(lines), size))
    start, end = min(s.x[0] for s in lines.values()), max(s.x[-1] for s in lines.values())
    span = (end - start) or 1.0   # one log point so far
    cut = end - LAST * span
    for axes in (whole, late):
        for arm, line in lines.items():
            draw_line(axes, line, panel.styles[arm], band=len(lines) <= MANY,
                      dots=dots or len(lines) > MANY)
            draw_strays(axes, panel, arm, x, y)
        for arm, (at, height) in (crossings or {}).items():
            axes.plot([at], [height], color=panel.styles[arm].color, marker="o", ms=9, mfc="none",
                      mew=1.8, zorder=4)
        label_x(axes, x, end, ticks=5)
    late.set_xlim(cut, end + 0.02 * LAST * span)
    whole.set_ylim(settled_range(list(lines.values()), 0.08))
    whole.set_xlim(start - 0.01 * span, end + 0.01 * span)
    late.set_ylim(_late_range(lines, cut))
    whole.set_title("the whole run" + _above(whole, lines))
    late.set_title("its last third")
    whole.set_ylabel(LABELS[y])
    label_ends(late, {arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()}, panel.styles,
               size, dots=dots or len(lines) > MANY)
    return figure


def draw_line(axes: Axes, line: Series, style: ArmStyle, *, band: bool = True,
              dots: bool = False) -> None:
    """Draw a mean with its band. A single point is drawn as a dot."""
    dots = dots or len(line.x) == 1
    axes.plot(line.x, line.y, color=style.color, ls=style.dash, lw=style.width,
              zorder=2.4 if style.width > 2 else 2.5, marker=style.marker if dots else None, ms=4,
              markevery=max(1, len(line.x) // 12))
    if band and line.n > 1:
        axes.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.14, lw=0)


def draw_strays(axes: Axes, panel: Panel, arm: str, x: str, y: str) -> None:
    """Draw the runs that are not complete as dotted lines. A cross marks the end of a run that
    diverged or failed, an arrowhead the end of any other."""
    for run in panel.strays(arm):
        xs, ys = points(run, x, y)
        if len(xs):
            color = panel.styles[arm].color
            axes.plot(xs, ys, color=color, lw=0.9, ls=":", zorder=2)
            axes.plot(xs[-1:], ys[-1:], color=color, ls="", zorder=4, ms=6, mew=1.6,
                      marker="x" if run.status in ("diverged", "failed") else ">")


def _crossed(crossings: dict[str, tuple[float, float]], panel: Panel, x: str) -> str:
    """Return the part of the caption about the rings and their places."""
    if panel.baseline not in panel.arms:
        return ""
    if not crossings:
        return f"; no arm's mean crosses {panel.baseline}'s after the start"
    top = max(at for at, _ in crossings.values())
    unit, size, suffixes = unit_of(x, top)
    places = ", ".join(f"{arm} {short(float(f'{at / size:.3g}'), suffixes)}"
                       for arm, (at, _) in crossings.items())
    text = f"; ring: where an arm's mean last crosses {panel.baseline}'s, at {places} {unit}"
    return text.rstrip()


def _late_range(lines: dict[str, Series], cut: float) -> tuple[float, float] | None:
    """Return the y-limits of the lines beyond x = `cut`, or of the whole lines where none reaches
    beyond it."""
    late = [Series(s.x[m], s.y[m], s.low[m], s.high[m], s.n)
            for s in lines.values() if (m := s.x >= cut).any()]
    return settled_range(late or list(lines.values()), 0.0)


def _above(axes: Axes, lines: dict[str, Series]) -> str:
    """Return the text " (from 10.82)" where the lines start above the frame, else ""."""
    first = max(float(s.high[0]) for s in lines.values())
    return f" (from {first:.2f})" if first > axes.get_ylim()[1] else ""
