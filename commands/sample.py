"""
Sample text from a trained run.

    python lab.py sample rope.s0 --prompt "Once upon a time" --samples 3 --temperature 0.8 \\
        --top-k 50 --top-p 0.95
    python lab.py sample large.s0 --draft small.s0

With --draft, another run with the same tokenizer drafts tokens. The run reads them all at once and
keeps or replaces them (speculative decoding). The distribution of the text stays the same, and
sampling is faster where the draft is often right. With `--draft heads` the run's own heads for
later tokens draft; such a run is trained with --model.n_future=4.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from commands._arguments import add_code_argument

TAKES_SETTINGS = False
MOST_TOKENS = 1_000_000     # of all samples together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sample`."""
    parser.add_argument("run", metavar="RUN",
                        help="a trained run, by name (rope.s0, seven/rope.s0) or by one of its "
                             "files or folders")
    parser.add_argument("--prompt", default="",
                        help="the text to continue (default: start a new document)")
    parser.add_argument("--tokens", type=int, default=120, metavar="N",
                        help="number of new tokens (default 120)")
    parser.add_argument("--samples", type=int, default=1, metavar="N",
                        help="number of continuations (default 1)")
    parser.add_argument("--temperature", type=float, default=0.8,
                        help="divides the logits: below 1 safer, above 1 wilder, 0 greedy "
                             "(default 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K",
                        help="sample only from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P",
                        help="sample only from the likeliest tokens that together have "
                             "probability P")
    parser.add_argument("--draft", metavar="RUN",
                        help="the run that drafts, or `heads`; the speed-up is reported")
    parser.add_argument("--drafted", type=int, default=4, metavar="N",
                        help="number of tokens that a run drafts at once (default 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of the random draws (default 0)")
    parser.add_argument("--best", action="store_true",
                        help="use the weights of the best evaluation (kept by "
                             "--run.keep_best=true)")
    parser.add_argument("--device", default="auto", metavar="D",
                        help="cuda, mps or cpu (default: the fastest on this machine)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="the folder that holds the runs (default .)")
    add_code_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the samples as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the samples and return the exit code 0. Raises BadInput."""
    from commands._arguments import check_seed
    from experiments.declare.ranges import shown
    from mingpt.utils import BadInput
    if (args.tokens < 1 or args.samples < 1
            or max(args.tokens, args.samples, args.tokens * args.samples) > MOST_TOKENS):
        raise BadInput(f"--tokens {shown(args.tokens)} --samples {shown(args.samples)}: at least 1 "
                       f"of each, and together at most {MOST_TOKENS:,} tokens")
    if not 0 <= args.temperature < math.inf or (args.top_p is not None and not 0 < args.top_p <= 1):
        raise BadInput(f"--temperature {args.temperature} --top-p {args.top_p}: the temperature is "
                       f"at least 0, and top-p is above 0 and at most 1")
    if args.top_k is not None and args.top_k < 1:
        raise BadInput(f"--top-k {shown(args.top_k)}: at least 1")
    if not 1 <= args.drafted <= MOST_TOKENS:
        raise BadInput(f"--drafted {shown(args.drafted)}: from 1 to {MOST_TOKENS:,}")
    check_seed(args.seed)
    from experiments.train.sample import continue_by_drafts, continue_text
    from experiments.weights.saved import find_run, load_run
    files = find_run(args.run, args.out)
    model, tokenizer, _ = load_run(files, args.device, "best" if args.best else "model")
    request = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p,
               "samples": args.samples,
               "seed": args.seed}
    if args.draft is None:
        texts, brought = continue_text(model, tokenizer, args.prompt, args.tokens, **request), None
    else:
        draft = _draft(args, files, model)
        texts, brought = continue_by_drafts(model, tokenizer, args.prompt, args.tokens, draft,
                                            **request)
    if args.json:
        found = {"run": files.name, "prompt": args.prompt, "samples": texts,
                 **({"draft": brought} if brought else {})}
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    for number, text in enumerate(texts, 1):
        print(f"--- {files.name}, sample {number}" if args.samples > 1 else f"--- {files.name}")
        print(text)
    if brought:
        print(
            f"--- {args.draft} drafted {brought['drafted']:,} tokens, "
            f"{brought['acceptance']:.1%} were kept: "
            f"{brought['tokens_per_pass']:.2f} tokens per pass; {brought['seconds']:.2f} s, "
            f"{brought['seconds_without']:.2f} s without: {brought['speed_up']:.2f} times as fast"
        )
    return 0


def _draft(args: argparse.Namespace, files, model):
    """The draft for the run's model. Raises BadInput where the two have different tokenizers."""
    from experiments.weights.checkpoint import read_state
    from experiments.weights.saved import find_run, load_run
    from mingpt.sampling.speculate import HeadDraft, ModelDraft
    from mingpt.utils import BadInput
    if args.draft == "heads":
        return HeadDraft(model)
    others = find_run(args.draft, args.out)
    ours, theirs = (read_state(each.checkpoint)["tokenizer"] for each in (files, others))
    if ours != theirs:
        raise BadInput(f"--draft {args.draft}: its tokenizer is {theirs!r}, that of {files.name} "
                       f"{ours!r}: give a run "
                       "with the same tokenizer")
    return ModelDraft(load_run(others, args.device)[0], args.drafted)
