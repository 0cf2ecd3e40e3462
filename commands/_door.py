"""
The way in and out of both programs: run one, and turn what goes wrong into one line and an exit
code.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from experiments.system import NO_ROOM, printable
from mingpt.utils import BadInput

# A path that cannot be read or written. Any other failure of the system may be a fault of ours.
PATHS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
         errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY, errno.ENXIO, errno.ENODEV}
# The disk or the network failed, which another attempt may find mended.
DISK = {*NO_ROOM, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
LONGEST = 1500      # letters of an error's line


def guarded(main: Callable[[list[str]], int], words: list[str]) -> int:
    """Run a program with its words and return its exit code: 2 for bad input and for a path that
    cannot be used, 1 for a full disk or memory, 130 after Ctrl-C. Each prints one line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):     # a letter that the encoding lacks must not fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return main(words)
    except BadInput as error:
        return _refuse(str(error), 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:   # the reader of a pipe (head, less) has closed it
        return 0
    except MemoryError as error:
        return _refuse(f"not enough memory ({str(error) or 'the system refuses more'}): choose a "
                       f"smaller model, batch or file", 1)
    except OSError as error:
        if error.errno not in PATHS | DISK:
            traceback.print_exc()
            return 1
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror}", 2 if error.errno in PATHS else 1)
    except Exception as error:
        if "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
            return _refuse(f"not enough memory: {str(error).splitlines()[0]}: choose a smaller "
                           f"model or batch", 1)
        traceback.print_exc()
        return 1


def _refuse(text: str, code: int) -> int:
    line = printable(text)
    print(f"error: {line if len(line) <= LONGEST else line[:LONGEST] + '…'}", file=sys.stderr)
    return code
