"""
The figure of the loss minus the baseline's loss, in which small effects become visible.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.figures.labels import SIZE, label_ends, margin, shortened
from experiments.figures.lines import MANY, draw_lines, emphasised, pale_text
from experiments.figures.panel import Panel
from experiments.figures.scales import draw_margin, linear_part, scale_differences
from experiments.figures.series import settled_range
from experiments.figures.style import label_x, name_of, page


def loss_minus_baseline(panel: Panel) -> Figure:
    """Draw each arm minus the baseline of the same seed, averaged over seeds. Below zero is better.
    Raises Skip where no arm can be compared."""
    lines, paired = panel.differences(panel.x, panel.metric)
    styles, pale = emphasised(panel.styles, panel.baseline, lines)
    metric = panel.results.metric == "val_loss"   # a margin in another unit has no place here
    caption = panel.caption(lines, panel.metric, band=len(lines) <= MANY, strays=False)
    caption += pale_text(lines, pale)
    caption += f"; grey, dashed: the margin ±{panel.results.margin:g}" if metric else ""
    caption += ("" if paired
                else "; files name no seed, so runs are not paired and the difference has the "
                     "noise of both")
    named = [arm for arm in lines if arm not in pale]
    what = f"{name_of(panel.metric)} minus that of {shortened(panel.baseline, 28)}"
    figure, (axes,) = page(4.9, f"{what[0].upper()}{what[1:]}", caption,
                           left=0.95, right=margin([*named, panel.baseline], SIZE))
    low, high = settled_range(list(lines.values()), 0.2)
    least = 1.8 * panel.results.margin if metric else 0.0
    low, high = min(low, -least), max(high, least)
    ends = {arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()}
    linear = linear_part([y for _, y in ends.values()], panel.results.margin)
    said = scale_differences(axes, "y", linear, max(-low, high))
    draw_margin(axes, panel.results.margin if metric else 0.0, upright=False)
    draw_lines(axes, panel, lines, styles, panel.x, panel.metric, strays=False)
    end = max(line.x[-1] for line in lines.values())
    start = min(line.x[0] for line in lines.values())
    axes.set_xlim(start, end if end > start else start + 1)   # one log point so far
    # a logarithmic axis needs more room beyond its last value
    axes.set_ylim((low, high) if linear is None else (1.5 * low, 1.5 * high))
    label_x(axes, panel.x, end, ticks=7, note=panel.timing_note(panel.x))
    axes.set_ylabel(f"{what}\n({'; '.join(filter(None, ('nats', said)))})")
    axes.set_title("below zero: better than the baseline")
    label_ends(axes, {arm: ends[arm] for arm in named} | {panel.baseline: (end, 0.0)},
               styles | {panel.baseline: panel.styles[panel.baseline]}, SIZE)
    return figure
