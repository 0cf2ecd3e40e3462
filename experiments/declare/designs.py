"""
Turns the tables of a study's file into the arms that are run. Expands factorials and learning-rate
grids, and keeps which arms each arm combines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.declare.arms import NAME, Arm, catalogue, closure, combine, make_arm, names_list
from mingpt.utils import BadInput, did_you_mean

# The levels of one factor, or one level of every factor. None is the level without the factor.
Levels = tuple[str | None, ...]
MATCHES = ("none", "params", "flops")
# These keys of an arm's table say how the arm is run, not what it changes.
ARM_KEYS = ("lr", "match")
RATE = "trainer.learning_rate"
MOST_ARMS = 1_000    # far more than anybody trains; a factorial doubles with every factor


@dataclass(frozen=True)
class Design:
    """The cells of a factorial. A factor is a tuple of levels, the first of which is None. A cell
    is one level of every factor."""
    factors: tuple[Levels, ...]
    cells: Mapping[str, Levels]       # arm → its level of every factor

    def arm(self, levels: Levels) -> str:
        """The name of the arm at these levels."""
        return next(name for name, cell in self.cells.items() if cell == levels)


@dataclass
class Arms:
    """What the tables of a study declare, filled in as they are read. `known` holds the catalogue's
    arms as well; `listed` names only the study's."""
    where: str
    known: dict[str, Arm] = field(default_factory=lambda: dict(catalogue()))
    listed: list[str] = field(default_factory=list)
    designs: list[Design] = field(default_factory=list)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)       # an arm's own grid
    matches: dict[str, str] = field(default_factory=dict)             # an arm's own `match`
    # arm → {the name of a further arm: its learning rate}
    grids: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, table: Any) -> None:
        """Add one table under [arms]. Raises BadInput for a malformed table."""
        where = f"{self.where}: [arms.{name}]"
        if isinstance(table, Mapping) and "factorial" in table:
            if len(table) > 1:
                raise BadInput(f"{where}: factorial must be the only key of its table; put what "
                               f"all its arms share into [base]")
            return self.add_factorial(table["factorial"], where)
        if not isinstance(table, Mapping):
            raise BadInput(f"{where}: an arm is a table of settings, not {table!r}")
        if "lr" in table:
            self.rates[name] = rates(table["lr"], f"{where}: lr")
        if "match" in table:
            self.matches[name] = match_word(table["match"], f"{where}: match")
        settings = {key: value for key, value in table.items() if key not in ARM_KEYS}
        if not settings and name not in self.known:
            raise BadInput(f"{where} changes nothing, and no arm of that name is known"
                           f"{did_you_mean(name, self.known)}")
        if settings:
            self.known[name] = make_arm(name, settings, self.known, where)
        self._list(name, self._parts(name))
        return None

    def _parts(self, name: str) -> tuple[str, ...]:
        """The arms whose union a group is, without those that another one of them includes; empty
        for an arm that is no group."""
        arm = self.known[name]
        if not arm.is_group:
            return ()
        return tuple(part for part in arm.includes if self.known[part].settings and not any(
            part in closure(other, self.known) for other in arm.includes if other != part))

    def add_factorial(self, factors: Any, where: str) -> None:
        """Add every combination of the factors. A factor is an arm (levels: without, with), or a
        list of arms of which at most one applies (levels: without, first, second, …). Raises
        BadInput where two combinations would be the same arm."""
        if not isinstance(factors, list) or not factors:
            raise BadInput(f"{where}: factorial is a list of arms' names, not {factors!r}")
        levels = tuple((None, *names_list(factor, f"{where}: factorial")) for factor in factors)
        _refuse_many(math.prod(map(len, levels)) if len(levels) < 64 else math.inf,
                     f"{where}: factorial")
        cells: dict[str, Levels] = {}
        for cell in itertools.product(*levels):
            name, settings = self._cell(cell, where)
            if name in cells:
                raise BadInput(f"{where}: factorial: two combinations are the same arm {name!r}, "
                               f"because one factor includes another; list them as the levels of "
                               f"one factor: [[...]]")
            cells[name] = cell
            self.known.setdefault(name, Arm(name, settings, settings))
            self._list(name, tuple(level for level in cell if level))
        self.designs.append(Design(levels, cells))

    def _cell(self, cell: Levels, where: str) -> tuple[str, dict[str, Any]]:
        try:
            name, settings = combine([level for level in cell if level], self.known)
        except BadInput as error:
            raise BadInput(f"{where}: factorial: {error}") from None
        if self.known.get(name, Arm(name, settings)).settings != settings:
            raise BadInput(f"{where}: factorial: {name!r} is also the name of an arm that changes "
                           f"something else")
        return name, settings

    def _list(self, name: str, parts: tuple[str, ...]) -> None:
        alike = [other for other in self.listed if other != name and other.lower() == name.lower()]
        if alike:
            raise BadInput(f"{self.where}: arms {alike[0]!r} and {name!r} differ only in case, "
                           f"which some file systems ignore: rename one")
        if name not in self.listed:
            self.listed.append(name)
        if len(parts) > 1:
            self.parts.setdefault(name, parts)

    def add_grids(self, shared: list[float], base: Mapping[str, Any]) -> None:
        """Add one arm per listed arm and learning rate of its grid, except the rate that the arm
        has already. `shared` is the grid of arms without their own."""
        _refuse_many(sum(1 + len(self.rates.get(arm, shared)) for arm in self.listed),
                     f"{self.where}: lr")
        for arm in list(self.listed):
            own = self.known[arm].settings.get(RATE, base.get(RATE))
            points = {f"{arm}_lr{rate:g}": rate for rate in self.rates.get(arm, shared)
                      if rate != own}
            for name, rate in points.items():
                if name in self.known or not NAME.fullmatch(name):
                    raise BadInput(f"{self.where}: lr: the name {name!r} is taken: rename that arm")
                settings = self.known[arm].settings | {RATE: rate}
                self.known[name] = Arm(name, settings, settings)
                self.listed.append(name)
            if points:
                self.grids[arm] = points


def _refuse_many(arms: float, where: str) -> None:
    """Raise BadInput where a study would have more arms than MOST_ARMS."""
    if arms > MOST_ARMS:
        number = f"{arms:,}" if arms < 10**12 else "far too many"
        raise BadInput(f"{where} makes {number} arms: at most {MOST_ARMS:,} per study")


def read_arms(tables: Mapping[str, Any], study: Mapping[str, Any], baseline: str,
              base: Mapping[str, Any], where: str) -> Arms:
    """The arms of a study in the order of its file. `tables` is the study's [arms]. The baseline
    comes first when the file does not declare it and the catalogue has it. Raises BadInput, with
    `where` in front, for malformed tables and where there is no arm."""
    _refuse_many(len(tables), f"{where}: [arms]")
    arms = Arms(where)
    for name, table in tables.items():
        arms.add(name, table)
    if "factorial" in study:
        arms.add_factorial(study["factorial"], where)
    if not arms.listed:
        raise BadInput(f"{where}: declares no arms; add [arms.NAME] tables, or factorial = [...]")
    if baseline not in arms.listed:
        if baseline not in catalogue():
            raise BadInput(f"{where}: baseline: no arm "
                           f"{baseline!r}{did_you_mean(baseline, arms.listed)}")
        arms.listed.insert(0, baseline)
    arms.add_grids(rates(study["lr"], f"{where}: lr") if "lr" in study else [], base)
    return arms


def rates(value: Any, where: str) -> list[float]:
    """A grid of learning rates, smallest first. Raises BadInput for a list that is none."""
    numbers = isinstance(value, list) and value and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e3 for v in value)
    if not numbers:
        raise BadInput(f"{where} is a list of learning rates, such as [1e-3, 2e-3], not {value!r}")
    if len({f"{rate:g}" for rate in value}) < len(value):   # the arms' names use this format
        raise BadInput(f"{where}: {value} names a rate twice: the names of a grid's arms keep "
                       f"only 6 digits")
    return sorted(map(float, value))


def match_word(value: Any, where: str) -> str:
    """The value of a `match` key. Raises BadInput unless it is one of MATCHES."""
    if value not in MATCHES:
        raise BadInput(f"{where}: no {value!r}{did_you_mean(str(value), MATCHES)}")
    return value
