"""
Hostile input for every reader and every verb. A target damages one seed and runs a program on it.

    python -m tests.faults.fuzz [--minutes 10] [--only WORD] [--seed N]

prints what it tried, and keeps the input of every kind of failure in a temporary folder. The claim:
exit code 0 or 2 with at most six lines, no traceback, under 60 s and 2 GB, and nothing changed
outside the folders that results go to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.faults.mutations import (
    KEYS,
    damaged_bytes,
    damaged_json,
    damaged_toml,
    odd_values,
    odd_words,
)
from tests.faults.sandbox import Outcome, attempt, attempt_here, sandbox, scratch
from tests.faults.seeds import HALF, TINY, write_seeds

KEPT = Path(tempfile.gettempdir()) / f"ablate-fuzz-{os.getpid()}"
RUN = ["--out", "out", *TINY]
FEW = ["train", "-r", "--dry-run", "--data", "in/a.jsonl", *TINY]


@dataclass(frozen=True)
class Target:
    """A file of the seeds that is damaged by `how` before `argv` runs. Without a file, `argv` is a
    strategy of words. `signed` files get a new checksum, so that the damage is not merely noticed
    by it."""
    argv: Sequence[str] | Callable
    file: str | None = None
    how: str = "bytes"
    signed: bool = False
    weight: int = 4             # how often it is chosen, relative to the others
    codes: tuple[int, ...] = (0, 2)


def _tokenize(kind: str) -> Target:
    return Target(["tokenize", "--data", f"in/a.{kind}", "--data.tokenizer=byte"], f"in/a.{kind}",
                  weight=6)


RECORD, STATE = "out/losses/ab/{}.s0.json", "out/checkpoints/{}/state.json"
WEIGHTS = "out/checkpoints/ab/rope.s0/model-000004.safetensors"
TRAIN = ["--study", "in/study.toml", "--arm", "baseline", "--data", "in/a.jsonl", *RUN]
SAMPLE = ["sample", "ab/rope.s0", "--tokens", "3", "--out", "out"]
PLOT = ["plotter.py", "out/losses", "--out", "out/visualizations"]
VERDICTS = [*PLOT, "--tables", "out/page.md"]
STATUS = ["status", "--out", "out"]
BYTES = [*FEW[:5], "--data.tokenizer=byte"]
TARGETS: dict[str, Target] = {
    **{f"tokenize {kind}": _tokenize(kind)
       for kind in ("jsonl", "jsonl.gz", "jsonl.zst", "txt", "parquet", "npy", "bin")},
    "a record's values, status": Target(STATUS, RECORD.format("baseline"), "json", weight=6),
    "a record's bytes, status": Target([*STATUS, "--json"], RECORD.format("baseline")),
    "a record's values, plotter": Target(PLOT, RECORD.format("rope"), "json", weight=2),
    "a record's values, verdicts": Target(VERDICTS, RECORD.format("rope"), "json", weight=6),
    "a record's values, resume": Target(TRAIN, RECORD.format("baseline"), "json"),
    "a record's values, eval": Target(
        ["eval", "ab/baseline.s0", "ab/rope.s0", "--compare", "--bleu", "0", "--out", "out"],
        RECORD.format("rope"), "json"),
    "a CSV, verdicts": Target(VERDICTS, "out/losses/ab/baseline.s0.csv"),
    "a CSV, status": Target(STATUS, "out/losses/ab/baseline.s0.csv", weight=2),
    "a state's values, sample": Target(SAMPLE, STATE.format("ab/rope.s0"), "json", signed=True,
                                       weight=6),
    "a state's values, resume": Target(
        [*HALF, "--out", "out"], "out/checkpoints/half.s0/state.json", "json", signed=True),
    "a state's values, init": Target(
        ["-b", "--dry-run", "--data", "in/a.jsonl", *RUN, "--arm", "c", "--init", "ab/rope.s0"],
        STATE.format("ab/rope.s0"), "json", signed=True),
    "a state's bytes, sample": Target(SAMPLE, STATE.format("ab/rope.s0")),
    "weights, sample": Target(SAMPLE, WEIGHTS, signed=True),
    "weights, export": Target(["export", "ab/rope.s0", "out/hf", "--out", "out"], WEIGHTS,
                              weight=1),
    "a study's values": Target(["study", "in/study.toml", "--dry-run", "--data", "in/a.jsonl",
                                "--out", "out/new"], "in/study.toml", "toml", weight=6),
    "a study's bytes": Target(["tokenize", "--study", "in/study.toml", "--data", "in/a.jsonl"],
                              "in/study.toml"),
    "a preset": Target([*FEW[:5], "--preset", "in/preset.toml"], "in/preset.toml", "toml"),
    "a schedule's values": Target([*FEW, "--schedule", "in/schedule.json"], "in/schedule.json",
                                  "json"),
    "a schedule's bytes": Target([*FEW, "--schedule", "in/schedule.json:b"], "in/schedule.json"),
    "a Hugging Face config": Target([*BYTES, "--init", "in/hf"], "in/hf/config.json", "json"),
    "Hugging Face weights": Target([*BYTES, "--init", "in/hf"], "in/hf/model.safetensors",
                                   weight=2),
    "a plan": Target(["study", "--plan", "out/logs/ab/plan-1.json", "--task", "0"],
                     "out/logs/ab/plan-1.json", "json", weight=2, codes=(0, 1, 2)),
    "a queue": Target(STATUS, "out/logs/ab/plan-1.json", "json", weight=2),
    "a comparison's npz": Target(
        ["plotter.py", "out/visualizations/ab/comparison/experiment_results.npz", "--out",
         "out/again"], "out/visualizations/ab/comparison/experiment_results.npz", weight=1),
    "the token cache": Target(["tokenize", "--data", "in/a.jsonl", "--data.tokenizer=byte"],
                              "cache/*/*"),
    "words": Target(lambda: words(), weight=10),
    "settings": Target(lambda: settings(), weight=8),
}
VERBS = {
    "sample": ["ab/baseline.s0", "rope.s0", "--tokens", "--samples", "--temperature", "--top-k",
               "--top-p", "--seed", "--prompt", "--draft", "--drafted", "--best", "--json", "2",
               "--device", "cpu", "--out", "out"],
    "status": ["--out", "out", "ab", "--every", "--json", "--html", "out/x.html"],
    "export": ["rope.s0", "out/hf", "--to", "hf", "--family", "llama", "--out", "out", "--best"],
    "analyze": ["64", "8", "512", "lms_main", "--no-timing", "--layers", "--preset", "nano",
                "--rows", "--out", "out", "f 4*", "--json"],
    "tokenize": ["--data", "in/a.jsonl", "in", "in/*.jsonl", "--data.tokenizer", "byte", "--json",
                 "--study", "in/study.toml", "--arm", "rope", "--preset", "in/preset.toml"],
    "settings": ["lr", "model.norm", "--json"],
    "train": ["-r", "-s", "-w", "-b", "--arm", "--seed", "--max-iters", "--window", "--dilation",
              "--schedule", "--attention", "--backend", "--init", "--freeze-except", "--preset",
              "--device", "--study", "in/study.toml", "rope", "nano", "--logger", "--json"],
    "study": ["in/study.toml", "seven", "--seeds", "0-1", "--jobs", "--max-iters", "--data",
              "in/a.jsonl", "--task", "--plan", "out/logs/ab/plan-1.json", "--preset", "nano"],
    "compare": ["-r", "-rs", "--seeds", "2", "--arm", "x: -r", "--name", "--margin", "--data",
                "in/a.jsonl", "--preset", "nano"],
    "plotter.py": ["out/losses", "out", "--x", "tokens", "--metric", "val_loss", "--format", "svg",
                   "--tables", "out/page.md", "--keep", "out/kept", "--study", "in/study.toml"],
    "audit": ["-r", "--preset", "nano", "--window", "--schedule"],
}
# Words that are always added, so that the attempt trains nothing for long.
ADDED = {"train": ["--dry-run", "--data", "in/a.jsonl", *TINY],
         "study": ["--dry-run", "--data", "in/a.jsonl", "--out", "out/new"],
         "tokenize": ["--data.max_docs=50"],
         "compare": ["--dry-run", "--data", "in/a.jsonl", "--out", "out/new"],
         "analyze": ["--no-timing", "--out", "out"], "plotter.py": ["--out", "out/v"],
         "audit": [*TINY[:2], "--model.n_layer=1"]}


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A verb with a few of its own words, and odd ones among them."""
    verb = draw(st.sampled_from([*VERBS]))
    some = st.sampled_from(VERBS[verb]) | odd_words
    chosen = [word.replace("\0", "") for word in draw(st.lists(some, max_size=6))]
    return [verb, *chosen, *ADDED.get(verb, [])]


@st.composite
def settings(draw: st.DrawFn) -> list[str]:
    """A dry run with odd values for one to three settings."""
    from experiments.declare.settings import default_settings, walk
    known = st.sampled_from([key for key, _ in walk(default_settings())] + KEYS)
    value = odd_values.map(str) | odd_words
    given = draw(st.lists(st.tuples(known, value), min_size=1, max_size=3))
    return [*FEW, *(f"--{key}={text}".replace("\0", "") for key, text in given)]


@st.composite
def damage(draw: st.DrawFn, name: str, seeds: Path) -> tuple[Sequence[str], str | None, bytes]:
    """(argv, the damaged file's path, its content) for a target."""
    target = TARGETS[name]
    if target.file is None:
        return draw(target.argv()), None, b""
    file = draw(st.sampled_from(sorted(path.relative_to(seeds).as_posix() for path in seeds.glob(
        target.file) if path.is_file())))
    data = (seeds / file).read_bytes()
    if target.how == "json":
        tree = draw(damaged_json(json.loads(data)))
        if target.signed and isinstance(tree, dict):
            tree = _signed(tree)
        return target.argv, file, json.dumps(tree).encode()
    if target.how == "toml":
        return target.argv, file, draw(damaged_toml(data.decode()))
    return target.argv, file, draw(damaged_bytes(data))


def _signed(state: dict) -> dict:
    from experiments.weights.checkpoint import signed
    return json.loads(signed(state))


def strike(name: str, argv: Sequence[str], file: str | None, content: bytes,
           seeds: Path, run: Callable[..., Outcome] = attempt) -> Outcome:
    """Put the damaged file in its place and run the program on it."""
    with sandbox(seeds) as folder:
        if file:
            (folder / file).write_bytes(content)
            if TARGETS[name].signed and file.endswith(".safetensors"):
                _note_digest(folder / file)
        return run(list(argv), folder, TARGETS[name].codes)


def _note_digest(weights: Path) -> None:
    """Let the state accept damaged weights: write their checksum into it."""
    state = weights.parent / "state.json"
    tree = json.loads(state.read_text())
    tree["sha256"][weights.name] = hashlib.sha256(weights.read_bytes()).hexdigest()
    state.write_text(json.dumps(_signed(tree)))


# -- for as long as asked --------------------------------------------------------------------------

def main(argv: list[str] | None = None) -> int:
    """Try inputs until the time is over, print what was tried, and return the number of kinds of
    failures, at most 100."""
    p = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--only", default="", help="targets whose names contain this")
    p.add_argument("--here", action="store_true", help="in one process: faster, less isolated")
    p.add_argument("--seed", type=int, default=None)
    args = p.parse_args(argv)
    chance = random.Random(args.seed)
    names = [name for name in TARGETS if args.only in name]
    tried, failed = Counter(), {}
    with scratch("ablate-seeds-") as root:
        seeds = write_seeds(root / "a" / "b" / "w")
        begun = told = time.monotonic()
        until = begun + 60 * args.minutes
        while (now := time.monotonic()) < until:
            if now > told + 60:
                told, done = now, sum(tried.values())
                print(f"{done:,} inputs, {done / (now - begun):.1f} per second, "
                      f"{sum(failed.values())} failed; {(until - now) / 60:.0f} min left",
                      file=sys.stderr, flush=True)
            name = chance.choices(names, [TARGETS[n].weight for n in names])[0]
            for argv_, file, content in drawn(name, seeds, chance):
                outcome = strike(name, argv_, file, content, seeds,
                                 attempt_here if args.here else attempt)
                tried[name, outcome.code] += 1
                if outcome.faults:
                    _keep(name, argv_, file, content, outcome, failed)
    _print(tried, failed)
    return min(100, len(failed))


def drawn(name: str, seeds: Path, chance: random.Random, count: int = 5) -> list:
    """A few inputs of a target."""
    from hypothesis import HealthCheck, Phase, given, seed
    from hypothesis import settings as hypothesis_settings
    found: list = []

    @seed(chance.getrandbits(64))
    @hypothesis_settings(max_examples=count, database=None, deadline=None,
                         phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(damage(name, seeds))
    def collect(drawn) -> None:
        found.append(drawn)
    collect()
    return found[1:]      # the first is always the simplest


def _keep(name: str, argv: Sequence[str], file: str | None, content: bytes, outcome: Outcome,
          failed: dict) -> None:
    """Note a failure, and keep its input if it is the first of its kind."""
    last = (outcome.text.strip().splitlines() or [""])[-1]
    kind = (name, outcome.faults[0], last.split(":")[0][:60])
    failed[kind] = failed.get(kind, 0) + 1
    if failed[kind] == 1:
        place = KEPT / f"{len(failed):03d}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "input").write_bytes(content)
        (place / "about.txt").write_text(
            f"{name}\n{list(argv)!r}\n{file}\n{outcome.faults}\n{outcome.text}",
            encoding="utf-8", errors="replace")
        print(f"{place}: {name}: {', '.join(outcome.faults)}: {last[:150]}", flush=True)


def _print(tried: Counter, failed: dict) -> None:
    print("| input | tried | done | refused | failed |\n|---|---|---|---|---|")
    for name in TARGETS:
        codes = {code: n for (target, code), n in tried.items() if target == name}
        if codes:
            bad = sum(n for (target, *_), n in failed.items() if target == name)
            print(f"| {name} | {sum(codes.values()):,} | {codes.get(0, 0):,} | "
                  f"{codes.get(2, 0):,} | {bad:,} |")
    print(f"| all | {sum(tried.values()):,} | | | {sum(failed.values()):,} |")


if __name__ == "__main__":
    sys.exit(main())
