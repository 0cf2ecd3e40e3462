"""
The answer of a study in one sentence, and the caption of the picture of its verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from statistics import fmean, stdev

from experiments.verdicts.caveats import caveats
from experiments.verdicts.results import Results
from experiments.verdicts.verdict import NOT_COMPARABLE, Verdict, listed

NAMED = 8         # a longer group of arms is counted instead of named
FEW = 3           # the same for the arms with a caution


def caption(results: Results, equivalent: bool, scale: str = "") -> str:
    """Return what the dots and bars of the picture are, and what their places mean. `scale` says
    how the scale runs where it is not linear."""
    values = [v for v in results.values.get(results.baseline, {}).values() if isfinite(v)]
    spread = (f" on average over {len(values)} {results.replicates}, with a standard deviation of "
              f"{stdev(values):.4f}" if len(values) > 1 else ", one run" if values else "")
    mean = f" ({fmean(values):.4f}{spread})" if values else f" (no final {results.metric})"
    tested = sum(v.p is not None for v in results.verdicts.values())
    widened = f", widened because {tested} arms are judged together (Holm)" if tested > 1 else ""
    text = (f"Dot: the arm's {results.metric} minus that of {results.baseline}{mean}, averaged "
            f"over {results.replicates}, in {results.unit}. Left of zero is better. Bar: the "
            f"{100 * (1 - results.alpha):.3g} % confidence interval of this difference{widened}. "
            f"A bar that does not reach zero "
            f"means better or worse. Grey: the margin of ±{results.margin:g}, within which a "
            f"difference does not matter." + f" The scale is {scale}." * bool(scale))
    return text + (f" The thick part of a bar is the {100 * (1 - 2 * results.alpha):.3g} % "
                   f"interval of an equivalent arm: it lies inside the margin." if equivalent
                   else "")


def lead(results: Results) -> str:
    """Return the answer in one sentence: the arms by verdict."""
    if not results.verdicts:
        absent = results.baseline not in results.arms
        return f"No verdicts: {'no run' if absent else 'only runs'} of the baseline " + (
            "is here." if absent else "are here.")
    told = "; ".join(_by_word(list(results.verdicts.values())))
    tuned = ([arm.verdict for arm in results.sensitivity.arms if arm.verdict]
             if results.sensitivity else [])
    own = f"; at every arm's own best learning rate, {'; '.join(_by_word(tuned))}" if tuned else ""
    return f"Compared with {results.baseline}, {told}{own}."


def care(results: Results, grave: Iterable[str]) -> list[str]:
    """Return what weakens the answer, for the line below it: the titles of grave notices, and the
    cautions of single arms. Cautions of many arms are counted."""
    known = caveats(results).arms
    weak = [f"{arm}: {', '.join(texts)}" for arm, texts in known.items() if texts]
    if len(weak) > FEW:
        weak = [f"a caution stands beside {len(weak)} of {len(results.verdicts)} verdicts"]
    return [*grave, *weak]


def _by_word(verdicts: list[Verdict]) -> list[str]:
    """Return the arms grouped by word: ["a and b are better", "c is undecided"]. Of many arms in
    one group, those with the largest difference are named."""
    words = ("better", "worse", "equivalent", "undecided", NOT_COMPARABLE)
    groups = {word: [v for v in verdicts if v.word == word] for word in words}
    return [_group(word, found) for word, found in groups.items() if found]


def _group(word: str, found: list[Verdict]) -> str:
    if len(found) <= NAMED:
        return f"{listed([v.arm for v in found])} {'is' if len(found) == 1 else 'are'} {word}"
    if word not in ("better", "worse"):
        return f"{len(found)} arms are {word}"
    most = sorted(found, key=lambda v: -abs(v.difference or 0.0))[:3]
    return f"{len(found)} arms are {word}, {listed([v.arm for v in most])} the most"
