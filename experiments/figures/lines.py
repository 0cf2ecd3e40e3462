"""
All arms in one figure: the whole run, and its last third magnified, where arms differ.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.labels import SIZE, label_ends, margin, shortened
from experiments.figures.panel import Panel, Skip
from experiments.figures.scales import bend, dwarfing, loss_frame
from experiments.figures.series import Series, points, settled_range
from experiments.figures.style import (
    LABELS,
    PALE,
    ArmStyle,
    label_x,
    name_of,
    page,
    short,
    unit_of,
)

LAST = 1 / 3        # the last part of the x range that is magnified
MANY = 7            # with more arms there are no bands, which would hide other lines
NAMED = 9           # with more arms most are pale and have no name ...
EACH = 3            # ... except the baseline and this many of the best and of the worst
MARKS = 8           # markers per line


def training_comparison(panel: Panel) -> Figure:
    """Draw every arm's chosen metric over the chosen x."""
    return overlay(panel, panel.x, panel.metric)


def validation_curves(panel: Panel) -> Figure:
    """Draw the validation loss of every arm, measured on the same tokens for every arm and seed."""
    return overlay(panel, panel.x, "val_loss")


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


def overlay(panel: Panel, x: str, y: str, *, title: str = "",
            crossings: dict[str, tuple[float, float]] | None = None) -> Figure:
    """Draw two axes side by side, the whole run and its last third, with the arms' names at the
    ends of the lines. `crossings` maps arm → (x, y) of a ring to draw."""
    lines = panel.lines(x, y)
    styles, pale = emphasised(panel.styles, panel.baseline, lines)
    ends = {arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()}
    start, end = min(s.x[0] for s in lines.values()), max(s.x[-1] for s in lines.values())
    span = (end - start) or 1.0   # one log point so far
    cut = end - LAST * span
    frame, scale = loss_frame(lines, 0.08)
    rings = {arm: at for arm, at in (crossings or {}).items()
             if arm not in pale and frame[0] < at[1] < frame[1]}
    caption = panel.caption(lines, y, x=x, band=len(lines) <= MANY) + pale_text(lines, pale)
    if crossings is not None:
        caption += _crossed(rings, len(crossings) - len(rings), panel, x)
    note = panel.timing_note(x)
    figure, (whole, late) = page(4.9, title or titled(y, x), caption, columns=(1.1, 1.0),
                                 second_line=bool(note), left=0.95 if scale else 0.75,
                                 right=margin([arm for arm in lines if arm not in pale], SIZE))
    for axes in (whole, late):
        draw_lines(axes, panel, lines, styles, x, y)
        for arm, at in rings.items():
            axes.plot(*at, color=styles[arm].color, marker="o", ms=10, mfc="none", mew=1.8,
                      zorder=4)
        label_x(axes, x, end, ticks=5, note=note)
    late.set_xlim(cut, end + 0.02 * LAST * span)
    whole.set_xlim(start - 0.01 * span, end + 0.01 * span)
    said = bend(whole, scale, *frame)
    late.set_ylim(_late_range(lines, cut))
    whole.set_title("the whole run" + _above(whole, lines))
    late.set_title("its last third")
    whole.set_ylabel(panel.label(y) + f"\n{said}" * bool(said))
    label_ends(late, {arm: end for arm, end in ends.items() if arm not in pale}, styles, SIZE)
    return figure


def titled(y: str, x: str) -> str:
    """Return a title that says what is drawn: "Validation loss over tokens seen"."""
    return f"{name_of(y).capitalize()} over {LABELS[x]}"


def emphasised(styles: dict[str, ArmStyle], baseline: str,
               lines: dict[str, Series]) -> tuple[dict[str, ArmStyle], set[str]]:
    """Return arm → style, and the arms that are pale. Where there are more arms than have a colour,
    only the baseline and the arms that end lowest and highest keep their style."""
    order = sorted((arm for arm in lines if arm != baseline), key=lambda a: lines[a].y[-1])
    pale = set(order[EACH:-EACH]) if len(lines) > NAMED else set()
    return {arm: ArmStyle(PALE, marker="", width=0.9) if arm in pale else styles[arm]
            for arm in lines}, pale


def pale_text(lines: dict[str, Series], pale: set[str]) -> str:
    """Return the part of the caption about the pale lines; empty where there are none."""
    return (f"; named: the baseline and, of {len(lines)} arms, the {EACH} that end lowest and the "
            f"{EACH} that end highest; pale: the other {len(pale)}" if pale else "")


def draw_lines(axes: Axes, panel: Panel, lines: dict[str, Series], styles: dict[str, ArmStyle],
               x: str, y: str, *, strays: bool = True) -> None:
    """Draw the mean of every arm, its band where there are few arms, and its incomplete runs."""
    for number, (arm, line) in enumerate(lines.items()):
        draw_line(axes, line, styles[arm], band=len(lines) <= MANY, shift=number / len(lines))
        if strays:
            draw_strays(axes, panel, arm, x, y, styles[arm].color)


def draw_line(axes: Axes, line: Series, style: ArmStyle, *, band: bool = True,
              shift: float = 0.0) -> None:
    """Draw a mean with its band. A single point is drawn as a dot. `shift` moves the markers by
    that share of their distance, so that those of several arms do not hide each other."""
    every = max(1, len(line.x) // MARKS)
    marker = style.marker or ("o" if len(line.x) == 1 else None)
    axes.plot(line.x, line.y, color=style.color, ls=style.dash, lw=style.width,
              zorder=2.2 if style.color == PALE else 2.4 if style.width > 2 else 2.5,
              marker=marker, ms=4.5, mec="white", mew=0.5, markevery=(int(shift * every), every))
    if band and line.n > 1:
        axes.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.14, lw=0)


def draw_strays(axes: Axes, panel: Panel, arm: str, x: str, y: str, color: str) -> None:
    """Draw the runs that are not complete as dotted lines. A cross marks the end of a run that
    diverged or failed, an arrowhead the end of any other."""
    for run in panel.strays(arm):
        xs, ys = points(run, x, y)
        if len(xs):
            axes.plot(xs, ys, color=color, lw=0.9, ls=":", zorder=2)
            axes.plot(xs[-1:], ys[-1:], color=color, ls="", zorder=4, ms=6, mew=1.6,
                      marker="x" if run.status in ("diverged", "failed") else ">")


def _crossed(rings: dict[str, tuple[float, float]], outside: int, panel: Panel, x: str) -> str:
    """Return the part of the caption about the rings and their places, and about the crossings that
    have no ring."""
    if panel.baseline not in panel.arms:
        return ""
    if not rings and not outside:
        return f"; no arm's mean crosses {panel.baseline}'s after the first evaluation"
    text = ""
    if rings:
        unit, size, suffixes = unit_of(x, max(at for at, _ in rings.values()))
        places = ", ".join(f"{shortened(arm)} {short(float(f'{at / size:.3g}'), suffixes)}"
                           for arm, (at, _) in rings.items())
        text = (f"; ring: where an arm's mean last crosses {panel.baseline}'s, at {places} "
                f"{unit}").rstrip()
    return text + (f"; without a ring: {outside} more, of pale lines or outside the frame"
                   if outside else "")


def _late_range(lines: dict[str, Series], cut: float) -> tuple[float, float] | None:
    """Return the y-limits of the lines beyond x = `cut`, and of the ends of lines that stop before
    it. Arms that dwarf the others do not widen them."""
    dwarfs = dwarfing({arm: line.ends for arm, line in lines.items()})
    return settled_range([Series(s.x[m], s.y[m], s.low[m], s.high[m], s.n)
                          for arm, s in lines.items()
                          if arm not in dwarfs and (m := s.x >= min(cut, s.x[-1])).any()], 0.0)


def _above(axes: Axes, lines: dict[str, Series]) -> str:
    """Return the text " (from 10.82)" where the lines start above the frame, else ""."""
    first = max(float(s.high[0]) for s in lines.values())
    return f" (from {first:.2f})" if first > axes.get_ylim()[1] else ""
