"""
What a code file of the user must leave as it is while it is imported: this program, its slots, and
what torch keeps for everybody. Such a change would reach arms that do not use the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

PACKAGES = ("mingpt", "experiments")
OTHERS = ("torch", "torch.nn", "torch.nn.functional")
# What can be set for all of torch: name → how to read it.
STATE = {"default dtype": torch.get_default_dtype, "gradient mode": torch.is_grad_enabled,
         "number of threads": torch.get_num_threads,
         "deterministic mode": torch.are_deterministic_algorithms_enabled}
Place = tuple[str, ...]    # module, name, and where there is one, the name inside that


def surroundings() -> dict[Place, Any]:
    """Everything at the top of this program's modules and of torch's, in this program's classes,
    and in the dicts of the library."""
    found: dict[Place, Any] = {("torch's", name): read() for name, read in STATE.items()}
    for name, module in list(sys.modules.items()):
        if module is None or not (name.partition(".")[0] in PACKAGES or name in OTHERS):
            continue
        for key, value in list(vars(module).items()):
            if key.startswith("__"):
                continue
            found[name, key] = value
            inside = {}
            if isinstance(value, type) and value.__module__ == name:
                inside = {each: thing for each, thing in vars(value).items()
                          if not each.startswith("__abc")}
            elif isinstance(value, dict) and key.isupper() and name.startswith("mingpt"):
                inside = value
            found |= {(name, key, str(each)): thing for each, thing in inside.items()}
    return found


def changes_since(before: dict[Place, Any], own: str) -> str | None:
    """A clause about the first thing that is no longer what it was; None where there is none. `own`
    is the file's name as a module. A member that was put into one of our own slots is taken out
    again."""
    now, modules = surroundings(), {place[0] for place in before}
    for place in now:
        if len(place) == 3 and place not in before and place[0] in modules:
            module, table, name = place
            thing = vars(sys.modules[module])[table]
            if isinstance(thing, dict):
                del thing[name]
                return (f"adds {name!r} to the {table} of {module}: define a dict {table} = "
                        f"{{...}} in the file instead")
    for place, value in before.items():
        thing = now.get(place, now)
        same = thing == value if place[0] == "torch's" else thing is value
        # torch wraps some of its own functions when more of it is imported
        if not same and (place[0] != "torch" or getattr(thing, "__module__", None) == own):
            what = " ".join(place) if place[0] == "torch's" else ".".join(place)
            return (f"changes {what}, which other arms use too: a code file adds members to "
                    f"slots; for any other change, change the source")
    return None


@contextlib.contextmanager
def seeded(text: str) -> Iterator[None]:
    """Within the context, the global random generators begin with a seed made from a text.
    Afterwards they are as they were before."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
