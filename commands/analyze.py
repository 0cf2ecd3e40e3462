"""
Analyse which keys a window, a schedule or a trained run uses, and what that saves.

    python lab.py analyze                  the eight pairs of window and dilation of study 003, at
                                           length S = 256 (or as --model.block_size=512 sets it)
    python lab.py analyze 64 8 512         one pair: window W, dilation D, length [S]
    python lab.py analyze lms_main 512     a schedule (a name, 'f 256*2 f*' or FILE.json[:NAME])
                                           at length S, 1024 by default
    python lab.py analyze rope.s0          where a trained run's attention goes on validation text

Sparsity, keys, reach and receptive field are exact counts. Speed-ups are measured, forward and
backward; --no-timing leaves them out. The model has the shape that --preset gives, and a batch has
2,048 tokens. Pictures, text and JSON are written under OUT/visualizations/analysis/.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from commands._arguments import add_code_argument, preset_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `analyze`."""
    parser.add_argument("words", nargs="*", metavar="WHAT",
                        help="W D [S], SCHEDULE [S] or RUN (default: study 003's eight pairs)")
    parser.add_argument("--layers", type=int, default=12, metavar="N",
                        help="number of layers, for a schedule (default 12)")
    parser.add_argument("--preset", default="sliding", metavar="NAME",
                        help="the model's heads and width and, for a pair, its layers "
                        "(default sliding, as in study 003: 16 heads of 32); a TOML file, or a "
                        "name").names = preset_names
    parser.add_argument("--no-timing", action="store_true",
                        help="only count; do not measure speed-ups")
    parser.add_argument("--rounds", type=int, default=7, metavar="N",
                        help="timings per variant, at least 5 (default 7)")
    parser.add_argument("--rows", type=int, default=16, metavar="N",
                        help="rows of validation text, for a run (default 16)")
    parser.add_argument("--best", action="store_true",
                        help="for a run: use the weights of its best evaluation")
    parser.add_argument("--device", default="auto", metavar="D",
                        help="cuda, mps or cpu (default: the fastest on this machine)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds the runs and gets the results "
                        "(default .)")
    add_code_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def main(args: argparse.Namespace) -> int:
    """Analyse the subject that the words name, and return the exit code 0. Raises BadInput."""
    from experiments.analysis.subjects import is_run
    from mingpt.utils import BadInput
    if args.rounds < 5:
        raise BadInput(f"--rounds {args.rounds}: the least is 5")
    if len(args.words) == 1 and is_run(args.words[0], args.out):
        return _run(args)
    return _schedules(args)


def _schedules(args: argparse.Namespace) -> int:
    from experiments.analysis import files
    from experiments.analysis.subjects import read
    from experiments.system import terminal
    from mingpt.utils import BadInput
    try:
        subjects = read(args.words, args.layers, args.preset, args.overrides)
    except BadInput:
        from experiments.weights.saved import known_runs, runs_called
        if len(args.words) != 1 or not runs_called(args.words[0], known_runs(args.out)):
            raise
        return _run(args)
    from experiments.analysis.describe import describe
    folder = files.folder_of(args.out)
    rows, how = [describe(subject) for subject in subjects], None
    if not args.no_timing:
        from experiments.analysis.timing import measure
        console = terminal(stderr=True)
        with console.status("timing") as status:
            say = status.update if console.is_terminal else console.print
            how, times = measure(subjects, args.rounds, args.device, say)
        rows = [row | {"measured": measured} for row, measured in zip(rows, times, strict=True)]
    written = files.write_rows(rows, how, folder)
    return _print(files.text_of(rows, how), {"measured": how, "rows": rows}, written, args.json)


def _run(args: argparse.Namespace) -> int:
    from experiments.analysis import files
    from experiments.analysis.report import run_text
    from experiments.analysis.trained import analyze_run
    from experiments.weights.saved import find_run
    from mingpt.utils import BadInput
    run = find_run(args.words[0], args.out)
    if args.overrides:
        raise BadInput(f"analyze {args.words[0]}: a trained run's settings cannot be changed; "
                       f"leave out {args.overrides[0]}")
    result, maps = analyze_run(run, args.rows, args.device, "best" if args.best else "model")
    written = files.write_run(result, maps, files.folder_of(args.out))
    return _print(run_text(result) + "\n", result, written, args.json)


def _print(text: str, document: dict, written: list[Path], as_json: bool) -> int:
    print(json.dumps(document, indent=2, ensure_ascii=False) if as_json else text)
    print("wrote " + ", ".join(map(str, written)), file=sys.stderr if as_json else sys.stdout)
    return 0
