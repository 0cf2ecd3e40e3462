"""
The figure of a benchmark: each ratio as a mark with its quartiles, and its floor as a tick.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.kit.floors import Floor

OURS, THEIRS, FLOOR = "#0072B2", "#D55E00", "#222222"    # OURS: floor met; THEIRS: missed


class FigurePanel(NamedTuple):
    """A title, and rows (name, ratio with quartiles, floor or None) from top to bottom."""
    title: str
    rows: list[tuple[str, dict[str, float], Floor | None]]


def ratio_figure(title: str, one: str, panels: list[FigurePanel], results: dict[str, Any],
                 log: bool = False):
    """Draw the panels below one another and return the figure; None if there is nothing to draw.

    `one` names what the ratio 1 stands for.
    """
    from experiments.figures.style import page
    panels = [panel for panel in panels if panel.rows]
    if not panels:
        return None
    machine, rounds = results["machine"], results["rounds"]
    caption = (f"mark: median of {rounds} interleaved rounds; bar: quartiles; tick: the floor "
               f"(orange: missed); {machine['device'].upper()}, {machine['cpu']}, "
               f"{machine['threads']} threads, "
               f"torch {machine['versions']['torch']}, {machine['date']}")
    lines = sum(len(panel.rows) for panel in panels)
    height = 1.6 + 0.34 * lines + 0.75 * len(panels)
    figure, axes = page(height, title, caption, rows=len(panels), left=1.9, row_gap=0.75)   # inches
    for axis, panel in zip(axes, panels, strict=True):
        draw(axis, panel, log)
    axes[-1].set_xlabel(f"× {one}" + (" (logarithmic)" if log else ""))
    return figure


def draw(axis, panel: FigurePanel, log: bool) -> None:
    """Draw one panel."""
    for y, (_, ratio, floor) in enumerate(panel.rows):
        met = floor is None or floor.met(ratio["median"])
        bars = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
        axis.errorbar([ratio["median"]], [y], xerr=bars, fmt="o", ms=6, capsize=3,
                      color=OURS if met else THEIRS)
        axis.annotate(f"{ratio['median']:.2f}", (ratio["median"], y), xytext=(0, 5),
                      textcoords="offset points", ha="center", va="bottom", fontsize=8)
        if floor is not None:
            axis.plot([floor.value], [y], marker="|", ms=16, mew=2, color=FLOOR)
    axis.axvline(1, color=FLOOR, lw=1)
    axis.set_yticks(range(len(panel.rows)), [name for name, *_ in panel.rows])
    axis.set_ylim(len(panel.rows) - 0.5, -0.7)
    shown = [1.0, *(ratio[end] for _, ratio, _ in panel.rows for end in ("low", "high")),
             *(floor.value for *_, floor in panel.rows if floor)]
    if log:
        axis.set_xscale("log")
        axis.set_xlim(min(shown) / 1.3, max(shown) * 1.3)
    else:
        margin = 0.08 * (max(shown) - min(shown))
        axis.set_xlim(min(shown) - margin, max(shown) + margin)
    axis.set_title(panel.title, loc="left", size=10, weight="bold")
