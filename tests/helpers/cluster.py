"""A real SLURM of two nodes on this machine (tests/slurm-sandbox), and waiting for what it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANDBOX = ROOT / "tests" / "slurm-sandbox"
SMALL = ("--sbatch=--cpus-per-task=1", "--sbatch=--mem=2G")


class Cluster:
    """Runs SLURM's commands in the environment of a sandbox that lives in `folder`."""

    def __init__(self, folder: str):
        self.env = {**os.environ, "SLURM_SANDBOX_DIR": folder, "OMP_NUM_THREADS": "1",
                    "PATH": f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"}
        for name in ("FLAG", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
            self.env.pop(name, None)

    def __call__(self, *command: str, **kwargs) -> str:
        """What a command prints. AssertionError unless it ends with exit code 0."""
        done = self.attempt(*command, **kwargs)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *command: str, **kwargs) -> subprocess.CompletedProcess:
        """Run a command, however it ends."""
        return subprocess.run(command, env={**self.env, **kwargs.pop("env", {})}, text=True,
                              capture_output=True, timeout=120, **kwargs)

    def sandbox(self, *words: str) -> subprocess.CompletedProcess:
        """Run tests/slurm-sandbox."""
        return self.attempt(sys.executable, str(SANDBOX), *words)

    def start(self) -> str | None:
        """Start the sandbox, or what has died of it. Returns None, or the reason why it does not
        start."""
        done = self.sandbox("start", "2", "--gpus", "0")
        if done.returncode:
            return done.stderr
        self.env["SLURM_CONF"] = done.stdout.strip().partition("=")[2]
        return None

    def wait(self, seconds: float = 150) -> None:
        """Wait until no job is left."""
        until(lambda: not self("squeue", "-h"), seconds, lambda: self("squeue"))

    def study(self, *args: object) -> dict:
        """Submit a study with run_all.sh, and return the JSON that it prints."""
        return json.loads(self("bash", str(ROOT / "run_all.sh"), *map(str, args), "--json", *SMALL,
                               cwd=tempfile.gettempdir()))


def until(condition: Callable[[], object], seconds: float, state: Callable[[], str]) -> None:
    """Wait until the condition holds. AssertionError, with `state()`, where it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, state()
        time.sleep(0.05)
