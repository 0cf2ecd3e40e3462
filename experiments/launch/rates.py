"""
`lr = "tuned"` of a ladder: every arm's best learning rate at the two smallest rungs, and the rates
that follow from them at any size.

The grid of a rung is a study of its own, LADDER-SIZE-rates, with seeds that no rung uses, so the
runs that choose a rate judge nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from experiments.declare.arms import catalogue
from experiments.declare.designs import RATE
from experiments.launch.climb import PlannedRung, request_of, results_of
from experiments.launch.plan import Request
from experiments.verdicts.results import Results
from mingpt.utils import BadInput

SEEDS = [900_001, 900_002]
SLOPES = (-1.0, 0.0)      # exponents of a rate; two grids are no evidence for others


def rate_rungs(request: Request, planned: Sequence[PlannedRung]) -> list[PlannedRung]:
    """The studies that choose the rates, as rungs; none where the ladder's rule is another."""
    ladder = request.study.ladder
    if ladder.lr != "tuned":
        return []
    if "factorial" in request.study.table or request.study.designs:
        raise BadInput(f"{request.study.path}: [ladder]: lr = \"tuned\" needs arms with tables of "
                       f"their own, not a factorial; give lr = \"power\"")
    found = []
    for rung in planned[:2]:
        base = rung.table["base"]
        trainer = base.get("trainer", {}) | {RATE.partition(".")[2]: ladder.grid[0]}
        table = {key: value for key, value in rung.table.items() if key not in ("rung", "expect")}
        table |= {"name": f"{rung.name}-rates", "seeds": SEEDS, "lr": list(ladder.grid[1:]),
                  "base": base | {"trainer": trainer}}
        found.append(dataclasses.replace(rung, name=table["name"], table=table, held_out=False,
                                         jobs=()))
    return found


def tuned(request: Request, planned: Sequence[PlannedRung]) -> list[PlannedRung]:
    """The rungs with the rates that the trained grids give to each arm. Raises BadInput where a
    grid lacks runs."""
    grid, small = request.study.ladder.grid, planned[:2]
    best = [{arm: best_rate(results_of(request, each), arm, grid)
             for arm in request_of(request, rung).study.arms}
            for each, rung in zip(rate_rungs(request, planned), small, strict=True)]
    sizes = [rung.parameters for rung in small]
    return [dataclasses.replace(rung, table=rung.table | {"arms": {
        arm: _with_rate(arm, rung.table.get("arms", {}),
                        extrapolated(best[0][arm], best[1][arm], *sizes, rung.parameters))
        for arm in best[0]}}) for rung in planned]


def extrapolated(first: float, second: float, small: int, large: int, n: int) -> float:
    """The rate at n parameters, on the power law through the best rates at two sizes."""
    slope = math.log(second / first) / math.log(large / small)
    return float(f"{first * (n / small) ** min(max(slope, SLOPES[0]), SLOPES[1]):.4g}")


def best_rate(results: Results, arm: str, grid: Sequence[float]) -> float:
    """The rate with the lowest loss: where a parabola in log rate through the best point of the
    grid and its neighbours is lowest, or the best point itself at an edge. Raises BadInput where
    the arm's grid has no finite value."""
    points = {grid[0]: arm} | {rate: f"{arm}_lr{rate:g}" for rate in grid[1:]}
    losses = np.array([_mean(results.values.get(name, {})) for name in points.values()])
    if not np.isfinite(losses).any():
        raise BadInput(f"{results.name}: no run of {arm} ended with a finite loss, so no rate can "
                       f"be chosen; give a grid of smaller rates")
    k = int(np.nanargmin(np.where(np.isfinite(losses), losses, np.inf)))
    x = np.log(np.array(list(points)))
    if 0 < k < len(x) - 1 and np.isfinite(losses[k - 1:k + 2]).all():
        a, b, _ = np.polyfit(x[k - 1:k + 2] - x[k], losses[k - 1:k + 2], 2)
        if a > 0:
            return float(np.exp(x[k] + np.clip(-b / (2 * a), x[k - 1] - x[k], x[k + 1] - x[k])))
    return float(np.exp(x[k]))


def edges(request: Request, planned: Sequence[PlannedRung]) -> list[str]:
    """A line per arm whose best rate lies at an edge of its grid, where a better one may lie
    beyond."""
    grid, said = request.study.ladder.grid, []
    for each, rung in zip(rate_rungs(request, planned), planned[:2], strict=False):
        results = results_of(request, each)
        for arm in request_of(request, rung).study.arms:
            rate = best_rate(results, arm, grid)
            if min(abs(math.log(rate / end)) for end in (grid[0], grid[-1])) < 1e-9:
                said.append(f"{arm} at {rung.name}: the best rate, {rate:g}, is at the edge of the "
                            f"grid; a better one may lie beyond it")
    return said


def _mean(values: Mapping[int | None, float]) -> float:
    return fmean(values.values()) if values else math.nan


def _with_rate(arm: str, tables: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """An arm's table with its rate, unless it has one of its own."""
    table = dict(tables.get(arm, {}))
    if not table and arm in catalogue() and catalogue()[arm].settings:
        table = {"include": [arm]}
    own = RATE in table or RATE.partition(".")[2] in table.get("trainer", {})
    return table if own else table | {RATE: rate}
