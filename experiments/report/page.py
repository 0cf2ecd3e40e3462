"""
Put the page together: collect what the templates show. jinja2 escapes every string of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.figures.panel import Panel
from experiments.figures.style import unit_of
from experiments.records.record import at, package_version
from experiments.report import findings, forest, tables
from experiments.report.charts import METRICS, OVER, Chart, charts
from experiments.report.colors import on_page
from experiments.report.notices import notices
from experiments.verdicts.results import Results
from experiments.verdicts.verdict import NOT_COMPARABLE, Verdict
from mingpt.utils import write_atomic

TEMPLATES = Path(__file__).with_name("templates")
NAME = "report.html"
ROWS = 8          # the number of points in a table of curve values


def write(panel: Panel, folder: Path, source: Path) -> Path:
    """Write FOLDER/report.html atomically; return its path."""
    write_atomic(folder / NAME, render(panel, source))
    return folder / NAME


def render(panel: Panel, source: Path | str = "losses") -> str:
    """Return the page as text. `source` is where the runs were read; the footer shows it."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(context(panel, str(source)))


def context(panel: Panel, source: str) -> dict[str, Any]:
    """Return every value that the template uses."""
    results, script = panel.results, (TEMPLATES / "report.js").read_text(encoding="utf-8")
    drawn, sections = charts(panel), _sections(results)
    parts = {"answer": "Answer", "curves": "Curves"} if drawn else {"answer": "Answer"}
    contents = [("warnings", "Warnings"), *parts.items(), *((s.id, s.title) for s in sections)]
    return {
        "title": results.title,
        "name": results.name or "runs",
        "study": results.name,
        "source": source,
        "hypothesis": results.declared.hypothesis if results.declared else "",
        "version": package_version() or "",
        "facts": _facts(results),
        "contents": contents,
        "notices": notices(results),
        "sections": sections,
        "arms": _arms(panel),
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": "sha256-"
        + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_answer(panel),
        **_curves(panel, drawn),
    }


def _facts(results: Results) -> list[tuple[str, str]]:
    seeds = sorted({run.seed for run in results.runs if run.seed is not None})
    ends = sorted(str(end) for run in results.runs
                  if (end := at(run.record, "end") or at(run.record, "start")))
    states = Counter(run.status for run in results.runs)
    unit = results.unit
    facts = [("Baseline", results.baseline),
             ("Metric", f"{results.metric} ({unit}; lower is better)"),
             ("Margin", f"±{results.margin:g} {unit}"),
             ("Error allowed (α)", f"{results.alpha:g} over all arms"),
             ("Seeds", ", ".join(map(str, seeds)) or "not named"),
             ("Runs", ", ".join(f"{count} {state}" for state, count in states.most_common()))]
    facts += [("Study file", results.declared.hash)] if results.declared else []
    return facts + ([("Last run ended", ends[-1].replace("T", " ").removesuffix("+00:00") + " UTC"
                      if ends[-1].endswith("+00:00") else ends[-1])] if ends else [])


def _arms(panel: Panel) -> list[dict[str, Any]]:
    arms = []
    for number, arm in enumerate(panel.arms):
        light, dark = on_page(panel.styles[arm])
        arms.append({"number": number, "name": arm, "light": light, "dark": dark,
                     "dash": dash(panel, arm)})
    return arms


def dash(panel: Panel, arm: str) -> str:
    """Return an arm's dashes as SVG's stroke-dasharray, in pixels."""
    pattern = panel.styles[arm].dash
    return ("none" if isinstance(pattern, str)
            else " ".join(f"{2.4 * length:g}" for length in pattern[1]))


# -- the answer ------------------------------------------------------------------------------------

def _answer(panel: Panel) -> dict[str, Any]:
    results = panel.results
    numbers = {arm: number for number, arm in enumerate(panel.arms)}
    on = forest.scale(results)
    floor = results.noise_floor
    values = [v for v in results.values.get(results.baseline, {}).values() if isfinite(v)]
    spread = (f" ± {stdev(values):.4f} over {len(values)} seeds" if len(values) > 1
              else ", one run" if values else "")
    unit = results.unit
    caption = (f"Differences are arm − baseline, paired by seed, in {unit}; below zero is better. "
               f"The thin bar is the ")
    caption += (f"interval in the column before it. The thick bar is the "
                f"{100 * (1 - 2 * results.alpha):g} % interval, not adjusted; inside ")
    caption += "the grey margin it means equivalent."
    caption += (" The blue strip is the noise floor: one standard error if there is no effect."
                if floor and floor.spread else "")
    return {"verdicts": forest.rows(results, numbers,
                                    {arm: dash(panel, arm) for arm in panel.arms}, on),
            "forest": on, "baseline": results.baseline, "alpha": f"{results.alpha:g}",
            "margin": f"{results.margin:g}", "unit": unit,
            "level": f"{100 * (1 - results.alpha):g} % CI, Holm-adjusted",
            "baseline_text": f"{fmean(values):.4f}{spread}" if values
            else f"no final {results.metric}",
            "verdict_caption": caption, "lead": lead(results),
            "answer_notes": [_sentence(floor.line())] if floor else []}


def lead(results: Results) -> str:
    """Return the answer in a few words: the arms by verdict."""
    if not results.verdicts:
        absent = results.baseline not in results.arms
        return f"No verdicts: {'no run' if absent else 'only runs'} of the baseline " + (
            "is here." if absent else "are here.")
    told = " ".join(map(_sentence, _by_word(list(results.verdicts.values()))))
    tuned = ([arm.verdict for arm in results.sensitivity.arms if arm.verdict]
             if results.sensitivity else [])
    return told + (f" At every arm's own best learning rate, {'; '.join(_by_word(tuned))}."
                   if tuned else "")


def _by_word(verdicts: list[Verdict]) -> list[str]:
    """Return the arms grouped by word: ["better: a, b", "undecided: c"]."""
    words = ("better", "worse", "equivalent", "undecided", NOT_COMPARABLE)
    arms = {word: [v.arm for v in verdicts if v.word == word] for word in words}
    return [f"{word}: {', '.join(names)}" for word, names in arms.items() if names]


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


# -- the curves ------------------------------------------------------------------------------------

def _curves(panel: Panel, drawn: list[Chart]) -> dict[str, Any]:
    views = {(chart.metric, chart.over) for chart in drawn}
    metrics = [(key, name) for key, name in METRICS.items()
               if any(metric == key for metric, _ in views)]
    overs = [(key, name) for key, name in OVER.items() if any(over == key for _, over in views)]
    dashes = {number: dash(panel, arm) for number, arm in enumerate(panel.arms)}
    shown = [replace(chart, lines=[replace(line, dash=dashes[line.number])
                                   for line in chart.lines]) for chart in drawn]
    return {"charts": shown, "metrics": metrics, "overs": overs,
            "absent_views": [(m, o) for m, _ in metrics for o, _ in overs if (m, o) not in views],
            "value_tables": [_values(panel, chart) for chart in drawn if chart.over == overs[0][0]],
            "readings": {"charts": {chart.key: _readings(panel, chart) for chart in drawn}}}


def _readings(panel: Panel, chart: Chart) -> dict[str, Any]:
    """Return the data from which the page's script reads values."""
    unit, size, _ = unit_of(chart.over, chart.frame[1])
    return {"frame": chart.frame, "scale": size, "unit": unit or OVER[chart.over],
            "signed": chart.metric == "difference", "names": list(panel.arms),
            "lines": [{"arm": line.number, "x": line.x, "y": line.y} for line in chart.lines]}


def _values(panel: Panel, chart: Chart) -> tables.PageTable:
    """Return a chart's curves as a table of numbers, for readers who cannot see the chart and for
    print."""
    longest = max((line.x for line in chart.lines), key=len)
    xs = [longest[round(k * (len(longest) - 1) / (ROWS - 1))] for k in range(ROWS)]
    xs = list(dict.fromkeys(xs))
    rows = [[line.arm, *(_value_at(line, x) for x in xs)] for line in chart.lines]
    _, size, _ = unit_of(chart.over, chart.frame[1])
    head = ["Arm", *(f"{x / size:,.6g}" for x in xs)]
    return tables.PageTable(f"{chart.title}, mean over seeds, at {chart.x_label}", head, rows,
                        numeric=tuple(range(1, len(xs) + 1)),
                        summary=f"{chart.title} as a table".capitalize())


def _value_at(line, x: float) -> str:
    near = min(range(len(line.x)), key=lambda i: abs(line.x[i] - x))
    inside = line.x[0] <= x <= line.x[-1]
    return f"{line.y[near]:.4f}".replace("-", "−") if inside else "–"


# -- the rest --------------------------------------------------------------------------------------

def _sections(results: Results) -> list[tables.Section]:
    evidence = [table for table in (tables.secondary(results), tables.seeds(results)) if table]
    return [*findings.sections(results),
            tables.Section("evidence", "The evidence in numbers", [], evidence),
            tables.changes(results), tables.audit(results), tables.data(results),
            tables.environment(results), tables.runs(results)]
