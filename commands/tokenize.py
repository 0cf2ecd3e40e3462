"""
Tokenise a corpus into the cache and print what is in it.

    python lab.py tokenize --data corpus.jsonl.zst --data.tokenizer=byte

It prints the documents, tokens, sets, split and bad lines. A run tokenises its corpus by itself;
doing it beforehand saves a GPU job the wait.
"""

from __future__ import annotations

import argparse
import json
import time

from commands._arguments import preset_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tokenize`."""
    parser.add_argument("--data", nargs="+", metavar="PATH",
                        help="files, folders, globs, or the name of a data set "
                        "(default: a corpus made from Python's own standard library)")
    parser.add_argument("--preset", metavar="NAME",
                        help="the preset whose data settings to start from (default laptop): a "
                        "TOML file, or a name").names = preset_names
    parser.add_argument("--study", metavar="FILE",
                        help="a study, by name or as a TOML file, whose data settings to use")
    parser.add_argument("--arm", metavar="NAME",
                        help="the arm of the study whose data settings to use (default: its "
                             "baseline)")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")


def main(args: argparse.Namespace) -> int:
    """Tokenise, print the account as a table or JSON, and return 0. Raises BadInput."""
    from experiments.corpus import open_corpus
    settings = _settings(args)
    began = time.monotonic()
    corpus = open_corpus(settings.data)
    account = {**corpus.describe(), "cache": ", ".join(map(str, corpus.folders)),
               "seconds": time.monotonic() - began}
    if args.json:
        print(json.dumps(account, indent=2, ensure_ascii=False))
    else:
        _print(account)
    return 0


def _settings(args: argparse.Namespace):
    """The settings that the arguments describe. A study without --arm means its baseline."""
    from experiments.declare.spec import make_spec
    from experiments.declare.study import load_study
    study = load_study(args.study) if args.study is not None else None
    arm = study.baseline if study and args.arm is None else args.arm
    return make_spec(args.preset, study, arm, data=args.data, overrides=args.overrides).settings


def _print(account: dict) -> None:
    from rich.table import Table

    from experiments.system import terminal
    table = Table("", "documents", "tokens", "bytes", "bytes/token", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    split = account["split"]
    rows = [("all", account), ("train", split["train"]), ("validation", split["val"])]
    rows += [(f"set {name}", totals) for name, totals in account["sets"].items()]
    for label, totals in rows:
        table.add_row(label, *_numbers(totals))
    console = terminal()
    console.print(table)
    for line in [*_bad(account["bad_lines"]), *_notes(account)]:
        console.print(line, soft_wrap=True)


def _numbers(totals: dict) -> list[str]:
    """Documents, tokens, bytes, and bytes per token, as text."""
    counts = [f"{totals[key]:,}" for key in ("documents", "tokens", "bytes")]
    return [*counts, f"{totals['bytes'] / totals['tokens']:.3f}" if totals["tokens"] else "-"]


def _bad(report: dict) -> list[str]:
    """The report of bad lines: a total, then one line per kind."""
    share = f" ({report['bad'] / report['lines']:.2%})" if report["bad"] else ""
    lines = [f"bad lines  {report['bad']:,} of {report['lines']:,}{share}"]
    lines += [f"  {kind:<18} {found['count']:>9,}  first: {found['file']}:{found['line']}"
              for kind, found in report["kinds"].items()]
    return lines + [f"  {cut['file']} {cut['how']}: {cut['documents']:,} documents read"
                    for cut in report["cut_short"]]


def _notes(account: dict) -> list[str]:
    dropped = account["split"]["dropped"]
    copies = (f"; {dropped:,} training documents dropped because they copy held-out ones"
              if dropped else "")
    return [f"held out   {account['split']['by']}{copies}",
            f"tokenizer  {account['tokenizer']} ({account['vocab_size']:,} tokens)",
            f"hash       {account['hash']}",
            f"cache      {account['cache']}, {account['seconds']:.1f} s"]
