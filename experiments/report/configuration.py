"""
What all arms of a study start from, and what each arm changes, for the top of the page.
"""

from __future__ import annotations

from typing import Any

from experiments.records.record import at
from experiments.report.notices import leaves
from experiments.report.tables import PageTable, plain
from experiments.verdicts.results import Results
from mingpt.config import SIZES

SHORT = ("model.", "trainer.")     # sections that a short setting's name leaves out


def base(results: Results) -> list[tuple[str, str]]:
    """Return (name, value) of the settings that a reader asks for first, from the baseline's
    record. A value that the record does not hold is left out."""
    record = _record(results)
    model, trainer, data = (_section(record, "config", part) for part in ("model", "trainer",
                                                                         "data"))
    described, result = _section(record, "model"), _section(record, "result")
    context, named = model.get("block_size"), model.get("model_type")
    # a model that is named by its size has the size's layers, width and heads
    model = model | (SIZES.get(named, {}) if isinstance(named, str) else {})
    facts = [("Layers", model.get("n_layer")), ("Width", model.get("n_embd")),
             ("Heads", model.get("n_head")), ("Model", named),
             ("Context", context),
             ("Vocabulary", at(record, "data", "vocab_size") or model.get("vocab_size")),
             ("Tokenizer", at(record, "data", "tokenizer") or data.get("tokenizer")),
             ("Parameters", described.get("parameters")),
             ("Batch", _batch(trainer, context)),
             ("Iterations", trainer.get("max_iters") or result.get("iterations")),
             ("Tokens", result.get("tokens")), ("Optimizer", trainer.get("optimizer")),
             ("Learning rate", trainer.get("learning_rate")), ("Schedule", _schedule(trainer)),
             ("Data", _data(at(record, "data"))), ("Preset", record.get("preset"))]
    return [(name, number(value)) for name, value in facts if value not in (None, "", [], {})]


def changed(results: Results, arm: str) -> list[str]:
    """Return everything that an arm changes, such as "position: learned → rope"."""
    found = results.changes_of(arm)
    if found == {"?": None}:
        return ["unknown: no record"]
    lines = []
    for key, pair in found.items():
        was, now = pair if isinstance(pair, list) and len(pair) == 2 else (None, pair)
        short = next((key.removeprefix(part) for part in SHORT if key.startswith(part)), key)
        ends = ("not set" if value is None else plain(value) for value in (was, now))
        lines.append(f"{short}: {' → '.join(ends)}")
    return lines or ["nothing"]


def every_setting(results: Results) -> PageTable | None:
    """Return the folded table of all settings of the baseline; None without a record of them."""
    rows = [[key, plain(value)] for key, value in leaves(_section(_record(results), "config"))]
    return PageTable(f"Every setting of {results.baseline}", ["Setting", "Value"], rows, code=(1,),
                     summary=f"All {len(rows)} settings of {results.baseline}") if rows else None


def number(value: Any) -> str:
    """Return a value of a record as a reader writes it: 9,303,685 or 0.002."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _record(results: Results) -> dict[str, Any]:
    """Return the first record of the baseline that holds settings, or an empty one."""
    return next((run.record for run in results.runs_of(results.baseline)
                 if isinstance(at(run.record, "config"), dict)), {})


def _section(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    found = at(record, *keys)
    return found if isinstance(found, dict) else {}


def _batch(trainer: dict[str, Any], context: Any) -> str:
    """Return "16 rows of 128 tokens", with the number of accumulated batches where it is not 1."""
    rows, steps = trainer.get("batch_size"), trainer.get("accumulation_steps")
    if rows is None:
        return ""
    several = f"{number(steps)} × " if steps not in (None, 1) else ""
    return f"{several}{number(rows)} rows" + (f" of {number(context)} tokens" if context else "")


def _schedule(trainer: dict[str, Any]) -> str:
    """Return "cosine, warm-up over 10 % of the run"."""
    name, warmup = trainer.get("lr_schedule"), trainer.get("warmup_steps")
    if name is None:
        return ""
    if not isinstance(warmup, int | float) or not warmup:
        return f"{plain(name)}, no warm-up"
    over = f"{100 * warmup:g} % of the run" if 0 < warmup < 1 else f"{warmup:,g} iterations"
    return f"{plain(name)}, warm-up over {over}"


def _data(found: Any) -> str:
    """Return what the text is and how many tokens it has."""
    paths, first = at(found, "paths"), at(found, "sources", "first")
    names = ", ".join(map(plain, paths)) if isinstance(paths, list) and paths else (
        plain(first) if first else "")
    tokens = at(found, "tokens")
    return ", ".join(filter(None, [names, f"{number(tokens)} tokens" if tokens else ""]))
