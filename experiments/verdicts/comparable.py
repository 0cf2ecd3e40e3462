"""
Decide whether an arm's runs may be judged against the baseline's. They may if both have the same
validation tokens and the same value of every setting that the arm does not declare as its own.
This module needs no torch.

An arm declares what its record calls `changes`: its table in a study, or its flags on the command
line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.records import codefiles
from experiments.records.record import FREE, at
from experiments.records.runs import RecordedRun
from mingpt.config import SIZES

SIZE, SHAPE = "model.model_type", ("model.n_layer", "model.n_head", "model.n_embd")
# Settings that cannot change a result: they decide what is logged, kept, measured or allowed. The
# last four only change the order of additions, so they move a result by rounding.
HARMLESS = FREE | {"run.log_every", "run.checkpoint_every", "run.eval_batch_size", "run.keep_best",
                   "run.threads", "run.rehearsals", "run.sample_prompt", "run.sample_tokens",
                   "data.max_bad", "data.allow_truncated", "trainer.checkpoint_activations",
                   "trainer.compile", "trainer.parallel", "trainer.context_processes",
                   "trainer.reduce", "model.backend"}
# Settings that decide the validation set. They are compared where a record is too old to describe
# its validation set.
DECIDES_VALIDATION = ("data.tokenizer", "data.val_fraction", "data.val_docs", "data.val_tokens",
                      "data.pack", "data.val_pack", "data.length", "data.text_key",
                      "data.min_chars", "data.max_docs", "data.separator", "data.bin_dtype",
                      "data.val_sources")
# With pack = "truncate", the row length cuts documents too.
DECIDES_ROWS = ("model.block_size",)
DECIDES_TEXT = ("data.paths", "data.tokenizer", "data.text_key", "data.min_chars", "data.max_docs",
                "data.separator", "data.bin_dtype")
# These metrics are per token, so they depend on how the tokenizer cuts text into tokens.
TOKEN_METRICS = ("val_loss", "loss", "perplexity")


@dataclass(frozen=True)
class Comparison:
    """Whether an arm's runs compare with the baseline's. `reason` is empty where a verdict may be
    given."""
    reason: str = ""
    # True for another tokenizer over the same validation text: bits per byte compare, nats do not
    in_bytes: bool = False
    note: str = ""             # the budget that the arm declares, such as "with 3× the tokens"


def compare_runs(arm: Iterable[RecordedRun], baseline: Iterable[RecordedRun]) -> Comparison:
    """Compare the records of an arm with those of the baseline. Runs without a record are skipped,
    because their settings are unknown."""
    mine, theirs = _recorded(arm), _recorded(baseline)
    if not mine or not theirs:
        return Comparison()
    for runs, whose in ((theirs, "the baseline's seeds"), (mine, "its seeds")):
        if reason := _among_themselves(runs):
            return Comparison(f"{whose} differ among themselves: {reason}")
    return compare_records(mine[0].record, theirs[0].record)


def compare_records(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> Comparison:
    """Compare one record of an arm with one record of the baseline."""
    declared = changes(arm)
    if found := _other_bases(baseline, declared):
        return Comparison("; ".join(f"{key} {has} (baseline), but the arm is declared as a change "
                                    f"from {base}"
                                    for key, (has, base) in found.items()))
    if found := _differences(baseline, arm, declared):
        return Comparison("; ".join(_told(key, *pair, "baseline") for key, pair in found.items()))
    reason, in_bytes = _validation(arm, baseline)
    return Comparison(reason, in_bytes, "" if reason else _budget(arm, baseline, declared))


def compare_any(record: Mapping[str, Any], first: Mapping[str, Any], name: str) -> Comparison:
    """Compare two records of which neither need be a baseline, except for their validation sets:
    all must be the same but for the changes that the two declare. `name` is the first's.

    Where the tokenizers differ, the hashes of the training data differ too and are not compared.
    """
    declared = {**changes(first), **changes(record)}
    starts, own = ({**settings(each), **_starts(changes(each))} for each in (first, record))
    found = {key: (starts[key], own[key]) for key in declared if key in starts and key in own
             and starts[key] != own[key] and key not in HARMLESS}
    tokenizers = {at(each, "data", "tokenizer") for each in (first, record)}
    free = declared | ({"data.tokenizer": None} if len(tokenizers) > 1 else {})
    found |= _differences(first, record, free)
    reason = "; ".join(_told(key, *pair, name) for key, pair in found.items())
    one, other = settings(first), settings(record)
    differing = {key: None for key in declared if one.get(key) != other.get(key)}
    return Comparison(reason, note="" if reason else _budget(record, first, differing))


def common_iteration(runs: Iterable[RecordedRun], metric: str) -> int | None:
    """Return the last iteration at which every complete run has the metric.

    None where every run has a record that says how it ended, or where all runs end at the same
    iteration. −1 where the runs share no iteration, so that none of them gets a value.
    """
    runs = [run for run in runs if run.complete]
    if all(run.record for run in runs):
        return None
    measured = [set(run.table.loc[run.table[metric].notna(), "iteration"].astype(int))
                for run in runs]
    measured = [each for each in measured if each]
    if len({max(each) for each in measured}) < 2:
        return None
    return max(set.intersection(*measured), default=-1)


def settings(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a record's configuration as a flat dict: {"model.n_layer": 4, …}."""
    config = at(record, "config")
    sections = config.items() if isinstance(config, Mapping) else ()
    return {f"{name}.{key}": value for name, section in sections if isinstance(section, Mapping)
            for key, value in section.items()}


def changes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a record's arm declares as its own: setting → [the baseline's value, its own]."""
    declared = record.get("changes")
    return declared if isinstance(declared, Mapping) else {}


def same_validation(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two records were scored on the same validation tokens."""
    one, other = at(a, "data", "validation", "hash"), at(b, "data", "validation", "hash")
    if one and other:
        return one == other
    return not _decides(a, b)


def same_text(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two records were scored on the same validation text, in whatever tokens."""
    one, other = at(a, "data", "validation", "text_hash"), at(b, "data", "validation", "text_hash")
    return one is not None and one == other


def _recorded(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    return [run for run in runs if run.record and run.status in ("done", "diverged")]


def _differences(a: Mapping[str, Any], b: Mapping[str, Any],
                 declared: Mapping[str, Any]) -> dict[str, list]:
    """Return setting → [a's value, b's value] for every difference that b's arm does not declare.
    A setting that one record lacks is skipped: it did not exist when that record was written."""
    found, mine = {}, settings(a)
    if at(a, "config") != at(b, "config"):      # the seeds of an arm mostly have the same
        mine, theirs = _sized(settings(a)), _sized(settings(b))
        shape = SHAPE if SIZE in declared else ()
        found = {key: [mine[key], theirs[key]] for key in mine if key in theirs
                 and mine[key] != theirs[key]
                 and key not in HARMLESS and key not in declared and key not in shape}
    if "run.patience" not in found and mine.get("run.patience") is None:
        # without patience, eval_every only decides how often the loss is measured
        found.pop("run.eval_every", None)
    one, other = at(a, "data", "hash"), at(b, "data", "hash")
    if one and other and one != other and not set(declared) & set(DECIDES_TEXT):
        found["the data's hash"] = [one[:12], other[:12]]
    return found | codefiles.revised(a, b)


def _sized(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with layers, heads and width in place of a named size."""
    named = flat.get(SIZE)
    size = SIZES.get(named) if isinstance(named, str) else None
    return dict(flat) if size is None else {
        **flat, SIZE: None, **{f"model.{key}": value for key, value in size.items()}}


def _other_bases(baseline: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, tuple]:
    """Return the declared changes that start from another value than the baseline ran with:
    setting → (the value it ran with, the value the change starts from)."""
    have = settings(baseline)
    return {key: (have[key], base) for key, base in _starts(declared).items()
            if key in have and have[key] != base and key not in HARMLESS}


def _starts(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value that each declared change starts from."""
    return {key: pair[0] for key, pair in declared.items() if isinstance(pair, list)
            and len(pair) == 2}


def _among_themselves(runs: list[RecordedRun]) -> str:
    """Return the settings in which the seeds of one arm differ; empty where they do not."""
    first, *others = runs
    for run in others:
        if found := _differences(first.record, run.record, {}):
            return "; ".join(f"{key} {a} ({_seed(first)}) and {b} ({_seed(run)})" for key,
                             (a, b) in found.items())
        if not same_validation(first.record, run.record):
            return f"the validation sets of {_seed(first)} and {_seed(run)}"
    return ""


def _seed(run: RecordedRun) -> str:
    return run.path.stem if run.seed is None else f"seed {run.seed}"


def _told(key: str, a: Any, b: Any, whose: str) -> str:
    a, b = ("not set" if value is None else value for value in (a, b))
    return f"{key} {a} ({whose}) and {b}"


def _validation(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[str, bool]:
    """Return (why the validation sets do not compare, or "", whether they compare in bits per byte
    only)."""
    if same_validation(arm, baseline):
        return "", False
    mine, theirs = (at(record, "data", "tokenizer") for record in (arm, baseline))
    if mine != theirs and same_text(arm, baseline):
        return "", True
    found = _decides(arm, baseline) or {"the held-out documents": ("the baseline's", "others")}
    told = "; ".join(_told(key, *pair, "baseline") for key, pair in found.items())
    if mine != theirs:
        told += ("; arms with different tokenizers must score the whole held-out text: raise "
                 "data.val_tokens until all of it fits")
    return f"another validation set: {told}", False


def _decides(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, tuple]:
    """Return the settings that decide the validation set and differ: setting → (the baseline's
    value, the arm's)."""
    mine, theirs = settings(arm), settings(baseline)
    truncated = "truncate" in (mine.get("data.pack"), theirs.get("data.pack"))
    keys = DECIDES_VALIDATION + (DECIDES_ROWS if truncated else ())
    found = {key: (theirs[key], mine[key]) for key in keys
             if key in mine and key in theirs and mine[key] != theirs[key]}
    for key, name in (("hash", "the data's hash"), ("tokenizer", "data.tokenizer")):
        one, other = at(baseline, "data", key), at(arm, "data", key)
        if one and other and one != other and name not in found:
            found[name] = (one[:12], other[:12])
    return found


def _budget(arm: Mapping[str, Any], baseline: Mapping[str, Any],
            declared: Mapping[str, Any]) -> str:
    """Return what an arm was given, where it declares another budget or other training data."""
    told = []
    mine, theirs = (at(record, "result", "tokens") for record in (arm, baseline))
    if (declared and mine and theirs and abs(mine / theirs - 1) > 0.01
            and at(arm, "result", "val_loss") is not None):
        told.append(f"with {mine / theirs:.3g}× the tokens")
    if set(declared) & {"data.paths", "data.mixture", "data.filter", "data.dedup"}:
        told.append("on its own training data")
    return ", ".join(told)
