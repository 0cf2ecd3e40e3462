"""
Compare the verdicts that a study expects of its arms with those that it got, and say in one
sentence whether the hypothesis held.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.records.record import at
from experiments.verdicts.results import Results
from experiments.verdicts.verdict import NOT_COMPARABLE, listed

NOT = "not "


def held(results: Results) -> str:
    """Return one sentence that says whether the study's hypothesis held; empty where no hypothesis
    is declared.

    A hypothesis in words cannot be checked by a program. So the sentence rests on the verdicts that
    the study's file expects under `expect`, and it says so where there are none.
    """
    study = results.declared
    if not study or not (study.hypothesis or study.expect):
        return ""
    if not study.expect:
        return ("Whether it held is not decided here: the study file names no expected verdicts "
                "(expect = {…}), so compare it with the verdicts.")
    if not results.verdicts:
        return "Whether it held is open: there are no verdicts."
    states = {arm: state(word, results.verdicts[arm].word if arm in results.verdicts else "")
              for arm, word in study.expect.items()}
    met, refuted, unknown = ([arm for arm in states if states[arm] == each]
                             for each in ("met", "refuted", "open"))
    parts = [f"{arm} is {results.verdicts[arm].word} (expected: {study.expect[arm]})"
             for arm in refuted]
    parts += _undecided(results, unknown)
    parts += [f"{listed(met)} {'is' if len(met) == 1 else 'are'} as expected"] if met else []
    verdict = "It did not hold" if refuted else "It is open" if unknown else "It held"
    return f"{verdict}: {'; '.join(parts)}.{_late(results)}"


def state(expected: str, word: str) -> str:
    """Return "met", "refuted" or "open" for an expected word, such as "better" or "not worse", and
    the word that the arm got."""
    if word in ("", "undecided", NOT_COMPARABLE):
        return "open"
    met = word != expected.removeprefix(NOT) if expected.startswith(NOT) else word == expected
    return "met" if met else "refuted"


def _undecided(results: Results, arms: Iterable[str]) -> list[str]:
    """Return one part per reason why nothing can be said about these arms."""
    words: dict[str, list[str]] = {}
    for arm in arms:
        word = results.verdicts[arm].word if arm in results.verdicts else "without a verdict"
        words.setdefault(word, []).append(arm)
    return [f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}"
            for word, names in words.items()]


def _late(results: Results) -> str:
    """Return a remark where the expected verdicts were written after runs had begun."""
    declared = [found for run in results.runs
                if isinstance(found := at(run.record, "declaration"), dict)]
    late = any("expect" not in each for each in declared)
    return (" (These expected verdicts were added to the study file after its first run.)" if late
            else "")
