"""
Disturbs a study on a real SLURM at random moments, and compares the end with that of the same study
trained on this machine without SLURM.

    python -m tests.faults.soak [--minutes 30] [--seed N]

The study has 100 short runs, two arms and 50 seeds. Jobs are cancelled, queued again, or told that
their time is up; nodes crash and boot; the controller ends and starts. When no job is left, the
study is submitted again, until every run is done. Then the next round begins with a new folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.kills import different, left_over, outcome
from tests.faults.sandbox import scratch
from tests.faults.seeds import write_data
from tests.helpers.cluster import Cluster

STUDY = """seeds = [{seeds}]
preset = "nano"
[base]
trainer.max_iters = 300
run.checkpoint_every = 20
run.log_every = 10
run.eval_every = 100
run.threads = 1
[arms.rope]
"""
SEEDS = 50
PAUSE = (1, 8)      # seconds between two disturbances


def disturb(cluster: Cluster, chance: random.Random) -> str:
    """Do one thing to the cluster, and say what."""
    what = chance.choices(["scancel", "time is up", "requeue", "crash of a node",
                           "restart of the controller", "scancel of a whole array"],
                          [6, 6, 6, 2, 1, 1])[0]
    if what == "crash of a node":
        node = chance.choice(["n1", "n2"])
        cluster.sandbox("fail-node", node)
        time.sleep(chance.uniform(0, 3))
        cluster.sandbox("restore-node", node)
        return what
    if what == "restart of the controller":
        cluster("scontrol", "shutdown", "slurmctld")
        time.sleep(chance.uniform(0, 3))
        assert (why := cluster.start()) is None, why
        return what
    listed = cluster("squeue", "-h", "-r", "-t", "running", "-o", "%F_%K").split()
    tasks = [task for task in listed if task.split("_")[1].isdecimal()]
    if not tasks:
        return "nothing"
    task = chance.choice(tasks)
    command = {"scancel": ["scancel", task], "requeue": ["scontrol", "requeue", task],
               "time is up": ["scancel", "--batch", "--signal=USR1", task],
               "scancel of a whole array": ["scancel", task.split("_")[0]]}[what]
    return what if cluster.attempt(*command).returncode == 0 else "too late"    # it has just ended


def statuses(out: Path) -> Counter:
    """How many records have which status."""
    return Counter(json.loads(path.read_text())["status"]
                   for path in (out / "losses" / "ab").glob("*.json"))


def one_round(cluster: Cluster, chance: random.Random, folder: Path, until: float) -> Counter:
    """Train the study in `folder`, disturbed up to `until`, and return what was done to it."""
    counts = Counter(rounds=1)
    words = [folder / "in/ab.toml", "--data", folder / "in/a.jsonl", "--out", folder / "out",
             "--data.tokenizer=byte", "--array-max", "4"]
    cluster.study(*words)
    counts["submissions"] += 1
    while True:
        time.sleep(chance.uniform(*PAUSE))
        if cluster("squeue", "-h"):
            counts[disturb(cluster, chance) if time.monotonic() < until else "nothing"] += 1
        elif statuses(folder / "out")["done"] == 2 * SEEDS:
            return counts
        else:
            cluster.study(*words)
            counts["submissions"] += 1


def local(folder: Path) -> dict[str, object]:
    """Train what is missing of the study in `folder` without SLURM, draw it, and return what it
    leaves."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[2] / "lab.py"), "study", "in/ab.toml",
         "--local", "--jobs", "2", "--data", "in/a.jsonl", "--data.tokenizer=byte", "--out", "out"],
        cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return outcome(folder / "out")


def new_folder(root: Path) -> Path:
    """A folder with the text and the study."""
    folder = Path(tempfile.mkdtemp(dir=root))
    (folder / "in").mkdir()
    write_data(folder / "in")
    (folder / "in/ab.toml").write_text(STUDY.format(seeds=", ".join(map(str, range(SEEDS)))))
    return folder


def soak(minutes: float, chance: random.Random, root: Path) -> Counter:
    """Disturb rounds of the study for some minutes. Returns what was done. AssertionError where an
    end differs from that of a study without SLURM, or where something is left over."""
    cluster, counts = Cluster(str(root / "cluster")), Counter()
    cluster.env["ABLATE_CACHE"] = str(root / "cache")
    assert (why := cluster.start()) is None, why
    try:
        expected = local(new_folder(root))
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            folder = new_folder(root)
            counts += one_round(cluster, chance, folder, until)
            restarted = list((folder / "out/losses/ab").glob("*.json"))
            counts["runs that went on from a checkpoint"] += sum(
                bool(json.loads(path.read_text()).get("resumed")) for path in restarted)
            found = local(folder)       # nothing is missing: it only draws
            assert not (differing := different(found, expected)), differing
            assert not left_over(folder), left_over(folder)
            print(dict(counts), flush=True)
            shutil.rmtree(folder)
    finally:
        cluster.sandbox("stop")
    return counts


def main() -> int:
    """Disturb for as long as asked and print what was done."""
    p = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--seed", type=int, default=None)
    args = p.parse_args()
    with scratch("ablate-soak-") as root:
        counts = soak(args.minutes, random.Random(args.seed), root)
    print(", ".join(f"{what}: {n}" for what, n in counts.items())
          + "; every run ended as without SLURM, and nothing was left over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
