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

Given = Mapping[int | str, float] | Iterable[float]


def compare(arm: Given, baseline: Given, *, margin: float,
            alpha: float = DEFAULT_ALPHA) -> Verdict:
    """Return the verdict on one arm. Lower values are better.

    Dicts from seed to final value are compared seed by seed where they share seeds. Without shared
    seeds, and for plain lists of values, the two are independent samples. Raises BadInput on a
    margin or alpha out of range.
    """
    paired = (isinstance(arm, Mapping) and isinstance(baseline, Mapping)
              and shares_seeds(arm, baseline))
    mine, theirs = ({seed: float(value) for seed, value in (
        values.items() if isinstance(values, Mapping) else enumerate(values))}
        for values in (arm, baseline))
    judged = stats.compare if paired else stats.compare_unpaired
    return judged(mine, theirs, margin=margin, alpha=alpha)


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
