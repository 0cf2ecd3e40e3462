"""README's commands, run one after the other in a fresh clone, as a reader would run them."""

import itertools
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).resolve().parents[2]
# What is added to the commands of a verb, so that each takes seconds. All of this are options that
# the verb has anyway. Where a command gives an option already, the last one wins.
TINY = "--preset nano --max-iters 4 --device cpu"
CUTS = {
    "run_all.sh": f"{TINY} --seeds 0 --jobs 2 --local",
    "compare": f"{TINY} --seeds 1 --jobs 2 --local",
    "train": TINY,
    "sample": "--tokens 8 --device cpu",
    "eval": "--bleu 0 --device cpu",
    "export": "", "status": "", "plotter.py": "",
    "bench": "--preset nano --rounds 5 --model.block_size=128 --device cpu",
    "analyze": "--no-timing",
    "audit": "--preset nano --device cpu",
}
# Commands that no test can run as they are printed, with the reason, and what is added so that
# they can run after all; None where they cannot.
SPARED = {
    "make test": ("it runs all tests, and so this one", None),
    "python lab.py -c --preset gpt2 --data tinystories": (
        "it needs a GPU and a network",
        "--dry-run --model.n_layer=1 --model.n_head=3 --model.n_embd=48 --model.block_size=64"),
    "bash run_all.sh [STUDY]": ("it lists options; it is no command", None),
}
# Runs Python commands one after the other in one process, which imports torch once for all of them.
# It ends with the code of the first that fails.
ONE_PROCESS = """
import json, runpy, sys
sys.path.insert(0, "")
for words in json.loads(sys.argv.pop()):
    print("$", *words, flush=True)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def commands(page: str) -> list[list[str]]:
    """The words of every command in the page's bash blocks, in order, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def verb(words: list[str]) -> str:
    """The key of CUTS that a command belongs to."""
    assert words[0] in ("python", "bash"), words
    if words[1] != "lab.py":
        return words[1]
    return words[2] if not words[2].startswith("-") else "train"


def spared(words: list[str]) -> tuple[str, str | None] | None:
    """The entry of SPARED that a command begins with, or None."""
    line = shlex.join(words).replace("'", "")
    return next((SPARED[key] for key in SPARED if line.startswith(key)), None)


@pytest.fixture
def clone(tmp_path):
    """A fresh clone of HEAD with a linked environment, and the text that README calls your own."""
    root = tmp_path / "ablate"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(root)], check=True)
    (root / ".venv").symlink_to((ROOT / ".venv").resolve())
    text = "".join(f'{{"text": "Line {n} of a text that has {n * n} words."}}\n'
                   for n in range(5_000))
    (root / "pile.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    return root


@pytest.mark.timeout(600)
def test_every_command_works_after_the_ones_above_it(clone):
    printed = commands((clone / "README.md").read_text(encoding="utf-8"))
    assert set(CUTS) <= {verb(words) for words in printed if not spared(words)}
    for program, lines in itertools.groupby(filter(None, map(shortened, printed)), lambda w: w[0]):
        if program == "bash":
            for words in lines:
                run(clone, words)
        else:
            run(clone, ["python", "-c", ONE_PROCESS, json.dumps([words[1:] for words in lines])])


def shortened(words: list[str]) -> list[str] | None:
    """The command with what makes it short; None for one that cannot run here."""
    _, cut = spared(words) or ("", CUTS.get(verb(words), ""))
    return None if cut is None else [*words, *shlex.split(cut)]


def run(clone: Path, words: list[str]) -> None:
    """Run a command in the clone. Fails with its output where its exit code is not 0."""
    environment = {**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}",
                   "ABLATE_CACHE": str(clone.parent / "cache")}
    done = subprocess.run(words, cwd=clone, env=environment, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}"


def test_each_exception_is_still_in_the_page():
    printed = [shlex.join(words).replace("'", "") for words in commands(
        (ROOT / "README.md").read_text(encoding="utf-8"))]
    for key in SPARED:
        assert any(line.startswith(key) for line in printed), f"README no longer has: {key}"
