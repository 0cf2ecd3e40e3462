"""
The figure of a factorial design: what each factor does on average over the others, and what factors
do together.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.forest import directions, far_limits, interval, name_rows
from experiments.figures.labels import shortened
from experiments.figures.panel import NotDeclared, Panel, Skip
from experiments.figures.scales import draw_margin, linear_part, scale_differences
from experiments.figures.style import INK, MUTED, WIDTH, name_of, page, study_text
from experiments.verdicts.factorial import FactorialAnalysis, Term
from experiments.verdicts.verdict import NOT_COMPARABLE, Verdict, p_text, signed

# main effects, and interactions of two, of three and of more factors; no arm has these colours
ORDERS = ((INK, "o"), ("#5f5f5f", "D"), ("#8a8a8a", "s"), ("#8a8a8a", "^"))

RIGHT = 3.3     # inches for the words


def factorial_effects(panel: Panel) -> Figure:
    """Draw one row per effect, main effects above interactions, design by design. Raises Skip where
    there is no effect, and NotDeclared where there is no factorial."""
    results = panel.results
    designs = [design for design in results.factorials
               if any(t.verdict.difference is not None for t in design.terms)]
    if not results.factorials:
        raise NotDeclared("the study declares no factorial")
    if not designs:
        barred = [term.verdict.reason for design in results.factorials for term in design.terms
                  if term.verdict.word == NOT_COMPARABLE]
        raise Skip(f"not comparable: {barred[0]}" if barred else
                   "no seed has a value in every cell of the factorial")
    rows = [(design, term) for design in designs for term in design.terms
            if term.verdict.difference is not None]
    caption = (f"{study_text(results.name)}point: effect, mean over seeds; bar: "
               f"{100 * (1 - results.alpha):g} % interval, "
               f"Holm-adjusted over the effects of a design; dashed: the margin "
               f"±{results.margin:g}. A main effect is the metric with the factor minus without "
               "it, averaged over the other factors. An interaction is what factors do together "
               "beyond their sum. Seeds: "
               + "; ".join(str(len(design.seeds)) for design in designs))
    figure, (axes,) = page(
        2.1 + (0.34 if len(rows) < 16 else 0.28) * len(rows), f"Effect of each factor on the "
        f"{name_of(results.metric)}, and what factors do together", caption, left=2.45,
        right=RIGHT, second_line=True)
    said = _scale(axes, [term.verdict for _, term in rows], results.margin)
    for place, (_, term) in enumerate(rows):
        _row(axes, place, term)
    draw_margin(axes, results.margin, upright=True)
    _frame(axes, designs, rows)
    axes.set_xlabel(f"effect on the {name_of(results.metric)} ({rows[0][1].verdict.unit})"
                    + f"\n{said}" * bool(said))
    directions(axes, "lowers the loss", "raises it")
    return figure


def _scale(axes: Axes, verdicts: list[Verdict], margin: float) -> str:
    """Scale the effects; return what the label must say where one dwarfs the others."""
    linear = linear_part([v.difference for v in verdicts], margin)
    if linear is None:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.margins(x=0.08)
        return ""
    low, high = far_limits(verdicts, margin)
    said = scale_differences(axes, "x", linear, max(-low, high))
    axes.set_xlim(low, high)
    return said


def _row(axes: Axes, place: int, term: Term) -> None:
    v, (color, marker) = term.verdict, ORDERS[min(term.order, len(ORDERS)) - 1]
    if ends := interval(v):
        axes.plot(ends, [place, place], color=color, lw=1.8, marker="|", ms=8, mew=1.8, zorder=3)
    axes.plot([v.difference], [place], color=color, marker=marker, ms=7.5 if term.order == 1 else 6,
              mec="white", mew=1, zorder=4)
    right = axes.get_yaxis_transform()
    sure = v.word != "undecided"
    inch = 1 / (axes.get_position().width * WIDTH)
    axes.text(1 + 0.18 * inch, place, term.word, transform=right, va="center", size=9.5,
              weight="bold" if sure else "normal")
    p = f", {p_text('Holm p', v.p_holm)}" if v.p_holm is not None else ""
    axes.text(1 + 1.6 * inch, place, f"{signed(v.difference)}{p}", transform=right, va="center",
              size=8.5, color=MUTED)


def _frame(axes: Axes, designs: list[FactorialAnalysis], rows: list) -> None:
    """Write the names at the left, and draw a line between main effects and interactions and
    between designs."""
    axes.set_ylim(len(rows) - 0.4, -0.6)
    name_rows(axes, [shortened(term.name, 30) for _, term in rows])
    for place in range(1, len(rows)):
        (before, above), (design, term) = rows[place - 1], rows[place]
        if before is not design or above.order != term.order:
            axes.axhline(place - 0.5, color="#9a9a9a", lw=1.2 if before is not design else 0.6)
