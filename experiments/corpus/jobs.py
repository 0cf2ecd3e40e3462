"""
Tokenises a corpus of many files in several processes. Each of them is the same command with --part
I/N, so a killed process loses one piece, and the others go on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from experiments.corpus import stores_of
from experiments.corpus.progress import Bar, say
from mingpt.utils import BadInput

PAUSE = 0.5      # seconds between two looks at the processes
LAB = Path(__file__).resolve().parents[2] / "lab.py"


def tokenize_in(jobs: int, config, words: list[str]) -> None:
    """Tokenise what the cache lacks of a corpus in up to `jobs` processes, and show the progress.
    `words` are the arguments of `lab.py tokenize` that describe the corpus. Raises BadInput where a
    process fails, with its last line."""
    if jobs < 1:
        raise BadInput(f"--jobs {jobs}: give a whole number from 1")
    lacking = [(size, folder / "meta.json") for size, folder in stores_of(config)
               if not (folder / "meta.json").exists()]
    jobs, total = min(jobs, len(lacking)), sum(size for size, _ in lacking)
    if jobs < 2:
        return      # opening the corpus does it
    say(f"tokenizing {len(lacking)} pieces ({total / 1e6:,.0f} MB) in {jobs} processes")
    bar, running = Bar(total), [_start(words, part, jobs) for part in range(jobs)]
    try:
        while any(process.poll() is None for process, _ in running):
            time.sleep(PAUSE)
            done = sum(size for size, written in lacking if written.exists())
            bar.update(done, done - bar.text)
            _check(running)
        _check(running)
    finally:
        bar.stop()
        for process, output in running:
            process.terminate()     # has no effect on one that has ended
            process.wait()
            output.close()


def _check(running: list[tuple[subprocess.Popen, BinaryIO]]) -> None:
    for process, output in running:
        code = process.poll()
        if code and code < 0:       # its last line is progress, and says nothing of the end
            raise BadInput(f"a process of tokenize was ended by {signal.Signals(-code).name}; the "
                           f"same command goes on with the pieces that are missing")
        if code:
            raise BadInput(_last_line(output) or f"a process of tokenize ended with code {code}")


def _start(words: list[str], part: int, parts: int) -> tuple[subprocess.Popen, BinaryIO]:
    """Start the process of one part: (process, the file that holds what it prints)."""
    output = tempfile.TemporaryFile()   # noqa: SIM115 (closed by tokenize_in)
    process = subprocess.Popen([sys.executable, str(LAB), "tokenize", *words,
                                "--part", f"{part}/{parts}"],
                               stdout=output, stderr=subprocess.STDOUT)
    return process, output


def _last_line(output: BinaryIO) -> str:
    """The last line that a process printed, without the word that lab.py begins an error with."""
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else ""
