"""
Tables and sentences that report an analysis as plain text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

UNTIMED = "Speed-ups were not measured (--no-timing), and they are never estimated."


def counts_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of what is left out, one line per subject."""
    T, preset, layers = rows[0]["T"], rows[0]["model"]["preset"], rows[0]["model"]["n_layer"]
    table = [("", "sparsity", "density", "of FLOPs", "keys per query", "reach",
              f"field of {layers} layers")]
    for row in rows:
        keys, field = row["keys_per_query"], row["receptive_field"]
        table.append((row["title"], f"{row['sparsity']:.1%}", f"{row['density']:.1%}",
                      f"{row['compute_sparsity']:.1%}",
                      f"{keys['min']} to {keys['max']}, mean {keys['mean']:.1f}",
                      f"{max(layer['reach'] for layer in row['layers'])}", field_text(field, T)))
    return "\n".join([f"S = {T}", "", *aligned(table), "", *_wrapped(
        "sparsity: the share of the causal triangle that is not computed; density: the share that "
        "is. of FLOPs: the share of a whole training step's FLOPs that is saved, in the model of "
        f"preset {preset} with {layers} layers. reach: the farthest key that a query sees in one "
        "layer. field: the positions that the last query's output depends on through all layers, "
        "and how far back they go.")])


def field_text(field: dict[str, Any], T: int) -> str:
    """Return a receptive field as text: 'all 256' or '201 of 256, 240 back'."""
    return (f"all {T}" if field["positions"] == T
            else f"{field['positions']} of {T}, {field['farthest']} back")


def layers_text(row: dict[str, Any]) -> str:
    """Return the table of a schedule, one line per layer."""
    table = [("layer", "pattern", "sparsity", "keys per query", "reach", "field so far")]
    for number, layer in enumerate(row["layers"]):
        keys = layer["keys_per_query"]
        table.append((str(number), layer["pattern"], f"{layer['sparsity']:.1%}",
                      f"{keys['min']} to {keys['max']}, mean {keys['mean']:.1f}",
                      str(layer["reach"]), field_text(layer["receptive_field"], row["T"])))
    note = _wrapped(f"note: {row['note']}") if row["note"] else []
    return "\n".join([*note, *aligned(table)])


def speedups_text(rows: Sequence[dict[str, Any]], how: dict[str, Any] | None) -> str:
    """Return the table of the measured speed-ups and how they were measured, or the sentence that
    they were not."""
    if how is None:
        return UNTIMED
    table = [("", "ideal", "banded over flash", "over a dense mask", "auto takes", "over flash",
              "over a dense mask")]
    for row in rows:
        times = row["measured"]
        table.append((row["title"], f"{row['ideal_speedup']:.2f}",
                      ratio_text(times["banded_over_flash"]),
                      ratio_text(times["banded_over_dense"]), " ".join(times["auto_takes"]),
                      ratio_text(times["auto_over_flash"]), ratio_text(times["auto_over_dense"])))
    B, heads, T, size = how["shape"]
    return "\n".join([*aligned(table), "", *_wrapped(
        f"Speed-ups of attention, forward and backward, are measured: the median of the ratios of "
        f"{how['rounds']} rounds, with their quartiles. B, heads, S, head size = {B}, {heads}, "
        f"{T}, {size} on {how['device']}, torch threads: {how['threads']} on {how['cpus']} CPUs, "
        f"load {how['load_before']:.1f} at the start, torch {how['torch']}. ideal: the number of "
        f"pairs (query, key) of causal attention divided by that of this pattern; a kernel exceeds "
        "it only where it uses the machine better than flash does. flash: torch's causal kernel. "
        "(Study 003 estimated 0.15 times the sparsity without a measurement; nothing is estimated "
        "here.)")])


def ratio_text(ratio: dict[str, float] | None) -> str:
    """Return a ratio as text, the median and the quartiles: '1.52 (1.49 1.60)'; '-' for None."""
    return ("-" if ratio is None
            else f"{ratio['median']:.2f} ({ratio['low']:.2f} {ratio['high']:.2f})")


def run_text(result: dict[str, Any]) -> str:
    """Return the table of a trained run's attention, one line per layer."""
    table = [("layer", "pattern", "entropy", "of at most", "distance", "if uniform", "on itself",
              "on the first", "output/residual")]
    for number, layer in enumerate(result["layers"]):
        mean = {name: layer[name]["mean"] for name in ("entropy", "distance", "self", "first")}
        table.append((str(number), layer["pattern"], f"{mean['entropy']:.2f}",
                      f"{layer['entropy']['uniform']:.2f}", f"{mean['distance']:.1f}",
                      f"{layer['distance']['uniform']:.1f}", f"{mean['self']:.1%}",
                      f"{mean['first']:.1%}", f"{layer['output_over_residual']:.3f}"))
    head = (f"{result['run']}: {result['schedule']}, T = {result['T']}, sparsity "
            f"{result['sparsity']:.1%}")
    return "\n".join([head, "", *aligned(table), "", *_wrapped(
        f"Means over the heads and {result['queries']:,} queries in {result['rows']} rows "
        "of validation text. entropy: in nats, at most the entropy of uniform attention over the "
        "keys that the pattern allows. distance: the mean distance of the attended key, in tokens. "
        "on itself, on the first: the share of the weight on the query's own key and on the first "
        "key of the text. output/residual: the length of what attention adds, divided by the "
        "length of what it is added to.")])


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with columns of equal width: the first column is aligned left, the
    others right."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return ["  ".join(cell.rjust(width) if k else cell.ljust(width)
                      for k, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in table]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110)
