"""
A study: a question, declared before the first run, with its arms. README.md beside this describes the file.

    study = load_study("seven")          # a shipped one, or a path to a TOML file
    study.arms["rope"]                   # {"model.position": "rope"}
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.arms import Arm, catalogue, combine, flatten, make_arm, names_list, read_toml
from mingpt.utils import BadInput, did_you_mean

__all__ = ["Arm", "Study", "catalogue", "combine", "load_study", "parse_seeds", "shipped"]

STUDIES = Path(__file__).with_name("studies")
KEYS = ("name", "question", "hypothesis", "baseline", "seeds", "metric", "margin", "alpha", "preset", "base", "arms",
        "factorial")
DEFAULT_MARGIN = 0.01    # in the metric's unit: two arms this close are as good as the same
DEFAULT_ALPHA = 0.05
METRICS = ("val_loss", "bits_per_byte", "perplexity")   # keys of a record's result; lower is better in each


@dataclass(frozen=True)
class Study:
    """A declared study. `arms` maps a name to what that arm changes, flat; `base` is what all of them change."""
    name: str
    path: Path
    hash: str                 # of the file: tells whether a hypothesis was changed after the first run
    question: str
    hypothesis: str
    baseline: str
    seeds: list[int]
    metric: str
    margin: float             # two arms this close (in the metric's unit) are as good as the same
    alpha: float
    preset: str | None
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]


def shipped() -> dict[str, Path]:
    """The studies that come with the project, by name."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.toml"))}


def load_study(name_or_path: str | Path) -> Study:
    """Read and check a study: one of the shipped ones by name, or any TOML file by its path."""
    path = find_study(name_or_path)
    table = read_toml(path)
    for key in table:
        if key not in KEYS:
            raise BadInput(f"{path}: unknown key {key!r}{did_you_mean(key, KEYS)}")
    baseline = _checked(table, "baseline", "baseline", str, path)
    arms = _arms(table, baseline, path)
    margin = _checked(table, "margin", DEFAULT_MARGIN, (int, float), path)
    alpha = _checked(table, "alpha", DEFAULT_ALPHA, (int, float), path)
    if margin <= 0 or not 0 < alpha < 0.5:
        raise BadInput(f"{path}: margin must be above 0 and alpha between 0 and 0.5, not {margin} and {alpha}")
    metric = _checked(table, "metric", "val_loss", str, path)
    if metric not in METRICS:
        raise BadInput(f"{path}: metric: no metric {metric!r}{did_you_mean(metric, METRICS)}")
    return Study(
        name=_name(_checked(table, "name", path.stem, str, path), path), path=path,
        hash=hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        question=_checked(table, "question", "", str, path), hypothesis=_checked(table, "hypothesis", "", str, path),
        baseline=baseline, seeds=_seeds(table.get("seeds", [0, 1, 2]), f"{path}: seeds"), metric=metric,
        margin=float(margin), alpha=float(alpha), preset=_checked(table, "preset", None, str, path),
        base=flatten(_checked(table, "base", {}, Mapping, path), f"{path}: [base]"), arms=arms)


def find_study(name_or_path: str | Path) -> Path:
    """The file of a study. A bare name is a shipped one's; what ends in .toml or exists is a path."""
    known, path = shipped(), Path(name_or_path).expanduser()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if path.is_file():
        return path.resolve()
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise BadInput(f"no study file {str(name_or_path)!r}; shipped studies: {', '.join(known)}")
    raise BadInput(f"no study {str(name_or_path)!r}{did_you_mean(str(name_or_path), known)}"
                   f" (shipped: {', '.join(known)}; or a path to a .toml file)")


def parse_seeds(text: str) -> list[int]:
    """'0-4' → [0, 1, 2, 3, 4]; '0,3,5-6' → [0, 3, 5, 6]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BadInput(f"seeds: {text!r} is no list of seeds; write 0-4 or 0,2,5")
        if dash and int(last) < int(first):
            raise BadInput(f"seeds: {part.strip()} runs backwards; write {last}-{first}")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def _seeds(value: Any, where: str) -> list[int]:
    if isinstance(value, str):
        return parse_seeds(value)
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0 for v in value):
        raise BadInput(f"{where} is a list of whole numbers from 0, or \"0-4\", not {value!r}")
    if len(set(value)) < len(value):
        raise BadInput(f"{where}: {value} names a seed twice; a repeated seed is the same run, not another")
    return value


def _name(name: str, path: Path) -> str:
    """A study names folders."""
    if not name.strip() or name.startswith(".") or set(name) & set("/\\\n\t\0"):
        raise BadInput(f"{path}: name: {name!r} cannot name a folder")
    return name


def _checked(table: Mapping[str, Any], key: str, default: Any, kind: type | tuple[type, ...], path: Path) -> Any:
    """The value of a key, or its default; BadInput when it is of another kind."""
    if key not in table:
        return default
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a text", Mapping: "a table"}.get(kind, "a number")
        raise BadInput(f"{path}: {key} is {wanted}, not {value!r}")
    return value


def _arms(table: Mapping[str, Any], baseline: str, path: Path) -> dict[str, dict[str, Any]]:
    """The study's arms, in the order of the file; the baseline first when the file leaves it to the catalogue."""
    known: dict[str, Arm] = dict(catalogue())
    listed: list[str] = []
    for name, arm_table in _checked(table, "arms", {}, Mapping, path).items():
        where = f"{path}: [arms.{name}]"
        if isinstance(arm_table, Mapping) and "factorial" in arm_table:
            if len(arm_table) > 1:
                raise BadInput(f"{where}: factorial stands alone; what all its arms share belongs in [base]")
            listed += _factorial(arm_table["factorial"], known, where)
        elif arm_table == {} and name in known:
            listed.append(name)
        elif arm_table == {}:
            raise BadInput(f"{where} changes nothing, and no arm of that name is known{did_you_mean(name, known)}")
        else:
            known[name] = make_arm(name, arm_table, known, where)
            listed.append(name)
    listed += _factorial(table["factorial"], known, f"{path}") if "factorial" in table else []
    if not listed:
        raise BadInput(f"{path}: declares no arms; add [arms.NAME] tables, or factorial = [...]")
    if baseline not in listed:
        if baseline not in catalogue():
            raise BadInput(f"{path}: baseline: no arm {baseline!r}{did_you_mean(baseline, listed)}")
        listed.insert(0, baseline)
    return {name: dict(known[name].settings) for name in listed}


def _factorial(factors: Any, known: dict[str, Arm], where: str) -> list[str]:
    """The names of every combination of the factors, which are added to `known`.

    A factor is an arm (without, with), or a list of arms of which at most one applies (without, first, second, …).
    """
    if not isinstance(factors, list) or not factors:
        raise BadInput(f"{where}: factorial is a list of arms' names, not {factors!r}")
    levels = [[None, *names_list(factor, f"{where}: factorial")] for factor in factors]
    names: list[str] = []
    for cell in itertools.product(*levels):
        try:
            name, settings = combine([level for level in cell if level], known)
        except BadInput as error:
            raise BadInput(f"{where}: factorial: {error}") from None
        if known.get(name, Arm(name, settings)).settings != settings:
            raise BadInput(f"{where}: factorial: {name!r} is also the name of an arm that changes something else")
        known.setdefault(name, Arm(name, settings, settings))
        names.append(name)
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise BadInput(f"{where}: factorial: two combinations are the same arm {twice!r}, as one factor includes"
                       " another; list them as the levels of one factor: [[...]]")
    return names
