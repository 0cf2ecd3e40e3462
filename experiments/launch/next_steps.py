"""
What to do next with the runs of a study: the page to open, the runs that are left, and the command
for more seeds. Needs neither torch nor pandas.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launch.alive import written_at
from experiments.launch.live import GRAVE, name_of
from experiments.launch.queue import queue_of
from experiments.records.record import near
from mingpt.utils import BadInput, read_json

ROOT = Path(__file__).resolve().parents[2]
AGAIN = ("failed", "unreadable", "killed", "interrupted", "missing")   # what run_all.sh runs again
FEW = 5   # seeds to suggest where the values do not say how many would decide


@dataclass(frozen=True)
class Step:
    """One thing to do, in words, and the command that does it, if there is one."""
    text: str
    command: str | None = None

    def lines(self) -> list[str]:
        """The step as it is printed."""
        return [f"  {self.text}", *([f"    {self.command}"] if self.command else [])]


def next_steps(rows: Sequence[dict[str, Any]], out: Path) -> list[Step]:
    """What to do next with these rows of live.find(out), study by study."""
    found = []
    for name in sorted({row["study"] or "" for row in rows}):
        mine = [row for row in rows if (row["study"] or "") == name]
        found += study_steps(mine, name, out) if name else plain_steps(mine, out)
    return found


def study_steps(rows: Sequence[dict[str, Any]], study: str, out: Path,
                words: Sequence[str] | None = None) -> list[Step]:
    """The steps for one study. `words` are those after run_all.sh that train it; by default the
    words of its newest launch."""
    queue = queue_of(out / "logs" / study)
    words = list(words or queue.words or [study, *(["--out", str(out)] if out != Path() else [])])
    folder = queue.folder or None
    left = Counter(row["status"] for row in rows if row["status"] in AGAIN)
    active = any(row["status"] in ("running", "waiting") for row in rows)
    when = "when the others have ended, this" if active else "this"
    those = "that run" if left.total() == 1 else "those runs"
    steps = [Step(f"{study}: {_listed(left)}; {when} command trains only {those}:",
                  _run_all(words, folder))] if left else []
    if silent := [f"{name_of(row)} ({row['host']}:{row['pid']})" for row in rows
                  if row["status"] == "silent"]:
        steps.append(Step(f"no sign of life of {', '.join(silent)}; end the process, if it is "
                          f"there, before the run is started again"))
    if active:
        where = [] if out == Path() else ["--out", str(out)]
        watch = shlex.join([study, "--watch", *where])
        return [*steps, Step(f"{study} is on its way; to watch it:",
                             f"{_python('lab.py')} status {watch}")]
    verdicts, page = _drawn(out, study, rows)
    if verdicts is None:
        return [*steps, Step(f"{study}: the figures are older than its runs; to draw them:",
                             _run_all([*words, "--plot"], folder))]
    steps.append(Step(f"{study}: the page with everything: {page}"))
    undecided = {arm: v for arm, v in verdicts.items() if v.get("word") == "undecided"}
    if undecided and not left:
        steps.append(_more_seeds(study, undecided, rows, words, folder))
    return steps


def plain_steps(rows: Sequence[dict[str, Any]], out: Path) -> list[Step]:
    """The steps for the runs of no study: the command of each that did not end well, and the
    page."""
    steps = [Step(f"{name_of(row)} {row['status']}; this continues it:", row["command"])
             for row in rows
             if row["status"] in ("failed", "killed", "interrupted") and row.get("command")]
    if not any(row["status"] == "done" for row in rows):
        return steps
    if (out / "visualizations" / "report.html").exists():
        return [*steps, Step(f"the page with everything: {out / 'visualizations' / 'report.html'}")]
    losses = shlex.join([str(out / "losses"), "--html"])
    return [*steps, Step("to draw the runs, with a page:", f"{_python('plotter.py')} {losses}")]


def _listed(counts: Counter) -> str:
    """'1 failed, 2 missing', in the order of GRAVE."""
    return ", ".join(f"{counts[status]} {status}" for status in GRAVE if counts[status])


def _drawn(out: Path, study: str,
           rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any] | None, Path]:
    """(the verdicts that were drawn, the page). None where there are none, or where a run has
    written since."""
    folder = out / "visualizations" / study
    page, table = folder / "report.html", folder / "verdicts.json"
    newest = max((written_at(Path(row["record"])) or 0.0 for row in rows), default=0.0)
    try:
        verdicts = read_json(table)["verdicts"]
        fresh = min(page.stat().st_mtime, table.stat().st_mtime) >= newest
    except (OSError, ValueError, KeyError, TypeError, BadInput):
        return None, page
    return (verdicts if fresh and isinstance(verdicts, dict) else None), page


def _more_seeds(study: str, undecided: dict[str, dict], rows: Sequence[dict[str, Any]],
                words: list[str], folder: str | None) -> Step:
    """Name the undecided arms, and give the command with the fewest seeds that should decide one
    of them."""
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    told = [arm + (f" (about {v['seeds_needed']} seeds would decide)" if v.get("seeds_needed")
                   else "") for arm, v in undecided.items()]
    enough = [v["seeds_needed"] for v in undecided.values()
              if (v.get("seeds_needed") or 0) > len(seeds)]
    wanted = min(enough, default=max(FEW, 2 * len(seeds)))
    fresh = (seed for seed in range(2 * wanted + len(seeds) + 1) if seed not in seeds)
    more = [*seeds, *(next(fresh) for _ in range(wanted - len(seeds)))]
    return Step(f"{study}: undecided: {', '.join(told)}; for {wanted} seeds per arm:",
                _run_all(with_seeds(words, sorted(more)), folder))


def with_seeds(words: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The words of a command with these seeds in the place of its own."""
    words, at = list(words), [i for i, word in enumerate(words) if word == "--seeds"]
    for i in at:
        del words[i:i + 2]
    return [*words, "--seeds", seeds_text(seeds)]


def seeds_text(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 5] as '0-2,5', which parse_seeds reads back."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _run_all(words: Sequence[str], folder: str | None) -> str:
    """The command that runs the study, ready to paste into a shell in this folder."""
    into = "" if folder in (None, str(Path.cwd())) else f"cd {shlex.quote(folder)} && "
    script = ROOT / "run_all.sh"
    start = Path(folder or Path.cwd())
    name = script.relative_to(start) if script.is_relative_to(start) else script
    return f"{into}bash {shlex.join([str(name), *words])}"


def _python(program: str) -> str:
    """The interpreter and one of the project's programs, as short as this folder allows."""
    return shlex.join(str(near(path)) for path in (Path(sys.executable), ROOT / program))
