"""
What the program needs of the operating system, with one rule for each: names that become files,
locks that other processes respect, a disk that is full, and text on a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mingpt.utils import BadInput, read_json

LONGEST_NAME = 200     # bytes; a file's name has at most 255, and endings of ours are added
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
PAUSE = 2.0            # seconds between two looks at a lock or a full disk
BEAT, STALE = 20.0, 180.0    # seconds between two signs of life of a claim, and until it is dead

T = TypeVar("T")


class Held(Exception):
    """Another process holds the lock."""


# -- names and folders -----------------------------------------------------------------------------

def file_name(name: Any, what: str) -> str:
    """Return `name` if it can name a file or a folder inside another one. Raises BadInput, with
    `what` in front, where it would lead elsewhere, be hidden, or be too long."""
    if (not isinstance(name, str) or not name.strip() or name.startswith(".")
            or any(c in "/\\" or not c.isprintable() for c in name)):
        raise BadInput(f"{what}: {name!r:.80} cannot name a file or a folder")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise BadInput(f"{what}: {name[:40]!r}… is too long for a file's name: at most "
                       f"{LONGEST_NAME} bytes")
    return name


def expanded(path: str | os.PathLike) -> Path:
    """The path with `~` replaced by the home folder. Raises BadInput where there is none."""
    found = os.path.expanduser(path)
    if os.fspath(found).startswith("~"):
        raise BadInput(f"{path}: this user has no home folder: give a path without ~")
    return Path(found)


# -- locks -----------------------------------------------------------------------------------------

@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` inside. Where another process holds it, call `waiting` once and
    wait, or raise Held where there is no `waiting`.

    The system releases the lock when the process ends, however it ends. On a file system without
    locks, a claim beside the file takes its place. The file is never written to, and never followed
    where it is a symbolic link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadInput(f"{path} is a symbolic link: remove it") from None
        raise
    try:
        take, release = _flock(handle, path)
        told = False
        while not take():
            if waiting is None:
                raise Held(path)
            if not told:
                waiting()
                told = True
            time.sleep(PAUSE)
        try:
            yield
        finally:
            release()
    finally:
        os.close(handle)


def _flock(handle: int, path: Path) -> tuple[Callable[[], bool], Callable[[], None]]:
    """(a function that tries to lock, one that releases): the system's lock, or a claim where the
    file system has none."""
    def take() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    try:
        return ((lambda: True) if take() else take), lambda: None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    claim = Claim(path.with_name(f"{path.name}.claim"))
    return claim.take, claim.release


class Claim:
    """A file that says which process works on something, in place of a lock. Its time of change is
    renewed while the process lives, so that other machines see when it is gone."""

    def __init__(self, path: Path):
        self.path, self.ended = path, threading.Event()
        self.me = {"host": socket.gethostname(), "pid": os.getpid(), "id": secrets.token_hex(8)}

    def take(self) -> bool:
        """Try to make the claim, after removing one whose process is gone. True if it is ours."""
        if self._is_stale():
            self._remove_stale()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.me, file)
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        """Give the claim up."""
        self.ended.set()
        if self._owner().get("id") == self.me["id"]:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _owner(self) -> dict[str, Any]:
        try:
            owner = read_json(self.path)
        except (OSError, ValueError, BadInput):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _is_stale(self) -> bool:
        """Whether the claim's process is gone: on this machine by its number and start, elsewhere
        by the time of its last sign of life."""
        try:
            written = self.path.stat().st_mtime
        except OSError:
            return False
        owner = self._owner()
        if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
            return not is_running(owner["pid"], written)
        return self._now() - written > STALE

    def _now(self) -> float:
        """The time by the clock that stamps this folder's files, which may be another machine's."""
        probe = self.path.with_name(f".{self.path.name}.{self.me['id'][:8]}")
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """Remove the dead claim. Of several processes that try, one wins the rename; a claim that
        came to life meanwhile is put back."""
        dead = self._owner()
        aside = self.path.with_name(f".{self.path.name}.{self.me['id'][:8]}")
        with contextlib.suppress(OSError):
            os.rename(self.path, aside)
            taken = Claim(aside)._owner()
            if taken != dead:
                os.link(aside, self.path)
            aside.unlink()


def is_running(pid: int, written: float | None = None) -> bool:
    """Whether a process of this machine runs. One that began after `written`, in seconds since
    1970, has only been given the same number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):   # OverflowError: the number is too large for a pid
        return False
    except PermissionError:
        pass   # another user's process
    began = began_at(pid)
    return written is None or began is None or began <= written + SLACK


SLACK = 5.0   # seconds by which a process's start and a file's time may disagree


def began_at(pid: int) -> float | None:
    """When a process of this machine began, in seconds since 1970; None where the system does not
    say."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[19])                  # the 22nd field: the name was the second
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):   # no /proc, as on macOS
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")


# -- a full disk -----------------------------------------------------------------------------------

def patiently(write: Callable[[], T], say: Callable[[str], None],
              give_up: Callable[[], Any] = lambda: False) -> T:
    """Call `write`, and again for as long as the disk is full. `write` must be harmless to repeat.
    Tells the user once. Raises the error where `give_up` says so."""
    told = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in NO_ROOM or give_up():
                raise
            if not told:
                say(f"{error.strerror or error}: waiting until there is room")
                told = True
            time.sleep(PAUSE)


# -- the terminal ----------------------------------------------------------------------------------

def terminal(stderr: bool = False, **options: Any):
    """A rich console on which text is only text: brackets in the name of a file or a run are no
    markup, and `:name:` is no emoji."""
    from rich.console import Console
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, **options)


def printable(text: str) -> str:
    """The text on one line, with control characters written as escapes, so that a name cannot
    steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                   for c in " ".join(text.split()))
