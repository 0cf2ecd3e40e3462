"""The live view in a real pseudo-terminal: keys, and the terminal's state on every way out."""

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from experiments.launch.launch import ROOT
from tests.helpers.synthetic import write_study

LEAVE, SHOW_CURSOR = "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """`lab.py status --watch` in a terminal of 80 columns and 24 lines."""

    def __init__(self, out):
        environment = {key: value for key, value in os.environ.items()
                       if key not in ("COLUMNS", "LINES")}      # they would fix the size
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "lab.py"), "status", "--watch", "--every", "0.2", "--out",
             str(out)], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            start_new_session=True, env={**environment, "TERM": "xterm-256color"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.text = ""

    def read_until(self, *words, seconds=30):
        """Read until all these words have come since the last call; fail after that long."""
        end, begun = time.monotonic() + seconds, len(self.text)
        while not all(word in self.text[begun:] for word in words):
            assert time.monotonic() < end, f"no {words} in {self.text[begun:][-2000:]!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 65536).decode(errors="replace")

    def press(self, keys):
        os.write(self.ours, keys.encode())


@pytest.fixture
def terminal(tmp_path):
    write_study(tmp_path / "losses", seeds=(0,), steps=100)
    found = Terminal(tmp_path)
    yield found
    found.process.kill()
    os.close(found.ours)
    os.close(found.theirs)


@pytest.mark.parametrize(("leave", "code"), [
    ("q", 0), ("\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131),
    ("gone", 2)])
def test_the_terminal_is_as_it_was_on_every_way_out(terminal, tmp_path, leave, code):
    terminal.read_until("7 done", "q quit")
    assert termios.tcgetattr(terminal.theirs) != terminal.before        # keys need no Enter
    assert terminal.text.count(LEAVE) == 0
    if leave == "gone":
        shutil.rmtree(tmp_path / "losses")
    elif isinstance(leave, str):
        terminal.press(leave)
    else:
        terminal.process.send_signal(leave)
    terminal.read_until(LEAVE, SHOW_CURSOR)
    assert terminal.process.wait(timeout=30) == code
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_a_key_sorts_at_once_a_new_size_is_used_and_suspending_keys_do_nothing(terminal):
    terminal.read_until("7 done", "q quit")
    terminal.press("\x1a\x1cll")
    terminal.read_until("l loss ↓")
    fcntl.ioctl(terminal.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    terminal.read_until("val_loss", "where")          # columns for which 80 have no room
    terminal.press("q")
    terminal.read_until(LEAVE, "7 done")              # the summary stays in the terminal
    assert terminal.process.wait(timeout=30) == 0
