"""
The runs as lines of text for a terminal of any size: which columns there is room for, how the rows
are sorted, and which of them are shown.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from experiments.launch.curves import sparkline
from experiments.launch.live import GRAVE, cells, name_of, rank, share, summary

STYLES = {"done": "green", "running": "cyan", "diverged": "red", "failed": "red",
          "unreadable": "red", "silent": "red", "killed": "yellow", "interrupted": "yellow",
          "missing": "yellow", "waiting": "dim"}
RIGHT = ("loss", "val_loss", "tokens/s", "left")    # columns of numbers
ORDER = ("run", "status", "progress", "loss", "curve", "val_loss", "tokens/s", "left", "where")
# In the order in which columns are added while there is room, with the least width of each.
ROOM = (("loss", 7), ("curve", 8), ("tokens/s", 8), ("val_loss", 8), ("where", 24))
GAP = 2
LONGEST_CURVE, LEAST_RUN, LONGEST_BAR = 24, 16, 10
# key → (what it sorts by, the value of a row; a row without one comes last)
SORTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "n": ("name", name_of), "p": ("progress", share), "l": ("loss", lambda row: row.get("loss")),
    "s": ("speed", lambda row: row.get("tokens_per_second")),
    "t": ("left", lambda row: row.get("seconds_left") if cells(row)["left"] else None)}
LINES, PAGES = {"up": -1, "k": -1, "down": 1, "j": 1}, {"page up": -1, "page down": 1, " ": 1}


class Screen:
    """What a live view shows: the keys pressed so far decide the order and the first row."""

    def __init__(self) -> None:
        self.sort: str | None = None
        self.reverse = False
        self.first, self.page = 0, 1      # the first row that is shown, and how many are

    def press(self, key: str) -> bool:
        """React to a key. False: the user wants to quit."""
        if key in SORTS:
            self.reverse = key == self.sort and not self.reverse
            self.sort, self.first = key, 0
        elif key == "f":
            self.sort, self.reverse, self.first = None, False, 0
        self.first += LINES.get(key, 0) + self.page * PAGES.get(key, 0)
        self.first = max(0, self.first)
        return key not in ("q", "Q", "\x03", "\x04")

    def sorted(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows in the chosen order. Runs that need attention come first in every order."""
        if self.sort is None:
            return sorted(rows, key=rank)
        value = SORTS[self.sort][1]
        with_value = sorted((row for row in rows if value(row) is not None), key=value,
                            reverse=self.reverse)
        found = with_value + [row for row in rows if value(row) is None]
        return sorted(found, key=lambda row: row["status"] not in GRAVE)

    def lines(self, rows: list[dict[str, Any]], width: int, height: int) -> list[Text]:
        """The whole screen, at most `height` lines of at most `width` characters: the summary, as
        many rows as fit, and the keys."""
        head = [Text(line, style="bold") for line in textwrap.wrap(summary(rows), width)[:3]]
        names, *blocks = table(self.sorted(rows), width, cut=True)
        room = max(1, height - len(head) - 3)   # three lines: names, what is not shown, keys
        self.first = min(self.first, len(blocks) - self._fitting(blocks[::-1], room))
        self.page = max(1, self._fitting(blocks[self.first:], room))
        below = len(blocks) - self.first - self.page
        more = [f"{self.first} above"] * (self.first > 0) + [f"{below} below"] * (below > 0)
        shown = [line for block in blocks[self.first:self.first + self.page] for line in block]
        return [*head, *names, *shown[:room], Text(f"… {', '.join(more)}" if more else "",
                                                   style="dim"), self.keys(width)]

    @staticmethod
    def _fitting(blocks: list[list[Text]], room: int) -> int:
        """How many of the first blocks fit into this many lines."""
        ends = itertools.accumulate(len(block) for block in blocks)
        return sum(end <= room for end in ends)

    def keys(self, width: int) -> Text:
        """The line that names the keys, with the present order marked."""
        line = Text("q quit  ↑↓  sort: ")
        for key, (name, _) in {"f": ("failures", None), **SORTS}.items():
            chosen = key == (self.sort or "f")
            line.append(f"{key} {name}" + (" ↓" if chosen and self.reverse else ""),
                        style="reverse" if chosen else "")
            line.append("  ")
        line.rstrip()
        line.truncate(width)
        return line


def table(rows: list[dict[str, Any]], width: int | None, cut: bool = False) -> list[list[Text]]:
    """The names of the columns, then one block of lines per row. Where a failure's message has no
    column, or is longer than it, a second line has it. Without `width` no column is cut, and
    without `cut` no message."""
    texts = [cells(row) | {"progress": _progress(row, width)} for row in rows]
    if len({row["study"] for row in rows}) == 1:       # the summary names it
        texts = [text | {"run": name_of(row | {"study": None})}
                 for row, text in zip(rows, texts, strict=True)]
    widths = layout(texts, width)
    head = Text("  ".join(_fit(name, size, name in RIGHT) for name, size in widths.items()),
                style="bold dim")
    head.rstrip()
    blocks = [[head]]
    for row, text in zip(rows, texts, strict=True):
        said = text["where"]
        if row["status"] in GRAVE and said and cell_len(said) > widths.get("where", 0):
            apart = _cut(f"  ↳ {' '.join(said.split())}", width if cut else None)
            blocks.append([_line(row, text | {"where": ""}, widths),
                           Text(apart, style=STYLES[row["status"]])])
        else:
            blocks.append([_line(row, text, widths)])
    return blocks


def layout(texts: list[dict[str, str]], width: int | None) -> dict[str, int]:
    """{column: its width} for the columns that fit, from left to right."""
    need = {name: max([cell_len(text[name]) for text in texts] + [cell_len(name)])
            for name in ORDER}
    need["curve"] = LONGEST_CURVE
    if width is None:
        return {name: need[name] for name in ORDER}
    widths = {name: need[name] for name in ("status", "progress", "left")}
    widths["run"] = min(need["run"], max(LEAST_RUN, width // 4))

    def spare() -> int:
        return width - sum(widths.values()) - GAP * (len(widths) - 1)
    for name in ("progress", "left"):           # a very narrow terminal
        if spare() < 0:
            del widths[name]
    for name, least in ROOM:
        if spare() >= GAP + least:
            widths[name] = least if name in ("curve", "where") else max(need[name], least)
            if spare() < 0:
                del widths[name]
    for name, most in (("run", need["run"]), ("curve", LONGEST_CURVE), ("where", need["where"])):
        if name in widths:
            widths[name] = max(widths[name], min(most, widths[name] + spare()))
    return {name: widths[name] for name in ORDER if name in widths}


def _line(row: dict[str, Any], text: dict[str, str], widths: dict[str, int]) -> Text:
    line = Text()
    for number, (name, size) in enumerate(widths.items()):
        shown = sparkline(row.get("curve") or [], size) if name == "curve" else text[name]
        style = STYLES.get(row["status"], "") if name in ("status", "curve") else ""
        line.append(" " * GAP * (number > 0))
        shown = _ends(shown, size) if name == "run" else shown
        line.append(_fit(" ".join(shown.split(" ")), size, name in RIGHT), style=style)
    line.rstrip()
    return line


def _progress(row: dict[str, Any], width: int | None) -> str:
    """How far a run is: 25/100, in a wide terminal with a bar, in a narrow one ' 25 %'."""
    done, at = share(row), cells(row)["iteration"]
    if done is None or (width is not None and width < 100):
        return "" if done is None else f"{100 * done:3.0f} %"
    bar = round(LONGEST_BAR * done)
    return f"{'━' * bar}{'╌' * (LONGEST_BAR - bar)} {at}"


def _fit(text: str, size: int, right: bool) -> str:
    """The text in exactly `size` cells."""
    text = _cut(text, size)
    return " " * (size - cell_len(text)) + text if right else set_cell_size(text, size)


def _ends(text: str, size: int) -> str:
    """The text in at most `size` cells with … in its middle: runs differ at the ends of their
    names."""
    if cell_len(text) <= size or cell_len(text) != len(text):
        return text
    return f"{text[:(size - 1) // 2]}…{text[len(text) - size // 2:]}"


def _cut(text: str, size: int | None) -> str:
    """The text in at most `size` cells, with … where it is cut."""
    if size is None or cell_len(text) <= size:
        return text
    return set_cell_size(text, max(0, size - 1)).rstrip() + "…"
