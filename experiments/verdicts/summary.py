"""
A study's results as tables: summary.csv for programs, summary.md for pages, and the table in
README.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from experiments.verdicts.caveats import caveats
from experiments.verdicts.expected import held
from experiments.verdicts.outliers import scattered
from experiments.verdicts.results import Results
from experiments.verdicts.stats import tost_interval
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import Verdict, p_text, signed
from mingpt.utils import BadInput

COLUMNS = ("study", "arm", "word", "reason", "n", "mean", "sd", "difference", "ci_low", "ci_high",
           "ci_holm_low", "ci_holm_high", "ci_bootstrap_low", "ci_bootstrap_high", "p", "p_holm",
           "p_sign_flip", "p_tost", "d_z", "mde", "seeds_needed", "p_welch", "cohens_d", "floor",
           "parameters", "flops_per_token", "step_seconds", "peak_memory_mb", "at_equal_flops",
           "difference_at_equal_flops", "at_equal_seconds", "difference_at_equal_seconds",
           "metric", "unit", "margin", "alpha", "caveats")


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row per arm, the baseline first; None where a number is unknown."""
    known = caveats(results)
    return [_row(results, arm) | {"caveats": "; ".join(
                [*known.of(arm), *(f"all verdicts: {text}" for text in known.all)])
                if arm in results.verdicts else None} for arm in results.arms]


def _row(results: Results, arm: str) -> dict[str, Any]:
    values = [v for v in results.values.get(arm, {}).values() if isfinite(v)]
    row = dict.fromkeys(COLUMNS) | {
        "study": results.name, "arm": arm, "word": "baseline" if arm == results.baseline else None,
        "n": len(values),
        "mean": fmean(values) if values else None, "sd": stdev(values) if len(values) > 1 else None,
        "metric": results.metric, "unit": results.unit, "margin": results.margin,
        "alpha": results.alpha}
    cost = results.costs.of(arm)
    row |= {key: getattr(cost, key) for key in ("parameters", "flops_per_token", "step_seconds",
                                                "peak_memory_mb")}
    verdict = results.verdicts.get(arm)
    return row if verdict is None else row | _numbers(verdict) | _beside(results, arm, verdict)


def _numbers(v: Verdict) -> dict[str, Any]:
    plain = ("word", "reason", "n", "difference", "p", "p_holm", "p_sign_flip", "p_tost", "d_z",
             "mde", "seeds_needed", "p_welch", "cohens_d")
    numbers = {key: getattr(v, key) for key in plain}
    for key in ("ci", "ci_holm", "ci_bootstrap"):
        numbers |= dict(zip((f"{key}_low", f"{key}_high"), getattr(v, key) or (None, None),
                            strict=True))
    return numbers


def _beside(results: Results, arm: str, v: Verdict) -> dict[str, Any]:
    """Return the cells beside the verdict: the noise floor and the verdicts at equal budgets."""
    # the floor is in the metric's own unit
    same_unit = results.noise_floor and v.unit == results.unit and v.n
    found = {"unit": v.unit, "margin": v.margin, "floor": results.noise_floor.of_mean(v.n)
             if same_unit else None}
    for axis in ("flops", "seconds"):
        if budget := results.budgets.of(arm, axis):
            found |= {f"at_equal_{axis}": budget.verdict.word,
                      f"difference_at_equal_{axis}": budget.verdict.difference}
    return found


def to_csv(results: Results) -> str:
    """Return summary.csv: every number at full precision. An empty cell means unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(results):
        writer.writerow({key: "" if value is None else f"{value:.10g}" if isinstance(value, float)
                         else value
                         for key, value in row.items()})
    return text.getvalue()


def to_markdown(results: Results) -> str:
    """Return summary.md: the table that the README shows, with the notes on it below."""
    return f"# {results.title}\n\n{table(results)}\n{bullets(results)}"


def table(results: Results) -> str:
    """Return the verdicts as a Markdown table. What weakens a word stands beside it."""
    known = caveats(results)
    times = timing(results)
    shown = costs_shown(results)
    heads = ["parameters", "FLOPs", f"step time{times.column}"]
    lines = [f"| arm | verdict | {results.metric} − baseline's, {results.unit} [{level(results)}] "
             "| Holm p | × noise |" + "".join(f" {heads[i]} |" for i in shown),
             "|---|---|---|--:|--:|" + "--:|" * len(shown)]
    for arm in results.arms:
        if arm == results.baseline or arm in results.verdicts:
            cells = _cells(results, arm, known.of(arm), times.mark(arm))
            cells = [*cells[:5], *(cells[5 + i] for i in shown)]
            lines.append("| " + " | ".join(map(_markdown, cells)) + " |")
    return "\n".join(lines) + "\n"


def _markdown(cell: str) -> str:
    return " ".join(cell.replace("|", r"\|").split())


def _cells(results: Results, arm: str, weak: tuple[str, ...], busy: str) -> list[str]:
    v = results.verdicts.get(arm)
    cost = ratios(results, arm)
    cost = [*cost[:2], cost[2] + busy if cost[2] else ""]
    if v is None:
        return [arm, "", _baseline(results, arm), "", "", *cost]
    word = v.said.replace(v.word, f"**{v.word}**") if v.word != "undecided" else v.said
    effect = ("" if v.difference is None
              else signed(v.difference, v.unit if v.unit != results.unit else ""))
    effect += f" {bracketed(v.ci_holm)}" if v.ci_holm else ""
    effect = "; ".join(filter(None, [effect, equivalence(v), v.reason]))
    floor = results.noise_floor.of_mean(v.n) if results.noise_floor else None
    noise = (f"{abs(v.difference) / floor:.1f}" if floor and v.difference is not None
             and v.unit == results.unit else "")
    return [arm, word + (f" ({'; '.join(weak)})" if weak else ""), effect, holm_p(v), noise, *cost]


def level(results: Results) -> str:
    """Return the name of the one interval that every arm has."""
    return f"{100 * (1 - results.alpha):.3g} % CI, Holm-adjusted"


def bracketed(ends: tuple[float, float]) -> str:
    """Return an interval as text: "[−0.0300, +0.0080]"."""
    return f"[{signed(ends[0])}, {signed(ends[1])}]"


def equivalence(v: Verdict) -> str:
    """Return the interval on which the word *equivalent* rests; empty for any other word."""
    ends = tost_interval(v) if v.word == "equivalent" else None
    return (f"{100 * (1 - 2 * v.alpha):.3g} % CI {bracketed(ends)} inside ±{v.margin:.3g}" if ends
            else "")


def holm_p(v: Verdict) -> str:
    """Return the Holm-adjusted p: "0.0043" or "< 0.0001"; empty where there is none."""
    return ("" if v.p_holm is None
            else p_text("p", v.p_holm).removeprefix("p = ").removeprefix("p "))


def ratios(results: Results, arm: str) -> list[str]:
    """Return an arm's parameters, FLOPs and step time as multiples of the baseline's."""
    found = [results.costs.ratio(arm, key) for key in ("parameters", "flops_per_token",
                                                       "step_seconds")]
    return ["" if ratio is None else f"{ratio:.2f}×" for ratio in found]


def costs_shown(results: Results) -> list[int]:
    """Return which of the three ratios a table shows: all of them, or for runs from elsewhere those
    that were logged."""
    found = [ratios(results, arm) for arm in results.arms]
    return [i for i in range(3) if not results.foreign or any(each[i] for each in found)]


def _baseline(results: Results, arm: str) -> str:
    row = _row(results, arm)
    spread = (f" (sd {row['sd']:.4f} over {row['n']} {results.replicates})"
              if row["sd"] is not None else "")
    return f"{row['mean']:.4f}{spread}" if row["mean"] is not None else "no value"


def verdict_lines(results: Results, width: int = 0) -> list[str]:
    """Return one line per verdict, as the terminal shows it, with what weakens its word."""
    known = caveats(results)
    lines = []
    for arm, verdict in results.verdicts.items():
        weak = known.of(arm)
        lines.append("; ".join(filter(None, [verdict.line(width), equivalence(verdict)]))
                     + (f"; caution: {'; '.join(weak)}" if weak else ""))
    return lines


def bullets(results: Results) -> str:
    """Return the notes as a Markdown list."""
    return "".join(f"- {line}\n" for line in notes(results))


def notes(results: Results) -> list[str]:
    """Return the notes on the table, one line each: the margin, the noise floor, outliers, what
    does not add up, what was left out and what changed in the study's file."""
    lines = [f"caution, all verdicts: {text}" for text in caveats(results).all]
    if results.declared and results.declared.expect:
        lines.append(" ".join(filter(None, ["hypothesis:", results.declared.hypothesis,
                                            held(results)])))
    lines.append(f"margin ±{results.margin:g} {results.unit}, family-wise error "
                 f"{results.alpha:.3g}")
    lines.append(f"intervals: {level(results)} over the arms")
    if results.foreign:
        lines.append(results.how)
    elif (common := results.common_iteration) is not None:
        lines.append(f"runs without records end at different iterations: all are compared at "
                     f"iteration {common:,}, "
                     "the last that all have" if common >= 0 else
                     "runs without records share no iteration, so none is compared")
    lines += [results.noise_floor.line()] if results.noise_floor else []
    lines += [f"far from the other seeds: {each.line()}" for each in results.outliers]
    lines += [f"far apart: {each.line()}"
              for each in scattered(results.judged, results.margin, results.numbered)]
    for each in results.factorials:
        lines += [f"effect of {line}" for line in each.lines()] + [f"adding up: {each.line()}"]
    lines += ([f"adding up: {each.line()}" for each in results.sums]
              if not results.factorials else [])
    lines += [f"on {name} alone: {verdict.line().removeprefix('on ')}"
              for name, each in results.by_source.items() for verdict in each.verdicts.values()]
    lines += _rates(results)
    lines += [f"not in the verdicts: {what}" for what in results.left_out]
    lines += timing(results).summary()
    return lines + [f"changed declaration: {change.line()}" for change in results.changed]


def _rates(results: Results) -> Iterable[str]:
    """Return one line per arm with a grid: its best rate and the verdict at that rate."""
    if results.sensitivity is None:
        return []
    return [f"tuned: {a.arm} at its best learning rate"
            + (f" {a.best.rate:g}{' (the edge of its grid)' if a.at_edge else ''}" if a.best
               else ": none was chosen")
            + (f": {a.verdict.line().removeprefix(a.arm).strip()}" if a.verdict else "")
            for a in results.sensitivity.arms]


def between_markers(page: str, name: str, content: str, where: str) -> str:
    """Return the page with `content` between `<!-- NAME -->` and `<!-- /NAME -->`. Raises BadInput
    where the page lacks the markers."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise BadInput(f"{where}: no place for this table: put {begin} and {end}, each on its own "
                       "line")
    head, rest = page.split(begin)
    return f"{head}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"
