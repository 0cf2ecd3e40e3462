"""
The noise floor: how far apart two runs end that differ in nothing that matters. An effect below the
noise floor means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from experiments.records.record import FREE
from experiments.verdicts.stats import Values

# An arm that changes nothing but these settings is an A/A arm. The value says what its difference
# from the baseline measures.
NULL_CHANGES = {"run.seed_offset": "seeds", "model.backend": "rounding"}


@dataclass(frozen=True)
class NoiseFloor:
    """The baseline against itself, in the metric's unit.

    `spread` is the standard deviation of the difference between two runs of the baseline with
    different seeds. `rounding` is that between two runs of one seed in which only the order of
    additions differs. The noise of an arm that changes the model lies between the two, and comes
    nearer to `spread` the longer the training.
    """
    source: str  # "A/A": measured by arms that change nothing; "seeds": √2 · sd over seeds
    spread: float | None                 # None where there are fewer than two seeds
    n: int                               # the number of A/A differences, or seeds, behind `spread`
    # the mean of the A/A differences between seeds; chance alone should put it near 0
    mean: float | None = None
    largest: float | None = None  # the largest absolute A/A difference between seeds
    rounding: float | None = None  # root mean square; None: no A/A arm differs in rounding alone
    # the A/A arms that ended with exactly the baseline's number on every seed
    identical: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()  # the A/A arms behind `spread`; empty where source is "seeds"
    unit: str = "nats"
    replicates: str = "seeds"    # what the baseline's runs are called

    def of_mean(self, n: int) -> float | None:
        """Return the noise floor of a mean over n seeds: its standard error if there were no
        effect."""
        return None if self.spread is None or n < 1 else self.spread / math.sqrt(n)

    def line(self) -> str:
        """Return the noise floor as one line that needs no other explanation."""
        if self.spread is None:
            return (f"noise floor: unknown, because the baseline has fewer than two finished "
                    f"{self.replicates}")
        how = (f"measured on {self.n} pairs of runs that differ in the seed alone: "
               f"{', '.join(self.arms)} against the baseline" if self.source == "A/A" else
               f"estimated from the baseline's {self.n} {self.replicates}")
        text = (f"noise floor: two runs of the baseline differ by about {self.spread:.4f} "
                f"{self.unit} by chance (one standard deviation, {how})")
        if self.rounding is not None:
            text += f"; where only rounding differs, by about {self.rounding:.4f}"
        if self.identical:
            text += f"; repeating a seed gave the same bits ({', '.join(self.identical)})"
        return text


def noise_floor(baseline: Values, null_arms: Mapping[str, tuple[str, Values]] | None = None,
                unit: str = "nats") -> NoiseFloor:
    """Return the noise floor from the values of the baseline and of its A/A arms.

    `null_arms` maps name → (what differs: "seeds", "rounding" or "nothing", values). A/A arms with
    other seeds measure the spread between seeds. Without at least two such differences the spread
    is estimated from the baseline's own seeds.
    """
    own = [v for v in baseline.values() if math.isfinite(v)]
    differences: dict[str, list[float]] = {"seeds": [], "rounding": [], "nothing": []}
    identical = []
    for name, (what, values) in (null_arms or {}).items():
        mine = _differences(values, baseline)
        differences[what] += mine
        identical += [name] if mine and not any(mine) else []
    rounding = _rms(differences["rounding"])
    arms = tuple(name for name, (what, _) in (null_arms or {}).items() if what == "seeds")
    between = differences["seeds"]
    if len(between) > 1:
        return NoiseFloor("A/A", _rms(between), len(between), fmean(between),
                          max(map(abs, between)), rounding, tuple(identical), arms, unit)
    spread = math.sqrt(2) * stdev(own) if len(own) > 1 else None
    return NoiseFloor("seeds", spread, len(own), rounding=rounding, identical=tuple(identical),
                      unit=unit)


def null_kind(changes: Mapping[str, object]) -> str | None:
    """Return what an arm with these changes measures as an A/A arm: "nothing", "seeds" or
    "rounding". None where it is no A/A arm."""
    if not changes:
        return "nothing"
    kinds = {NULL_CHANGES.get(key) for key in changes}
    return "seeds" if kinds == {"seeds"} else "rounding" if kinds == {"rounding"} else None


def same_baseline(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Return whether two records are of runs with the same model, training and data, so that both
    have the same noise. A setting that one record lacks is skipped: it did not exist when that
    record was written."""
    if not a or not b or (a.get("data") or {}).get("hash") != (b.get("data") or {}).get("hash"):
        return False
    mine, theirs = _settings(a), _settings(b)
    common = (set(mine) & set(theirs)) - set(FREE)
    return bool(common) and all(mine[key] == theirs[key] for key in common)


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a run's numbers as a flat dict; empty for a record without
    them."""
    config = record.get("config")
    sections = ({name: config.get(name) for name in ("model", "trainer", "data")}
                if isinstance(config, Mapping) else {})
    return {f"{name}.{key}": value for name, section in sections.items()
            if isinstance(section, Mapping)
            for key, value in section.items()}


def _differences(values: Values, baseline: Values) -> list[float]:
    common = (set(values) & set(baseline)) - {None}
    pairs = [(values[s], baseline[s]) for s in sorted(common)]
    return [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def _rms(values: Iterable[float]) -> float | None:
    """Return the root mean square: the true mean is zero, so the spread is taken about zero."""
    values = list(values)
    return math.sqrt(fmean(v * v for v in values)) if values else None
