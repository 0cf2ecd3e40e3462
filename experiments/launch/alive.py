"""
Whether the run that a record describes is still training: from its process on this machine, and
from the time of its last write anywhere.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from experiments.system import is_running

# A run is silent after this many times its longest wait between two writes, and at least LEAST
# seconds. Before the second write, when torch may be compiling, only FIRST counts.
WAITS, LEAST, FIRST = 5, 120.0, 600.0


def is_alive(record: dict[str, Any], written: float | None = None) -> bool | None:
    """Whether the process that writes a record is running; None where it is on another machine.

    `written` is the time of the record's last write, in seconds since 1970. A process that began
    after it has only been given the same number.
    """
    process = record.get("process") or {}
    if process.get("host") != socket.gethostname():
        return None
    return is_running(int(process["pid"]), written)


def written_at(path: Path) -> float | None:
    """When a file was last written, in seconds since 1970; None where there is none."""
    return path.stat().st_mtime if path.exists() else None


def status_of(record: dict[str, Any], written: float | None = None) -> str:
    """A record's status, `missing` for an empty record. Where it says running, it is `killed` if
    its process is gone, and `silent` if it has written nothing for too long. `written` is the time
    of its last write, in seconds since 1970."""
    status = record.get("status", "missing")
    if status != "running":
        return status
    if is_alive(record, written) is False:
        return "killed"
    return "silent" if written is not None and quiet_for(record, written) else status


def quiet_for(record: dict[str, Any], written: float) -> float | None:
    """For how many seconds a run has shown no sign of life; None while its silence is usual."""
    wait = (record.get("progress") or {}).get("longest_wait")
    usual = max(LEAST, WAITS * wait) if isinstance(wait, int | float) else FIRST
    age = time.time() - written
    return age if age > usual else None
