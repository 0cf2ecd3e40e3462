"""
The figure of the loss minus the baseline's loss, in which small effects become visible.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.labels import SIZE, label_ends, margin, shortened
from experiments.figures.lines import MANY, draw_lines, emphasised, pale_text
from experiments.figures.panel import Panel
from experiments.figures.scales import draw_margin, linear_part, scale_differences
from experiments.figures.series import Series, settled_range
from experiments.figures.style import label_x, name_of, page


def loss_minus_baseline(panel: Panel) -> Figure:
    """Draw each arm minus the baseline of the same seed, averaged over seeds. Below zero is better.
    Raises Skip where no arm can be compared."""
    lines, paired = panel.differences(panel.x, panel.metric)
    styles, pale = emphasised(panel.styles, panel.baseline, lines)
    named = [arm for arm in lines if arm not in pale]
    what = f"{name_of(panel.metric)} minus that of {shortened(panel.baseline, 28)}"
    note = panel.timing_note(panel.x)
    figure, (axes,) = page(4.9, f"{what[0].upper()}{what[1:]}",
                           _caption(panel, lines, pale, paired), second_line=bool(note), left=0.95,
                           right=margin([*named, panel.baseline], SIZE))
    ends = {arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()}
    said = _scale(axes, panel, lines)
    draw_margin(axes, _margin(panel), upright=False)
    draw_lines(axes, panel, lines, styles, panel.x, panel.metric, strays=False)
    start, end = min(line.x[0] for line in lines.values()), max(x for x, _ in ends.values())
    axes.set_xlim(start, end if end > start else start + 1)   # one log point so far
    label_x(axes, panel.x, end, ticks=7, note=note)
    axes.set_ylabel(f"{what}\n({'; '.join(filter(None, ('nats', said)))})")
    axes.set_title("below zero: better than the baseline")
    label_ends(axes, {arm: ends[arm] for arm in named} | {panel.baseline: (end, 0.0)},
               styles | {panel.baseline: panel.styles[panel.baseline]}, SIZE)
    return figure


def _margin(panel: Panel) -> float:
    """Return the margin of equivalence, or 0 where it is in another unit than the curves."""
    return panel.results.margin if panel.results.metric == "val_loss" else 0.0


def _caption(panel: Panel, lines: dict[str, Series], pale: set[str], paired: bool) -> str:
    text = panel.caption(lines, panel.metric, band=len(lines) <= MANY, strays=False)
    text += pale_text(lines, pale)
    text += f"; grey, dashed: the margin ±{_margin(panel):g}" if _margin(panel) else ""
    return text + ("" if paired else "; not all runs are paired by seed, so "
                                     "the difference has the noise of both")


def _scale(axes: Axes, panel: Panel, lines: dict[str, Series]) -> str:
    """Set the scale and the limits of the differences; return what the axis's label must say."""
    linear = linear_part([line.y[-1] for line in lines.values()], panel.results.margin)
    low, high = settled_range(list(lines.values()), 0.2, pad=0.06 if linear is None else 0.0)
    low, high = min(low, -1.8 * _margin(panel)), max(high, 1.8 * _margin(panel))
    said = scale_differences(axes, "y", linear, max(-low, high))
    room = 1.0 if linear is None else 1.5      # a logarithmic axis needs more beyond its last value
    axes.set_ylim(room * low, room * high)
    return said
