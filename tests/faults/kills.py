"""
Kills programs at random moments and starts them again, until they end, and compares what they leave
with what an undisturbed start leaves.

    python -m tests.faults.kills [--kills 100] [--study] [--seed N]

Without --study the victim is one run, from tokenising its text to its last record. With --study it
is a whole study with its launcher, runs and plots: each kill hits the launcher, one of its
processes, or all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.sandbox import attempt, preload, scratch, start, wait
from tests.faults.seeds import TINY, write_data

ROOT = Path(__file__).resolve().parents[2]
# The columns of a CSV and the keys of a result that are measured: no two runs agree on them.
MEASURED = {"seconds", "tokens_per_second", "peak_memory_mb"}
LEFT_OVER = re.compile(r"\..*\.tmp|\..*\.[a-z0-9_]{8}|.*\.claim|.*\.tmp")
RUN = ["-r", "--data", "in/a.jsonl", "--out", "out", *TINY, "--max-iters", "12",
       "--run.checkpoint_every=3", "--run.keep_best=true"]
STUDY = """seeds = [0, 1]
preset = "nano"
[arms.rope]
"""
MARK = "ABLATE_KILLS"


def outcome(out: Path) -> dict[str, object]:
    """What must be the same however often a run was killed: the rows of each CSV, each result, the
    bytes of the newest weights, and the verdicts. A checkpoint before these may be of another
    iteration, where a run was told to save one."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".csv" and path.parent.name != "checkpoints" and name[:6] == "losses":
            header, *rows = [line.split(",") for line in path.read_text().splitlines()]
            keep = [n for n, column in enumerate(header) if column not in MEASURED]
            found[name] = [[row[n] for n in keep] for row in rows]
        elif path.suffix == ".json" and name[:6] == "losses":
            record = json.loads(path.read_text())
            result = {k: v for k, v in (record["result"] or {}).items() if k not in MEASURED}
            found[name] = [record["status"], result, record["sample"]]
        elif path.name == "state.json":
            found |= {f"{name}: {kind}": (path.parent / file).read_bytes()
                      for kind, file in json.loads(path.read_text())["files"].items()
                      if file.endswith(".safetensors")}
        elif path.name == "verdicts.json":
            verdicts = json.loads(path.read_text())["verdicts"]
            found[name] = {arm: [v["word"], v.get("difference")] for arm, v in verdicts.items()}
    return found


def different(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """The names of the files in which two outcomes differ, with the content of the short ones."""
    return [f"{name}: {str(found.get(name))[:500]} where it should be "
            f"{str(expected.get(name))[:500]}"
            for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def left_over(folder: Path) -> list[str]:
    """Temporary files and claims that no program should leave behind."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*")
            if LEFT_OVER.fullmatch(path.name) and path.name != ".output"]


def new_folder(root: Path) -> Path:
    """A folder with the text and nothing else."""
    folder = Path(tempfile.mkdtemp(dir=root)) / "a" / "b" / "w"
    for name in ("in", "out", "cache", "home"):
        (folder / name).mkdir(parents=True)
    write_data(folder / "in")
    return folder


def kill_runs(kills: int, chance: random.Random, root: Path) -> Counter:
    """Kill one run `kills` times in all, beginning again whenever it reaches its end. Returns how
    often it was killed and how often it ended. AssertionError where an end differs."""
    preload()
    whole = new_folder(root)
    begun = time.monotonic()
    assert not attempt(RUN, whole, codes=(0,)).faults
    lasts, expected, counts = time.monotonic() - begun, outcome(whole / "out"), Counter()
    while counts["kills"] < kills:
        folder = new_folder(root)
        while True:
            child = start(RUN, folder, folder / "cache" / ".output")
            code, _ = wait(child, chance.uniform(0, lasts))
            if code != 124:     # it ended before its time
                break
            counts["kills"] += 1
        text = (folder / "cache" / ".output").read_text()
        assert code == 0, text
        assert not (differing := different(outcome(folder / "out"), expected)), differing
        assert not left_over(folder), left_over(folder)
        counts["ends"] += 1
        print(f"{counts['kills']} of {kills} kills, {counts['ends']} ends", file=sys.stderr,
              flush=True)
        shutil.rmtree(folder)
    return counts


# -- a whole study ---------------------------------------------------------------------------------

def kill_study(kills: int, chance: random.Random, root: Path) -> Counter:
    """The same for a study of two arms and two seeds, each start of which is a new process."""
    def launch(folder: Path) -> subprocess.Popen:
        (folder / "in" / "ab.toml").write_text(STUDY)
        command = [sys.executable, str(ROOT / "lab.py"), "study", "in/ab.toml", "--local", "--jobs",
                   "2", "--data", "in/a.jsonl", "--out", "out", *RUN[RUN.index(TINY[0]):]]
        environment = {**os.environ, MARK: str(folder), "ABLATE_CACHE": str(folder / "cache")}
        return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
    whole = new_folder(root)
    begun = time.monotonic()
    said = (process := launch(whole)).communicate()[0]
    assert process.returncode == 0, said
    lasts, expected, counts = time.monotonic() - begun, outcome(whole / "out"), Counter()
    while counts["kills"] < kills:
        folder = new_folder(root)
        while (process := launch(folder)).poll() is None:
            try:
                said = process.communicate(timeout=chance.uniform(0, lasts))[0]
                if process.returncode == 0:
                    break
                continue      # a run of it was killed, twice; the same command goes on
            except subprocess.TimeoutExpired:
                whom = chance.choice(["launcher", "one", "all"])
            living = [pid for pid in processes(folder) if pid != process.pid]
            victims = {"launcher": [process.pid], "all": [process.pid, *living],
                       "one": chance.sample(living, 1) if living else [process.pid]}[whom]
            for pid in victims:
                counts[f"killed {'the launcher' if pid == process.pid else 'another process'}"] += 1
                kill(pid)
            counts["kills"] += 1
            if whom == "one":
                said = process.communicate()[0]
                if process.returncode == 0:
                    break
            else:
                process.wait()
        assert process.returncode == 0, said
        assert not (differing := different(outcome(folder / "out"), expected)), differing
        assert not left_over(folder), left_over(folder)
        counts["ends"] += 1
        print(f"{counts['kills']} of {kills} kills, {counts['ends']} ends", file=sys.stderr,
              flush=True)
        for pid in processes(folder):
            kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def processes(folder: Path) -> list[int]:
    """The living processes that were started with this folder's mark."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                if f"{MARK}={folder}".encode() in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def kill(pid: int) -> None:
    """SIGKILL a process if it still lives."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> int:
    """Kill as often as asked and print what was done."""
    p = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--study", action="store_true")
    p.add_argument("--seed", type=int, default=None)
    args = p.parse_args()
    with scratch("ablate-kills-") as root:
        counts = (kill_study if args.study else kill_runs)(args.kills, random.Random(args.seed),
                                                           root)
    print(", ".join(f"{what}: {n}" for what, n in counts.items())
          + "; every end was that of an undisturbed start, and nothing was left over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
