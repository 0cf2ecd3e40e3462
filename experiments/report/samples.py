"""
The text that each arm writes at the end of its training, for the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.records.record import at
from experiments.verdicts.results import Results

HOW = ("prompt", "tokens", "temperature", "top_k")     # what samples must share to compare


@dataclass(frozen=True)
class Sample:
    """One arm's sample. `text` is empty where its record holds none; `note` says what is
    different."""
    arm: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """The samples of all arms, and one sentence on how they were drawn."""
    how: str
    samples: list[Sample]


def samples(results: Results, arms: Sequence[str]) -> Samples:
    """Return one sample for each of these arms, all of the seed that most arms have, so that prompt
    and seed are the same."""
    found = {(run.arm, run.seed): sample for run in results.runs
             if isinstance(sample := at(run.record, "sample"), dict)
             and isinstance(sample.get("text"), str)}
    if not found and results.foreign:
        return Samples("These logs hold no text.", [])
    if not found:
        return Samples("No record holds a sample of text: the runs were made before samples were "
                       "kept, or have not finished. python lab.py sample RUN draws one from a "
                       "checkpoint.", [])
    counts = Counter(seed for _, seed in found)
    seed = min(counts, key=lambda each: (-counts[each], each is None, each or 0))
    first = next(sample for (_, each), sample in found.items() if each == seed)
    return Samples(f"Every arm continues the same prompt with the weights of seed {seed}: "
                   f"{_how(first)}.",
                   [_sample(arm, found.get((arm, seed)), first) for arm in arms])


def _sample(arm: str, sample: dict[str, Any] | None, first: dict[str, Any]) -> Sample:
    if sample is None:
        return Sample(arm, "", "Its record holds no sample.")
    same = all(sample.get(key) == first.get(key) for key in HOW)
    return Sample(arm, shown(sample["text"]).strip("\n"),
                  "" if same else f"Drawn otherwise: {_how(sample)}.")


def _how(sample: dict[str, Any]) -> str:
    parts = {"prompt": f"prompt {sample.get('prompt')!r}",
             "tokens": f"{sample.get('tokens')} tokens",
             "temperature": f"temperature {sample.get('temperature')}",
             "top_k": f"from the {sample.get('top_k')} likeliest"}
    return ", ".join(text for key, text in parts.items() if sample.get(key) is not None)


def shown(text: str) -> str:
    """Return a text with every character that cannot be seen, line ends aside, as U+FFFD."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
