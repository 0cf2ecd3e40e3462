"""
What every pattern can do: say whether query i may see key j, compose with & and |, count its keys
without building T×T, and draw itself. The patterns themselves are in patterns.py.
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
    """A causal set of (i, j) pairs. `allows` says which; what can be counted in closed form
    overrides the counting."""
    spelling: ClassVar[str]
    relative: ClassVar[bool] = False    # whether i − j alone decides

    def allows(self, i: Any, j: Any) -> Any:
        """The predicate where j <= i; i and j are ints, or numpy or torch integer arrays that
        broadcast."""
        raise NotImplementedError

    def __call__(self, i: Any, j: Any) -> Any:
        """May query i see key j? Broadcasts as `allows` does; never true for j > i."""
        return (j <= i) & self.allows(i, j)

    def __and__(self, other: "Pattern") -> "Pattern":
        return And((self, other))

    def __or__(self, other: "Pattern") -> "Pattern":
        return Or((self, other))

    def __str__(self) -> str:
        return self.spelling.format(**vars(self))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop − start, stop) bool: the keys of queries start … stop − 1."""
        return self(np.arange(start, stop)[:, None], np.arange(stop))

    def keys_per_query(self, T: int) -> np.ndarray:
        """(T,) integers: how many keys each query sees."""
        return _streamed(self, T)[0]

    def reach(self, T: int) -> int:
        """The largest i − j seen among T positions."""
        return _streamed(self, T)[1]

    def count(self, T: int) -> int:
        """The (i, j) pairs seen among T positions, exactly."""
        return int(self.keys_per_query(T).sum())

    def sparsity(self, T: int) -> float:
        """The share of the causal triangle, diagonal included, that is not seen: 0 for full."""
        return 1 - self.count(T) / (T * (T + 1) // 2)

    def is_full(self, T: int) -> bool:
        """Whether among T positions nothing is left out, as in a window longer than the text."""
        return self.count(T) == T * (T + 1) // 2

    def mask(self, T: int, device: "torch.device | str | None" = None) -> "torch.Tensor":
        """(T, T) bool, true where a key is seen: the dense reference."""
        import torch  # here, so that patterns can be counted and drawn without it
        i = torch.arange(T, device=device)
        return self(i[:, None], i)

    def draw(self, T: int, separator: str = " ") -> str:
        """A picture in text, a row a query, x where a key is seen. See `draw`."""
        i = np.arange(T)
        return separator.join("".join(".x"[seen] for seen in row)
                              for row in self(i[:, None], i).astype(int))


def draw(pattern: Pattern, T: int, separator: str = " ") -> str:
    """draw(window(2), T=4) == 'x... xx.. .xx. ..xx'; separator='\\n' puts the rows below each
    other."""
    return pattern.draw(T, separator)


ROWS = 64   # a stream's block of queries: at T = 8192 its indices take 4 MB


@lru_cache(maxsize=256)
def _streamed(pattern: Pattern, T: int) -> tuple[np.ndarray, int]:
    """Keys per query and reach by looking at every pair, a block of rows at a time: T² time, T
    memory."""
    keys, reach = [np.zeros(0, dtype=np.int64)], 0
    for start in range(0, T, ROWS):
        seen = pattern.rows(start, min(start + ROWS, T))
        keys.append(seen.sum(1))
        # argmax: the first key
        reach = max(reach, int((np.arange(start, start + len(seen)) - seen.argmax(1)).max()))
    keys = np.concatenate(keys)
    keys.flags.writeable = False   # it is cached
    return keys, reach


@dataclass(frozen=True)
class _Composed(Pattern):
    """Several patterns in one; those of the same kind are taken apart, so that (a & b) & c is a &
    (b & c)."""
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
    """The keys that all parts allow."""
    spelling, operator = "&", staticmethod(and_)


class Or(_Composed):
    """The keys that any part allows."""
    spelling, operator = "|", staticmethod(or_)
