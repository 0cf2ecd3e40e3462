"""
The figures of a ladder: effect against size, loss against compute, and the compute-equivalent gain
against compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.declare.ladder import FARTHEST
from experiments.figures.labels import shortened
from experiments.figures.panel import Skip
from experiments.figures.saving import save
from experiments.figures.scales import draw_margin
from experiments.figures.style import (
    INK,
    MUTED,
    RC,
    WIDTH,
    ArmStyle,
    arm_styles,
    name_of,
    page,
    study_text,
)
from experiments.verdicts.beyond import can_go_beyond, loss_beyond
from experiments.verdicts.climbed import LadderResults
from experiments.verdicts.scaling_law import FITTED, Gains, Law, curve
from experiments.verdicts.study_runs import known_arms

SHOWN = 8           # arms in a figure; of more, those with the largest effect at the largest rung
APART = 0.016       # of the width, between the marks of two arms at one rung
HATCH = "/////"     # marks what is predicted and not measured
LARGEST = 100.0     # gains are drawn up to this factor


def draw_ladder(ladder: LadderResults, folder: Path, formats: tuple[str, ...] = ("png",),
                ) -> Iterator[tuple[str, list[Path] | str]]:
    """Draw every figure of a ladder. Yield (name, files written), or (name, why it was skipped)."""
    for name, function in FIGURES.items():
        try:
            with rc_context(RC):
                outcome = save(function(ladder), folder / name, formats)
        except Skip as skip:
            outcome = str(skip)
        yield name, outcome


def effect_against_size(ladder: LadderResults) -> Figure:
    """Draw each arm's effect at every rung, and its prediction. Raises Skip without an arm."""
    arms, styles = _shown(ladder)
    what = name_of(ladder.rungs[-1].metric)
    figure, axes, at = _frame(ladder, arms, styles, f"Effect of each arm on the {what}, by size",
                              _effect_caption(ladder))
    for place, arm in zip(_places(arms), arms, strict=True):
        each, style = ladder.arms[arm], styles[arm]
        x = at(np.arange(len(ladder.rungs)), place)
        y = np.array([np.nan if v.difference is None else v.difference for v in each.verdicts])
        axes.plot(x, y, color=style.color, ls=style.dash, marker=style.marker, ms=5, zorder=4)
        for xk, v in zip(x, each.verdicts, strict=True):
            if ends := v.ci_holm or v.ci:
                axes.plot([xk, xk], ends, color=style.color, lw=1.6, zorder=3)
        if each.prediction:
            _hatched(axes, at(np.array([len(ladder.rungs)]), place)[0], each.prediction.low,
                     each.prediction.high, each.prediction.effect, style)
        for told in ladder.foretold:
            if told.arm == arm:
                number = [r.name for r in ladder.rungs].index(told.study)
                _hatched(axes, x[number], told.predicted.low, told.predicted.high, None, style)
    draw_margin(axes, ladder.margin or 0.0, upright=False)
    _limit(axes, [v.difference for arm in arms for v in ladder.arms[arm].verdicts], ladder)
    axes.set_ylabel(f"arm − {shortened(ladder.baseline, 20)} ({ladder.unit})")
    return figure


def _effect_caption(ladder: LadderResults) -> str:
    margin = f"; band: margin ±{ladder.margin:g}" if ladder.margin else ""
    return (f"{study_text(ladder.name)}below 0 the arm is better; bars: {_percent(ladder)} CI, "
            f"Holm-adjusted at each rung; hatched: 90 % prediction interval, made from smaller "
            f"rungs before the rung was trained, or beyond the largest rung{margin}")


def loss_against_compute(ladder: LadderResults) -> Figure:
    """Draw each arm's loss against training compute, with its curve."""
    arms, styles = _shown(ladder)
    names, metric = [ladder.baseline, *arms], ladder.rungs[-1].metric
    figure, (axes,) = page(5.2, f"{name_of(metric).capitalize()} against training compute",
                           _loss_caption(ladder), above=0.30, left=0.85, headed=False)
    low, high = np.inf, -np.inf
    for name in names:
        x = np.log([rung.flops[name] for rung in ladder.measured])
        values = [np.array([v for v in rung.values[name].values() if math.isfinite(v)])
                  for rung in ladder.measured]
        if any(len(v) == 0 for v in values):
            continue
        means, style = np.array([v.mean() for v in values]), styles[name]
        for xk, each in zip(x, values, strict=True):
            axes.plot(np.exp(np.full(len(each), xk)), each, ls="", marker=style.marker or "o",
                      ms=3.5, color=style.color, zorder=4, mec="white", mew=0.4)
        known = curve(x, means)
        inside = np.linspace(x[0], x[-1], 80)
        axes.plot(np.exp(inside), [float(known.loss(at)) for at in inside], color=style.color,
                  ls=style.dash, lw=style.width, zorder=3)
        if isinstance(known, Law) and np.isfinite(known.scale):
            _beyond(axes, x, values, style)
        low, high = min(low, means.min()), max(high, max(v.max() for v in values))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("+", "")))
    axes.set(xlabel="training compute of one run (FLOP)",
             ylabel=f"{name_of(metric)} ({ladder.unit})")
    _key(figure, names, styles)
    return figure


def _beyond(axes: Axes, x: np.ndarray, values: list[np.ndarray], style: ArmStyle) -> None:
    """Draw where an arm's law goes beyond the rungs, with its interval where seeds show one."""
    at = np.linspace(x[-1], x[-1] + math.log(FARTHEST), 24)
    known = curve(x, np.array([v.mean() for v in values]))
    axes.plot(np.exp(at), [float(known.loss(each)) for each in at], color=style.color,
              ls=(0, (1, 2)), lw=1.2, zorder=2.5)
    losses = np.full((len(values), max(map(len, values))), np.nan)
    for row, each in zip(losses, values, strict=True):
        row[:len(each)] = each
    if can_go_beyond(losses):
        found = loss_beyond(x, losses, at, len(values[-1]), np.random.default_rng(0))
        axes.fill_between(np.exp(at), found.low, found.high, fc="none", ec=style.color,
                          hatch=HATCH, lw=0.6, alpha=0.45, zorder=2.4)


def _loss_caption(ladder: LadderResults) -> str:
    law = ("curves: L = E + A·C^−a, fitted to the means"
           if len(ladder.rungs) >= FITTED else "lines join the means")
    return (f"{study_text(ladder.name)}{law}; dotted and hatched: the law and a 90 % prediction "
            f"interval, if it holds, up to {FARTHEST:g} times the largest rung's compute, where "
            f"nothing was measured; dots: runs")


def gain_against_compute(ladder: LadderResults) -> Figure:
    """Draw each arm's compute-equivalent gain at every rung. Raises Skip where there is none."""
    arms, styles = _shown(ladder)
    arms = [arm for arm in arms if ladder.arms[arm].gains is not None]
    if not arms:
        raise Skip("no arm has a value at every rung")
    caption = (f"{study_text(ladder.name)}the compute that the baseline needs for the arm's loss, "
               f"over the compute that the arm used: above 1 the arm saves compute; bars: 95 % CI, "
               f"bootstrap over seeds; hatched: 90 % interval of the predicted effect's gain, if "
               f"the baseline's law holds; an arrow: beyond {FARTHEST:g} times the rungs' compute")
    ahead = any(ladder.arms[arm].gain_ahead for arm in arms)
    figure, axes, at = _frame(ladder, arms, styles, "Compute-equivalent gain of each arm, by size",
                              caption, beyond=ahead)
    for place, arm in zip(_places(arms), arms, strict=True):
        found, style = ladder.arms[arm].gains, styles[arm]
        x = at(np.arange(len(ladder.rungs)), place)
        known = (found.gain > 1 / LARGEST) & (found.gain < LARGEST)
        axes.plot(x, np.where(known, found.gain, np.nan), color=style.color, ls=style.dash,
                  marker=style.marker, ms=5, zorder=4)
        for xk, gain in zip(x[~known], found.gain[~known], strict=True):
            _bar(axes, xk, gain, gain, style)
        for xk, low, high in zip(x, found.low, found.high, strict=True):
            if not math.isnan(low):
                _bar(axes, xk, low, high, style)
        if foretold := ladder.arms[arm].gain_ahead:
            _gain_ahead(axes, at(len(ladder.rungs), place), foretold, style)
    axes.set_yscale("log")
    axes.axhline(1, color=INK, lw=1.2, zorder=2)
    low, high = _gain_range([ladder.arms[arm].gains for arm in arms])
    axes.set_ylim(low, high)
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
             if low <= t <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_ylabel("gain (× compute)")
    return figure


def _gain_ahead(axes: Axes, x: float, found: Gains, style: ArmStyle) -> None:
    low, gain, high = (float(each) for each in (found.low, found.gain, found.high))
    if any(map(math.isnan, (low, gain, high))):
        return
    if low < LARGEST and high > 1 / LARGEST:
        ends = np.clip([low, high], 1 / LARGEST, LARGEST)
        _hatched(axes, x, *ends, gain if 1 / LARGEST < gain < LARGEST else None, style)
    for end in {low, high}:
        if not 1 / LARGEST <= end <= LARGEST:
            _bar(axes, x, end, end, style)


def _bar(axes: Axes, x: float, low: float, high: float, style: ArmStyle) -> None:
    ends = np.clip([low, high], 1 / LARGEST, LARGEST)
    axes.plot([x, x], ends, color=style.color, lw=1.6, zorder=3)
    for end, shown in zip((low, high), ends, strict=True):
        if end != shown:
            axes.plot([x], [shown], color=style.color, marker="^" if end > shown else "v", ms=5,
                      clip_on=False)


def _gain_range(every: list) -> tuple[float, float]:
    """The scale: all gains, and intervals up to three times as far as the farthest gain."""
    gains = np.concatenate([np.clip(each.gain, 1 / LARGEST, LARGEST) for each in every])
    gains = gains[np.isfinite(gains)]
    far = max(1.3, float(np.exp(np.abs(np.log(gains)).max()))) if len(gains) else 2.0
    ends = np.concatenate([np.clip(np.concatenate([each.low, each.high]), 1 / (3 * far), 3 * far)
                           for each in every])
    ends = np.concatenate([ends[np.isfinite(ends)], gains, [1.0]])
    return 0.9 * float(ends.min()), 1.12 * float(ends.max())


# -- what they share -------------------------------------------------------------------------------

def _shown(ladder: LadderResults) -> tuple[list[str], dict[str, ArmStyle]]:
    """The arms to draw and everyone's style. Raises Skip where there is none."""
    if not ladder.arms:
        raise Skip("no arm has a verdict at every rung")
    last = {arm: abs(each.verdicts[-1].difference or 0.0) for arm, each in ladder.arms.items()}
    kept = set(sorted(last, key=last.get, reverse=True)[:SHOWN])
    return ([arm for arm in ladder.arms if arm in kept],
            arm_styles([ladder.baseline, *ladder.arms], ladder.baseline, known_arms()))


def _frame(ladder: LadderResults, arms: list[str], styles: dict[str, ArmStyle], title: str,
           caption: str, beyond: bool = True) -> tuple[Figure, Axes, Callable]:
    """A page with the rungs along x, evenly, and a place for the target beyond them. `at` gives the
    x of rungs, shifted by an arm's place."""
    left_out = len(ladder.arms) - len(arms)
    more = f"; {left_out} arms with smaller effects are not drawn" if left_out else ""
    figure, (axes,) = page(5.2, title, caption + more, above=0.30, left=0.95,
                           headed=False, second_line=True)
    n = len(ladder.rungs) + beyond
    axes.set_xlim(-0.5, n - 0.5)
    names = [_size(each.parameters) + f"\n{rung.flops[ladder.baseline]:.1e} FLOP"
             for each, rung in zip(ladder.places, ladder.measured, strict=True)]
    if beyond:
        names.append(f"predicted at\n{ladder.target:.1e} FLOP")
        axes.axvline(n - 1.5, color=MUTED, lw=0.8, ls=(0, (4, 2)))
    axes.set_xticks(range(n), names)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("parameters without embeddings, and training compute of a baseline's run")
    _key(figure, arms, styles)
    return figure, axes, lambda k, place: k + place * n


def _size(n: int) -> str:
    return f"{n / 1e6:.3g} M" if n >= 999_500 else f"{n / 1e3:.3g} k"


def _places(arms: list[str]) -> list[float]:
    """Where the marks of each arm stand beside their rung, as a share of the width."""
    return [APART * (i - (len(arms) - 1) / 2) for i in range(len(arms))]


def _hatched(axes: Axes, x: float, low: float, high: float, middle: float | None,
             style: ArmStyle) -> None:
    width = 0.06
    axes.add_patch(Rectangle((x - width / 2, low), width, high - low, fc="none", ec=style.color,
                             hatch=HATCH, lw=0.8, zorder=2.5))
    if middle is not None:
        axes.plot([x], [middle], color=style.color, marker=style.marker or "o", ms=5, mfc="white",
                  zorder=4)


def _limit(axes: Axes, differences: list[float | None], ladder: LadderResults) -> None:
    """Cut the scale where intervals are far wider than the effects."""
    far = max([abs(d) for d in differences if d is not None] + [2 * (ladder.margin or 0.0)])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.2 * far), min(high, 2.2 * far))


def _percent(ladder: LadderResults) -> str:
    return f"{100 * (1 - ladder.rungs[-1].alpha):g} %"


def _key(figure: Figure, names: list[str], styles: dict[str, ArmStyle]) -> None:
    lines = [Line2D([], [], color=styles[name].color, ls=styles[name].dash, lw=1.8,
                    marker=styles[name].marker or None, ms=5) for name in names]
    figure.legend(lines, [shortened(name, 22) for name in names], loc="upper left",
                  ncols=min(5, len(names)), frameon=False, fontsize=8.5, handlelength=2.4,
                  bbox_to_anchor=(0.05 / WIDTH, 1 - 0.34 / figure.get_figheight()),
                  columnspacing=1.4)


FIGURES: dict[str, Callable[[LadderResults], Figure]] = {
    "effect_against_size": effect_against_size,
    "loss_against_compute": loss_against_compute,
    "gain_against_compute": gain_against_compute,
}
