"""What goes wrong becomes one line and an exit code; a fault of ours keeps its traceback."""

import errno
import io
import os
import sys

import pytest

from commands._door import guarded
from mingpt.utils import BadInput


def failing(error: BaseException):
    def main(words):
        raise error
    return main


@pytest.mark.parametrize(("error", "code", "line"), [
    (BadInput("two\nlines \x1b[31m"), 2, "error: two lines \\x1b[31m\n"),
    (BadInput("x" * 10**6), 2, "error: " + "x" * 1500 + "…\n"),
    (OSError(errno.EROFS, "Read-only file system", "out"), 2,
     "error: out: Read-only file system\n"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), 2, "error: File name too long\n"),
    (OSError(errno.ENOSPC, "No space left on device", "a"), 1,
     "error: a: No space left on device\n"),
    (MemoryError(), 1, "error: not enough memory (the system refuses more): choose a smaller "
                       "model, batch or file\n"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1,
     "error: not enough memory: DefaultCPUAllocator: can't allocate memory: you tried: choose a "
     "smaller model or batch\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"), (BrokenPipeError(), 0, "")])
def test_what_the_user_can_mend_is_one_line(error, code, line, capsys):
    assert guarded(failing(error), []) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.ECHILD, "No child processes")])
def test_a_fault_of_ours_keeps_its_traceback(error, capsys):
    assert guarded(failing(error), []) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_letter_that_the_terminal_lacks_is_escaped(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    text = "√2 → " + os.fsdecode(b"\xff.txt")
    assert guarded(lambda words: print(text, flush=True) or 0, []) == 0
    assert b"\\udcff.txt" in out.buffer.getvalue()
