"""
`[ladder]` in a study's file: the same question at several sizes. docs/ladder.md describes it.

Every rung is an ordinary study of its own, with a file, records, verdicts and a page. The file of a
rung is the ladder's, without [ladder], with the rung's size and length, and with a table [rung]
that says where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

from experiments.declare.arms import flatten
from experiments.declare.designs import RATE, rates
from experiments.declare.hints import key_hint
from mingpt.utils import BadInput, did_you_mean

KEYS = ("rungs", "tokens_per_parameter", "lr", "grid", "seeds", "hold_out", "target")
PLACE = ("ladder", "number", "of", "parameters", "tokens_per_parameter", "held_out", "target",
         "studies", "rests_on", "prediction")
RULES = {"constant": "the preset's rate at every rung",
         "power": "rate ~ parameters^(−1/3), batch size ~ parameters^(2/3), and warm-up over as "
                  "many tokens as parameters (Porian et al. 2024, arXiv 2406.19146)",
         "mup": "the smallest rung's rate, with model.parametrization = \"mup\"",
         "tuned": "each arm's best of a grid at the two smallest rungs, extrapolated"}
MOST_RUNGS = 20
FARTHEST = 10.0         # no prediction goes further than this many times the largest rung's compute
TARGET = 4.0            # twice the parameters and twice the tokens


@dataclass(frozen=True)
class Ladder:
    """A declared ladder, smallest rung first. A rung is the name of a preset, or settings, flat."""
    rungs: tuple[str | dict[str, Any], ...]
    tokens_per_parameter: float     # tokens of a run over the baseline's, without embeddings
    lr: str                         # one of RULES
    grid: tuple[float, ...]         # the rates that `tuned` tries
    seeds: tuple[int, ...]          # how many of the study's seeds each rung has
    hold_out: int                   # how many rungs, from the top, are predicted first
    target: float                   # where the answer is predicted: × the largest rung's compute


@dataclass(frozen=True)
class Predicted:
    """What the smaller rungs say that an arm's effect will be, in the metric's unit."""
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Place:
    """Where a rung stands in its ladder; [rung] of its file."""
    ladder: str                     # the ladder's name
    number: int                     # from 1, the smallest
    of: int
    parameters: int                 # the baseline's, without embeddings
    tokens_per_parameter: float
    held_out: bool
    target: float
    studies: tuple[str, ...]        # the names of all rungs' studies, in order
    # of the runs from which the prediction was made, before this rung was trained
    rests_on: str = ""
    prediction: Mapping[str, Predicted] = field(default_factory=dict)


def read_ladder(table: Any, study: Mapping[str, Any], seeds: Sequence[int],
                where: str) -> Ladder | None:
    """The value of `ladder` in a study's file, None without one. Raises BadInput, with `where` in
    front, for a malformed table."""
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise BadInput(f"{where} is a table, not {table!r}")
    for key in table:
        if key not in KEYS:
            raise BadInput(f"{where}: unknown key {key!r}{key_hint(key, KEYS)}")
    for key in ("lr", "stop", "selection_seeds", "rung"):
        if key in study:
            instead = {"lr": ": give lr = \"tuned\" and a grid in [ladder]",
                       "stop": ": each rung has its own number of seeds"}.get(key, "")
            raise BadInput(f"{where}: a ladder's study has no `{key}` of its own{instead}")
    rungs = _rungs(table.get("rungs"), f"{where}: rungs")
    hold_out = _number(table, "hold_out", 1, 0, len(rungs) - 2, where, whole=True)
    lr, grid = _rule(table, study, where)
    return Ladder(rungs, _number(table, "tokens_per_parameter", 20, 1e-3, 1e6, where), lr, grid,
                  _seeds(table.get("seeds", len(seeds)), len(rungs), len(seeds),
                         f"{where}: seeds"),
                  hold_out, _number(table, "target", TARGET, 1, FARTHEST, where))


def _rungs(value: Any, where: str) -> tuple[str | dict[str, Any], ...]:
    if (not isinstance(value, list) or not 2 <= len(value) <= MOST_RUNGS
            or not all(isinstance(each, str | Mapping) and each for each in value)):
        raise BadInput(f"{where} is a list of 2 to {MOST_RUNGS} sizes, smallest first: names of "
                       f"presets, or tables such as {{model.n_layer = 4, model.n_embd = 64}}")
    rungs = tuple(each if isinstance(each, str) else flatten(each, f"{where} {i}")
                  for i, each in enumerate(value, 1))
    for key in ("trainer.max_iters", RATE):
        for number, each in enumerate(rungs, 1):
            if not isinstance(each, str) and key in each:
                raise BadInput(f"{where} {number}: {key} follows from the ladder: leave it out")
    return rungs


def _rule(table: Mapping[str, Any], study: Mapping[str, Any],
          where: str) -> tuple[str, tuple[float, ...]]:
    """(the rule of the learning rates, the grid of `tuned`)."""
    lr = table.get("lr", "power")
    if lr not in RULES:
        raise BadInput(f"{where}: lr: no rule {lr!r}{did_you_mean(str(lr), RULES)}")
    if (lr == "tuned") != ("grid" in table):
        raise BadInput(f"{where}: grid, a list of learning rates, belongs to lr = \"tuned\"")
    grid = tuple(rates(table["grid"], f"{where}: grid")) if lr == "tuned" else ()
    if lr == "tuned" and len(grid) < 3:
        raise BadInput(f"{where}: grid: {list(grid)} shows no best rate inside it: give at least "
                       f"three")
    return lr, grid


def _seeds(value: Any, rungs: int, known: int, where: str) -> tuple[int, ...]:
    """How many seeds each rung has, from one number or one per rung."""
    counts = [value] * rungs if type(value) is int else value
    if (not isinstance(counts, list) or len(counts) != rungs
            or not all(type(n) is int and 1 <= n <= known for n in counts)):
        raise BadInput(f"{where} is a number of the study's {known} seeds, or a list of {rungs} "
                       f"such numbers, not {value!r}")
    if any(a < b for a, b in pairwise(counts)):
        raise BadInput(f"{where}: {counts} must not rise: larger rungs have the first of the "
                       f"smaller rungs' seeds")
    return tuple(counts)


def _number(table: Mapping[str, Any], key: str, default: float, low: float, high: float,
            where: str, whole: bool = False) -> Any:
    value = table.get(key, default)
    kinds = int if whole else int | float
    if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise BadInput(f"{where}: {key} is {what} from {low:g} to {high:g}, not {value!r:.40}")
    return value


def read_place(table: Any, where: str) -> Place | None:
    """The value of `rung` in a rung's file, None without one. Raises BadInput for a table that is
    not what a ladder writes."""
    if table is None:
        return None
    fine = (isinstance(table, Mapping) and {*PLACE[:-2]} <= set(table) <= {*PLACE}
            and isinstance(table["ladder"], str)
            and all(type(table[key]) is int and table[key] > 0 for key in ("number", "of",
                                                                           "parameters"))
            and all(_finite(table[key]) for key in ("tokens_per_parameter", "target"))
            and type(table["held_out"]) is bool and isinstance(table["studies"], list)
            and all(isinstance(name, str) for name in table["studies"])
            and table["number"] <= table["of"] == len(table["studies"]) <= MOST_RUNGS
            and isinstance(table.get("rests_on", ""), str)
            and isinstance(table.get("prediction", {}), Mapping))
    found = table.get("prediction", {}) if fine else {}
    if not fine or not all(isinstance(each, Mapping) and set(each) == {"effect", "low", "high"}
                           and all(map(_finite, each.values())) for each in found.values()):
        raise BadInput(f"{where} is written by a ladder, and this one is not as a ladder writes it")
    told = {key: table[key] for key in table if key not in ("studies", "prediction")}
    return Place(**told, studies=tuple(table["studies"]),
                 prediction={arm: Predicted(**each) for arm, each in found.items()})


def _finite(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and abs(value) < 1e300 and isfinite(value))
