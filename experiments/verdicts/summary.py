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

from experiments.verdicts.results import Results
from experiments.verdicts.verdict import Verdict, p_text, signed
from mingpt.utils import BadInput

COLUMNS = ("study", "arm", "word", "reason", "n", "mean", "sd", "difference", "ci_low", "ci_high",
           "ci_holm_low", "ci_holm_high", "ci_bootstrap_low", "ci_bootstrap_high", "p", "p_holm",
           "p_sign_flip", "p_tost", "d_z", "mde", "seeds_needed", "p_welch", "cohens_d", "floor",
           "parameters", "flops_per_token", "step_seconds", "peak_memory_mb", "at_equal_flops",
           "difference_at_equal_flops", "at_equal_seconds", "difference_at_equal_seconds",
           "metric", "unit", "margin", "alpha")


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row per arm, the baseline first; None where a number is unknown."""
    return [_row(results, arm) for arm in results.arms]


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
    """Return the verdicts as a Markdown table."""
    percent = f"{100 * (1 - results.alpha):.3g} % CI, Holm-adjusted"
    lines = [f"| arm | verdict | {results.metric} − baseline's, {results.unit} [{percent}] | Holm "
             f"p | × noise | "
             "parameters | FLOPs | step time |", "|---|---|---|--:|--:|--:|--:|--:|"]
    for arm in results.arms:
        if arm == results.baseline or arm in results.verdicts:
            lines.append("| " + " | ".join(_cells(results, arm)) + " |")
    return "\n".join(lines) + "\n"


def _cells(results: Results, arm: str) -> list[str]:
    name, v = arm.replace("|", r"\|"), results.verdicts.get(arm)
    ratios = [results.costs.ratio(arm, key) for key in ("parameters", "flops_per_token",
                                                        "step_seconds")]
    cost = ["" if ratio is None else f"{ratio:.2f}×" for ratio in ratios]
    if v is None:
        row = rows(results)[results.arms.index(arm)]
        spread = f" (sd {row['sd']:.4f} over {row['n']} seeds)" if row["sd"] is not None else ""
        return [name, "", f"{row['mean']:.4f}{spread}" if row["mean"] is not None else "no value",
                "", "", *cost]
    word = f"**{v.word}**" if v.word != "undecided" else v.word
    effect = ("" if v.difference is None
              else signed(v.difference, v.unit if v.unit != results.unit else ""))
    effect += f" [{signed(v.ci_holm[0])}, {signed(v.ci_holm[1])}]" if v.ci_holm else ""
    effect += f"; {v.reason}" if v.reason else ""
    floor = results.noise_floor.of_mean(v.n) if results.noise_floor else None
    noise = (f"{abs(v.difference) / floor:.1f}" if floor and v.difference is not None
             and v.unit == results.unit else "")
    p = "" if v.p_holm is None else p_text("p", v.p_holm).removeprefix("p = ").removeprefix("p ")
    return [name, word, effect.removeprefix("; "), p, noise, *cost]


def bullets(results: Results) -> str:
    """Return the notes as a Markdown list."""
    return "".join(f"- {line}\n" for line in notes(results))


def notes(results: Results) -> list[str]:
    """Return the notes on the table, one line each: the margin, the noise floor, outliers, what
    does not add up, what was left out and what changed in the study's file."""
    lines = [f"margin ±{results.margin:g} {results.unit}, family-wise error {results.alpha:.3g}"]
    lines.append(f"intervals: {100 * (1 - results.alpha):.3g} % CI, Holm-adjusted over the arms")
    if (common := results.common_iteration) is not None:
        lines.append(f"runs without records end at different iterations: all are compared at "
                     f"iteration {common:,}, "
                     "the last that all have" if common >= 0 else
                     "runs without records share no iteration, so none is compared")
    lines += [results.noise_floor.line()] if results.noise_floor else []
    lines += [f"far from the other seeds: {each.line()}" for each in results.outliers]
    for each in results.factorials:
        lines += [f"effect of {line}" for line in each.lines()] + [f"adding up: {each.line()}"]
    lines += ([f"adding up: {each.line()}" for each in results.sums]
              if not results.factorials else [])
    lines += _rates(results)
    lines += [f"not in the verdicts: {what}" for what in results.left_out]
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
