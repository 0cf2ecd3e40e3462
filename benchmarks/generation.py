"""
Compare the speed of our generation with that of other libraries.

    python -m benchmarks.generation [--tokens 8] [--prompt 512] [--quick]

All sides have GPT-2's 124M shape with random weights. They continue one prompt greedily by the same
number of tokens. Each side uses its own `generate` in its own process, and the sides take turns
(kit/turns.py).

The table compares the time per further token, from the logits of the first new token to those of
the last. The time to read the prompt has its own column. minGPT and nanoGPT read the whole text
again for each token. nanoGPT always samples, so it samples from the single most likely token here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.kit import floors, options
from benchmarks.kit.cases import Case
from benchmarks.kit.figure import FigurePanel, ratio_figure
from benchmarks.kit.machine import describe
from benchmarks.kit.peers import PEERS, absent, autocast, load
from benchmarks.kit.tables import Table, memory_cell, ratio_cell, save, time_cell
from benchmarks.kit.turns import Built, Side, take_turns
from experiments.train.workers import ratios, spread

CASE = Case("gpt2", 12, 12, 768, 1024, 1)
OURS, WITH = "ours", ("minGPT", "nanoGPT", "transformers")
ROUNDS, QUICK_ROUNDS = 5, 2
SAMPLE_SECONDS = 2.0
COLUMNS = ("", "ms per token", "× ours", "floor", "ms to the first", "peak MB (own)")


def main(argv: list[str] | None = None) -> int:
    """Print the table; write the JSON and the figure."""
    parser = options.parser("generation", __doc__, ROUNDS, QUICK_ROUNDS)
    parser.add_argument("--prompt", type=int, default=512,
                        help="tokens in the prompt (default 512)")
    parser.add_argument("--tokens", type=int, default=8,
                        help="tokens after the first new one (default 8)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help=f"compare only with these: {', '.join(WITH)}")
    args = options.parse(parser, argv)
    for name in args.only:
        options.known(name, list(WITH))
    result = {"machine": describe(args.device, args.threads), "rounds": args.rounds,
              "prompt": args.prompt, "tokens": args.tokens,
              **measure([name for name in WITH if not args.only or name in args.only], args)}
    table(result, args.device).print()
    save(args.out, "generation", result, figure(result, args.device))
    return 0


def measure(wanted: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and the wanted peers: {"absent": {peer: why}, "rows": {name: figures}}."""
    why = {name: absent(PEERS[name], args.copies) for name in wanted}
    shared = {"case": CASE, "device": args.device, "prompt": args.prompt, "tokens": args.tokens}
    sides = [Side(name, "benchmarks.generation:build",
                  shared | {"name": name, "path": _path(name, args)}, args.threads, SAMPLE_SECONDS)
             for name in [OURS, *(name for name in wanted if not why[name])]]
    taken = take_turns(sides, args.rounds, lambda text: options.say(f"generation: {text}"))
    return {"absent": {name: reason for name, reason in why.items() if reason},
            "rows": {side.name: row(taken, side.name) for side in sides}}


def _path(name: str, args: argparse.Namespace) -> str | None:
    return args.copies.get(PEERS[name].source) if name in PEERS else None


def row(taken: dict[str, dict], name: str) -> dict[str, Any]:
    """The figures of one side, and for a peer its ratio to ours, taken round by round."""
    mine = taken[name]
    if "failed" in mine:
        return {"failed": mine["failed"]}
    found = {"ms": spread([1e3 * s for s in mine["seconds"]]),
             "first_ms": 1e3 * mine["to_the_first"],
             "peak_mb": mine["peak_mb"], "own_mb": mine["peak_mb"] - mine["idle_mb"]}
    return (found if name == OURS
            else found | {"speed": ratios(mine["seconds"], taken[OURS]["seconds"])})


def table(result: dict[str, Any], device: str) -> Table:
    """The table of all sides, with the floor of each ratio."""
    floor = floors.SPEED[("generation", CASE.name)] if device == "cpu" else {}
    made = Table(f"generation: GPT-2 124M, {result['tokens'] + 1} tokens after a prompt of "
                 f"{result['prompt']}, greedy",
                 COLUMNS)
    for name in (OURS, *WITH):
        found = result["rows"].get(name)
        if name in result["absent"]:
            made.note(name, f"absent: {result['absent'][name]}")
        elif found and "failed" in found:
            made.note(name, f"failed: {found['failed'].strip().splitlines()[-1]}")
        elif found:
            made.row(name, time_cell(found["ms"]),
                     *(("", "") if name == OURS else ratio_cell(found["speed"], floor.get(name))),
                     f"{found['first_ms']:.0f}", memory_cell(found))
    return made


def figure(result: dict[str, Any], device: str):
    """Draw the ratios in one panel, logarithmic: they are two orders of magnitude apart."""
    floor = floors.SPEED[("generation", CASE.name)] if device == "cpu" else {}
    rows = [(name, found["speed"], floor.get(name))
            for name, found in result["rows"].items() if "speed" in found]
    panel = FigurePanel(f"GPT-2 124M, after {result['prompt']} tokens", rows)
    return ratio_figure("How long do others take for a further token?", "the time of ours",
                        [panel], result, log=True)


# -- runs in the process of a side -----------------------------------------------------------------

def build(name: str, case: Case, device: str, prompt: int, tokens: int,
          path: str | None = None) -> Built:
    """Build a side. Its run generates `tokens` + 1 tokens after the prompt.

    The run returns the mean seconds per token after the first.
    """
    import torch
    if name == OURS:
        from benchmarks.kit.ours import model_of
        from experiments.train.process import resident_mb
        idle, model = resident_mb(), model_of(case, {"model.tie_weights": True}).to(device)
    else:
        model, _, _, idle = load(name, case, device, path)
    model.eval()
    idx = torch.randint(case.vocab_size, (1, prompt),
                        generator=torch.Generator().manual_seed(0)).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    about = {"idle_mb": idle if device == "cpu" else 0.0}
    run = timed(model, lambda: CONTINUE[name](model, idx, tokens + 1), tokens, device, wait, about)
    return Built(run, about, wait, device, timed=True)


CONTINUE: dict[str, Callable] = {
    OURS: lambda model, idx, n: model.generate(idx, n),
    "minGPT": lambda model, idx, n: model.generate(idx, n),
    "nanoGPT": lambda model, idx, n: model.generate(idx, n, top_k=1),
    "transformers": lambda model, idx, n: model.generate(
        idx, attention_mask=idx.new_ones(idx.shape), max_new_tokens=n, min_new_tokens=n,
        do_sample=False, use_cache=True),
}


def timed(model, go: Callable, tokens: int, device: str, wait: Callable,
          about: dict[str, Any]) -> Callable[[], float]:
    """Return a function that calls `go` and returns the seconds per token after the first.

    The clock is read each time that the head computes logits. RuntimeError if this does not happen
    exactly once per token. The seconds to the first token are written to about["to_the_first"].
    """
    moments: list[float] = []

    def note(*_):
        wait()
        moments.append(time.perf_counter())
    model.lm_head.register_forward_hook(note)

    def run() -> float:
        moments.clear()
        wait()
        begun = time.perf_counter()
        with autocast(device):
            out = go()
        if len(moments) != tokens + 1:
            raise RuntimeError(f"{len(moments)} times logits for {tokens + 1} tokens; "
                               f"the output has shape {tuple(out.shape)}")
        about["to_the_first"] = moments[0] - begun
        return (moments[-1] - moments[0]) / tokens
    return run


if __name__ == "__main__":
    sys.exit(options.run(main))
