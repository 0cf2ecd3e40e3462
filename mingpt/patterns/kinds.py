"""
The attention patterns. A pattern is a predicate on (i, j): may query i see key j?

Every pattern is causal and lets a query see itself, so no softmax is ever empty. Patterns compose,
count their keys and draw themselves (pattern.py). Each has a short spelling, which parses back:

    f          full: every key up to the query          at T = 4: x... xx.. xxx. xxxx
    256        window: the last 256 keys, including the query's own (i − j < 256)
                                                window(2) at T = 4: x... xx.. .xx. ..xx
    256>1/2    shifted: the window moves by 1/2 of its length towards the future. Causality cuts
               off the part that lies in the future. This leaves the same keys as 128.
    96/4       dilated: a window of 96, then keys i−96−4, i−96−8, …; key i−96 is in a gap
    b128x4     block: the query's own block of 128, up to the query, and the 4 blocks before it
    s8         strided: keys 0, 8, 16, … and the query's own
    64+g64     local_global: a window of 64, and keys 0, 64, 128, …
    r0.1@7     random: each earlier key is dropped with probability 0.1, by seed 7
    64&s8      the keys that both patterns allow
    64|s8      the keys that either pattern allows. & binds more closely than |, so
               (64|s8)&b128x4 needs its brackets.
"""

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mingpt.patterns.pattern import And, Or, Pattern, draw
from mingpt.utils import BadInput

__all__ = ["And", "Or", "Pattern", "PATTERNS", "draw", "parse_pattern", "full", "window",
           "shifted", "dilated", "block", "strided", "local_global", "random"]


LARGEST = 2**31 - 1   # the largest number in a pattern: no index can overflow


@dataclass(frozen=True)
class Full(Pattern):
    """Every key up to the query, as in GPT-2."""
    spelling, relative = "f", True

    def allows(self, i, j):
        return j <= i

    def keys_per_query(self, T):
        return np.arange(T) + 1

    def reach(self, T):
        return T - 1


@dataclass(frozen=True)
class _Sized(Pattern):
    """Base class of the patterns whose fields are all whole numbers. A field must be at least 1,
    unless `least` names another minimum for it."""
    least: ClassVar[dict[str, int]] = {}

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, _whole(self, f.name, self.least.get(f.name, 1)))


def _whole(pattern: Pattern, name: str, least: int) -> int:
    """The pattern's field as an int. Raises BadInput if it is not a whole number, below `least` or
    above LARGEST."""
    value = getattr(pattern, name)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BadInput(f"pattern {str(pattern)!r}: {name} = {value!r} is not a whole number")
    if not least <= value <= LARGEST:
        nearest = f"the least is {least}" if value < least else f"the largest is {LARGEST}"
        raise BadInput(f"pattern {str(pattern)!r}: {name} = {value}, {nearest}")
    return int(value)


@dataclass(frozen=True)
class Window(_Sized):
    """The last w keys, including the query's own."""
    w: int
    spelling, relative = "{w}", True

    @property
    def width(self) -> int:
        """The number of keys that a query sees once there are that many."""
        return self.w

    def allows(self, i, j):
        return i - j < self.width

    def keys_per_query(self, T):
        return np.minimum(np.arange(T) + 1, self.width)

    def reach(self, T):
        return min(T, self.width) - 1


@dataclass(frozen=True)
class ShiftedWindow(Window):
    """Study 000's group shift: a window moved towards the future by index/groups of its length.
    Causality cuts off the part in the future, so w − ⌊w·index/groups⌋ keys are left. This reading
    reproduces the study's sparsities: lms_main 50.5 % at T = 1024 and 37.5 % at 512."""
    index: int
    groups: int
    spelling, relative = "{w}>{index}/{groups}", True
    least = {"index": 0}

    def __post_init__(self):
        super().__post_init__()
        if self.index >= self.groups:
            raise BadInput(f"pattern {str(self)!r}: index = {self.index}, the largest is "
                           f"{self.groups - 1}")

    @property
    def width(self) -> int:
        return self.w - self.w * self.index // self.groups


@dataclass(frozen=True)
class Dilated(_Sized):
    """Study 003's dilated window: a window of w, then every d-th key before it: i−w−d, i−w−2d, …
    Key i−w itself is in a gap."""
    w: int
    d: int
    spelling, relative = "{w}/{d}", True

    def allows(self, i, j):
        beyond = i - j - self.w
        return (beyond < 0) | (beyond > 0) & (beyond % self.d == 0)

    def keys_per_query(self, T):
        i = np.arange(T)
        return np.minimum(i + 1, self.w) + np.maximum(i - self.w, 0) // self.d

    def reach(self, T):
        links = max(T - 1 - self.w, 0) // self.d
        return self.w + links * self.d if links else min(T, self.w) - 1


@dataclass(frozen=True)
class BlockPattern(_Sized):
    """The query's own block of `size` positions, up to the query, and the `previous` blocks before
    it."""
    size: int
    previous: int
    spelling = "b{size}x{previous}"
    least = {"previous": 0}

    def allows(self, i, j):
        return i // self.size - j // self.size <= self.previous

    def keys_per_query(self, T):
        i = np.arange(T)
        return i + 1 - np.maximum(i // self.size - self.previous, 0) * self.size

    def reach(self, T):
        return min(T, (self.previous + 1) * self.size) - 1


@dataclass(frozen=True)
class Strided(_Sized):
    """Every s-th key of the text, starting at key 0, and the query's own key."""
    s: int
    spelling = "s{s}"

    def allows(self, i, j):
        return (j % self.s == 0) | (i == j)

    def keys_per_query(self, T):
        i = np.arange(T)
        return i // self.s + 1 + (i % self.s > 0)

    def reach(self, T):
        return T - 1


@dataclass(frozen=True)
class LocalGlobal(_Sized):
    """A window of w, and every `every`-th key of the text, starting at key 0. Study 000's
    local_global takes every 64th."""
    w: int
    every: int
    spelling = "{w}+g{every}"

    def allows(self, i, j):
        return (i - j < self.w) | (j % self.every == 0)

    def keys_per_query(self, T):
        i = np.arange(T)
        return np.minimum(i + 1, self.w) + np.where(i >= self.w, (i - self.w) // self.every + 1, 0)

    def reach(self, T):
        return T - 1


@dataclass(frozen=True)
class Random(Pattern):
    """Drops each earlier key with probability `drop`. A hash of (seed, i, j) decides, so the same
    pairs are dropped at every T and on every device, and nothing is stored."""
    drop: float
    seed: int
    spelling = "r{drop}@{seed}"

    def __post_init__(self):
        object.__setattr__(self, "seed", _whole(self, "seed", 0))
        if not isinstance(self.drop, (int, float)) or not 0 <= self.drop < 1:
            raise BadInput(f"pattern {str(self)!r}: drop = {self.drop!r} is not a number from "
                           f"0 to less than 1")
        object.__setattr__(self, "drop", float(self.drop))

    def allows(self, i, j):
        return (_mix(_mix(_mix(self.seed) ^ _int64(i)) ^ _int64(j)) >= self.drop * 2**32) | (i == j)


def _int64(x: Any) -> Any:
    # FlexAttention passes int32 indices, which are too short for _mix
    return x.long() if hasattr(x, "long") else np.int64(x)


def _mix(x: Any) -> Any:
    """Thomas Mueller's 32-bit integer hash. Its factor is below 2^27, so no product overflows an
    int64."""
    x = x & 0xFFFFFFFF
    for _ in range(2):
        x = (x ^ x >> 16) * 0x45D9F3B & 0xFFFFFFFF
    return x ^ x >> 16


# To add a pattern, write a class above and a line here. The line adds its spelling to the grammar
# of schedules.
PATTERNS = {"full": Full, "window": Window, "shifted": ShiftedWindow, "dilated": Dilated,
            "block": BlockPattern, "strided": Strided, "local_global": LocalGlobal,
            "random": Random}
# lower-case names, so that code can say window(64) | strided(8)
full, window, shifted, dilated = Full, Window, ShiftedWindow, Dilated
block, strided, local_global, random = BlockPattern, Strided, LocalGlobal, Random


def parse_pattern(text: str) -> Pattern:
    """The pattern that a spelling means: the reverse of str(pattern). Raises BadInput if the text
    is not a spelling."""
    for symbol, kind in (("|", Or), ("&", And)):   # | binds less closely, so it is split first
        parts = _split(text, symbol)
        if len(parts) > 1:
            return kind(tuple(parse_pattern(part) for part in parts))
    if text.startswith("(") and text.endswith(")"):
        return parse_pattern(text[1:-1])
    for kind in PATTERNS.values():
        if match := _form(kind).fullmatch(text):
            return kind(*(f.type(value) for f, value in zip(fields(kind), match.groups(),
                                                            strict=True)))
    raise BadInput(f"no pattern is spelled {text!r}: write f, 256, 256>1/2, 96/4, b128x4, s8, "
                   f"64+g64 or r0.1@7, or several of these joined by & and |")


def _split(text: str, symbol: str) -> list[str]:
    """Split at each occurrence of the symbol outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == symbol and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


@cache
def _form(kind: type[Pattern]) -> re.Pattern:
    """A class's spelling as a regular expression with one group per field."""
    numbers = {int: r"(-?\d+)", float: r"(-?\d+(?:\.\d*)?(?:e-?\d+)?)"}
    form = re.escape(kind.spelling)
    for f in fields(kind):
        form = form.replace(re.escape(f"{{{f.name}}}"), numbers[f.type])
    return re.compile(form)
