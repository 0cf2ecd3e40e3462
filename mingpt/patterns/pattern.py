"""
The base class of all attention patterns. A pattern says whether query i may see key j. Patterns
compose with & and |, count their keys without building a T×T mask, and draw themselves as text.
The patterns themselves are in kinds.py.
"""

from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import chain
from operator import and_, or_
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch


class Pattern:
    """A causal set of pairs (i, j) of a query and a key.

    A subclass defines `allows`. If its keys can be counted in closed form, it also overrides
    `keys_per_query` and `reach`, which by default look at every pair.
    """
    spelling: ClassVar[str]             # a format string over the fields, such as "{w}/{d}"
    relative: ClassVar[bool] = False    # whether i − j alone decides if i sees j

    def allows(self, i: Any, j: Any) -> Any:
        """Whether query i may see key j, given that j <= i. i and j are ints, or numpy or torch
        integer arrays that broadcast."""
        raise NotImplementedError

    def __call__(self, i: Any, j: Any) -> Any:
        """Whether query i may see key j. Broadcasts as `allows` does. Always false for j > i."""
        return (j <= i) & self.allows(i, j)

    def __and__(self, other: "Pattern") -> "Pattern":
        return And((self, other))

    def __or__(self, other: "Pattern") -> "Pattern":
        return Or((self, other))

    def __str__(self) -> str:
        return self.spelling.format(**vars(self))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop − start, stop) bool: which keys the queries start … stop − 1 see."""
        return self(np.arange(start, stop)[:, None], np.arange(stop))

    def keys_per_query(self, T: int) -> np.ndarray:
        """(T,) integers: how many keys each query sees."""
        return _streamed(self, T)[0]

    def reach(self, T: int) -> int:
        """The largest distance i − j from a query to a key that it sees, among T positions."""
        return _streamed(self, T)[1]

    def count(self, T: int) -> int:
        """The exact number of pairs (i, j) seen among T positions."""
        return int(self.keys_per_query(T).sum())

    def sparsity(self, T: int) -> float:
        """The share of the causal triangle, diagonal included, that is not seen. 0 for full."""
        return 1 - self.count(T) / (T * (T + 1) // 2)

    def is_full(self, T: int) -> bool:
        """Whether every query sees all keys up to itself among T positions, as in a window longer
        than the text."""
        return self.count(T) == T * (T + 1) // 2

    def mask(self, T: int, device: "torch.device | str | None" = None) -> "torch.Tensor":
        """(T, T) bool, true where a query (row) sees a key (column). This is the reference that
        every backend is tested against."""
        import torch  # imported here, so that patterns can be counted and drawn without torch
        i = torch.arange(T, device=device)
        return self(i[:, None], i)      # (T, T)

    def draw(self, T: int, separator: str = " ") -> str:
        """A picture in text: one row per query, x where a key is seen. See `draw`."""
        i = np.arange(T)
        return separator.join("".join(".x"[seen] for seen in row)
                              for row in self(i[:, None], i).astype(int))


def draw(pattern: Pattern, T: int, separator: str = " ") -> str:
    """The pattern as text, one row per query: draw(window(2), T=4) == 'x... xx.. .xx. ..xx'.
    separator='\\n' puts each row on its own line."""
    return pattern.draw(T, separator)


ROWS = 64   # queries looked at together when pairs are counted: 4 MB of indices at T = 8192


@lru_cache(maxsize=256)
def _streamed(pattern: Pattern, T: int) -> tuple[np.ndarray, int]:
    """Keys per query, (T,), and reach. Looks at every pair, one block of rows at a time: T² time,
    but memory proportional to T."""
    keys, reach = [np.zeros(0, dtype=np.int64)], 0
    for start in range(0, T, ROWS):
        seen = pattern.rows(start, min(start + ROWS, T))
        keys.append(seen.sum(1))
        # argmax gives the first key that each query sees
        reach = max(reach, int((np.arange(start, start + len(seen)) - seen.argmax(1)).max()))
    keys = np.concatenate(keys)
    keys.flags.writeable = False   # callers share this cached array
    return keys, reach


@dataclass(frozen=True)
class _Composed(Pattern):
    """A pattern made of several. Nested compositions of the same kind are flattened, so that
    (a & b) & c equals a & (b & c)."""
    parts: tuple[Pattern, ...]

    def __post_init__(self):
        flat = (p.parts if type(p) is type(self) else (p,) for p in self.parts)
        object.__setattr__(self, "parts", tuple(chain.from_iterable(flat)))

    def __str__(self):
        return self.spelling.join(f"({p})" if isinstance(p, Or) else str(p) for p in self.parts)

    @property
    def relative(self) -> bool:
        return all(p.relative for p in self.parts)

    def allows(self, i, j):
        return reduce(self.operator, (p.allows(i, j) for p in self.parts))


class And(_Composed):
    """Sees the keys that all parts allow."""
    spelling, operator = "&", staticmethod(and_)


class Or(_Composed):
    """Sees the keys that at least one part allows."""
    spelling, operator = "|", staticmethod(or_)
