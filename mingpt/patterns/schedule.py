"""
A schedule gives each layer one pattern. It is written in one of these forms:

    "f 256 256 f 128*4 f 256 256 f"   the spellings of kinds.py, first layer first; *4 repeats
    "f 96/4* f"                       a * without a number fills the layers that are left;
                                      "256*" is a window in every layer
    "lms_main"                        a name in NAMED. These are written for 12 layers: in a model
                                      of n layers, layer l takes the pattern of layer ⌊l·12/n⌋
    "sssl", "sssl:128"                three short windows (256, or 128), then one full layer,
                                      repeated
    "progressive:512>16@6"            study 001's schedule: full before layer 6 (default 0), then
                                      512 256 128 … 16 16
    "progressive:1024"                study 000's straight line: ⌊1024·(1 − l/n)⌋ + 1 in layer l
    "FILE.json:NAME", "FILE.json"     a schedule from a file (files.py). Without NAME it is the
                                      file's default_schedule.

Spaces separate layers. & and | may have spaces around them. `progressive` and `sssl` adapt to the
model's depth.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby, islice

import numpy as np

from mingpt.patterns.files import halving, load_schedule
from mingpt.patterns.kinds import Full, Pattern, Window, parse_pattern
from mingpt.patterns.pattern import ROWS
from mingpt.utils import BadInput, CfgNode, did_you_mean

# The schedules of studies 000 and 001, layers 0 … 11. Those of 000 are as it ran them, those of
# 001 (_001) as its text gives them.
NAMED = {
    "full":             "f*12",
    "half":             "f*6 256 128 64 32 16*2",
    "quarter":          "f*3 512 256 128 64 32 16 8 4*2",
    "aggressive":       "f 512 256 128 64 32 16 8 4 2 1*2",
    "block_sparse":     "f*4 b128x4 b64x4 b42x4 b32x4*5",
    "lms_main":         "f 256*2 f 128*4 f 256*2 f",
    "lms_main_shifted": "f 256>0/2 256>1/2 f 128>0/4 128>1/4 128>2/4 128>3/4 f 256>0/2 256>1/2 f",
    "full_001":         "f*12",
    "half_001":         "f*6 512 256 128 64 32 16",
    "quarter_001":      "f*3 1024 512 256 128 64 32 16 8 4",
    "aggressive_001":   "f 1024 512 256 128 64 32 16 8 4 2 1",
}
NAMED_LAYERS = 12


@dataclass(frozen=True)
class Schedule(Sequence):
    """One pattern per layer. `name` is the text that was asked for. `note` is a remark for the
    reader, set when the schedule was fitted to another depth."""
    layers: tuple[Pattern, ...]
    name: str
    note: str | None = None

    def __getitem__(self, layer):
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        runs = ((p, len(list(run))) for p, run in groupby(self.layers))
        return " ".join(f"{p}*{n}" if n > 1 else str(p) for p, n in runs)

    def sparsity(self, T: int) -> float:
        """The share of the causal triangle that is not seen, averaged over all layers."""
        return float(np.mean([p.sparsity(T) for p in self.layers]))

    def reaches(self, T: int) -> list[int]:
        """The largest i − j that each layer sees, first layer first."""
        return [p.reach(T) for p in self.layers]

    def receptive_field(self, T: int) -> np.ndarray:
        """(T,) bool: the positions that the last query's output can depend on through all
        layers."""
        seen = np.zeros(T, dtype=bool)
        seen[-1] = True
        for pattern in reversed(self.layers):
            seen = _keys_of(pattern, seen)
        return seen


def _keys_of(pattern: Pattern, queries: np.ndarray) -> np.ndarray:
    """(T,) bool → (T,) bool: the keys that at least one of the queries sees."""
    keys = np.zeros_like(queries)
    for start in range(0, len(queries), ROWS):
        asked = queries[start:start + ROWS]
        if asked.any():
            stop = start + len(asked)
            keys[:stop] |= pattern.rows(start, stop)[asked].any(0)
    return keys


def parse_schedule(text: str, n_layer: int) -> Schedule:
    """The schedule that a text means for a model of n_layer layers. The forms of the text are at
    the top of this file. Raises BadInput if it has none of them."""
    text = str(text).strip()   # the command line turns a lone 256 into a number
    word, _, argument = text.partition(":")
    if text in NAMED:
        return at_depth(parse_layers(NAMED[text], NAMED_LAYERS), n_layer, text)
    if word in FORMULAS:
        return Schedule(tuple(FORMULAS[word](argument, n_layer)), text)
    if path_and_name := _file(text):
        return at_depth(load_schedule(*path_and_name), n_layer, text)
    return Schedule(tuple(parse_layers(text, n_layer)), text)


def pattern_of(config: CfgNode, layer: int) -> Pattern:
    """The schedule's pattern for one layer. If config.n_layer is not set, as for a part that is
    built by itself, the schedule is read for layer + 1 layers."""
    return parse_schedule(config.schedule, config.n_layer or layer + 1)[layer]


def without_file(text: str, n_layer: int) -> str:
    """The schedule as text that needs no file. A schedule from a file is spelled out as the
    patterns that the file holds now. Any other text is returned unchanged."""
    text = str(text).strip()
    named = text in NAMED or text.partition(":")[0] in FORMULAS
    return text if named or not _file(text) else str(parse_schedule(text, n_layer))


def at_depth(layers: Sequence[Pattern], n_layer: int, name: str) -> Schedule:
    """The schedule at another depth: layer l of n_layer takes the pattern of layer
    ⌊l·len(layers)/n_layer⌋. The sizes of windows stay the same."""
    depth, note = len(layers), None
    if n_layer != depth and len(set(layers)) > 1:
        note = (f"schedule {name!r} is written for {depth} layers: layer l of {n_layer} takes its "
                f"layer ⌊l·{depth}/{n_layer}⌋; windows are not scaled")
    return Schedule(tuple(layers[l * depth // n_layer] for l in range(n_layer)), name, note)


def uniform(w: int, d: int | None = None) -> str:
    """The text of a schedule with the same window in every layer, dilated if d is given."""
    return f"{w}*" if d is None else f"{w}/{d}*"


def parse_layers(text: str, n_layer: int) -> list[Pattern]:
    """The patterns of a text that spells out the layers: 'f 128*4 f' for 6 layers, 'f 128* f' for 3
    or more. Raises BadInput if the text does not fit n_layer layers."""
    items = list(_items(text))
    given = sum(times for _, times in items if times)
    fills = sum(times is None for _, times in items)
    if fills > 1:
        raise BadInput(f"schedule {text!r} has {fills} items that fill the remaining layers: give "
                       f"all but one a number")
    if not items or (given >= n_layer if fills else given != n_layer):
        filled = re.sub(r"\*\d+$", "", text) + "*"
        hint = (f"{filled!r} would fill it" if 0 < given < n_layer
                else f"write {n_layer}, or f* for full")
        least = "at least " * fills
        raise BadInput(f"schedule {text!r} is for {least}{given + fills} of the model's {n_layer} "
                       f"layers: {hint}")
    return [pattern for pattern, times in items
            for _ in range(n_layer - given if times is None else times)]


def _items(text: str) -> Iterator[tuple[Pattern, int | None]]:
    """The patterns of a text, each with how many layers it takes. None means all that are left."""
    words = re.sub(r"\s*([&|])\s*", r"\1", text).split()
    for k, word in enumerate(words):
        spelling, star, times = word.partition("*")
        if star and times and not re.fullmatch("[1-9][0-9]*", times):
            raise BadInput(f"schedule {text!r}: {word!r} repeats {times!r} times; the least is 1")
        try:
            yield parse_pattern(spelling), int(times or 1) if times or not star else None
        except BadInput as error:
            if len(words) == 1 and re.fullmatch(r"[A-Za-z]\w+(:.*)?", word):
                raise BadInput(
                    f"no schedule {word!r}{did_you_mean(word, [*NAMED, *FORMULAS])}"
                ) from None
            raise BadInput(f"schedule {text!r}, item {k + 1}: {error}") from None


def _file(text: str) -> tuple[str, str] | None:
    """('path', 'name') for FILE:NAME, ('path', '') for FILE, None if the text names no file."""
    if match := re.fullmatch(r"(.*?\.json)(?::(.*))?", text, re.IGNORECASE | re.DOTALL):
        return match[1], match[2] or ""
    path, _, name = text.rpartition(":")
    candidates = ((text, ""), (path, name))
    return next((c for c in candidates if os.path.splitext(c[0])[1] and os.path.isfile(c[0])), None)


def progressive(argument: str, n_layer: int) -> list[Pattern]:
    """The patterns of 'progressive:ARGUMENT'. '512>16@6' is full before layer 6, then windows that
    halve from 512 down to 16. '1024' is a straight line from 1025 down to ⌊1024/n⌋ + 1 in the last
    layer. Raises BadInput for any other argument."""
    if match := re.fullmatch(r"(\d+)>(\d+)(?:@(\d+))?", argument):
        start, end, first = (int(number or 0) for number in match.groups())
        return halving(start, end, first, n_layer)
    if re.fullmatch(r"[1-9]\d*", argument):
        return [Window(int(argument) * (n_layer - l) // n_layer + 1) for l in range(n_layer)]
    raise BadInput(f"schedule 'progressive:{argument}': write progressive:512>16, "
                   f"progressive:512>16@6 (from layer 6) or progressive:1024 (a straight line)")


def sssl(argument: str, n_layer: int) -> list[Pattern]:
    """The patterns of 'sssl:ARGUMENT': three short windows, then a full layer, repeated. The
    argument is the short pattern; 256 if empty. For comparison, Gemma 2 (arXiv 2408.00118) has one
    short layer per full layer, and Gemma 3 (arXiv 2503.19786) has five."""
    short = parse_pattern(argument or "256")
    return list(islice(cycle((short, short, short, Full())), n_layer))


FORMULAS = {"progressive": progressive, "sssl": sssl}
