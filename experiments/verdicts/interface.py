"""
Verdicts from Python: on values that one has, and on logs as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from experiments.declare.study import DEFAULT_ALPHA
from experiments.records.foreign.group import group
from experiments.records.foreign.read import read_logs
from experiments.records.foreign.tables import named
from experiments.verdicts import stats
from experiments.verdicts.unpaired import shares_seeds
from experiments.verdicts.verdict import Verdict
from mingpt.utils import BadInput

Given = Mapping[int | str, float] | pd.Series | Iterable[float]


def compare(arm: Given, baseline: Given, *, margin: float,
            alpha: float = DEFAULT_ALPHA) -> Verdict:
    """Return the verdict on one arm. Lower values are better.

    Dicts from seed to final value, and pandas Series with seeds as their index, are compared seed
    by seed where they share seeds. Without shared seeds, and for plain lists of values, the two are
    independent samples. Raises BadInput on a margin or alpha out of range, and on values that are
    no numbers.
    """
    judged = stats.compare if _paired(arm, baseline) else stats.compare_unpaired
    return judged(_values(arm), _values(baseline), margin=margin, alpha=alpha)


def verdicts(values: Mapping[str, Given], baseline: str, *, margin: float,
             alpha: float = DEFAULT_ALPHA) -> dict[str, Verdict]:
    """Return a verdict for every arm except the baseline, each as `compare` has it, with p adjusted
    by Holm. A DataFrame with one column per arm will do. Raises BadInput as `compare` does, and
    where the baseline has no values."""
    apart = {arm for arm in values if baseline in values
             and not _paired(values[arm], values[baseline])} - {baseline}
    return stats.verdicts({arm: _values(values[arm]) for arm in values}, baseline, margin=margin,
                          alpha=alpha, unpaired=apart)


def _paired(arm: Given, baseline: Given) -> bool:
    return _has_seeds(arm) and _has_seeds(baseline) and shares_seeds(arm.keys(), baseline.keys())


def _has_seeds(given: Given) -> bool:
    """Return whether values come with seeds. The nameless index that pandas itself gives only
    numbers them."""
    return isinstance(given, Mapping) or (isinstance(given, pd.Series) and not (
        isinstance(given.index, pd.RangeIndex) and given.index.name is None))


def _values(given: Given) -> dict[int | str, float]:
    """Return the values by seed, or by their place in a list. Raises BadInput for anything else."""
    pairs = (given.items() if isinstance(given, Mapping | pd.Series) else
             enumerate(given) if isinstance(given, Iterable) and not isinstance(given, str) else
             [(0, given)])
    found = {}
    for key, value in pairs:
        try:
            found[key] = float(value)
        except (TypeError, ValueError):
            raise BadInput(f"give a dict from seed to final value, or a list of values: {value!r} "
                           "is no number") from None
    return found


def read(*paths: str | Path, columns: str | None = None,
         arms: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the runs in some logs as one table: a row per log point, with the columns arm, run,
    seed, format, and those of a run's CSV that any log has.

    `columns` is "step=…,val_loss=…" for CSV and JSONL files, and `arms` maps names to globs, as
    `lab.py judge` has them. Raises BadInput where there are no logs.
    """
    given = [Path(path) for path in paths]
    logs = read_logs(given, named(columns) if columns else None)
    placed, _ = group(logs, given, arms)
    tables = [each.log.table.assign(arm=each.arm, run=each.label, seed=each.seed,
                                    format=each.log.format) for each in placed]
    table = pd.concat(tables, ignore_index=True)
    table["seed"] = table["seed"].astype("Int64")
    first = ["arm", "run", "seed", "format"]
    rest = [name for name in table if name not in first and table[name].notna().any()]
    return table[first + rest]
