"""
Measures the choices of the attention backends on this machine, and prints them as the source has
them: WORKING_SET of mingpt/sparse/tiles.py and BANDED_ON_CPU of mingpt/sparse/backends.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from mingpt.patterns.kinds import parse_pattern
from mingpt.sparse import tiles
from mingpt.sparse.backends import BACKENDS, BackendCase, fastest
from mingpt.sparse.banded import banded_attention, parts_of

SHAPES = ((1, 6, 2048, 64), (4, 6, 1024, 32), (8, 6, 512, 32), (8, 4, 256, 16))
SETS = tuple(mb << 20 for mb in (4, 8, 12, 16, 24))    # bytes to try as the working set
LENGTHS, HEAD_SIZES, TOKENS = (2048, 1024, 512, 256, 128), (16, 32, 64, 128), 4096
SHARES = (1.0, 0.75, 0.65, 0.55, 0.45, 0.3)            # the shares that the table may have
SLOWER = 1.03       # a choice this much slower than the best counts as wrong


class Cell(NamedTuple):
    """One shape and pattern: the number of parts, the share of the causal triangle that is seen,
    banded's time over that of the dense mask, and the backend that `auto` takes today."""
    T: int
    head_size: int
    pattern: str
    parts: int
    share: float
    ratio: float
    auto: str

    @property
    def wrong(self) -> bool:
        """Whether `auto` takes the slower of the two, by more than SLOWER."""
        return (self.ratio if self.auto == "banded" else 1 / self.ratio) > SLOWER


def tune(rounds: int, say: Callable[[str], None]) -> list[str]:
    """Measure, and return the lines to print. `say` tells the progress."""
    key = tiles.processor()
    best = working_set(rounds, key, say)
    say("banded against a dense mask")
    grid = list(cells(LENGTHS, HEAD_SIZES, rounds))
    lines = [f"# torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds",
             f"WORKING_SET     {key}: {best >> 20} << 20,", f"BANDED_ON_CPU   {key}: ("]
    lines += [f"    ({T}, {one}, {several})," for T, one, several in table(grid)]
    wrong = [cell for cell in grid if cell.wrong]
    lines += ["),", f"# auto as it is takes the slower of banded and dense by over 3 % in "
                    f"{len(wrong)} of {len(grid)} cells:"]
    return lines + [f"#   T {cell.T}, hs {cell.head_size}, {cell.pattern}: {cell.auto}, banded "
                    f"takes {cell.ratio:.2f} of dense" for cell in wrong]


def working_set(rounds: int, key: tuple[str, int], say: Callable[[str], None]) -> int:
    """The bytes in SETS with the least total time over windows of an eighth to a thirty-second of
    SHAPES, each relative to the fastest there."""
    had, total = dict(tiles.WORKING_SET), dict.fromkeys(SETS, 0.0)
    try:
        for shape in SHAPES:
            say(f"working sets at {shape}")
            for share in (32, 16, 8):
                pattern = parse_pattern(str(shape[2] // share))

                def run(size: int, *qkv: torch.Tensor, pattern=pattern) -> torch.Tensor:
                    tiles.WORKING_SET[key] = size
                    return banded_attention(*qkv, pattern)
                seconds = medians(run, SETS, shape, rounds)
                for size in SETS:
                    total[size] += seconds[size] / min(seconds.values())
    finally:
        tiles.WORKING_SET.clear()
        tiles.WORKING_SET.update(had)
    return min(total, key=total.get)


def cells(lengths: Iterable[int], head_sizes: Iterable[int], rounds: int) -> Iterator[Cell]:
    """Measure windows, dilated windows, windows with global keys, strides and blocks at each length
    and head size."""
    for T in lengths:
        patterns = [*(str(T * n // 64) for n in (2, 8, 16, 24, 32, 48)), f"{T // 16}/4",
                    f"{T // 8}/2", f"{T // 4}+g16", f"s{int(T**0.5)}", f"b{T // 8}x2"]
        for hs in head_sizes:
            shape = (max(1, 16 * TOKENS // (T * hs)), 4, T, hs)
            for text in patterns:
                pattern = parse_pattern(text)

                def run(name: str, *qkv: torch.Tensor, pattern=pattern) -> torch.Tensor:
                    return BACKENDS[name].attend(pattern, *qkv, None, None, 0.0)
                seconds = medians(run, ("banded", "dense"), shape, rounds)
                yield Cell(T, hs, text, len(parts_of(pattern, T)), 1 - pattern.sparsity(T),
                           seconds["banded"] / seconds["dense"],
                           fastest(pattern, T, BackendCase(processor=tiles.processor())))


def table(grid: list[Cell]) -> Iterator[tuple[int, float, float]]:
    """Yield BANDED_ON_CPU's rows, longest T first: for one part and for several, the largest of
    SHARES up to which banded was not the slower by more than SLOWER in any cell; 0.0 without any.
    A length at which banded never wins has no row."""
    for T in sorted({cell.T for cell in grid}, reverse=True):
        bounds = []
        for several in (False, True):
            here = [cell for cell in grid if cell.T == T and (cell.parts > 1) == several]
            bounds.append(next((share for share in SHARES if all(
                cell.ratio <= SLOWER for cell in here if cell.share <= share + 0.005)
                and any(cell.share <= share for cell in here)), 0.0))
        if any(bounds):
            yield T, *bounds


def medians(run: Callable[..., torch.Tensor], ways: Iterable[Any],
            shape: tuple[int, int, int, int], rounds: int) -> dict[Any, float]:
    """{way: median seconds of a forward and backward of run(way, q, k, v)}. The ways take turns;
    the first round is not counted."""
    qkv = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    upstream, seconds = torch.randn(shape), {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, times in seconds.items():
            start = time.perf_counter()
            torch.autograd.grad(run(way, *qkv), qkv, upstream)
            times.append(time.perf_counter() - start)
    return {way: statistics.median(times[1:]) for way, times in seconds.items()}
