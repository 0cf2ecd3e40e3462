"""
Read the verdicts that a study expects of its arms: its hypothesis in words that a program can
check.

    expect = {rope = "better", rmsnorm = "not better"}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mingpt.utils import BadInput, did_you_mean

WORDS = ("better", "worse", "equivalent", "not better", "not worse")


def read_expect(value: Any, arms: Iterable[str], baseline: str, where: str) -> dict[str, str]:
    """Return arm → the expected word. Raises BadInput for an arm that the study does not judge and
    for a word that no verdict can have."""
    if not isinstance(value, dict):
        raise BadInput(f'{where} is a table such as {{rope = "better"}}, not {value!r}')
    judged = [arm for arm in arms if arm != baseline]
    for arm, word in value.items():
        if arm not in judged:
            raise BadInput(f"{where}: no arm {arm!r} to judge{did_you_mean(arm, judged)}")
        if word not in WORDS:
            hint = did_you_mean(word, WORDS) if isinstance(word, str) else ""
            raise BadInput(f"{where}: {arm}: {word!r} is none of {', '.join(WORDS)}{hint}")
    return dict(value)
