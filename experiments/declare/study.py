"""
A study: a question that is declared before the first run, with its arms. experiments/README.md
describes the file.

    study = load_study("seven")          # a shipped one, or a path to a TOML file
    study.arms["rope"]                   # {"model.position": "rope"}
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.declare.arms import flatten, names_list, read_toml
from experiments.declare.designs import Arms, Design, match_word, read_arms
from experiments.declare.expect import read_expect
from experiments.declare.hints import key_hint
from experiments.declare.ladder import Ladder, Place, read_ladder, read_place
from experiments.declare.sources import source_settings
from experiments.records.record import MAX_SEED
from experiments.system import expanded, file_name
from mingpt.utils import BadInput, did_you_mean

STUDIES = Path(__file__).parents[1] / "studies"
KEYS = ("name", "question", "hypothesis", "baseline", "seeds", "metric", "margin", "alpha", "stop",
        "match", "lr", "selection_seeds", "preset", "base", "arms", "factorial", "expect",
        "pictures", "sources", "code", "ladder", "rung")
# Each run's record keeps these keys, so that a change after the first run is visible.
DECLARED = ("question", "hypothesis", "baseline", "seeds", "metric", "margin", "alpha", "stop",
            "match", "selection_seeds", "expect")
DEFAULT_MARGIN = 0.01    # in the metric's unit: two arms this close count as equal
DEFAULT_ALPHA = 0.05
MOST_SEEDS = 10_000      # far more than anybody trains; a typing error must not fill the memory
PICTURES = ("comparison",)   # sets of pictures that are drawn only where the study asks for them
# Keys of a record's result. For each of them lower is better.
METRICS = ("val_loss", "bits_per_byte", "perplexity")


@dataclass(frozen=True)
class Study:
    """A declared study. `arms` maps each arm's name to the settings that it changes, flat. `base`
    holds the settings that all arms change."""
    name: str
    path: Path
    hash: str                 # of the file; shows whether it was changed after the first run
    question: str
    hypothesis: str
    baseline: str
    seeds: list[int]
    metric: str
    margin: float             # two arms this close, in the metric's unit, count as equal
    alpha: float              # family-wise error of all looks together
    preset: str | None
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    match: str = "none"
    matches: dict[str, str] = field(default_factory=dict)  # arm → its own `match`
    stop: tuple[int, ...] = ()        # numbers of seeds at which to look; empty: only at the end
    designs: tuple[Design, ...] = ()  # the study's factorials
    # arm → the two or more arms that it combines
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # arm → {the name of a further arm: its learning rate}
    grids: dict[str, dict[str, float]] = field(default_factory=dict)
    # the seeds that choose learning rates; None: the first third
    selection_seeds: tuple[int, ...] | None = None
    expect: dict[str, str] = field(default_factory=dict)   # arm → the verdict that is expected
    pictures: tuple[str, ...] = ()    # the sets of PICTURES to draw
    table: Mapping[str, Any] = field(default_factory=dict)   # the whole file, as TOML reads it
    code: tuple[Path, ...] = ()       # the user's code files; whoever builds an arm runs them
    ladder: Ladder | None = None      # the sizes at which the question is asked, where it has them
    place: Place | None = None        # where this study, a rung, stands in its ladder

    def at_one_size(self) -> Study:
        """The study without its ladder: its arms at the size of the preset and [base]."""
        return replace(self, ladder=None)

    def with_seeds(self, seeds: list[int]) -> Study:
        """The study with other seeds. A ladder has all of them at every rung."""
        ladder = self.ladder and replace(self.ladder,
                                         seeds=(len(seeds),) * len(self.ladder.rungs))
        return replace(self, seeds=seeds, ladder=ladder)

    @property
    def level(self) -> float:
        """The family-wise error that the verdicts of one look may have: alpha over the number of
        looks (Bonferroni)."""
        return self.alpha / max(1, len(self.stop))

    @property
    def grid_arms(self) -> set[str]:
        """The arms that exist only as points of another arm's learning-rate grid."""
        return {name for points in self.grids.values() for name in points}

    def match_of(self, arm: str) -> str:
        """What the arm's hidden size must match: params, flops or none. It is none for the
        baseline, because the others are matched to it."""
        owner = next((a for a, points in self.grids.items() if arm in points), arm)
        return "none" if owner == self.baseline else self.matches.get(owner, self.match)

    def declaration(self, arm: str | None = None) -> dict[str, Any]:
        """What the study declares, for a run's record. With it a later change can be named, while
        the hash only shows that there is one; and `file` gives the study back without its file."""
        table = {key: getattr(self, key) for key in DECLARED}
        table = {key: list(value) if isinstance(value, tuple) else value
                 for key, value in table.items()}
        return table | ({"arm": dict(self.arms[arm])} if arm else {}) | {"file": dict(self.table)}


def shipped() -> dict[str, Path]:
    """The studies that come with the project, by name."""
    return {path.stem: path for path in sorted(STUDIES.glob("*.toml"))}


def load_study(name_or_path: str | Path) -> Study:
    """Read and check a study: a shipped one by name, or any TOML file by its path. Raises BadInput
    for a file that is missing or malformed."""
    path = find_study(name_or_path)
    return read_study(read_toml(path), path, hashlib.sha256(path.read_bytes()).hexdigest()[:12])


def read_study(table: Mapping[str, Any], path: Path, file_hash: str) -> Study:
    """Check the content of a study's file. `path`, the file that the table is from, begins the
    messages and names the study that does not name itself. Raises BadInput."""
    for key in table:
        if key not in KEYS:
            raise BadInput(f"{path}: unknown key {key!r}{key_hint(key, KEYS)}")
    baseline = _checked(table, "baseline", "baseline", str, path)
    base = (flatten(_checked(table, "base", {}, Mapping, path), f"{path}: [base]")
            | source_settings(table.get("sources", {}), path))
    metric = _checked(table, "metric", "val_loss", str, path)
    known = [*METRICS, *(f"val_loss_{name}" for name in table.get("sources", {}))]
    if metric not in known:
        raise BadInput(f"{path}: metric: no metric {metric!r}{did_you_mean(metric, known)}")
    arms = read_arms(_checked(table, "arms", {}, Mapping, path), table, baseline, base, str(path))
    margin, alpha = _margins(table, path)
    seeds = _seeds(table.get("seeds", [0, 1, 2]), f"{path}: seeds")
    return Study(
        name=_name(_checked(table, "name", path.stem, str, path), path), path=path,
        hash=file_hash,
        question=_checked(table, "question", "", str, path),
        hypothesis=_checked(table, "hypothesis", "", str, path), baseline=baseline, seeds=seeds,
        metric=metric, margin=margin, alpha=alpha,
        preset=_checked(table, "preset", None, str, path), base=base,
        arms={name: dict(arms.known[name].settings) for name in arms.listed},
        match=match_word(table.get("match", "none"), f"{path}: match"), matches=arms.matches,
        stop=_looks(table.get("stop", "all"), seeds, f"{path}: stop"), designs=tuple(arms.designs),
        parts=arms.parts, grids=arms.grids, selection_seeds=_selection(table, seeds, arms, path),
        expect=read_expect(table.get("expect", {}), arms.listed, baseline, f"{path}: expect"),
        pictures=_pictures(table.get("pictures", []), f"{path}: pictures"),
        code=_code(table.get("code", []), path), table=table,
        ladder=read_ladder(table.get("ladder"), table, seeds, f"{path}: [ladder]"),
        place=read_place(table.get("rung"), f"{path}: [rung]"))


def find_study(name_or_path: str | Path) -> Path:
    """The file of a study. A bare name means a shipped study; a text that ends in .toml, or that
    names an existing file, is a path. Raises BadInput where there is no such study."""
    known, path = shipped(), expanded(name_or_path)
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if path.is_file():
        return path.resolve()
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise BadInput(f"no study file {str(name_or_path)!r}; shipped studies: {', '.join(known)}")
    near = did_you_mean(str(name_or_path), known)
    others = f" (shipped: {', '.join(known)}; or a path to a .toml file)"
    raise BadInput(f"no study {str(name_or_path)!r}{near if 'did you mean' in near else others}")


def parse_seeds(text: str, where: str = "seeds") -> list[int]:
    """'0-4' → [0, 1, 2, 3, 4]; '0,3,5-6' → [0, 3, 5, 6]. Raises BadInput, with `where` in front,
    for any other form and for too many or too large seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BadInput(f"{where}: {text!r} is no list of seeds; write 0-4 or 0,2,5")
        if max(len(first), len(last)) > len(str(MAX_SEED)) or int(last or first) > MAX_SEED:
            raise BadInput(f"{where}: {_short(part.strip())} is too large: at most {MAX_SEED}")
        if dash and int(last) < int(first):
            raise BadInput(f"{where}: {part.strip()} runs backwards; write {last}-{first}")
        if int(last or first) - int(first) + len(seeds) >= MOST_SEEDS:
            raise BadInput(f"{where}: {part.strip()} makes more than {MOST_SEEDS:,} seeds")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def _seeds(value: Any, where: str) -> list[int]:
    if isinstance(value, str):
        return parse_seeds(value, where)
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 0
                                                           for v in value):
        raise BadInput(f"{where} is a list of whole numbers from 0, or \"0-4\", not {value!r}")
    if max(value) > MAX_SEED:
        raise BadInput(f"{where}: {_short(max(value))} is too large: at most {MAX_SEED}")
    if len(set(value)) < len(value):
        raise BadInput(f"{where}: {value} names a seed twice; a repeated seed would be the same "
                       f"run")
    return value


def _short(value: Any) -> str:
    """A number as it was written, cut to 20 characters where it is longer than 24."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"


def _name(name: str, path: Path) -> str:
    """A study's name. Raises BadInput for a name that cannot name a folder."""
    return file_name(name, f"{path}: name")


def _checked(table: Mapping[str, Any], key: str, default: Any, kind: type | tuple[type, ...],
             path: Path) -> Any:
    """The value of a key, or its default. Raises BadInput for a value of another type."""
    if key not in table:
        return default
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a text", Mapping: "a table"}.get(kind, "a number")
        raise BadInput(f"{path}: {key} is {wanted}, not {value!r}")
    return value


def _margins(table: Mapping[str, Any], path: Path) -> tuple[float, float]:
    margin = _checked(table, "margin", DEFAULT_MARGIN, (int, float), path)
    alpha = _checked(table, "alpha", DEFAULT_ALPHA, (int, float), path)
    # This form also refuses NaN, and integers too large for a float.
    if not 0 < margin <= sys.float_info.max or not 0 < alpha < 0.5:
        raise BadInput(f"{path}: margin must be above 0 and finite, alpha between 0 and 0.5, not "
                       f"{_short(margin)} and {_short(alpha)}")
    return float(margin), float(alpha)


def _pictures(value: Any, where: str) -> tuple[str, ...]:
    """The value of `pictures`. Raises BadInput where it is not a list of known sets."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise BadInput(f"{where} is a list of names, such as {list(PICTURES)}, not {value!r}")
    for name in value:
        if name not in PICTURES:
            raise BadInput(f"{where}: no pictures {name!r}{did_you_mean(name, PICTURES)}")
    return tuple(value)


def _code(value: Any, path: Path) -> tuple[Path, ...]:
    """The value of `code`: a file, or a list of files, relative to the study's own. Nothing is run
    here. Raises BadInput for a file that does not exist."""
    files = tuple(path.parent / Path(name).expanduser()
                  for name in names_list(value, f"{path}: code"))
    for file in files:
        if not file.is_file():
            raise BadInput(f"{path}: code: there is no file {file}")
    return files


def _looks(value: Any, seeds: list[int], where: str) -> tuple[int, ...]:
    """The value of `stop`: the numbers of seeds after which to look whether every arm is decided;
    empty for "all"."""
    if value == "all":
        return ()
    if not isinstance(value, list) or not value or not all(type(v) is int and v >= 2
                                                           for v in value):
        raise BadInput(f'{where} is "all", or the numbers of seeds at which to look, such as [3, '
                       f'5, 10], not {value!r}')
    if value != sorted(set(value)):
        raise BadInput(f"{where}: {value} must rise, because seeds are only added: write "
                       f"{sorted(set(value))}")
    if value[-1] != len(seeds):
        raise BadInput(f"{where}: the last look is after {value[-1]} seeds, but seeds has "
                       f"{len(seeds)}: end with {len(seeds)}")
    return tuple(value)


def _selection(table: Mapping[str, Any], seeds: list[int], arms: Arms,
               path: Path) -> tuple[int, ...] | None:
    """The seeds that choose learning rates, or None; the other seeds judge. Raises BadInput where
    no rate would be chosen, or too few seeds are left to judge."""
    if "selection_seeds" not in table:
        return None
    chosen = _seeds(table["selection_seeds"], f"{path}: selection_seeds")
    if not arms.grids:
        raise BadInput(f"{path}: selection_seeds choose among learning rates, and no arm has a "
                       f"grid: add lr = [...]")
    if not set(seeds) & set(chosen):
        raise BadInput(f"{path}: selection_seeds {chosen} are none of the seeds {seeds}: no rate "
                       f"would be chosen")
    if len(set(seeds) - set(chosen)) < 2:
        raise BadInput(f"{path}: selection_seeds {chosen} leave fewer than two of the seeds "
                       f"{seeds} for the verdicts")
    return tuple(chosen)
