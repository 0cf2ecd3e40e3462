"""
Tokenise a corpus into the cache and say what is in it: documents, tokens, sets, split, bad lines.

    python lab.py tokenize --data corpus.jsonl.zst --data.tokenizer=byte

Runs do this by themselves; doing it beforehand spares a job on a GPU the wait.
"""

from __future__ import annotations

import argparse
import json
import time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", metavar="PATH",
                        help="files, folders, globs, or a data set's name "
                        "(default: a corpus made from Python's own standard library)")
    parser.add_argument("--preset", metavar="NAME",
                        help="whose data settings to begin with (default laptop)")
    parser.add_argument("--study", metavar="FILE",
                        help="a study's TOML file or name, for its data settings")
    parser.add_argument("--arm", metavar="NAME",
                        help="the study's arm whose data settings to take (its baseline)")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")


def main(args: argparse.Namespace) -> int:
    from experiments.corpus import open_corpus
    from experiments.declare.spec import build_settings
    settings = build_settings(preset=args.preset, study=args.study, arm=_arm(args), data=args.data,
                              overrides=args.overrides)
    began = time.monotonic()
    corpus = open_corpus(settings.data)
    account = {**corpus.describe(), "cache": str(corpus.store.folder),
               "seconds": time.monotonic() - began}
    if args.json:
        print(json.dumps(account, indent=2, ensure_ascii=False))
    else:
        _print(account)
    return 0


def _arm(args: argparse.Namespace) -> str | None:
    """A study's arms share their data: without --arm, its baseline's settings."""
    if args.study is None or args.arm is not None:
        return args.arm
    from experiments.declare.study import load_study
    return load_study(args.study).baseline


def _print(account: dict) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table("", "documents", "tokens", "bytes", "bytes/token", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    split = account["split"]
    rows = [("all", account), ("train", split["train"]), ("validation", split["val"])]
    rows += [(f"set {name}", totals) for name, totals in account["sets"].items()]
    for label, totals in rows:
        table.add_row(label, *_numbers(totals))
    console = Console(highlight=False)
    console.print(table)
    for line in [*_bad(account["bad_lines"]), *_notes(account)]:
        console.print(line, markup=False, soft_wrap=True)


def _numbers(totals: dict) -> list[str]:
    counts = [f"{totals[key]:,}" for key in ("documents", "tokens", "bytes")]
    return [*counts, f"{totals['bytes'] / totals['tokens']:.3f}" if totals["tokens"] else "-"]


def _bad(report: dict) -> list[str]:
    """The bad lines, a line a kind."""
    share = f" ({report['bad'] / report['lines']:.2%})" if report["bad"] else ""
    lines = [f"bad lines  {report['bad']:,} of {report['lines']:,}{share}"]
    lines += [f"  {kind:<18} {found['count']:>9,}  first: {found['file']}:{found['line']}"
              for kind, found in report["kinds"].items()]
    return lines + [f"  {cut['file']} {cut['how']}: {cut['documents']:,} documents read"
                    for cut in report["cut_short"]]


def _notes(account: dict) -> list[str]:
    dropped = account["split"]["dropped"]
    copies = f"; {dropped:,} training documents dropped, copies of held-out ones" if dropped else ""
    return [f"held out   {account['split']['by']}{copies}",
            f"tokenizer  {account['tokenizer']} ({account['vocab_size']:,} tokens)",
            f"hash       {account['hash']}",
            f"cache      {account['cache']}, {account['seconds']:.1f} s"]
