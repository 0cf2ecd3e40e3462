"""
Group logs into arms and find their seeds, from the names of files, folders and runs.

    baseline/seed_0/log.txt   rope.s1.txt   rope_seed=1/main.log   20260430_muonh__e69fd378-….txt

A seed is a number that the name calls one (`s1`, `seed_1`), or else one that the log or a
configuration beside it names. A bare number at the end only counts runs, and only where such
numbers follow each other from 0 or 1: `window_128` and `window_256` are two arms.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from experiments.records.foreign.log import Log, printable
from experiments.records.record import MAX_SEED
from mingpt.utils import BadInput, did_you_mean

SUFFIX = re.compile(r"\.(?:txt|log|csv|tsv|jsonl?|out|err|wandb)$", re.IGNORECASE)
SEED = re.compile(r"(?:^|[._\-\s])(?:(?:random_?)?seed[=_\-]?|s=?)(\d{1,19})(?=$|[._\-\s])", re.I)
UUID = re.compile(r"[._\-]*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.I)
# No count: the end of a decimal (0.1) or of an exponent (1e-3).
COUNT = re.compile(r"(?:^|(?<!\d)\.|(?<!\de)[_\-\s])"
                   r"(?:run|rep|repeat|trial|version)?[._\-\s#]?(\d{1,4})$|"
                   r"\s?\((\d{1,4})\)$", re.I)
# Names that many runs share, so that the folder names the run.
GENERIC = re.compile(r"(?:logs?|main|metrics(?:\.\w{1,20})?|trainer_state|train(?:ing)?|stdout|"
                     r"output|results?|history|console|wandb|events\.out\..*|tensorboard|tb|"
                     r"lightning_logs|csv_logs|checkpoint-\d+|slurm-\d+|files|losses|"
                     r"(?:offline-)?run-\d{8}_\d{6}-\w+|run-\w{8})$", re.I)
BESIDE = ("config.yaml", "config.yml", "hparams.yaml", "hyperparameters.yaml", "config.json",
          "args.json", "params.json")
SEED_LINE = re.compile(r'^[ \t"]{0,20}(?:random_|manual_)?seed"?\s?[:=]\s?"?(\d{1,19})"?,?\s*$',
                       re.MULTILINE)
LONGEST = 60


@dataclass(frozen=True, eq=False)     # a run is itself: tables have no one equality
class Placed:
    """A log with its arm. `seed` is None where none is known; `label` is its place below the path
    that was given."""
    log: Log
    label: str
    arm: str
    seed: int | None


@dataclass(frozen=True)
class _Name:
    folders: tuple[str, ...]
    stem: str                  # of the arm, without the seed; empty where nothing is left
    seed: int | None
    anonymous: bool            # a UUID named the run


def group(logs: Sequence[Log], paths: Sequence[Path],
          arms: Mapping[str, str] | None = None) -> tuple[list[Placed], list[str]]:
    """Return (the logs with their arms and seeds, one line per log that no `arms` takes). `arms`
    maps the name of an arm to a glob over labels. Raises BadInput where a glob takes nothing."""
    logs = _last_checkpoints(logs)
    labels = [_label(log, paths) for log in logs]
    names = [_parse(log, label) for log, label in zip(logs, labels, strict=True)]
    if arms:
        return _by_globs(logs, labels, names, arms)
    names = _without_counts(names)
    if len({(n.folders, n.stem) for n in names}) == len(names) > 2:
        names = _by_folder(names)
    named = _arm_names(names, logs, paths)
    return [Placed(log, label, arm, _seed(log, name)) for log, label, name, arm
            in zip(logs, labels, names, named, strict=True)], []


def _last_checkpoints(logs: Sequence[Log]) -> list[Log]:
    """Return the logs without those of earlier checkpoints of the same run: each checkpoint of
    Hugging Face's Trainer holds the whole history up to it."""
    last: dict[Path, Log] = {}
    for log in logs:
        folder = log.path.parent
        if re.fullmatch(r"checkpoint-\d{1,12}", folder.name):
            folder = folder.parent
        elif log.path.name != "trainer_state.json":
            continue
        if folder not in last or len(log.table) > len(last[folder].table):
            last[folder] = log
    kept = {id(log) for log in last.values()}
    return [log for log in logs if id(log) in kept or log.path.name != "trainer_state.json"]


def _label(log: Log, paths: Sequence[Path]) -> str:
    """Return the log's place below the path that was given; with several paths, below the folders
    above them."""
    root = next((path for path in paths if path == log.path or path in log.path.parents), log.path)
    base = root.parent if len(paths) > 1 or root == log.path else root
    place = log.path.relative_to(base).as_posix()
    inner = f"/{log.inner}" if log.inner and not log.inner.startswith("#") else log.inner
    return printable(place + inner)


def _parse(log: Log, label: str) -> _Name:
    """Return what the name of a log says, from its last part upwards."""
    if log.inner and not log.inner.startswith("#"):
        parts = [log.inner]
    else:
        parts = label.removesuffix(log.inner).split("/") if log.inner else label.split("/")
        parts[-1] = SUFFIX.sub("", parts[-1])
    seed, anonymous = None, False
    while parts:
        last = parts.pop()
        # the last one, or one spelled out: moe_s4_s0 is seed 0 of moe_s4
        if seeds := list(SEED.finditer(last)):
            found = next((each for each in seeds if "seed" in each[0].lower()), seeds[-1])
            seed = int(found[1]) if seed is None else seed
            last = (last[:found.start()] + last[found.end():]).strip("._- ")
        if UUID.search(last):
            anonymous, last = True, UUID.sub("", last)
        if last and not GENERIC.fullmatch(last):
            folders = tuple(part for part in parts if not GENERIC.fullmatch(part))
            for part in reversed(folders if seed is None else ()):     # seed_0/rope.txt
                if found := SEED.fullmatch(part):
                    seed = int(found[1])
                    folders = tuple(each for each in folders if each != part)
                    break
            return _Name(folders, last, seed, anonymous)
    return _Name((), "", seed, anonymous)


def _without_counts(names: list[_Name]) -> list[_Name]:
    """Return the names without the bare numbers at their ends, where these count runs."""
    numbers: dict[tuple, set[int]] = defaultdict(set)
    found = {}
    for place, name in enumerate(names):
        if name.seed is None and (match := COUNT.search(name.stem)):
            rest = name.stem[:match.start()].strip("._- ")
            found[place] = name.folders, rest
            numbers[found[place]].add(int(match[1] or match[2]))
    short = {key for key, some in numbers.items() if len(some) > 1 and min(some) < 2
             and max(some) - min(some) == len(some) - 1}
    return [_shorter(name, *found[place]) if found.get(place) in short else name
            for place, name in enumerate(names)]


def _shorter(name: _Name, folders: tuple[str, ...], rest: str) -> _Name:
    """Return the name with `rest` as its stem, or the folder's name where nothing is left."""
    if rest or not folders:
        return replace(name, stem=rest)
    return replace(name, folders=folders[:-1], stem=folders[-1])


def _by_folder(names: list[_Name]) -> list[_Name]:
    """Return the names with one arm per folder, where there are several folders with several runs;
    else as they are."""
    runs: dict[tuple[str, ...], int] = defaultdict(int)
    for name in names:
        runs[name.folders] += 1
    if len(runs) < 2 or min(runs.values()) < 2 or () in runs:
        return names
    return [replace(name, folders=name.folders[:-1], stem=name.folders[-1]) for name in names]


def _arm_names(names: list[_Name], logs: Sequence[Log], paths: Sequence[Path]) -> list[str]:
    """Return the arms' names: the folders in which they differ, and the stem where stems differ or
    where nothing else is there. Runs that only a UUID names belong to the folder's arm, unless a
    file holds several runs."""
    several = any(log.inner.startswith("#") for log, name in zip(logs, names, strict=True)
                  if not name.stem)
    bare = []
    for log, name in zip(logs, names, strict=True):
        root = next((path for path in paths if path in log.path.parents), log.path.parent)
        own = SUFFIX.sub("", log.path.name)
        bare.append(name.stem or (own.split("-")[0] if several or root == Path() else
                                  log.path.parent.name if name.anonymous else
                                  root.resolve().name))
    folders = [name.folders for name in names]
    shared = 0
    while folders and all(len(f) > shared for f in folders) and len(
            {f[shared] for f in folders}) == 1:
        shared += 1
    whole = [(*f[shared:], stem) for f, stem in zip(folders, bare, strict=True)]
    if len(set(bare)) == 1 and all(len(each) > 1 for each in whole):
        whole = [each[:-1] for each in whole]
    return _safe(["_".join(each) for each in whole])


def _safe(names: list[str]) -> list[str]:
    """Return the names with nothing that could leave a folder or a line of the terminal, and short;
    different names stay different."""
    given: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = re.sub(r"[^\w.+=,@ \-]", "_", name)[:LONGEST].strip(" ._") or "run"
        free = short
        count = 2
        while free in given.values():
            free, count = f"{short}~{count}", count + 1
        given[name] = free
    return [given[name] for name in names]


def _by_globs(logs: Sequence[Log], labels: list[str], names: list[_Name],
              arms: Mapping[str, str]) -> tuple[list[Placed], list[str]]:
    placed, rest, used = [], [], set()
    for log, label, name in zip(logs, labels, names, strict=True):
        arm = next((arm for arm, glob in arms.items() if fnmatchcase(label, glob)
                    or fnmatchcase(label.rpartition("/")[2], glob)), None)
        if arm is None:
            rest.append(label)
        else:
            used.add(arm)
            placed.append(Placed(log, label, arm, _seed(log, name)))
    for arm, glob in arms.items():
        if arm not in used:
            raise BadInput(f"--arm {arm}={glob}: it takes no run"
                           + (f"{did_you_mean(glob, labels[:200])}" if rest else
                              "; an arm before it takes them all"))
    safe = dict(zip(arms, _safe(list(arms)), strict=True))
    return [replace(each, arm=safe[each.arm]) for each in placed], rest


def _seed(log: Log, name: _Name) -> int | None:
    """Return the seed of a run: from its name, its log, or a configuration beside it."""
    for seed in (name.seed, log.seed, None if log.inner else _seed_beside(log.path.parent)):
        if seed is not None and seed <= MAX_SEED:
            return seed
    return None


def _seed_beside(folder: Path) -> int | None:
    """Return the one seed that the configuration files of a folder name; None where they name none
    or several."""
    seeds: set[int] = set()
    for name in BESIDE:
        path = folder / name
        if path.is_file() and path.stat().st_size < 1 << 20:
            text = path.read_text(encoding="utf-8", errors="replace")
            seeds |= {int(seed) for seed in SEED_LINE.findall(text)}
    return next(iter(seeds)) if len(seeds) == 1 else None
