"""
Runs the programs on hostile input in a sandbox, and says what was wrong with how they took it.

Every attempt is a fork of this process, which has imported torch and the project, as the runs of a
study are. It gets a memory of its own, a time limit, and a folder in which everything outside
`out` and `cache` must stay as it was.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_LINES, MOST_SECONDS, MOST_MB = 6, 60, 2000      # seconds of the processor
WAITING = 600       # seconds of the clock, for a program that waits: other programs may be busy
ALLOWED = (0, 2)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `faults` says what it did that it must not."""
    code: int
    text: str
    faults: tuple[str, ...]


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new folder, which is removed at the end, whatever is still written into it."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as root:
        yield Path(root)


@contextlib.contextmanager
def sandbox(seeds: Path) -> Iterator[Path]:
    """A copy of the seeds, deep enough in a new folder that ../../ stays inside that folder."""
    with scratch("ablate-faults-") as root:
        folder = root / "deep" / "er" / "w"
        shutil.copytree(seeds, folder, symlinks=True)
        yield folder


def attempt(argv: list[str], folder: Path, codes: tuple[int, ...] = ALLOWED,
            seconds: float = WAITING, prepare: Callable[[], None] = lambda: None) -> Outcome:
    """Run lab.py, or plotter.py where that is the first word, inside the sandbox `folder`."""
    before = snapshot(folder)
    text = folder / "cache" / ".output"
    text.parent.mkdir(exist_ok=True)
    code, used = wait(start(argv, folder, text, prepare), seconds)
    said = text.read_bytes().decode("utf-8", "replace")
    text.unlink()
    return _judged(code, said, used, codes, before, folder)


def attempt_here(argv: list[str], folder: Path, codes: tuple[int, ...] = ALLOWED) -> Outcome:
    """The same in this process, which is several times as fast and measures no memory. A fault that
    ends the process ends the fuzzing."""
    before, said, here = snapshot(folder), io.StringIO(), os.getcwd()

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s")
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, late)
    signal.alarm(WAITING)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    os.chdir(folder)
    os.environ |= _environment(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = _program(argv)()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(here)
    return _judged(code, said.getvalue(), 0.0, codes, before, folder)


def _judged(code: int, said: str, used: float, codes: tuple[int, ...], before: dict[str, tuple],
            folder: Path) -> Outcome:
    faults = [f"exit code {code}"] * (code not in codes)
    faults += ["a traceback"] * ("Traceback (most recent" in said)
    if code == 2 and said.count("\n") > MOST_LINES:
        faults.append(f"{said.count(chr(10))} lines")
    if used > MOST_MB:
        faults.append(f"{used:.0f} MB")
    after = snapshot(folder)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    faults += [f"changed {name}" for name in sorted(changed)[:3]]
    return Outcome(code, said, tuple(faults))


def start(argv: list[str], folder: Path, text: Path,
          prepare: Callable[[], None] = lambda: None) -> int:
    """Start a program in a fork, with its output in the file `text`, after calling `prepare` there.
    Returns the process's number."""
    child = os.fork()
    if not child:
        prepare()
        _child(argv, folder, text)
    return child


def snapshot(folder: Path) -> dict[str, tuple]:
    """The files around the sandbox that no program may touch: all but `out` and `cache`."""
    root, found = folder.parents[2], {}
    for place, folders, files in os.walk(root):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in ("out", "cache")]
        for name in files:
            stat = os.lstat(os.path.join(place, name))
            path = os.path.relpath(os.path.join(place, name), root)
            found[path] = (stat.st_size, stat.st_mtime_ns)
        found |= {os.path.relpath(os.path.join(place, name), root): () for name in folders}
    return found


def _child(argv: list[str], folder: Path, text: Path) -> None:
    """Become the program. Never returns."""
    code = 70
    try:
        os.setsid()
        output = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        for stream in (1, 2):     # pytest has replaced these
            setattr(sys, ("stdout", "stderr")[stream - 1],
                    open(stream, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        os.environ |= _environment(folder)
        limit = (MOST_MB + 6000) << 20      # of addresses, of which torch uses few
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
        socket.socket.connect = _no_network
        code = _program(argv)()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _environment(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder / "home"), "ABLATE_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1"}


def _no_network(*arguments: object) -> None:
    raise OSError(101, "Network is unreachable")


def preload() -> None:
    """Import what the programs import, so that each attempt only forks."""
    import lab  # noqa: F401
    import plotter  # noqa: F401
    from commands import sample, status, study, tokenize, train  # noqa: F401
    from experiments.launch import preload as _  # noqa: F401
    from experiments.report import draw  # noqa: F401
    from experiments.train import evaluation  # noqa: F401


def _program(argv: list[str]) -> Callable[[], int]:
    import lab
    import plotter
    from commands._door import guarded
    from experiments.train import evaluation

    def here(runs, **options):     # a new process per run takes seconds, and this is one
        return [evaluation.evaluate_run(files, lengths=(8,), **options) for files in runs]
    evaluation.evaluate_runs, evaluation.REPEATS = here, 1
    # a plan is read, and not what it starts: that may be anything that a user may start
    os.execv = lambda *arguments: sys.exit(0)
    if argv[:1] == ["plotter.py"]:
        return lambda: plotter.main(argv[1:])
    return lambda: guarded(lab.main, argv)


def wait(child: int, seconds: float) -> tuple[int, float]:
    """(the exit code, the peak memory in MB). A child that takes too long is killed: 124."""
    until = time.monotonic() + seconds
    late = False
    while True:
        ended, status, usage = os.wait4(child, 0 if late else os.WNOHANG)
        if ended:
            code = 124 if late else os.waitstatus_to_exitcode(status)
            return code, usage.ru_maxrss / 1024
        if time.monotonic() > until:
            late = True
            with contextlib.suppress(ProcessLookupError):     # before it has a group of its own
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
