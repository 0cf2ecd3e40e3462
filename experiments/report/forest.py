"""
The rows of the verdict table, and the scale on which their intervals are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.figures.forest import interval, reach, tost_interval
from experiments.figures.style import tick_labels
from experiments.verdicts.noise import NoiseFloor
from experiments.verdicts.results import Results
from experiments.verdicts.verdict import Verdict, p_text, signed

ARROW = 2.0     # width of the arrowhead of a cut interval, in per cent of the scale


@dataclass(frozen=True)
class Scale:
    """A scale that maps differences from low to high onto places from 0 to 100."""
    low: float
    high: float
    margin: tuple[float, float]            # start and width of the ±margin band
    ticks: list[tuple[float, str]]

    @property
    def zero(self) -> float:
        """The place of the difference 0."""
        return self.at(0)

    def at(self, value: float) -> float:
        """Return the place of a difference; values off the scale are put at its ends."""
        return round(100 * (max(self.low, min(self.high, value)) - self.low)
                     / (self.high - self.low), 2)

    def band(self, half: float) -> tuple[float, float]:
        """Return the start and the width of the band ±half."""
        return self.at(-half), round(self.at(half) - self.at(-half), 2)


@dataclass(frozen=True)
class Row:
    """One arm's verdict, as text and as places on the scale."""
    number: int
    dash: str
    arm: str
    word: str
    difference: str
    interval: str
    n: int
    p: str
    note: str
    spoken: str
    at: float | None
    span: tuple[float, float] | None
    inner: tuple[float, float] | None
    cuts: tuple[str, ...]
    floor: tuple[float, float] | None


def scale(results: Results) -> Scale:
    """Return the one scale that all arms share."""
    low, high = reach(results)
    bare = Scale(low, high, (0, 0), [])
    ticks = [(bare.at(v), text.replace("-", "−")) for v, text in tick_labels("", low, high, 4)[0]]
    return Scale(low, high, bare.band(results.margin), ticks)


def rows(results: Results, numbers: dict[str, int], dashes: dict[str, str], on: Scale) -> list[Row]:
    """Return one row per verdict, in the study's order."""
    return [_row(verdict, numbers[arm], dashes[arm], on, results.noise_floor)
            for arm, verdict in results.verdicts.items()]


def _row(v: Verdict, number: int, dash: str, on: Scale, floor: NoiseFloor | None) -> Row:
    ends, near = interval(v), tost_interval(v)
    text = f"{signed(ends[0])} to {signed(ends[1])}" if ends else ""
    cuts = ()
    if ends:
        cuts = tuple(f"M{x + turn * ARROW},4L{x},10L{x + turn * ARROW},16" for end, x, turn in
                     ((ends[0], 0, 1), (ends[1], 100, -1)) if not on.low <= end <= on.high)
    least = floor.of_mean(v.n) if floor else None
    # a verdict in another unit has no place on the metric's scale
    other_unit = "" if floor is None or v.unit == floor.unit else v.unit
    difference = signed(v.difference, other_unit) if v.difference is not None else "–"
    spoken = f"{v.word}, difference {difference}" + ("" if other_unit else f" {v.unit}")
    spoken += f", interval {text}" if text else ""
    p = p_text("", v.p_holm).removeprefix(" ") if v.p_holm is not None else "–"
    note = "; ".join(filter(None, (p_text("TOST p", v.p_tost) if v.word == "equivalent" else "",
                                   v.reason)))
    return Row(number, dash, v.arm, v.word, difference, f"[{text}]" if text else "", v.n, p, note,
               spoken, None if v.difference is None or other_unit else on.at(v.difference),
               (on.at(ends[0]), on.at(ends[1])) if ends else None,
               (on.at(near[0]), on.at(near[1])) if near else None, cuts,
               on.band(least) if least else None)
