"""
The report's tables: what each arm changes, what was checked, and the data, the code, the machine
and the commands of the runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.records import codefiles
from experiments.records.record import at, moment
from experiments.records.runs import RecordedRun
from experiments.verdicts.results import Results
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import signed

LONG = 30           # a table of more rows is folded
EVIDENCE = (
    "The same differences by other methods. Paired t: the interval without Holm's adjustment. "
    "Bootstrap: the interval from resampled seeds (bias-corrected and accelerated). d_z: the "
    "difference divided by its standard deviation over seeds. p: of the paired t-test; sign-flip: "
    "of the exact test that flips signs; TOST: of the two one-sided tests for equivalence. "
    "Detectable effect: the smallest that so many seeds find with a probability of 80 %. Welch and "
    "Cohen's d take the runs as unpaired.")


# names of what a record keeps of code and environment, where the key is not plain
FACTS = {"version": "ablate", "dirty": "uncommitted changes", "python": "Python", "numpy": "NumPy",
         "torch": "PyTorch", "cpu": "processor", "platform": "system"}
LISTED = 1000       # of more runs, only those that did not end well have a row of their own


@dataclass(frozen=True)
class PageTable:
    """One table. `numeric` columns are aligned right and `code` columns are set as code. A table
    with a `summary`, or of more than LONG rows, is folded and opens at a click."""
    caption: str
    head: list[str]
    rows: list[list[str]]
    numeric: tuple[int, ...] = ()
    code: tuple[int, ...] = ()
    summary: str = ""
    open: bool = False

    @property
    def folded(self) -> bool:
        """Whether the table is folded behind its label."""
        return bool(self.summary) or len(self.rows) > LONG

    @property
    def label(self) -> str:
        """The line that a folded table leaves visible."""
        return self.summary or f"{self.caption} ({len(self.rows)} rows)"


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs and tables."""
    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    blocks: list[PageTable] = field(default_factory=list)


def text(value: Any, form: str = "{}") -> str:
    """Return a value as the text of a cell: an en dash where it is unknown."""
    if value is None or isinstance(value, float) and value != value:
        return "–"
    try:
        return form.format(value).replace("-", "−") if form != "{}" else plain(value)
    except (TypeError, ValueError):
        return plain(value)


def plain(value: Any) -> str:
    """Return a setting or any other value of a record as one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def changes(results: Results) -> PageTable:
    """Return the table of what each arm changes against the baseline."""
    rows = []
    for arm in results.arms:
        found = next((value for run in results.runs_of(arm)
                      if isinstance(value := at(run.record, "changes"), dict)), None)
        if found is None:
            rows.append([arm, "unknown: its runs have no record", "", ""])
        for key, pair in (found or {}).items():
            was, now = pair if isinstance(pair, list) and len(pair) == 2 else (None, pair)
            rows.append([arm, key, *("not set" if value is None else plain(value)
                                     for value in (was, now))])
        if found == {}:
            rows.append([arm, "nothing", "", ""])
    head = ["Arm", "Setting", results.baseline, "This arm"]
    return PageTable("What each arm changes: the settings that differ from the baseline's", head,
                     rows, code=(1, 2, 3), summary="What each arm changes, setting by setting")


def audit(results: Results) -> Section:
    """Return the section with each claim of the audit and the arms for which it holds."""
    arms = {arm: [at(run.record, "audit") for run in results.runs_of(arm)
                  if at(run.record, "audit")]
            for arm in results.arms}
    claims: dict[str, dict[str, str]] = {}
    for arm, found in arms.items():
        for checks in (at(each, "checks") for each in found):
            for claim, seen in (checks.items() if isinstance(checks, dict) else ()):
                claims.setdefault(claim, {})
                if seen is not True or arm not in claims[claim]:
                    claims[claim][arm] = "yes" if seen is True else f"no: {seen}"
    texts = ["Before every training, the audit perturbs inputs and takes gradients to check what "
             "the model really does."]
    if not claims:
        return Section("audit", "Audit", ["No record holds an audit."])
    rows = [[claim, _agreed(seen, len([a for a in arms if arms[a]]))]
            for claim, seen in claims.items()]
    good = sum(row[1].startswith("yes") for row in rows)
    summary = f"{good} of {len(rows)} claims hold for every arm that was checked"
    table = PageTable("What was checked, and for which arms it holds", ["Claim", "Holds"], rows,
                  summary=summary, open=good < len(rows))
    return Section("audit", "Audit", texts, [table])


def _agreed(seen: Mapping[str, str], checked: int) -> str:
    """Return 'yes, in all 7 arms', or the arms in which the claim does not hold."""
    wrong = [f"{arm}: {said}" for arm, said in seen.items() if said != "yes"]
    if wrong:
        return "; ".join(wrong)
    return (f"yes, in all {checked} arms" if len(seen) == checked
            else f"yes, where it applies: {', '.join(seen)}")


def data(results: Results) -> Section:
    """Return the section with where the text came from and how it was split, one table per data
    set."""
    kinds: dict[str, tuple[dict, int]] = {}
    for run in results.runs:
        found = at(run.record, "data")
        if isinstance(found, dict):
            key = str(found.get("hash"))
            kinds[key] = (found, kinds.get(key, (None, 0))[1] + 1)
    blocks = [PageTable(f"Data of {count} runs", ["Fact", "Value"], _facts(found))
              for found, count in kinds.values()]
    return Section("data", "Data", [] if blocks else ["No record says which data was used."],
                   blocks)


def _facts(found: Mapping[str, Any]) -> list[list[str]]:
    return [[key, value] for key, value in flat(found)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield ('split val tokens', '796,621') for every leaf of a nested dict."""
    for key, value in tree.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name} ")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, f"{value:,}"
        elif value not in (None, [], {}):
            yield name, ", ".join(map(plain, value)) if isinstance(value, list) else plain(value)


def _fact(value: Any) -> str:
    """Return a fact about the machine or the code as one line: packages as "torch 2.13, …"."""
    if not isinstance(value, dict):
        return text(value)
    return ", ".join(f"{name} {plain(version)}" for name, version in value.items())


def environment(results: Results) -> Section:
    """Return the section with the machine and the code, and how many runs had each value."""
    rows = []
    for part in ("code", "environment"):
        keys = dict.fromkeys(key for run in results.runs if isinstance(at(run.record, part), dict)
                             for key in run.record[part])
        for key in keys:
            seen = Counter(_fact(at(run.record, part, key))
                           for run in results.runs if at(run.record, part))
            rows.append([FACTS.get(key, key.replace("_", " ")), "; ".join(
                value if len(seen) == 1 else f"{value} ({count} runs)"
                for value, count in seen.most_common())])
    files = Counter(f"{file['name']}, sha256 {file['sha256'][:codefiles.DIGITS]}"
                    for run in results.runs for file in codefiles.named(run.record))
    rows += [["code files", "; ".join(f"{file} ({count} runs)"
                                      for file, count in files.most_common())]] if files else []
    hosts = Counter(plain(host) for run in results.runs
                    if (host := at(run.record, "process", "host")))
    rows += [["hosts", ", ".join(f"{host} ({count} runs)"
                                 for host, count in hosts.most_common())]] if hosts else []
    texts = [] if rows else ["No record says what the runs were made with."]
    return Section("environment", "Environment and code", texts,
                   [PageTable("What the runs were made with", ["Fact", "Value"], rows)] if rows
                   else [])


def runs(results: Results) -> Section:
    """Return the section with every run: how it ended, when, and the command that repeats it. Of
    more than LISTED runs, one that ended well stands for the others of its arm."""
    beside, shown = timing(results).together, list(results.runs)
    if many := len(shown) > LISTED:
        first = {run.arm: run for run in reversed(shown) if run.complete}
        shown = [run for run in shown if not run.complete or first[run.arm] is run]
    rows = [[run.path.stem, run.status, text(run.final(results.metric), "{:.4f}"),
             text(_seconds(run), "{:,.1f}") + (" (busy machine)" if run.path in beside else ""),
             _started(run),
             text(at(run.record, "command")),
             text(at(run.record, "message")) if at(run.record, "message") else ""]
            for run in shown]
    head = ["Run", "Status", results.metric, "Seconds", "Started (UTC)", "Command", "Message"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    texts = ([] if results.foreign
             else ["Each command repeats its run. A finished run is not trained again."])
    texts += [f"Of {len(results.runs):,} runs, the table has those that did not end well, and the "
              f"first of each arm; the arm's other seeds have the same command with another "
              f"--seed."] if many else []
    return Section("runs", "Every run", texts,
                   [PageTable("Runs and the commands that made them", head, rows, numeric=(2, 3),
                          code=(5,), summary=f"{len(rows)} runs and their commands")])


def _started(run: RecordedRun) -> str:
    """Return when a run began, to the minute."""
    start = moment(at(run.record, "start"))
    return f"{start:%Y-%m-%d %H:%M}" if start else text(at(run.record, "start"))


def _seconds(run: RecordedRun) -> float | None:
    """Return the seconds of training, or else the seconds from start to end; None where neither is
    known."""
    if isinstance(seconds := at(run.record, "result", "seconds"), int | float):
        return seconds
    start, end = moment(at(run.record, "start")), moment(at(run.record, "end"))
    return (end - start).total_seconds() if start and end else None


def seeds(results: Results) -> PageTable:
    """Return the table of the values behind the verdicts: one row per arm, one column per seed."""
    columns = sorted({seed for values in results.values.values() for seed in values},
                     key=lambda s: (s is None, s))
    head = ["Arm", *(f"{results.replicates[:-1]} {seed}" if seed is not None else "no seed"
                     for seed in columns)]
    rows = [[arm, *(text(results.values[arm].get(seed), "{:.4f}") for seed in columns)]
            for arm in results.arms]
    return PageTable(f"Final {results.metric} of every run", head, rows,
                 numeric=tuple(range(1, len(head))), summary="The value of every run")


def secondary(results: Results) -> PageTable | None:
    """Return the table of other statistics on the same pairs: unadjusted and bootstrap intervals,
    effect size, sign-flip, TOST and power. None where no verdict has a difference."""
    rows = [[v.arm, _ends(v.ci), _ends(v.ci_bootstrap), text(v.d_z, "{:+.2f}"), text(v.p, "{:.3g}"),
             text(v.p_sign_flip, "{:.3g}"), text(v.p_tost, "{:.3g}"), text(v.mde, "{:.4f}"),
             text(v.seeds_needed), text(v.p_welch, "{:.3g}"), text(v.cohens_d, "{:+.2f}")]
            for v in results.verdicts.values() if v.difference is not None]
    head = ["Arm", "paired t, unadjusted", "bootstrap (BCa)", "d_z", "p", "p sign-flip", "p TOST",
            "detectable effect", "seeds to decide", "p Welch", "Cohen's d"]
    return PageTable(EVIDENCE, head, rows, numeric=tuple(range(1, len(head))),
                     summary="Other intervals, tests and power") if rows else None


def _ends(ci: tuple[float, float] | None) -> str:
    return f"[{signed(ci[0])}, {signed(ci[1])}]" if ci else "–"
