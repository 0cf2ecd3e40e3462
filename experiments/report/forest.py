"""
The rows of the verdict table, and the scale on which their intervals are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.figures.forest import far_limits, interval, reach
from experiments.figures.panel import BEST, WORST
from experiments.figures.scales import NearZero, linear_part
from experiments.figures.style import tick_labels
from experiments.report.configuration import changed
from experiments.verdicts.caveats import caveats
from experiments.verdicts.results import Results
from experiments.verdicts.stats import tost_interval
from experiments.verdicts.summary import equivalence, holm_p
from experiments.verdicts.verdict import Verdict, signed

RANKED = 12                    # more arms than this are ranked by their difference
MANY = 20                      # of more arms, only the BEST and the WORST show at first
ARROW = 2.0     # width of the arrowhead of a cut interval, in per cent of the scale


@dataclass(frozen=True)
class Scale:
    """A scale that maps differences from low to high onto places from 0 to 100. It is linear where
    `bends` is None."""
    low: float
    high: float
    margin: tuple[float, float]            # start and width of the ±margin band
    ticks: list[tuple[float, str]]
    bends: NearZero | None = None

    @property
    def zero(self) -> float:
        """The place of the difference 0."""
        return self.at(0)

    def at(self, value: float) -> float:
        """Return the place of a difference; values off the scale are put at its ends."""
        places = [self.low, self.high, max(self.low, min(self.high, value))]
        low, high, place = self.bends.place(places) if self.bends else places
        return round(float(100 * (place - low) / (high - low)), 2)

    def band(self, half: float) -> tuple[float, float]:
        """Return the start and the width of the band ±half."""
        return self.at(-half), round(self.at(half) - self.at(-half), 2)


@dataclass(frozen=True)
class Row:
    """One arm's verdict, as text and as places on the scale. `rest` is True for an arm that a long
    table hides until all arms are asked for."""
    number: int
    dash: str
    arm: str
    word: str
    said: str                    # the word, marked where the runs were not paired
    changes: list[str]
    difference: str
    interval: str
    equivalence: str             # the interval on which the word *equivalent* rests
    n: str
    p: str
    note: str
    weak: tuple[str, ...]        # what weakens the word
    spoken: str
    at: float | None
    span: tuple[float, float] | None
    inner: tuple[float, float] | None    # the equivalence interval, where it decided the word
    cuts: tuple[str, ...]
    rest: bool = False


def scale(results: Results) -> Scale:
    """Return the one scale that all arms share."""
    shown = [v for v in results.verdicts.values() if v.difference is not None
             and v.unit == results.unit]
    linear = linear_part([v.difference for v in shown], results.margin)
    if linear is None:
        low, high = reach(results)
        bare, marks = Scale(low, high, (0, 0), []), tick_labels("", low, high, 4)[0]
    else:
        low, high = far_limits(shown, results.margin)
        bare = Scale(low, high, (0, 0), [], NearZero(linear))
        marks = [(v, f"{v:g}") for v in bare.bends.ticks(low, high)]
    ticks = [(bare.at(v), text.replace("-", "−")) for v, text in marks]
    return replace(bare, margin=bare.band(results.margin), ticks=ticks)


def rows(results: Results, numbers: dict[str, int], dashes: dict[str, str], on: Scale) -> list[Row]:
    """Return one row per verdict, in the study's order. More than RANKED arms are ranked by their
    difference. Of more than MANY, all but the best and the worst are `rest`."""
    known = caveats(results)
    found = [(verdict, _row(verdict, numbers[arm], dashes[arm], on, results.unit,
                            (changed(results, arm), known.of(arm))))
             for arm, verdict in results.verdicts.items()]
    if len(found) <= RANKED:
        return [row for _, row in found]
    placed = sorted((pair for pair in found if pair[1].at is not None),
                    key=lambda pair: pair[0].difference)
    many = len(found) > MANY
    ranked = [replace(row, rest=many and BEST <= place < len(placed) - WORST)
              for place, (_, row) in enumerate(placed)]
    return ranked + [replace(row, rest=many) for _, row in found if row.at is None]


def _row(v: Verdict, number: int, dash: str, on: Scale, unit: str,
         told: tuple[list[str], tuple[str, ...]]) -> Row:
    ends, near = interval(v), tost_interval(v) if v.word == "equivalent" else None
    text = f"{signed(ends[0])} to {signed(ends[1])}" if ends else ""
    cuts = ()
    if ends:
        cuts = tuple(f"M{x + turn * ARROW},4L{x},10L{x + turn * ARROW},16" for end, x, turn in
                     ((ends[0], 0, 1), (ends[1], 100, -1)) if not on.low <= end <= on.high)
    # a verdict in another unit has no place on the metric's scale
    other_unit = "" if v.unit == unit else v.unit
    difference = signed(v.difference, other_unit) if v.difference is not None else "–"
    spoken = f"{v.arm}: {v.said}, difference {difference}" + ("" if other_unit else f" {v.unit}")
    spoken += f", interval {text}" if text else ""
    placed = v.difference is not None and not other_unit
    return Row(number, dash, v.arm, v.word, v.said, told[0], difference, text, equivalence(v),
               v.counted,
               holm_p(v) or "–", v.reason, told[1], spoken, on.at(v.difference) if placed else None,
               (on.at(ends[0]), on.at(ends[1])) if ends else None,
               (on.at(near[0]), on.at(near[1])) if near else None, cuts)
