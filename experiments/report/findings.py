"""
What a study shows beyond one verdict per arm, as tables: cost, equal budgets, factorials, sums of
parts and learning rates.
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.figures.forest import interval
from experiments.figures.style import short, unit_of
from experiments.records.record import at
from experiments.report.tables import PageTable, Section, text
from experiments.verdicts.caveats import caveats
from experiments.verdicts.costs import AXES, Budget, Cost
from experiments.verdicts.factorial import FactorialAnalysis
from experiments.verdicts.results import Results
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import NOT_COMPARABLE, Verdict, p_text, signed

QUANTITIES = {"parameters": ("Parameters", "{:,.0f}"),
              "flops_per_token": ("FLOPs per token", "{:.4g}"),
              "step_seconds": ("Seconds per step", "{:.4g}"),
              "tokens_per_second": ("Tokens/s", "{:,.0f}"),
              "peak_memory_mb": ("Peak memory, MB", "{:,.0f}")}
TIMES = ("step_seconds", "tokens_per_second")
SPENT = {"tokens": "tokens", "flops": "FLOPs", "seconds": "time"}


def sections(results: Results) -> Iterator[Section]:
    """Yield the sections for which the study has results."""
    for make in (sources, cost, budgets, factorial, rates):
        if (section := make(results)) is not None:
            yield section


def sources(results: Results) -> Section | None:
    """Return the section with the verdicts on each source's text; None where there are no sources.
    """
    if not results.by_source:
        return None
    arms = [arm for arm in results.arms if arm in results.verdicts or arm == results.baseline]
    rows = [[arm, *(_on_source(each, arm) for each in results.by_source.values()), *_read(
        results, arm)] for arm in arms]
    head = ["Arm", *(f"On {name}" for name in results.by_source), "Rows by source",
            "Epochs by source"]
    texts = ["All arms are scored on the same validation tokens. Each column judges them on the "
             "validation text of one source, with the study's margin; its p-values are "
             "Holm-adjusted over the arms. An epoch is one reading of a source's training text."]
    return Section("sources", "By source", texts,
                   [PageTable("Verdicts on the text of each source", head, rows)])


def _on_source(results: Results, arm: str) -> str:
    if arm == results.baseline:
        return results.baseline_line().removeprefix(arm).strip().removeprefix("baseline").strip()
    verdict = results.verdicts.get(arm)
    if verdict is None:
        return "–"
    ends = interval(verdict)
    inside = f" [{signed(ends[0])}, {signed(ends[1])}]" if ends else ""
    return f"{verdict.word} {_difference(verdict)}{inside}"


def _read(results: Results, arm: str) -> tuple[str, str]:
    """Return what an arm's first finished run took of each source: (shares, epochs)."""
    found = next((read for run in results.runs_of(arm)
                  if isinstance(read := at(run.record, "result", "read"), dict)), {})
    taken = {name: each for name, each in found.items() if isinstance(each, dict)}
    return (", ".join(f"{name} {100 * each['share']:.1f} %" for name, each in taken.items()) or "–",
            ", ".join(f"{name} {each['epochs']:.2f}" for name, each in taken.items()) or "–")


def cost(results: Results) -> Section | None:
    """Return the section with every quantity of every arm and its change against the baseline; None
    where no quantity is known."""
    known = [q for q in QUANTITIES if any(getattr(each, q) is not None
                                          for each in results.costs.arms)]
    if not known:
        return None
    times = timing(results)
    rows = [[each.arm, *(_quantity(results, each, q) + (times.mark(each.arm) if q in TIMES else "")
                         for q in known), _difference(results.verdicts.get(each.arm))]
            for each in results.costs.arms]
    head = ["Arm", *(QUANTITIES[q][0] + (times.column if q in TIMES else "") for q in known),
            f"{results.metric} − {results.baseline}'s"]
    table = PageTable("What each arm costs over its finished runs, and what it changes", head, rows,
                  numeric=tuple(range(1, len(head))))
    texts = ["Parameters and FLOPs are exact. Times and memory are measured on the machine that "
             "the section on the environment names. A time is the lower quartile over the log "
             "points of all runs, which other work on the machine disturbs least."]
    return Section("cost", "Cost", texts, [table])


def _quantity(results: Results, each: Cost, quantity: str) -> str:
    value, ratio = getattr(each, quantity), results.costs.ratio(each.arm, quantity)
    shown = (amount("flops", value).removesuffix("FLOP") if quantity == "flops_per_token" and value
             else text(value, QUANTITIES[quantity][1]))
    change = (f" ({100 * (ratio - 1):+.1f} %)".replace("-", "−")
              if ratio and each.arm != results.baseline else "")
    return shown + change


def _difference(verdict: Verdict | None) -> str:
    return signed(verdict.difference) if verdict and verdict.difference is not None else "–"


def budgets(results: Results) -> Section | None:
    """Return the section with the verdicts at equal tokens, FLOPs and seconds; None where there are
    none."""
    axes = [axis for axis in AXES if results.budgets.on(axis)]
    if not axes:
        return None
    times = timing(results)
    rows = [[arm, *(cell for axis in axes for cell in _spent(
                results.budgets.of(arm, axis), times.mark(arm) if axis == "seconds" else ""))]
            for arm in dict.fromkeys(budget.arm for budget in results.budgets.table)]
    head = ["Arm", *(name for axis in axes for name in (
        f"At equal {SPENT[axis]}" + (times.column if axis == "seconds" else ""),
        "curves cross at"))]
    texts = ["A slower arm has done fewer steps after the same time. Each verdict compares "
             "validation losses at the largest budget that all runs of the arm and of the baseline "
             "reached. The p-values are Holm-adjusted over the arms of a column. \"Curves cross "
             "at\" is where the mean curves last cross. Time is the time of training alone, at the "
             "arm's pace by the table above."]
    texts += [f"No row for {arm}: {results.without_budget[arm]}." for arm in results.verdicts
              if arm in results.without_budget]
    known = caveats(results)
    if any(known.of(row[0]) for row in rows):
        head, rows = [*head, "Caution"], [[*row, "; ".join(known.of(row[0]))] for row in rows]
    return Section("budgets", "At equal cost", texts,
                   [PageTable("Verdicts at equal budgets", head, rows)])


def _spent(budget: Budget | None, busy: str) -> tuple[str, str]:
    if budget is None:
        return "–", "–"
    v = budget.verdict
    where = f" at {amount(budget.axis, budget.at)}" if budget.at else ""
    return (f"{v.word} {_difference(v)}{where}{busy}",
            amount(budget.axis, budget.crossing) if budget.crossing else "never")


def amount(axis: str, value: float) -> str:
    """Return an amount with its unit: 12.5 M, 3.1 PFLOP, 4 minutes."""
    unit, size, suffixes = unit_of(axis, value)
    blank = "" if unit == "FLOP" else " "
    return f"{short(float(f'{value / size:.3g}'), suffixes)}{blank}{unit}".rstrip()


def factorial(results: Results) -> Section | None:
    """Return the section with the effects of every factorial design, and with arms compared with
    the sum of their parts; None where there are neither."""
    blocks = [table for design in results.factorials for table in _design(design)]
    if results.sums:
        rows = [[each.arm, " + ".join(each.parts), text(each.observed, "{:+.4f}"),
                 text(each.expected, "{:+.4f}"), _barred(each.verdict) or each.word,
                 _interval(each.verdict)]
                 for each in results.sums]
        head = ["Arm", "Parts", "Observed", "Sum of parts", "Adds up?",
                "Interval of the difference"]
        blocks.append(PageTable("Arms of several parts, compared with the sum of what their parts "
                                "do "
                            "alone", head, rows, numeric=(2, 3)))
    texts = ["A main effect is the metric with the factor minus the metric without it, averaged "
             "over all combinations of the other factors. An interaction is what factors do "
             "together beyond the sum of what each does alone."]
    return (Section("factorial", "What adds up", texts[:len(results.factorials)], blocks)
            if blocks else None)


def _design(design: FactorialAnalysis) -> list[PageTable]:
    rows = [[term.name, term.word, _difference(v), _interval(v),
             p_text("", v.p_holm).strip() if v.p_holm is not None else "–", v.reason]
            for term, v in ((term, term.verdict) for term in design.terms)]
    left_out = f"; left out: {', '.join(design.missing)}" if design.missing else ""
    caption = f"Effects over the {len(design.seeds)} seeds with a value in every cell{left_out}"
    return [PageTable(caption, ["Effect", "Word", "Size", "Interval (Holm)", "p (Holm)", "Note"],
                      rows,
                  numeric=(2, 3, 4))]


def _barred(verdict: Verdict) -> str:
    """Return "not comparable" with its reason; empty for any other verdict."""
    return f"{verdict.word}: {verdict.reason}" if verdict.word == NOT_COMPARABLE else ""


def _interval(verdict: Verdict) -> str:
    ends = interval(verdict)
    return f"{signed(ends[0])} to {signed(ends[1])}" if ends else "–"


def rates(results: Results) -> Section | None:
    """Return the section with every arm at its own best learning rate; None without a grid."""
    found = results.sensitivity
    if found is None:
        return None
    rows = []
    for each in found.arms:
        grid = ", ".join(f"{p.rate:g}: {text(p.mean, '{:.4f}')}"
                         + (f" ({p.diverged} diverged)" if p.diverged else "")
                         for p in each.points)
        best = (f"{each.best.rate:g}{', at the edge of the grid' if each.at_edge else ''}"
                if each.best else "none")
        verdict = ("the baseline" if each.arm == results.baseline else "–" if each.verdict is None
                   else _barred(each.verdict) or f"{each.verdict.word} "
                   f"{_difference(each.verdict)}")
        rows.append([each.arm, best, verdict, text(each.range, "{:.4f}"), grid])
    seeds = (", ".join(map(str, found.selection_seeds)) or "none",
             ", ".join(map(str, found.judging_seeds)) or "none")
    texts = [f"Seeds {seeds[0]} choose each arm's rate and seeds {seeds[1]} judge it, so no rate "
             "is judged by the runs that chose it."]
    head = ["Arm", "Best rate", "Verdict at that rate", "A wrong rate costs up to",
            f"Mean {found.metric} by rate"]
    return Section("rates", "Learning rates", texts,
                   [PageTable("Every arm at its own best learning rate", head, rows, numeric=(3,))])
