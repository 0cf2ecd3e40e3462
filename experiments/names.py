"""
What an arm is called whose parts were chosen one by one: slot members, and a schedule in the form of a file's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.arms import catalogue

LONGEST = 80   # letters of a schedule in a name; file systems end at 255 bytes
LETTERS = {"*": "x", "/": "d", ">": "to", "@": "at", "|": "or", "&": "and", ":": "-", "(": ".", ")": ".", "~": "-"}


def extended(name: str, chosen: Mapping[str, Any]) -> str:
    """The arm's name with the parts chosen by option or override: `rope`, mlp=geglu and a window of 96 make
    `rope_geglu_window96`."""
    from mingpt.model import SLOTS
    naming = {*(f"model.{slot}" for slot in SLOTS), "trainer.optimizer"}
    parts = [str(value) for key, value in chosen.items() if key in naming]
    if "model.schedule" in chosen:
        parts.append(schedule_name(chosen["model.schedule"]))
    idle = name in catalogue() and not catalogue()[name].settings
    return "_".join(parts if idle and parts else [name, *parts])


def schedule_name(text: str) -> str:
    """A schedule's text as part of a file's name: lms_main, window96_dilation4, f-256x2-f, study000.half."""
    text = " ".join(str(text).split())
    if match := re.fullmatch(r"(\d+)(?:/(\d+))?\*", text):
        w, d = match.groups()
        return f"window{w}" + (f"_dilation{d}" if d else "")
    if match := re.fullmatch(r"(.+\.json)(?::(.*))?", text, re.IGNORECASE):
        text = ".".join(part for part in (Path(match[1]).stem, match[2]) if part)
    plain = (LETTERS.get(c, c if c.isalnum() and c.isascii() or c in "_.+-" else "-") for c in text)
    name = "".join(plain).lstrip("._+-")
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
