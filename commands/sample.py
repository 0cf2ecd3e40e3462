"""
Sample text from a trained run.

    python lab.py sample rope.s0 --prompt "Once upon a time" --samples 3 --temperature 0.8 --top-k 50 --top-p 0.95
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's name (rope.s0, seven/rope.s0), or a file or folder of it")
    parser.add_argument("--prompt", default="", help="the text to continue (default: the beginning of a document)")
    parser.add_argument("--tokens", type=int, default=120, metavar="N", help="new tokens (default 120)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="how many continuations (default 1)")
    parser.add_argument("--temperature", type=float, default=0.8, help="below 1 safer, above 1 wilder, 0 greedy (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="only from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="only from the likeliest tokens that hold P together")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--best", action="store_true", help="the weights of the best evaluation (--run.keep_best=true)")
    parser.add_argument("--device", default="auto", metavar="D")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where the runs are (default .)")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON")


def main(args: argparse.Namespace) -> int:
    from mingpt.utils import BadInput
    if args.tokens < 1 or args.samples < 1:
        raise BadInput(f"--tokens {args.tokens} --samples {args.samples}: at least 1 of each")
    if args.temperature < 0 or (args.top_p is not None and not 0 < args.top_p <= 1):
        raise BadInput(f"--temperature {args.temperature} --top-p {args.top_p}: from 0, and above 0 to 1")
    if args.top_k is not None and args.top_k < 1:
        raise BadInput(f"--top-k {args.top_k}: at least 1")
    from experiments.sample import continue_text
    from experiments.saved import find_run, load_run
    files = find_run(args.run, args.out)
    model, tokenizer, _ = load_run(files, args.device, "best" if args.best else "model")
    texts = continue_text(model, tokenizer, args.prompt, args.tokens, temperature=args.temperature, top_k=args.top_k,
                          top_p=args.top_p, samples=args.samples, seed=args.seed)
    if args.json:
        print(json.dumps({"run": files.name, "prompt": args.prompt, "samples": texts}, ensure_ascii=False, indent=2))
        return 0
    for number, text in enumerate(texts, 1):
        print(f"--- {files.name}, sample {number}" if args.samples > 1 else f"--- {files.name}")
        print(text)
    return 0
