"""
Kills a run at random and continues it on another number of processes, many times over. At the end
its weights, optimizer and curve must have the bits of a run that was left alone.

    python -m tests.helpers.random_kills --kills 30
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 120
SETTINGS = ["--preset=nano", "--device=cpu", "--trainer.accumulation_steps=4",
            "--trainer.batch_size=2", f"--max-iters={ITERATIONS}", "--model.resid_pdrop=0.1",
            "--run.checkpoint_every=2", "--run.eval_every=40", "--run.rehearsals=0",
            "--run.threads=1", "--data.val_tokens=1024", "--run.allow_audit_fail=true"]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]


def started(out: Path, count: int, *more: str) -> subprocess.Popen:
    """lab.py in `count` processes, in a session of its own."""
    return subprocess.Popen([sys.executable, "lab.py", "-b", *SETTINGS, "--out", str(out),
                             "--processes", str(count), *more], cwd=ROOT, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers(parent: int) -> list[int]:
    """The processes that train: the children of the agent, or the one process itself."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [*map(int, children)] or [parent]


def rows(out: Path) -> int:
    """How many rows the CSV has."""
    path = out / "losses" / "baseline.s0.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(out: Path) -> str:
    """A digest of the final weights and of the curve without its timings."""
    digest = hashlib.sha256(
        (out / "checkpoints/baseline.s0" / f"model-{ITERATIONS:06d}.safetensors").read_bytes())
    for line in (out / "losses/baseline.s0.csv").read_text().splitlines():
        digest.update(",".join(line.split(",")[:7]).encode())
    return digest.hexdigest()


def main() -> int:
    """Kill and continue; print each kill, and at the end whether the bits agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, made = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole, torn = Path(folder) / "whole", Path(folder) / "torn"
        assert started(whole, 1).wait() == 0
        print(f"undisturbed: {outcome(whole)}", flush=True)
        while made < args.kills:
            count, number = rng.choice([1, 2, 4]), rng.choice(SIGNALS)
            run, before, begun = started(torn, count), rows(torn), time.monotonic()
            wait = rng.choice([0, 1, 2])                # rows after which it is killed
            while run.poll() is None and rows(torn) <= before + wait and (
                    time.monotonic() - begun < 90):
                time.sleep(0.05)
            if run.poll() is not None:                  # it has reached its end
                assert run.returncode == 0, run.stderr.read()
                assert outcome(torn) == outcome(whole), "the bits differ"
                print(f"  complete after {made} kills: {outcome(torn)}", flush=True)
                subprocess.run(["rm", "-r", str(torn)], check=True)
                continue
            trained = workers(run.pid)
            victim = rng.choice([run.pid, *trained])
            os.kill(victim, number)
            begun = time.monotonic()
            code, made = run.wait(120), made + 1
            while any(Path(f"/proc/{pid}").exists() for pid in trained):
                time.sleep(0.05)                        # where the agent itself was killed
            print(f"kill {made}: {count} processes, {number.name} to "
                  f"{'the agent' if victim == run.pid else 'one of them'} at row {rows(torn)}: "
                  f"exit code {code} after {time.monotonic() - begun:.1f} s", flush=True)
        assert started(torn, rng.choice([1, 2, 4])).wait() == 0
        same = outcome(torn) == outcome(whole)
        print(f"after {made} kills: {outcome(torn)}: {'the same' if same else 'OTHER'} bits")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
