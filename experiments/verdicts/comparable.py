"""
Whether an arm's runs may be judged against the baseline's: the same validation tokens, and the same
value of every setting that the arm does not declare as its own. Needs no torch.

An arm declares what its record calls `changes`: its table in a study, its flags on the command
line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.records.record import FREE, at
from experiments.records.runs import Run

# Settings that cannot change a result. They say what is logged, kept, measured or allowed. The last
# two change the order of additions and nothing else, so they move a result by rounding.
HARMLESS = FREE | {"run.log_every", "run.checkpoint_every", "run.eval_batch_size", "run.keep_best",
                   "run.threads",
                   "run.rehearsals", "run.sample_prompt", "run.sample_tokens", "data.max_bad",
                   "data.allow_truncated",
                   "trainer.compile", "model.backend"}
# What decides the validation set of a record that was written before records described it.
DECIDES_VALIDATION = ("data.tokenizer", "data.val_fraction", "data.val_docs", "data.val_tokens",
                      "data.pack",
                      "data.val_pack", "data.length", "data.text_key", "data.min_chars",
                      "data.max_docs",
                      "data.separator", "data.bin_dtype")
# with pack = "truncate" the row's length cuts documents as well
DECIDES_ROWS = ("model.block_size",)
DECIDES_TEXT = ("data.paths", "data.tokenizer", "data.text_key", "data.min_chars", "data.max_docs",
                "data.mixture",
                "data.separator", "data.bin_dtype")
# per token, so a tokenizer's choice of tokens changes them
TOKEN_METRICS = ("val_loss", "loss", "perplexity")


@dataclass(frozen=True)
class Comparison:
    """An arm's runs against the baseline's. `reason` is empty where a verdict may be given."""
    reason: str = ""
    # another tokenizer over the same validation text: bits per byte compare, nats do not
    in_bytes: bool = False
    note: str = ""             # which budget the arm declares: "with 3× the tokens"


def compare_runs(arm: Iterable[Run], baseline: Iterable[Run]) -> Comparison:
    """Compare the records of an arm with those of the baseline; runs without a record say nothing
    of their settings."""
    mine, theirs = _recorded(arm), _recorded(baseline)
    if not mine or not theirs:
        return Comparison()
    for runs, whose in ((theirs, "the baseline's seeds"), (mine, "its seeds")):
        if reason := _among_themselves(runs):
            return Comparison(f"{whose} differ among themselves: {reason}")
    return compare_records(mine[0].record, theirs[0].record)


def compare_records(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> Comparison:
    """Compare one record with the baseline's."""
    declared = changes(arm)
    if found := _other_bases(baseline, declared):
        return Comparison("; ".join(f"{key} {has} (baseline), but the arm is declared as a change "
                                    f"from {base}"
                                    for key, (has, base) in found.items()))
    if found := _differences(baseline, arm, declared):
        return Comparison("; ".join(_told(key, *pair, "baseline") for key, pair in found.items()))
    reason, in_bytes = _validation(arm, baseline)
    return Comparison(reason, in_bytes, "" if reason else _budget(arm, baseline, declared))


def common_iteration(runs: Iterable[Run], metric: str) -> int | None:
    """The last iteration at which every complete run has the metric; None where records say how
    each run ended, or where all end alike. −1 where the runs share no iteration, so that none of
    them gets a value."""
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
    """A record's configuration, flat: {"model.n_layer": 4, …}."""
    config = at(record, "config")
    sections = config.items() if isinstance(config, Mapping) else ()
    return {f"{name}.{key}": value for name, section in sections if isinstance(section, Mapping)
            for key, value in section.items()}


def changes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a record's arm declares as its own: setting → [the baseline's, its own]."""
    declared = record.get("changes")
    return declared if isinstance(declared, Mapping) else {}


def same_validation(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two records were scored on the same validation tokens."""
    one, other = at(a, "data", "validation", "hash"), at(b, "data", "validation", "hash")
    if one and other:
        return one == other
    return not _decides(a, b)


def same_text(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two records were scored on the same validation text, whatever its tokens."""
    one, other = at(a, "data", "validation", "text_hash"), at(b, "data", "validation", "text_hash")
    return one is not None and one == other


def _recorded(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.record and run.status in ("done", "diverged")]


def _differences(a: Mapping[str, Any], b: Mapping[str, Any],
                 declared: Mapping[str, Any]) -> dict[str, list]:
    """Setting → [a's, b's], where b's arm does not declare it. A setting that one record lacks did
    not exist when it was written. A declared change from another value than a's is not what the arm
    declares."""
    mine, theirs = settings(a), settings(b)
    found = {key: [mine[key], theirs[key]] for key in mine if key in theirs
             and mine[key] != theirs[key]
             and key not in HARMLESS and key not in declared}
    if "run.patience" not in found and mine.get("run.patience") is None:
        # without patience it only says how often the loss is measured
        found.pop("run.eval_every", None)
    one, other = at(a, "data", "hash"), at(b, "data", "hash")
    if one and other and one != other and not set(declared) & set(DECIDES_TEXT):
        found["the data's hash"] = [one[:12], other[:12]]
    return found


def _other_bases(baseline: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, tuple]:
    """The declared changes that begin at another value than the baseline ran with: setting → (ran
    with, begin at)."""
    have = settings(baseline)
    pairs = {key: pair for key, pair in declared.items() if isinstance(pair, list)
             and len(pair) == 2}
    return {key: (have[key], base) for key, (base, _) in pairs.items()
            if key in have and have[key] != base and key not in HARMLESS}


def _among_themselves(runs: list[Run]) -> str:
    """The settings in which the seeds of one arm differ; empty where they do not."""
    first, *others = runs
    for run in others:
        if found := _differences(first.record, run.record, {}):
            return "; ".join(f"{key} {a} ({_seed(first)}) and {b} ({_seed(run)})" for key,
                             (a, b) in found.items())
        if not same_validation(first.record, run.record):
            return f"the validation sets of {_seed(first)} and {_seed(run)}"
    return ""


def _seed(run: Run) -> str:
    return run.path.stem if run.seed is None else f"seed {run.seed}"


def _told(key: str, a: Any, b: Any, whose: str) -> str:
    return f"{key} {a} ({whose}) and {b}"


def _validation(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[str, bool]:
    """(why the validation sets do not compare or "", whether they compare in bits per byte
    only)."""
    if same_validation(arm, baseline):
        return "", False
    mine, theirs = (at(record, "data", "tokenizer") for record in (arm, baseline))
    if mine != theirs and same_text(arm, baseline):
        return "", True
    found = _decides(arm, baseline) or {"the held-out documents": ("the baseline's", "others")}
    told = "; ".join(_told(key, *pair, "baseline") for key, pair in found.items())
    if mine != theirs:
        told += ("; with another tokenizer, score the whole held-out text: raise data.val_tokens "
                 "until all of it fits")
    return f"another validation set: {told}", False


def _decides(arm: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, tuple]:
    """The settings that decide the validation set and differ: setting → (the baseline's, the
    arm's)."""
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
    """What an arm that declares another budget or other training data was given."""
    told = []
    mine, theirs = (at(record, "result", "tokens") for record in (arm, baseline))
    if (
        declared
        and mine
        and theirs
        and abs(mine / theirs - 1) > 0.01
        and at(arm, "result", "val_loss") is not None
    ):
        told.append(f"with {mine / theirs:.3g}× the tokens")
    if set(declared) & {"data.paths", "data.mixture"}:
        told.append("on training data of its own")
    return ", ".join(told)
