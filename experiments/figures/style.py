"""
The style of every figure: one colour per arm, one page layout, units on the axes.

An arm's colour depends only on its name: on its place among the arms of the catalogue and the
shipped studies, or else on a hash of the name. So it is the same in every figure, study and folder.
There are two exceptions: the baseline of a study is black, as readers expect, and an arm whose
style another arm of the study has takes the next one.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Found by a search, so that any two stay apart (ΔE of 18 or more) for readers with full colour
# vision and with deuteranopia, protanopia or tritanopia, neighbours farther (34). Each has a
# contrast of 3 with white.
PALETTE = ("#139EC2", "#7C014F", "#639546", "#955A8E", "#BE1C06", "#6166B8", "#C48701", "#016A3E",
           "#8250DA")
# The first round of the palette is solid; every further round has its own dashes.
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = "os^DvP<pd"    # one per colour, so that a grey print tells lines apart as well
STYLES = len(PALETTE) * len(DASHES)
BASELINE, INK, MUTED, GRID = "#000000", "#222222", "#6b6b6b", "#e6e6e6"
PALE = "#cfcfcf"         # lines in the background; no arm has a grey of its own

WIDTH, DPI = 9.0, 150    # width in inches; shown at 900 px, so 10 pt reads as 14 px
RC = {"font.size": 10, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
      "axes.edgecolor": "#9a9a9a", "axes.linewidth": 0.8, "axes.spines.top": False,
      "axes.spines.right": False, "axes.labelcolor": INK, "axes.grid": True, "grid.color": GRID,
      "grid.linewidth": 0.8, "axes.axisbelow": True, "text.color": INK, "xtick.color": MUTED,
      "ytick.color": MUTED, "xtick.labelsize": 9, "ytick.labelsize": 9, "lines.linewidth": 1.8,
      "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold",
      "svg.fonttype": "none", "svg.hashsalt": "ablate", "pdf.fonttype": 42, "path.simplify": True,
      "text.parse_math": False}   # a dollar sign in a title or an arm's name is plain text

LABELS = {"iteration": "iterations", "tokens": "tokens seen", "seconds": "wall-clock time",
          "flops": "training compute", "loss": "training loss (nats per token)",
          "val_loss": "validation loss (nats per token)"}
X_UNITS = {"seconds": ("", 1.0, ("",)), "tokens": ("", 1.0, ("", " k", " M", " B", " T")),
           "flops": ("FLOP", 1.0, ("", " k", " M", " G", " T", " P", " E", " Z"))}
BUSY = "busy machine"    # marks times that were measured while something else ran
CLOCK = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn. Colour and marker tell up to nine arms apart, dashes up to four times as
    many, and shifted markers the rest."""
    color: str
    dash: object = "-"
    marker: str = "o"
    width: float = 1.8


def arm_styles(arms: Iterable[str], baseline: str, known: list[str]) -> dict[str, ArmStyle]:
    """Return a style for each arm. Where two arms would have the same style, the later one takes
    the next free style; arms that no shipped study names come last, in alphabetical order."""
    arms = {arm for arm in arms if arm != baseline}
    slots: dict[str, int] = {}
    taken, further = set(), count(STYLES)
    # the first known arm changes nothing and has no slot
    wanted = ({arm: known.index(arm) - 1 for arm in known if arm in arms}
              | {arm: zlib.crc32(arm.encode()) for arm in sorted(arms - set(known))})
    for arm, slot in wanted.items():
        free = ((slot + k) % STYLES for k in range(STYLES) if (slot + k) % STYLES not in taken)
        slots[arm] = next(chain(free, further))
        taken.add(slots[arm])
    return {arm: _slot_style(slot) for arm, slot in slots.items()} | {
        baseline: ArmStyle(BASELINE, marker="", width=2.4)}


def _slot_style(slot: int) -> ArmStyle:
    round_, color = divmod(slot, len(PALETTE))
    return ArmStyle(PALETTE[color], DASHES[round_ % len(DASHES)],
                    MARKERS[(slot + round_ + slot // STYLES) % len(MARKERS)])


def page(height: float, title: str, caption: str, *, subtitle: str = "",
         columns: tuple[float, ...] = (1,), rows: int = 1, left: float = 0.75, right: float = 0.25,
         gap: float = 0.55, row_gap: float = 0.5, headed: bool = True,
         above: float = 0.0, second_line: bool = False, **axes) -> tuple[Figure, list[Axes]]:
    """Return a figure with its title at the top left, its caption at the bottom, and rows × columns
    of axes between them, row by row.

    Height, margins and gaps are in inches; `above` is room for a key under the title,
    `second_line` for a second line in the label of the x axis. `columns` are relative widths.
    `axes` goes to Figure.subplots. Margins are fixed instead of set by a layout engine: a page then
    takes a quarter of the time, and the pages of one study line up.
    """
    head = _balanced(title, 84)
    foot = textwrap.wrap(caption, 138, max_lines=6, placeholder=" …")
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.15 / WIDTH, 1 - 0.12 / height, "\n".join(head), va="top", weight="bold",
                    size=12, linespacing=1.2)
        top = 0.12 + 0.215 * len(head)
        under = textwrap.wrap(subtitle, 118, max_lines=4, placeholder=" …")
        figure.text(0.15 / WIDTH, 1 - (top + 0.05) / height, "\n".join(under), va="top", size=9.5,
                    color=MUTED)
        top += 0.05 + 0.175 * len(under) + above
        figure.text(0.15 / WIDTH, 0.09 / height, "\n".join(foot), va="bottom", size=8, color=MUTED,
                    linespacing=1.25)
        bottom = 0.62 + 0.155 * len(foot) + 0.17 * second_line
        inner = (WIDTH - left - right) / WIDTH
        top += 0.35 if headed else 0.12   # room for the axes' own titles
        room = height - top - bottom
        grid = figure.subplots(rows, len(columns), squeeze=False, **axes, gridspec_kw={
            "left": left / WIDTH, "right": left / WIDTH + inner, "bottom": bottom / height,
            "top": 1 - top / height, "width_ratios": columns,
            "wspace": gap / ((WIDTH - left - right) / len(columns)),
            "hspace": row_gap / (room / rows)})
    return figure, list(grid.flat)


def name_of(metric: str) -> str:
    """Return a metric's name in words, without its unit: "validation loss"."""
    return LABELS.get(metric, metric.replace("_", " ")).partition(" (")[0]


def busy_text(arms: Sequence[str]) -> str:
    """Return the end of a caption about arms that were timed on a busy machine; empty without
    such arms."""
    more = f" and {len(arms) - 4} more" if len(arms) > 4 else ""
    return (f"; {BUSY}: something else used it while {', '.join(arms[:4])}{more} trained, so their "
            f"times are in doubt" if arms else "")


def study_text(name: str | None) -> str:
    """Return the start of a caption: the study's name. The study's question is not repeated in
    every figure."""
    return f"study {name}; " if name else ""


def _balanced(text: str, width: int) -> list[str]:
    """Wrap the text into as few lines as fit, of about equal length, and at most three."""
    lines = len(textwrap.wrap(text, width))
    while width > 20 and len(textwrap.wrap(text, width - 1)) == lines:
        width -= 1
    return textwrap.wrap(text, width, max_lines=3, placeholder=" …")


def label_x(axes: Axes, x: str, top: float, *, text: bool = True, ticks: int = 6,
            note: str = "") -> None:
    """Label the x axis in the unit that suits its length: 20k iterations, 1.5 M tokens, 3 PFLOP,
    minutes or hours. `top` is the end of the axis; `note` stands on a second line."""
    unit, scale, suffixes = unit_of(x, top)
    axes.xaxis.set_major_locator(_ScaledLocator(ticks, scale, whole=x == "iteration"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value / scale, suffixes)))
    label = LABELS[x] + (f" ({unit})" if unit else "") + (f"\n{note}" if note else "")
    axes.set_xlabel(label if text else "")


def unit_of(x: str, top: float) -> tuple[str, float, tuple[str, ...]]:
    """Return (unit, its size, suffixes of its thousands) for an axis that ends at `top`."""
    if x == "seconds":
        unit, scale, suffixes = X_UNITS["seconds"]
        return (*next(((u, s) for u, s in CLOCK if top > 2.5 * s), CLOCK[-1]), suffixes)
    return X_UNITS.get(x, ("", 1.0, ("", "k", "M")))


def tick_labels(x: str, low: float, high: float, ticks: int) -> tuple[list[tuple[float, str]], str]:
    """Return ([(value, text)], unit) of round ticks inside [low, high], for a page that draws its
    own axes."""
    unit, scale, suffixes = unit_of(x, high)
    values = _ScaledLocator(ticks, scale, whole=x == "iteration").tick_values(low, high)
    step = min(np.diff(values), default=0.0)
    inside = [v for v in values if low - 1e-9 * step <= v <= high + 1e-9 * step]
    return [(float(v), short(round(v / scale, 9), suffixes)) for v in inside], unit


class _ScaledLocator(MaxNLocator):
    """Place ticks at round values of the unit, such as whole minutes on an axis of seconds."""

    def __init__(self, ticks: int, scale: float, whole: bool):
        super().__init__(ticks, steps=[1, 2, 2.5, 5, 10], integer=whole)
        self.scale = scale

    def tick_values(self, vmin: float, vmax: float):
        """Return the ticks between vmin and vmax, in the axis's own unit."""
        return super().tick_values(vmin / self.scale, vmax / self.scale) * self.scale


def short(value: float, suffixes: tuple[str, ...]) -> str:
    """Return a number with a suffix for its thousands: 12,500 → 12.5k."""
    step = 0
    while abs(value) >= 1000 and step < len(suffixes) - 1:
        value, step = value / 1000, step + 1
    return f"{value:g}{suffixes[step]}"
