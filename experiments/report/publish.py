"""
Publish results: copy the records without the names and paths of the machine, and fill in the tables
that a Markdown page shows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.records.record import at, write_record
from experiments.records.runs import RecordedRun
from experiments.verdicts.climbed import LadderResults, ladder_notes, ladder_table, ladders
from experiments.verdicts.results import Results
from experiments.verdicts.study_runs import ENDED
from experiments.verdicts.summary import between_markers, bullets, table
from experiments.verdicts.verdict import WORDS
from mingpt.utils import BadInput, did_you_mean, write_atomic

MARKER = re.compile(r"<!-- (table|notes|answers): (.+?) -->")
# The start of an absolute path. A schedule (`128/32`, `f 256/4 f`), a study's name (`a/b`) and a
# URL do not match ROOT.
ROOT = r"(?:(?:file://)?/|~(?:[A-Za-z_][\w.-]*)?/|[A-Za-z]:[/\\]|\\\\)(?=[^\s/\\])"
# One part of a path inside a sentence. It may contain spaces.
PIECE = r"[^\s/\\\"':](?:[^\n/\\\"':]*[^\s/\\\"':])?"
# The folders of a text that starts with a path, and the folders of paths inside a text.
WHOLE = re.compile(rf"\A\s*{ROOT}(?:[^\n/\\]*[/\\])*")
WITHIN = re.compile("|".join((rf'(?<="){ROOT}(?:[^\n"/\\]+[/\\])*',
                              rf"(?<='){ROOT}(?:[^\n'/\\]+[/\\])*",
                              rf"(?<![^\s=([{{,;:|<>]){ROOT}(?:{PIECE}[/\\])*")))
PARTS = {"table": table, "notes": bullets}
ANSWERS = ("answers", "all")     # the marker of one table of all studies
OF_LADDERS = {"table": ladder_table, "notes": ladder_notes}


def keep(runs: Iterable[RecordedRun], folder: Path) -> int:
    """Copy the record of every run that is over, and its CSV where it has one, to FOLDER/STUDY.
    Return how many were copied.

    The copies name no hosts and no folders. Raises BadInput where FOLDER is the folder of the runs
    or cannot be written.
    """
    count, hosts = 0, {}
    for run in runs:
        if run.record is None or run.status not in ENDED:
            continue
        place = folder / run.study if run.study else folder
        if place.resolve() == run.path.parent.resolve():
            raise BadInput(f"--keep {folder}: {run.path.parent} is where the runs are; give "
                           f"another folder")
        try:
            rows = run.path.read_bytes() if run.path.exists() else None
            if rows is not None:
                write_atomic(place / run.path.name, rows)
            write_record(place / f"{run.path.stem}.json", public(run.record, hosts))
        except OSError as error:
            raise BadInput(
                f"--keep: cannot copy {run.path} to {place}: {error.strerror or error}"
            ) from None
        count += 1
    return count


def public(record: dict[str, Any], hosts: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a record as it may be published: a path becomes its last part, and a host becomes a
    number. `hosts` holds the numbers given so far, so that runs which shared a machine can still be
    recognised (their timings are unreliable)."""
    shown = folderless(record)
    host = at(record, "process", "host")
    shown["process"] = {"host": _alias(host, {} if hosts is None else hosts), "pid": None}
    for section in (shown.get("data"), at(shown, "config", "data")):
        if isinstance(section, dict):
            _bare(section)
    if isinstance(first := at(shown, "data", "sources", "first"), str):
        shown["data"]["sources"]["first"] = Path(first).name
    shown["command"] = _command(record)
    for file, own in zip(at(shown, "code_files") or [], at(record, "code_files") or [],
                         strict=True):
        if at(file, "text") != at(own, "text"):
            file["text"] = None      # without its folders the text would not have its hash
    return shown


def _alias(host: Any, hosts: dict[str, str]) -> str | None:
    """Return 'machine 1' for the first host, 'machine 2' for the next, and so on."""
    return hosts.setdefault(host, f"machine {len(hosts) + 1}") if isinstance(host, str) else None


def _last_part(path: str) -> str:
    """The last part of a path, after the source's name where it has one: web=a/b.txt → web=b.txt.
    """
    name, equals, rest = path.rpartition("=") if "=" in path.partition("/")[0] else ("", "", path)
    return f"{name}{equals}{Path(rest).name}"


def _bare(section: dict[str, Any]) -> None:
    """Strip the folders from a data section in place, including relative ones."""
    for key in ("paths", "sources", "val_paths"):
        if isinstance(paths := section.get(key), list):
            section[key] = [_last_part(path) if isinstance(path, str) else path for path in paths]
    if section.get("cache"):
        section["cache"] = None


def folderless(value: Any) -> Any:
    """Return the value with every absolute path in its texts and keys cut down to its last part."""
    if isinstance(value, dict):
        return {folderless(key): folderless(each) for key, each in value.items()}
    if isinstance(value, list):
        return [folderless(each) for each in value]
    return WITHIN.sub(_last, WHOLE.sub(_last, value)) if isinstance(value, str) else value


def _last(folders: re.Match[str]) -> str:
    """Return what remains of a path's folders: nothing, or the last one where the path ends with
    it."""
    after = folders.string[folders.end():folders.end() + 1]
    return "" if after.strip(" \n\"'") else re.split(r"[/\\]", folders[0][:-1])[-1]


def _command(record: dict[str, Any]) -> str:
    """Return the command that trains this run again in any clone: the recorded command without its
    folders. '' where the recorded command cannot be read."""
    kept, option, words = [], "", iter(_words(record.get("command")))
    for word in words:
        if not word.startswith("-"):
            kept.append(_place(option, word))
            continue
        option, equals, value = word.partition("=")
        if option not in ("--out", "--study"):
            kept.append(option + equals + _place(option, value))
            continue
        if not equals:
            next(words, None)
        if option == "--study" and isinstance(record.get("study"), str):
            kept += [option, record["study"]]
    return shlex.join(kept)


def _place(option: str, text: str) -> str:
    """Return a word of a command without its folders. Relative folders are recognised only before
    the options and after --data and --code."""
    named = option in ("", "--data", "--code") and "/" in text
    return Path(text).name if named else folderless(text)


def _words(command: Any) -> list[str]:
    try:
        return shlex.split(command) if isinstance(command, str) else []
    except ValueError:     # a quote is never closed
        return []


def fill(page: Path, studies: Iterable[Results]) -> list[str]:
    """Fill in the tables and notes at a page's markers, such as `<!-- table: STUDY -->`. Return
    what was filled, such as "table seven". Raises BadInput where the page cannot be read or
    written."""
    try:
        text = page.read_text(encoding="utf-8")
        new = filled(text, studies, str(page))
        if new != text:
            write_atomic(page, new)
    except OSError as error:
        raise BadInput(f"--tables: {page}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"--tables: {page}: not UTF-8 text (byte {error.start})") from None
    return [" ".join(found) for found in MARKER.findall(text)]


def filled(text: str, studies: Iterable[Results], where: str) -> str:
    """Return the page's text with every table made anew from the records. Raises BadInput where a
    marker names a study without runs."""
    studies = list(studies)
    climbed = ladders(studies)
    known = {each.name: each for each in (*studies, *climbed)}
    for part, name in MARKER.findall(text):
        if (part, name) == ANSWERS:
            text = between_markers(text, ": ".join(ANSWERS), answers(studies, climbed), where)
            continue
        if name not in known:
            raise BadInput(f"{where}: no runs of the study "
                           f"{name!r}{did_you_mean(name, filter(None, known))}")
        parts = OF_LADDERS if isinstance(known[name], LadderResults) else PARTS
        text = between_markers(text, f"{part}: {name}", parts[part](known[name]), where)
    return text


def answers(studies: Iterable[Results], climbed: Iterable[LadderResults]) -> str:
    """Return one Markdown table of all studies: what each asked, every arm's verdict, and what a
    ladder says of arms of the same name. The rungs of ladders are in no row of their own."""
    lines = ["| study | asked | verdicts | parameters | seeds | over a ladder |",
             "|---|---|---|--:|--:|---|"]
    over = {arm: f"{arm} {each.word}" for ladder in climbed
            for arm, each in ladder.arms.items()}
    for results in studies:
        if results.name is None or (results.declared and results.declared.place):
            continue
        groups: dict[str, list[str]] = {}
        for arm, verdict in results.verdicts.items():
            groups.setdefault(verdict.word, []).append(arm)
        said = "; ".join(f"**{word}**: {', '.join(groups[word])}" for word in WORDS
                         if word in groups)
        sizes = [n for run in results.runs_of(results.baseline)
                 if isinstance(n := at(run.record, "model", "parameters"), int)]
        seeds = max((verdict.n for verdict in results.verdicts.values()), default=0)
        held = ", ".join(over[arm] for arm in results.verdicts if arm in over)
        lines.append(f"| `{results.name}` | {results.title} | {said} | "
                     f"{f'{sizes[0]:,}' if sizes else '–'} | {seeds} | {held or '–'} |")
    return "\n".join(lines)
