"""
The verdicts as a LaTeX table: summary.tex, to be put into a paper with \\input. It needs the
packages booktabs and graphicx, and shrinks where it is wider than the text.
"""

from __future__ import annotations

from experiments.verdicts.caveats import caveats
from experiments.verdicts.results import Results
from experiments.verdicts.summary import (
    bracketed,
    costs_shown,
    equivalence,
    holm_p,
    ratios,
    rows,
)
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import signed

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
           "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "→": r"$\rightarrow$", "α": r"$\alpha$",
           "·": r"$\cdot$", "√": r"$\surd$", "≥": r"$\geq$", "≤": r"$\leq$",
           # at the start of a row, a bracket or a star would be an argument of \\
           "[": "{[}", "]": "{]}", "*": "{*}"}
SPECIAL |= {character: "\\" + character for character in "&%$#_{}"}
SPECIAL |= {"†": r"$^{\dagger}$", "…": r"\ldots{}", "–": "--", "⚠": "!"}
BUSY = "†"       # marks times that were measured on a busy machine
# as wide as it is, or as the text where it is wider than that
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it, on one line. Letters of other scripts stay as they are."""
    kept = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(SPECIAL.get(character, character) for character in kept)


def to_latex(results: Results) -> str:
    """Return summary.tex: one row per arm. Notes below the table, marked by letters, hold the
    reasons and what weakens a word."""
    times, known = timing(results), caveats(results)
    notes: list[str] = []
    shown = costs_shown(results)
    costs = ["params", "FLOPs", f"step time{BUSY * times.all}"]
    head = ["arm", "verdict", "difference", f"{100 * (1 - results.alpha):.3g} % CI", "p", "n",
            *(costs[i] for i in shown)]
    lines = [r"% needs \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering", r"\small",
             rf"\caption{{{escaped(_caption(results))}}}", r"\setlength{\tabcolsep}{4pt}", FIT,
             rf"\begin{{tabular}}{{@{{}}llrlrr{'r' * len(shown)}@{{}}}}",
             r"\toprule", " & ".join(map(escaped, head)) + r" \\", r"\midrule"]
    for row in rows(results):
        arm = row["arm"]
        if arm in results.verdicts or arm == results.baseline:
            cells = _cells(results, row, known.of(arm), notes)
            *fixed, step = ratios(results, arm)
            cost = [*fixed, step + BUSY * bool(times.mark(arm))]
            lines.append(" & ".join([*cells, *(escaped(cost[i]) for i in shown)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip\raggedright"]
    lines += [rf"\par\footnotesize {escaped(f'{BUSY} {text}.')}" for text in times.summary()]
    lines += [rf"\par\footnotesize All verdicts: {escaped(text)}." for text in known.all]
    lines += [rf"\par\footnotesize $^{{{_letter(n)}}}$ {escaped(note)}."
              for n, note in enumerate(notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _caption(results: Results) -> str:
    title = results.title if results.title[-1:] in (*".?!",) else f"{results.title}."
    costs = (f" Parameters (params), FLOPs and step time: times those of {results.baseline}."
             if costs_shown(results) else "")
    how = ("at the same seed" if not results.unpaired else f"({results.pairing})")
    return (f"{title} Difference: {results.metric} minus that of {results.baseline} {how}, in "
            f"{results.unit}, averaged over n {results.replicates}; below zero is better; the "
            f"baseline's row has its mean ± standard deviation. Intervals and p are adjusted "
            f"over the arms by Holm's method. Margin ±{results.margin:g}, family-wise error "
            f"{results.alpha:.3g}.{costs}")


def _cells(results: Results, row: dict, weak: tuple[str, ...], notes: list[str]) -> list[str]:
    v = results.verdicts.get(row["arm"])
    if v is None:
        mean = "" if row["mean"] is None else f"{row['mean']:.4f}"
        spread = "" if row["sd"] is None else f"± {row['sd']:.4f}"
        return [escaped(row["arm"]), "baseline", mean, escaped(spread), "", str(row["n"])]
    note = "; ".join(filter(None, [equivalence(v), v.reason, *weak]))
    mark = rf"$^{{{_letter(len(notes))}}}$" if note else ""
    notes += [note] if note else []
    word = v.said if v.word == "undecided" else v.said.replace(v.word, rf"\textbf{{{v.word}}}")
    unit = v.unit if v.unit != results.unit else ""
    effect = "" if v.difference is None else signed(v.difference, unit)
    interval = bracketed(v.ci_holm) if v.ci_holm else ""
    return [escaped(row["arm"]), word + mark, *map(escaped, (effect, interval, holm_p(v))),
            v.counted]


def _letter(number: int) -> str:
    """Return a, b, …, z, aa, ab, … for 0, 1, …"""
    before = _letter(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("a") + number % 26)
