"""
An analysis as text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

UNTIMED = "Speed-ups were not measured (--no-timing), and none is estimated."


def counts_text(rows: Sequence[dict[str, Any]]) -> str:
    """What is left out, a line a subject."""
    T, preset, layers = rows[0]["T"], rows[0]["model"]["preset"], rows[0]["model"]["n_layer"]
    table = [("", "sparsity", "density", "of FLOPs", "keys a query", "reach",
              f"field of {layers} layers")]
    for row in rows:
        keys, field = row["keys_per_query"], row["receptive_field"]
        table.append((row["title"], f"{row['sparsity']:.1%}", f"{row['density']:.1%}",
                      f"{row['compute_sparsity']:.1%}",
                      f"{keys['min']} to {keys['max']}, mean {keys['mean']:.1f}",
                      f"{max(layer['reach'] for layer in row['layers'])}", field_text(field, T)))
    return "\n".join([f"S = {T}", "", *aligned(table), "", *_wrapped(
        "sparsity: the share of the causal triangle that is not computed; density: the rest of it. "
        "of FLOPs: the share "
        f"of a whole training step's FLOPs that is saved, in preset {preset}'s model with {layers} "
        f"layers. reach: the "
        "farthest key that a query sees in one layer. field: the positions that the last query's "
        "output depends on "
        "through all layers, and how far back they go.")])


def field_text(field: dict[str, Any], T: int) -> str:
    """'all 256' or '201 of 256, 240 back'."""
    return (f"all {T}" if field["positions"] == T
            else f"{field['positions']} of {T}, {field['farthest']} back")


def layers_text(row: dict[str, Any]) -> str:
    """A schedule layer by layer."""
    table = [("layer", "pattern", "sparsity", "keys a query", "reach", "field so far")]
    for number, layer in enumerate(row["layers"]):
        keys = layer["keys_per_query"]
        table.append((str(number), layer["pattern"], f"{layer['sparsity']:.1%}",
                      f"{keys['min']} to {keys['max']}, mean {keys['mean']:.1f}",
                      str(layer["reach"]), field_text(layer["receptive_field"], row["T"])))
    note = _wrapped(f"note: {row['note']}") if row["note"] else []
    return "\n".join([*note, *aligned(table)])


def speedups_text(rows: Sequence[dict[str, Any]], how: dict[str, Any] | None) -> str:
    """The measured speed-ups, and how they were measured."""
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
        f"Speed-ups of attention, forward and backward, are measured: the median of "
        f"{how['rounds']} rounds' own "
        f"ratios, with their quartiles. B, heads, S, head size = {B}, {heads}, {T}, {size} on "
        f"{how['device']}, "
        f"torch threads: {how['threads']} on {how['cpus']} CPUs, load {how['load_before']:.1f} "
        f"when it began, "
        f"torch {how['torch']}. ideal: the pairs (query, key) of causal attention over those of "
        f"this one, a "
        "count, which a kernel passes only where it uses the machine better than flash does. "
        "flash: torch's causal "
        "kernel. "
        "(Study 003's estimate was 0.15 times the sparsity, from no measurement; none is made "
        "here.)")])


def ratio_text(ratio: dict[str, float] | None) -> str:
    """'1.52 (1.49 1.60)': the median and the quartiles."""
    return ("-" if ratio is None
            else f"{ratio['median']:.2f} ({ratio['low']:.2f} {ratio['high']:.2f})")


def run_text(result: dict[str, Any]) -> str:
    """A trained run's attention, a line a layer."""
    table = [("layer", "pattern", "entropy", "of at most", "distance", "if uniform", "on itself",
              "on the first",
              "output/residual")]
    for number, layer in enumerate(result["layers"]):
        mean = {name: layer[name]["mean"] for name in ("entropy", "distance", "self", "first")}
        table.append((str(number), layer["pattern"], f"{mean['entropy']:.2f}",
                      f"{layer['entropy']['uniform']:.2f}",
                      f"{mean['distance']:.1f}", f"{layer['distance']['uniform']:.1f}",
                      f"{mean['self']:.1%}",
                      f"{mean['first']:.1%}", f"{layer['output_over_residual']:.3f}"))
    head = (f"{result['run']}: {result['schedule']}, T = {result['T']}, sparsity "
            f"{result['sparsity']:.1%}")
    return "\n".join(
        [
            head,
            "",
            *aligned(table),
            "",
            *_wrapped(
                f"Means over the heads and {result['queries']:,} queries in {result['rows']} rows "
                "of validation text. entropy: "
                "in nats, at most that of uniform attention over the keys that the pattern allows. "
                "distance: of the attended "
                "key, in tokens. on itself, on the first: the share of the weight on the query's "
                "own key and on the text's "
                "first. output/residual: length of what attention adds against that of what it is "
                "added to."
            ),
        ]
    )


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return ["  ".join(cell.rjust(width) if k else cell.ljust(width)
                      for k, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                      for row in table]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110)
