"""
The machine of a measurement: its description, and the memory that it has left.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.records.record import processor

PACKAGES = ("torch", "numpy", "transformers", "x-transformers", "litgpt", "tokenizers")


def describe(device: str, threads: int) -> dict[str, Any]:
    """Where it was measured, with which versions, and how it was called."""
    return {"platform": platform.platform(), "cpu": processor(), "cores": os.cpu_count(),
            "threads": threads,
            "device": device, "python": platform.python_version(), "versions": versions(),
            "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M")}


def versions() -> dict[str, str]:
    """The versions of the compared packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [spec.name] if spec else [Path(sys.argv[0]).stem]
