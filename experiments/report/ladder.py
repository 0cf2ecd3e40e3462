"""
The page of a ladder: the words, the figures, the predictions, and what to know before believing
them.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from experiments.figures.ladder import FIGURES, draw_ladder
from experiments.figures.panel import Skip
from experiments.figures.style import RC
from experiments.records.record import package_version
from experiments.report.notices import notices
from experiments.report.page import NAME, TEMPLATES
from experiments.report.tables import PageTable
from experiments.verdicts.caveats import caveats
from experiments.verdicts.climbed import LadderResults
from experiments.verdicts.ladder import ArmLadder, interval
from experiments.verdicts.verdict import signed
from mingpt.utils import write_atomic


def draw_report(ladder: LadderResults, folder: Path, formats: tuple[str, ...], html: bool) -> None:
    """Print what a ladder says, draw its figures, write ladder.json and, with `html`, its page."""
    from experiments.report.draw import make_folder, say_drawn
    make_folder(folder)
    print(f"\n{ladder.title}")
    print("\n".join(f"  {line}" for line in ladder.lines()))
    write_atomic(folder / "ladder.json", json.dumps(to_dict(ladder), indent=1, ensure_ascii=False)
                 + "\n")
    if html:
        write_atomic(folder / NAME, render(ladder))
        print(f"  wrote {folder / NAME}")
    say_drawn(draw_ladder(ladder, folder, formats), folder, [folder / "ladder.json"])


def to_dict(ladder: LadderResults) -> dict[str, Any]:
    """Return what a ladder says, for programs."""
    def prediction(each: Any) -> dict[str, float] | None:
        return each and {key: float(getattr(each, key)) for key in ("effect", "low", "high")}

    def gains(each: ArmLadder) -> dict[str, Any] | None:
        return each.gains and {key: [_plain(v) for v in getattr(each.gains, key)]
                               for key in ("gain", "low", "high")}

    def ahead(each: ArmLadder) -> dict[str, Any] | None:
        return each.gain_ahead and {key: _plain(getattr(each.gain_ahead, key))
                                    for key in ("gain", "low", "high")}
    return {"schema": 1, "ladder": ladder.name, "baseline": ladder.baseline, "unit": ladder.unit,
            "margin": ladder.margin, "target_flops": ladder.target,
            "rungs": [{"study": rung.name, "parameters": rung.parameters, "flops": rung.flops}
                      for rung in ladder.measured],
            "arms": {arm: {"word": each.word, "reason": each.reason,
                           "effects": [v.difference for v in each.verdicts],
                           "verdicts": [v.word for v in each.verdicts],
                           "prediction": prediction(each.prediction),
                           "slope": each.trend and {"per_e_of_compute": _plain(each.trend.slope),
                                                    "p": _plain(each.trend.p)},
                           "gains": gains(each),
                           "gain_ahead": ahead(each)} for arm, each in ladder.arms.items()},
            "foretold": [{"arm": told.arm, "study": told.study, "found": told.found,
                          "held": told.held, **prediction(told.predicted)}
                         for told in ladder.foretold],
            "remarks": ladder.remarks}


def _plain(value: Any) -> float | None:
    value = float(value)
    return value if abs(value) < float("inf") else None


def render(ladder: LadderResults) -> str:
    """Return the page as text."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    place, declared = ladder.places[-1], ladder.rungs[-1].declared
    return environment.get_template("ladder.html.j2").render(
        title=ladder.title, name=ladder.name, version=package_version() or "",
        hypothesis=declared.hypothesis, lead=lead(ladder), words=words(ladder),
        figures=list(_figures(ladder)), tables=tables(ladder), remarks=ladder.remarks,
        rungs=_rungs(ladder), place=place, baseline=ladder.baseline, unit=ladder.unit,
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")))


def lead(ladder: LadderResults) -> str:
    """Return the answer in one sentence or two."""
    groups: dict[str, list[str]] = {}
    for arm, each in ladder.arms.items():
        groups.setdefault(each.word, []).append(arm)
    said = "; ".join(f"{', '.join(arms)}: {word}" for word, arms in groups.items())
    held = [each for each in ladder.foretold if each.held is not None]
    kept = sum(bool(each.held) for each in held)
    return (f"Over {len(ladder.rungs)} sizes: {said or 'no arm has a word yet'}." +
            (f" {kept} of {len(held)} predictions held." if held else ""))


def words(ladder: LadderResults) -> list[dict[str, str]]:
    """Return one row per arm for the list of answers."""
    tone = {"holds": "better", "grows": "better", "shrinks": "undecided", "flips": "worse",
            "undecided": "undecided"}
    return [{"arm": arm, "word": each.word, "tone": tone[each.word], "reason": each.reason,
             "prediction": f"{interval(each.prediction)} {ladder.unit}" if each.prediction else ""}
            for arm, each in ladder.arms.items()]


def tables(ladder: LadderResults) -> list[PageTable]:
    """Return the evidence: effects, gains and predictions."""
    sizes = [f"{each.parameters:,}" for each in ladder.places]
    numeric = tuple(range(1, len(sizes) + 3))
    found = [PageTable(f"Effect at each size, {ladder.unit}, with the rung's verdict",
                       ["Arm", *sizes, f"Predicted at {ladder.places[-1].target:g} ×", "Trend p"],
                       [[arm, *(f"{signed(v.difference)} {v.word}" if v.difference is not None
                                else v.word for v in each.verdicts),
                         interval(each.prediction) if each.prediction else "–",
                         f"{float(each.trend.p):.2g}" if each.trend else "–"]
                        for arm, each in ladder.arms.items()], numeric=numeric)]
    gained = [[arm, *_gains(each)] for arm, each in ladder.arms.items() if each.gains is not None]
    if gained:
        found.append(PageTable(
            "Compute-equivalent gain at each size, with its 95 % interval, and what the predicted "
            "effect is worth if the baseline's curve holds, with 90 %",
            ["Arm", *sizes, f"At {ladder.places[-1].target:g} ×"], gained, numeric=numeric[:-1]))
    if ladder.foretold:
        found.append(PageTable(
            "Predictions that were written down before the rung was trained",
            ["Arm", "Rung", f"Predicted, {ladder.unit} [90 %]", "Found", ""],
            [[each.arm, each.study, interval(each.predicted),
              signed(each.found) if each.found is not None else "–", each.word]
             for each in ladder.foretold], numeric=(2, 3)))
    return found


def _gains(each: ArmLadder) -> list[str]:
    def text(value: float) -> str:
        return "∞" if value == float("inf") else f"{value:.2f}"

    def cell(gain: float, low: float, high: float) -> str:
        return f"{text(gain)}" + (f" [{text(low)}, {text(high)}]" if low == low else "")
    found, ahead = each.gains, each.gain_ahead
    return [*map(cell, found.gain, found.low, found.high),
            cell(float(ahead.gain), float(ahead.low), float(ahead.high)) if ahead else "–"]


def _rungs(ladder: LadderResults) -> list[dict[str, Any]]:
    """Return each rung with its link, its seeds and its warnings."""
    return [{"name": rung.name, "link": f"../{rung.name}/{NAME}", "place": place,
             "seeds": len({run.seed for run in rung.runs if run.complete}),
             "flops": f"{measured.flops.get(ladder.baseline, 0):.2g}",
             "warnings": [notice.title for notice in notices(rung) if notice.grave]
             + list(caveats(rung).all)}
            for rung, place, measured in zip(ladder.rungs, ladder.places, ladder.measured,
                                             strict=True)]


def _figures(ladder: LadderResults) -> Any:
    """Yield (title, image) of every figure that can be drawn."""
    for name, function in FIGURES.items():
        try:
            with rc_context(RC):
                figure, buffer = function(ladder), io.BytesIO()
                figure.savefig(buffer, format="png")
        except Skip:
            continue
        yield (name.replace("_", " ").capitalize(),
               "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
