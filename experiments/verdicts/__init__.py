"""
What runs show. For use from Python:

    import experiments.verdicts as v
    v.compare({0: 3.21, 1: 3.19}, {0: 3.25, 1: 3.22}, margin=0.01)     # paired by seed
    runs = v.read("runs/")                                             # a pandas DataFrame
    v.judge(["runs/"]).verdicts                                        # what lab.py judge prints
"""

import importlib
from typing import Any

_WHERE = {"compare": "interface", "read": "interface", "judge": "foreign", "Choices": "foreign",
          "Verdict": "verdict", "verdicts": "interface"}
__all__ = list(_WHERE)          # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: scipy takes a second, and many commands need none of
    it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
