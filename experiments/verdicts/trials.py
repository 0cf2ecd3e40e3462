"""
Store the measurements and the curve of every finished run in one file, from which the comparison
can be drawn again without the runs.

`experiment_results.npz` holds plain arrays and no objects, so loading it runs no code. The .json
beside it holds the same without the curves.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from experiments.records.runs import RecordedRun, by_arm
from experiments.verdicts.results import Results
from experiments.verdicts.stats import Values, Verdict, verdicts
from experiments.verdicts.study_runs import UNITS
from experiments.verdicts.timing import timing
from experiments.verdicts.verdict import NOT_COMPARABLE, p_text
from mingpt.utils import BadInput, write_atomic

NAME = "experiment_results"
MEASURES = ("final_loss", "val_loss", "bits_per_byte", "perplexity", "tokens_per_second",
            "seconds", "peak_memory_mb")
LAST = 0.1            # the final training loss is the mean over this last part of a run's rows
TEXT = "improved_comparison_results.txt"     # the comparison in words and numbers
TITLES = {"final_loss": "final training loss", "val_loss": "validation loss",
          "bits_per_byte": "bits per byte", "perplexity": "perplexity",
          "tokens_per_second": "tokens per second", "seconds": "seconds of training",
          "peak_memory_mb": "peak memory (MB)"}
FACTS = ("title", "study", "baseline", "metric", "margin", "alpha")

# All errors that numpy and zipfile raise on bytes that are not an .npz. RuntimeError comes from a
# zip that claims to be encrypted or of a later version.
UNREADABLE = (OSError, KeyError, ValueError, IndexError, TypeError, EOFError, RuntimeError,
              zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Trial:
    """One finished run. `seed` is −1 where its file names none. `curve` is (points, 2): tokens (or
    iterations) and training loss."""
    arm: str
    seed: int
    measures: Mapping[str, float]      # NaN where not measured
    curve: np.ndarray


@dataclass(frozen=True)
class Trials:
    """All trials of a study, with what the comparison needs to know about the study."""
    title: str
    study: str
    baseline: str
    metric: str
    margin: float
    alpha: float
    over: str  # the x axis of the curves: tokens, or iterations where tokens are unknown
    all: tuple[Trial, ...]
    # the arms that are not comparable with the baseline, and why
    barred: tuple[tuple[str, str], ...] = ()
    in_bytes: tuple[str, ...] = ()  # arms with another tokenizer: only bits per byte compare
    # arm and seed of the runs that diverged and so have no measurements
    diverged: tuple[tuple[str, int], ...] = ()
    busy: tuple[str, ...] = ()  # the arms that were timed while something else used the machine

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have trials, in their order."""
        return tuple(dict.fromkeys(trial.arm for trial in self.all))

    def of(self, arm: str) -> list[Trial]:
        """Return the trials of one arm."""
        return [trial for trial in self.all if trial.arm == arm]

    def values(self, measure: str) -> dict[str, Values]:
        """Return arm → seed → value, for the runs that have a value."""
        table: dict[str, dict[int | None, float]] = {arm: {} for arm in self.arms}
        for trial in self.all:
            if isfinite(value := trial.measures.get(measure, np.nan)):
                table[trial.arm][trial.seed if trial.seed >= 0 else None] = value
        return {arm: values for arm, values in table.items() if values}

    def verdicts(self, measure: str) -> dict[str, Verdict]:
        """Return the paired verdicts on one measure; a run that diverged counts as NaN. Empty where
        the baseline has no value of the measure."""
        values = self.values(measure)
        if self.baseline not in values:
            return {}
        for arm, seed in self.diverged:
            values.setdefault(arm, {})[seed] = np.nan
        return verdicts(values, self.baseline, margin=self.margin, alpha=self.alpha,
                        unit=UNITS.get(measure, measure), resamples=0, barred=self.bars(measure))

    def bars(self, measure: str) -> dict[str, str]:
        """Return the arms that are not comparable in this measure, with the reason."""
        per_token = () if measure == "bits_per_byte" else self.in_bytes
        return (dict.fromkeys(per_token, "another tokenizer: only bits per byte compare")
                | dict(self.barred))


def gather(results: Results) -> Trials:
    """Return the trials of the runs that a study's verdicts rest on, the baseline's first. The
    points of learning-rate grids are left out: they are not arms of a comparison."""
    grid = results.declared.grid_arms if results.declared else ()
    judged = by_arm(results.judged_runs)
    runs = [run for arm in results.arms if arm not in grid for run in judged.get(arm, ())]
    over = "tokens" if any(run.table["tokens"].gt(0).any() for run in runs) else "iteration"
    trials = [_trial(run, over) for run in runs if run.complete]
    lost = [(run.arm, run.seed) for run in runs if run.status == "diverged"
            and run.seed is not None]
    return Trials(results.title, results.name or "", results.baseline, results.metric,
                  results.margin, results.alpha, over, tuple(trials), tuple(results.barred.items()),
                  tuple(arm for arm, each in results.comparisons.items() if each.in_bytes),
                  tuple(lost), tuple(arm for arm in timing(results).arms if arm not in grid))


def _trial(run: RecordedRun, over: str) -> Trial:
    curve = run.measured(over, "loss")
    measures = {name: np.nan if (value := run.final(name)) is None else value
                for name in MEASURES[1:]}
    last = curve[-max(1, int(LAST * len(curve))):, 1]
    return Trial(run.arm, -1 if run.seed is None else run.seed,
                 {"final_loss": float(last.mean()) if len(last) else np.nan} | measures, curve)


# -- files -----------------------------------------------------------------------------------------

def save(trials: Trials, folder: Path) -> list[Path]:
    """Write experiment_results.npz and .json into the folder; return their paths."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_arrays(trials))
    paths = [folder / f"{NAME}.npz", folder / f"{NAME}.json"]
    write_atomic(paths[0], buffer.getvalue())
    write_atomic(paths[1], json.dumps(summary(trials), indent=1, ensure_ascii=False) + "\n")
    return paths


def _arrays(trials: Trials) -> dict[str, np.ndarray]:
    facts = {name: np.array(getattr(trials, name)) for name in (*FACTS, "over")}
    columns = {f"measure_{name}": np.array([trial.measures[name] for trial in trials.all])
               for name in MEASURES}
    lengths = np.array([len(trial.curve) for trial in trials.all])
    curves = (np.concatenate([trial.curve for trial in trials.all]) if len(lengths)
              else np.empty((0, 2)))    # (points of all trials, 2)
    return {"schema": np.array(1), **facts, "arm": np.array([trial.arm for trial in trials.all]),
            "seed": np.array([trial.seed for trial in trials.all]), **columns,
            "curve_lengths": lengths, "curves": curves,
            "barred": np.array(trials.barred, dtype=str).reshape(-1, 2),
            "in_bytes": np.array(trials.in_bytes, dtype=str),
            "busy": np.array(trials.busy, dtype=str),
            "diverged_arm": np.array([arm for arm, _ in trials.diverged], dtype=str),
            "diverged_seed": np.array([seed for _, seed in trials.diverged], dtype=int)}


def load(path: Path) -> Trials:
    """Return the trials of an .npz. Raises BadInput where the file is missing or is not one that
    plotter.py writes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        facts = {name: str(arrays[name]) for name in ("title", "study", "baseline", "metric",
                                                      "over")}
        numbers = {name: float(arrays[name]) for name in ("margin", "alpha")}
        curves = np.split(arrays["curves"], np.cumsum(arrays["curve_lengths"])[:-1])
        trials = tuple(
            Trial(str(arm), int(seed), {name: float(arrays[f"measure_{name}"][i])
                                        for name in MEASURES}, curves[i])
            for i, (arm, seed) in enumerate(zip(arrays["arm"], arrays["seed"], strict=True)))
        lost = tuple((str(arm), int(seed)) for arm, seed in zip(
            arrays["diverged_arm"], arrays["diverged_seed"], strict=True))
        # older files do not have these arrays
        barred = tuple((str(arm), str(why)) for arm, why in arrays.get("barred", ()))
        in_bytes, busy = (tuple(map(str, arrays.get(name, ()))) for name in ("in_bytes", "busy"))
    except FileNotFoundError:
        raise BadInput(f"no file {path}; plotter.py writes {NAME}.npz under visualizations/"
                       ) from None
    except UNREADABLE as error:
        raise BadInput(f"{path}: not a results file written by plotter.py ({error})") from None
    return Trials(**facts, **numbers, all=trials, barred=barred, in_bytes=in_bytes, diverged=lost,
                  busy=busy)


def summary(trials: Trials) -> dict:
    """Return the content of the .json, for people: each arm's runs, means and standard deviations,
    without the curves."""
    def plain(value: float) -> float | None:
        return value if isfinite(value) else None
    arms = {}
    for arm in trials.arms:
        runs = [{"seed": t.seed if t.seed >= 0 else None,
                 **{m: plain(t.measures[m]) for m in MEASURES}}
                for t in trials.of(arm)]
        arms[arm] = {"runs": runs,
                     "mean_sd": {m: spread(list(trials.values(m).get(arm, {}).values()))
                                 for m in MEASURES}}
    return {"schema": 1, **{name: getattr(trials, name) for name in FACTS}, "arms": arms}


def spread(values: list[float]) -> list[float | None] | None:
    """Return [mean, sd]; None where there are no values. The sd of a single value is None."""
    return [fmean(values), stdev(values) if len(values) > 1 else None] if values else None


def comparison_text(trials: Trials) -> str:
    """Return one block per measure: mean ± sd of each arm, its change in per cent, and the paired
    and the unpaired test."""
    blocks = [f"{trials.title}\nbaseline: {trials.baseline}; {len(trials.all)} finished runs"
              + (f", {len(trials.diverged)} that diverged" if trials.diverged else "")
              + "; paired by seed, Holm over the arms of a measure; Welch and Cohen's d take the "
              "runs as unpaired"]
    blocks += [_block(trials, measure) for measure in MEASURES if trials.values(measure)]
    blocks.append("Timing and memory are measured on one machine. A test on them says whether "
                  "these runs differ, not whether runs on another machine would.")
    return "\n\n".join(blocks) + "\n"


def _block(trials: Trials, measure: str) -> str:
    values, verdicts = trials.values(measure), trials.verdicts(measure)
    width = max(map(len, values))
    lines = [TITLES[measure]]
    base = spread(list(values[trials.baseline].values())) if trials.baseline in values else None
    for arm, runs in values.items():
        mean, sd = spread(list(runs.values()))
        digits = 4 if abs(base[0] if base else mean) < 100 else 1
        line = f"  {arm:{width}s}  {mean:>12,.{digits}f}" + (
            f" ± {sd:,.{digits}f}" if sd is not None else "")
        line += f"  n = {len(runs)}"
        if base and arm != trials.baseline and arm not in trials.bars(measure):
            line += f"  {100 * (mean / base[0] - 1):+.2f} %" if base[0] else ""
        lines.append((line + _tests(verdicts.get(arm))).replace("-", "−"))
    return "\n".join(lines)


def _tests(verdict) -> str:
    if verdict is None:
        return ""
    if verdict.word == NOT_COMPARABLE:
        return f"; {verdict.word}: {verdict.reason}"
    parts = [p_text("paired Holm p", verdict.p_holm)] if verdict.p_holm is not None else []
    parts += [p_text("Welch p", verdict.p_welch)] if verdict.p_welch is not None else []
    parts += [f"d {verdict.cohens_d:+.2f}"] if verdict.cohens_d is not None else []
    return "".join(f"; {part}" for part in (", ".join(parts), verdict.reason) if part)
