"""
Reads single keys from the terminal, without echo and without waiting for Enter.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

# What terminals send for the keys that are no characters.
NAMES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "page up",
         "\x1b[6~": "page down"}
KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """Inside, read(seconds) waits for at most that long and returns the key, "" for none. Ctrl-C
    still interrupts; Ctrl-Z and Ctrl-\\ do nothing, because they would leave the terminal as it
    is. Afterwards the terminal is as it was. Without a terminal on stdin there are no keys."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or ""
        return
    import termios
    import tty
    number, typed = sys.stdin.fileno(), deque()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        now = termios.tcgetattr(number)
        for key in (termios.VSUSP, termios.VQUIT):
            now[6][key] = b"\0"
        termios.tcsetattr(number, termios.TCSANOW, now)
        yield lambda seconds: _read(number, seconds, typed)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read(number: int, seconds: float, typed: deque[str]) -> str:
    """The next key: one of those `typed` before, else what comes within the seconds."""
    if not typed:
        if not select.select([number], [], [], seconds)[0]:
            return ""
        text = os.read(number, 1024).decode(errors="replace")
        typed += KEY.findall(text) or ["q"]            # nothing to read: the terminal is gone
    key = typed.popleft()
    return NAMES.get(key, key)
