"""
Write an analysis to OUT/visualizations/analysis/, as text, JSON and pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis.report import counts_text, layers_text, run_text, speedups_text
from mingpt.utils import BadInput, write_atomic

PAIRS_NAME = "hyperparameter_analysis"


def folder_of(out: Path) -> Path:
    """Return the folder of all analyses under OUT, and create it where needed. Raises BadInput
    where it cannot be created."""
    folder = Path(out) / "visualizations" / "analysis"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out: cannot write to {folder}: {error.strerror}") from None
    return folder


def text_of(rows: Sequence[dict[str, Any]], how: dict[str, Any] | None) -> str:
    """Return the whole report as text, on pairs or on one schedule with its layers. `how` says how
    speed-ups were measured; None means they were not."""
    parts = [counts_text(rows)]
    if rows[0]["pair"] is None:
        parts.append(layers_text(rows[0]))
    return "\n\n".join([*parts, speedups_text(rows, how)]) + "\n"


def write_rows(rows: Sequence[dict[str, Any]], how: dict[str, Any] | None,
               folder: Path) -> list[Path]:
    """Write the text, JSON and pictures of several pairs, or of one pair or schedule under its own
    name. Return the paths."""
    stem = PAIRS_NAME if len(rows) > 1 else rows[0]["name"]
    return [*_documents(folder / stem, text_of(rows, how), {"measured": how, "rows": list(rows)}),
            *_pictures(rows, how, folder)]


def _pictures(rows: Sequence[dict[str, Any]], how: dict[str, Any] | None,
              folder: Path) -> Iterator[Path]:
    from experiments.figures import masks
    from experiments.figures.speedups import tradeoff
    if rows[0]["pair"] is None:
        yield masks.draw(lambda: masks.layers(rows[0]), folder / f"{rows[0]['name']}_masks")
        yield masks.draw(lambda: masks.reach(rows[0]), folder / f"{rows[0]['name']}_reach")
        return
    for row in rows:
        yield masks.draw(lambda row=row: masks.one_pair(row, how), folder / row["name"])
    if len(rows) > 1:
        yield masks.draw(lambda: masks.comparison(rows), folder / "hyperparameter_comparison")
    if len(rows) > 1 and how is not None:
        yield masks.draw(lambda: tradeoff(rows, how), folder / "sparsity_speedup_tradeoff")


def write_run(result: dict[str, Any], maps: np.ndarray, folder: Path) -> list[Path]:
    """Write the text, JSON and pictures of a trained run into a folder of its name. Return the
    paths."""
    from experiments.figures import heads, masks
    folder = folder / result["run"]
    jobs = {"attention_maps": lambda: heads.layer_maps(result, maps),
            "attention_statistics": lambda: heads.statistics(result)}
    if heads.shows_heads(result):
        jobs["attention_heads"] = lambda: heads.head_maps(result, maps)
    return [*_documents(folder / "attention", run_text(result) + "\n", result),
            *(masks.draw(job, folder / name) for name, job in jobs.items())]


def _documents(stem: Path, text: str, document: dict[str, Any]) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.txt"), stem.with_name(f"{stem.name}.json")]
    for path, content in zip(paths, (text, as_json(document)), strict=True):
        write_atomic(path, content)
    return paths


def as_json(document: dict[str, Any]) -> str:
    """Return the document as indented JSON, with a line end."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
