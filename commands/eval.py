"""
Evaluate trained runs: loss, perplexity, bits per byte, BLEU, speed, memory and parameters.

    python lab.py eval baseline.s0 rope.s0 --compare

The results are also written to evaluation_results.json under OUT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from commands._arguments import add_code_argument

TAKES_SETTINGS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eval`."""
    parser.add_argument("runs", nargs="+", metavar="RUN",
                        help="trained runs, by name (rope.s0, seven/rope.s0) or by one of their "
                             "files")
    parser.add_argument("--compare", action="store_true",
                        help="show each run's difference from the first, but not in quality where "
                             "their data or undeclared settings differ")
    parser.add_argument("--data", nargs="+", metavar="PATH",
                        help="evaluate on this data instead of each run's own")
    parser.add_argument("--best", action="store_true",
                        help="use the weights of the best evaluation (kept by "
                             "--run.keep_best=true)")
    parser.add_argument("--bleu", type=int, default=16, metavar="ROWS",
                        help="held-out rows for BLEU: the model continues each first half, and the "
                        "result is compared with the second half (default 16; 0: none)")
    parser.add_argument("--device", default="auto", metavar="D",
                        help="cuda, mps or cpu (default: the fastest on this machine)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds the runs (default .)")
    add_code_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def main(args: argparse.Namespace) -> int:
    """Evaluate the runs, write and print the results, and return 0. Raises BadInput."""
    from experiments.records.record import read_record
    from experiments.train.evaluation import evaluate_runs, results_path
    from experiments.weights.saved import find_run
    from mingpt.utils import write_atomic
    runs = [find_run(text, args.out) for text in args.runs]
    results = evaluate_runs(runs, device=args.device, data=args.data,
                            which="best" if args.best else "model", bleu_rows=args.bleu)
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    write_atomic(results_path(args.out), text)
    if args.json:
        print(text, end="")
    else:
        _print(results, [read_record(files.json) for files in runs] if args.compare else None)
        print(f"written to {results_path(args.out)}")
    return 0


ROWS = (  # label, key, format
    ("val loss (nats per token)", "val_loss", "{:.4f}"),
    ("perplexity", "perplexity", "{:,.2f}"),
    ("bits per byte", "bits_per_byte", "{:.4f}"),
    ("parameters", "parameters", "{:,}"),
    ("FLOPs per token (training)", "flops_per_token", "{:,.0f}"),
    ("tokens/s (evaluation)", "eval_tokens_per_second", "{:,.0f}"),
    ("samples/s (evaluation)", "eval_samples_per_second", "{:,.2f}"),
    ("peak memory (MB)", "peak_memory_mb", "{:,.0f}"),
    ("training (s)", "train_seconds", "{:,.1f}"),
    ("tokens/s (training)", "train_tokens_per_second", "{:,.0f}"),
    ("peak memory of training (MB)", "train_peak_memory_mb", "{:,.0f}"),
    ("generation of 64 tokens (s)", "generation_seconds", "{:.3f}"),
    ("tokens/s (generation)", "generation_tokens_per_second", "{:,.0f}"),
)


BLEU = "BLEU of continuations"
# rows that cannot be compared between runs with different tokenizers
PER_TOKEN = ("val loss (nats per token)", "perplexity")
# rows that cannot be compared between runs with different validation sets, data or settings
QUALITY = (*PER_TOKEN, "bits per byte", BLEU)


def _print(results: list[dict], records: list[dict] | None) -> None:
    """Print one column per run; with the runs' records, also its difference from the first run."""
    from rich.table import Table

    from experiments.system import terminal
    table = Table("", *[r["run"] for r in results], box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [(label, [r[key] for r in results], form) for label, key, form in ROWS]
    rows.append((BLEU, [r["bleu"] and r["bleu"]["score"] for r in results], "{:.2f}"))
    for T in results[0]["latency_ms"]:
        for statistic in ("mean", "sd", "min", "max", "median", "p95", "p99"):
            values = [r["latency_ms"].get(T, {}).get(statistic) for r in results]
            rows.append((f"latency {T} tokens, {statistic} (ms)", values, "{:.2f}"))
    barred = [((), "")] * len(results)
    if records:
        barred[1:] = [_barred(*pair, results[0], records[0])
                      for pair in zip(results[1:], records[1:], strict=True)]
    for label, values, form in rows:
        values = [value if isinstance(value, int | float) else None for value in values]
        cells = ["-" if v is None else form.format(v) for v in values]
        if records:
            cells = [c if label in rows_barred else _against(c, v, values[0])
                     for c, v, (rows_barred, _) in zip(cells, values, barred, strict=True)]
            cells[0] = "-" if values[0] is None else form.format(values[0])
        table.add_row(label, *cells)
    console = terminal(width=max(80, 36 + 26 * len(results)))
    console.print(table)
    for result, (_, why) in zip(results, barred, strict=True):
        if why:
            console.print(f"{result['run']}: {why}", soft_wrap=True)


def _barred(result: dict, record: dict, first: dict,
            first_record: dict) -> tuple[tuple[str, ...], str]:
    """(labels of the rows that must not be compared with the first run's, the reason).

    No row is barred where the two runs scored the same validation tokens and differ only in what
    they declare. The text is then the budget that they declare, or empty.
    """
    from experiments.verdicts.comparable import compare_any, same_text, same_validation
    refused = f"its loss is not comparable with {first['run']}: "
    same = same_validation(result, first)
    if not same and not same_text(result, first):
        return QUALITY, f"{refused}it scored another validation set"
    comparison = compare_any(record, first_record, first["run"])
    if comparison.reason:
        return QUALITY, refused + comparison.reason
    if same:
        return (), comparison.note
    return PER_TOKEN, ("it has another tokenizer over the same text: compare bits per byte, not "
                       "loss or perplexity")


def _against(cell: str, value: float | None, first: float | None) -> str:
    """The cell with its relative difference from the first run's value, where there are both."""
    if value is None or not first:
        return cell
    return f"{cell} ({value / first - 1:+.1%})"
