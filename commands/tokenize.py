"""
Tokenise a corpus into the cache and print what is in it.

    python lab.py tokenize --data corpus.jsonl.zst --data.tokenizer=byte
    python lab.py tokenize --data shards/ --jobs 8
    sbatch --array=0-9 --wrap 'python lab.py tokenize --data DIR --part $SLURM_ARRAY_TASK_ID/10'

It prints the documents, tokens, sets, split and bad lines. A run tokenises its corpus by itself;
doing it beforehand saves a GPU job the wait. A corpus of many files is tokenised in pieces of 64 MB
or more, and what is in the cache is not done again.
"""

from __future__ import annotations

import argparse
import json
import time

from commands._arguments import preset_names
from mingpt.utils import BadInput


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
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--jobs", type=int, metavar="N",
                       help="tokenise in N processes (default 1, which has one thread per core)")
    share.add_argument("--part", metavar="I/N",
                       help="tokenise only every N-th piece of the corpus, from number I on (0 to "
                            "N−1), as one task of a SLURM array does")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")


def main(args: argparse.Namespace) -> int:
    """Tokenise, print the account as a table or JSON, and return 0. Raises BadInput."""
    from experiments.corpus import open_corpus
    settings = _settings(args)
    if args.part is not None:
        return _one_part(settings.data, args)
    began = time.monotonic()
    if args.jobs is not None:
        from experiments.corpus.jobs import tokenize_in
        tokenize_in(args.jobs, settings.data, _words(args))
    corpus = open_corpus(settings.data)
    account = {**corpus.describe(), "cache": _cache(corpus.folders),
               "seconds": time.monotonic() - began}
    if args.json:
        print(json.dumps(account, indent=2, ensure_ascii=False))
    else:
        _print(account)
    return 0


def _cache(folders: list) -> str:
    """Where the tokens are: one folder, or a folder of several."""
    return (str(folders[0]) if len(folders) == 1 else
            f"{folders[0].parent} ({len(folders)} folders)")


def _one_part(config, args: argparse.Namespace) -> int:
    """Tokenise the pieces of --part, print what they hold, and return 0."""
    from experiments.corpus import tokenize_part
    part, began = _part(args.part), time.monotonic()
    found = tokenize_part(config, *part) | {"seconds": time.monotonic() - began}
    print(json.dumps(found) if args.json else
          f"part {args.part}: {found['pieces']} pieces, {found['documents']:,} documents, "
          f"{found['tokens']:,} tokens, {found['bad']:,} bad lines, {found['seconds']:.1f} s")
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    """The arguments that describe the corpus."""
    given = [word for name in ("preset", "study", "arm") if (value := getattr(args, name))
             for word in (f"--{name}", value)]
    return [*(["--data", *args.data] if args.data else []), *given, *args.overrides]


def _part(text: str) -> tuple[int, int]:
    """'3/40' → (3, 40). Raises BadInput for anything that is not I/N with I below N."""
    numbers = text.split("/")
    if len(numbers) != 2 or not all(n.isdecimal() and len(n) < 10 for n in numbers) or (
            int(numbers[0]) >= int(numbers[1])):
        raise BadInput(f"--part {text}: give I/N with I from 0 to N−1, such as 0/40")
    return int(numbers[0]), int(numbers[1])


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
