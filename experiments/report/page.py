"""
Put the page together: collect what the templates show. jinja2 escapes every string of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.figures.panel import Panel
from experiments.figures.style import unit_of
from experiments.records.record import at, moment, package_version
from experiments.report import elsewhere, findings, forest, tables
from experiments.report.answer import caption, care, lead
from experiments.report.charts import METRICS, OVER, Chart, charts
from experiments.report.colors import on_page
from experiments.report.configuration import base, every_setting
from experiments.report.notices import notices
from experiments.report.samples import samples
from experiments.verdicts.caveats import caveats
from experiments.verdicts.expected import held
from experiments.verdicts.latex import to_latex
from experiments.verdicts.results import Results
from experiments.verdicts.summary import level, table
from mingpt.utils import write_atomic

TEMPLATES = Path(__file__).with_name("templates")
NAME = "report.html"
# Of more arms, the picture shows only the best and the worst, and the page holds no table to copy.
PICTURED = 200
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
    drawn, sections, told = charts(panel), _sections(results), notices(results)
    heed = "Warnings" if any(notice.grave for notice in told) or not told else "Notes"
    parts = [("answer", "Answer"), ("warnings", heed), ("setup", "Set-up"),
             *([("curves", "Curves")] if drawn else []), ("samples", "Samples")]
    answer = _answer(panel)
    return {
        "title": results.title,
        "name": results.name or "runs",
        "study": results.name,
        "foreign": results.foreign,
        "pairing": results.pairing,
        "replicates": results.replicates,
        "source": source,
        "hypothesis": results.declared.hypothesis if results.declared else "",
        "held": _split(held(results)),
        "version": package_version() or "",
        "base": base(results),
        "facts": _facts(results),
        "setup_tables": [] if results.foreign else [
            table for table in (tables.changes(results), every_setting(results)) if table],
        "contents": [*parts, *((s.id, s.title) for s in sections)],
        "notices": told,
        "heed": heed,
        "care": care(results, [notice.title for notice in told if notice.grave]),
        "samples": samples(results, panel.drawn),
        "sections": sections,
        "arms": _arms(panel, {row.arm for row in answer["verdicts"] if row.rest}),
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": "sha256-"
        + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **answer,
        **_curves(panel, drawn),
    }


def _facts(results: Results) -> list[tuple[str, str]]:
    seeds = sorted({run.seed for run in results.runs if run.seed is not None})
    ends = [end for run in results.runs
            if (end := moment(at(run.record, "end") or at(run.record, "start")))]
    states = Counter(run.status for run in results.runs)
    unit = results.unit
    told = {"unrecorded": "read"} if results.foreign else {}
    facts = [("Baseline", results.baseline),
             ("Metric", f"{results.metric} ({unit}; lower is better)"),
             ("Margin", f"±{results.margin:g} {unit}"),
             ("Error allowed (α)", f"{results.alpha:g} over all arms"),
             ("Seeds", "not named" if results.replicates == "runs" else
              ", ".join(map(str, seeds)) or "not named"),
             ("Runs", ", ".join(f"{count} {told.get(state, state)}"
                                for state, count in states.most_common()))]
    facts += [("Study file", results.declared.hash)] if results.declared else []
    return facts + ([("Last run ended", f"{max(ends):%Y-%m-%d %H:%M:%S} UTC")] if ends else [])


def _arms(panel: Panel, rest: set[str]) -> list[dict[str, Any]]:
    """Return the arms as the page's style sheet and the curves' keys need them. The curves of the
    arms in `rest` are switched off at first."""
    arms = []
    for number, arm in enumerate(panel.arms):
        if arm not in panel.drawn:
            continue
        light, dark = on_page(panel.styles[arm])
        arms.append({"number": number, "name": arm, "light": light, "dark": dark,
                     "dash": dash(panel, arm), "rest": arm in rest})
    return arms


def dash(panel: Panel, arm: str) -> str:
    """Return an arm's dashes as SVG's stroke-dasharray, in pixels."""
    pattern = panel.styles[arm].dash
    return ("none" if isinstance(pattern, str)
            else " ".join(f"{2.4 * length:g}" for length in pattern[1]))


# -- the answer ------------------------------------------------------------------------------------

def _sentence(line: str) -> str:
    """Return a line of a list as a sentence."""
    return f"{line[:1].upper()}{line[1:]}."


def _answer(panel: Panel) -> dict[str, Any]:
    results = panel.results
    numbers = {arm: number for number, arm in enumerate(panel.arms)}
    on = forest.scale(results)
    rows = forest.rows(results, numbers, {arm: dash(panel, arm) for arm in panel.arms}, on)
    return {"verdicts": rows, "hidden": sum(row.rest for row in rows),
            "pictured": [row for row in rows if not row.rest] if len(rows) > PICTURED else rows,
            "forest": on, "baseline": results.baseline, "alpha": f"{results.alpha:g}",
            "margin": f"{results.margin:g}", "unit": results.unit, "level": level(results),
            "caption": caption(results, any(row.inner for row in rows),
                               on.bends.said if on.bends else ""),
            "lead": lead(results), "weak": caveats(results).all,
            "exports": {"markdown": table(results), "latex": to_latex(results)}
            if len(rows) <= PICTURED else {},
            "answer_notes": [_sentence(floor.line())] if (floor := results.noise_floor) else []}


def _split(text: str) -> tuple[str, str]:
    """Return a sentence in two parts: up to its colon, and the rest."""
    first, colon, rest = text.partition(":")
    return first + colon, rest


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
            "signed": chart.metric == "difference",
            "names": {line.number: line.arm for line in chart.lines},
            "lines": [{"arm": line.number, "x": line.x, "y": line.y}
                      | ({"down": line.down} if line.down else {}) for line in chart.lines]}


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
    numbers = tables.Section("evidence", "The evidence in numbers", [], evidence)
    if results.foreign:
        return [*elsewhere.sections(results), *findings.sections(results), numbers,
                tables.runs(results)]
    return [*findings.sections(results), numbers,
            tables.audit(results), tables.data(results),
            tables.environment(results), tables.runs(results)]
