"""
The subject of an analysis: a pair of window and dilation, or a schedule, in a model with the shape
of a preset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.declare.names import schedule_name
from experiments.declare.spec import Spec, make_spec
from mingpt.config import SIZES
from mingpt.patterns.schedule import Schedule, parse_schedule, uniform
from mingpt.utils import BadInput

# the (w, d) of study 003
PAIRS = ((128, 4), (128, 2), (96, 4), (96, 6), (80, 4), (80, 6), (64, 4), (64, 8))
PAIR_T, SCHEDULE_T = 256, 1024   # the lengths of study 003's text and of study 000's
SCHEDULE_LAYERS = 12             # the layers of studies 000 and 001
PRESET = "sliding"               # study 003's model: 16 heads of 32


@dataclass(frozen=True)
class AnalysisSubject:
    """A schedule at a length T in a model. `pair` is (w, d) where every layer has that one window,
    else None."""
    name: str
    title: str
    spec: Spec
    schedule: Schedule
    pair: tuple[int, int] | None = None

    @property
    def T(self) -> int:
        """The length of the text, in tokens."""
        return self.spec.settings.model.block_size


def pair(w: int, d: int, T: int = PAIR_T, preset: str = PRESET,
         overrides: Iterable[str] = ()) -> AnalysisSubject:
    """Return the subject with a window of w and every d-th key beyond it, in every layer of the
    preset's model. Raises BadInput where w < 1 or d < 1."""
    spec = _spec(uniform(w, d), T, preset, overrides)
    return AnalysisSubject(f"config_w{w}_d{d}", f"w {w}, d {d}", spec, _schedule(spec), (w, d))


def scheduled(text: str, T: int = SCHEDULE_T, layers: int = SCHEDULE_LAYERS, preset: str = PRESET,
              overrides: Iterable[str] = ()) -> AnalysisSubject:
    """Return the subject of a schedule in a model with this many layers. The text is a schedule's
    name, its patterns, or FILE:NAME. Raises BadInput where it is none of these."""
    if layers < 1:
        raise BadInput(f"--layers {layers}: the least is 1")
    spec = _spec(text, T, preset, [f"--model.n_layer={layers}", *overrides])
    return AnalysisSubject(f"schedule_{schedule_name(text)}", text, spec, _schedule(spec))


def _spec(schedule: str, T: int, preset: str, overrides: Iterable[str]) -> Spec:
    if T < 2:
        raise BadInput(f"S = {T}: the text is too short to attend to an earlier token; the least "
                       f"is 2")
    return make_spec(preset=preset, overrides=[f"--model.schedule={schedule}",
                                               f"--model.block_size={T}", *overrides])


def _schedule(spec: Spec) -> Schedule:
    model = spec.settings.model
    return parse_schedule(model.schedule, model.n_layer or SIZES[model.model_type]["n_layer"])


def read(words: Sequence[str], layers: int = SCHEDULE_LAYERS, preset: str = PRESET,
         overrides: Iterable[str] = ()) -> list[AnalysisSubject]:
    """Return the subjects that the words of `analyze` name: no words (study 003's pairs),
    'W D [S]', or 'SCHEDULE [S]'. Raises BadInput for anything else."""
    if not words:
        return [pair(w, d, preset=preset, overrides=overrides) for w, d in PAIRS]
    if re.fullmatch(r"[-+]?[\d.]+", words[0]):
        if len(words) not in (2, 3):
            raise BadInput(f"analyze {' '.join(words)}: give W D or W D S, such as 64 8 512; a "
                           f"window alone is a schedule, '{words[0]}*'")
        numbers = [whole(word, name) for word, name in zip(words, "WDS", strict=False)]
        return [pair(*numbers, preset=preset, overrides=overrides)]
    if len(words) > 2:
        raise BadInput(f"analyze {' '.join(words)}: give one schedule, in quotes if it has spaces, "
                       f"and optionally S")
    T = whole(words[1], "S") if len(words) == 2 else SCHEDULE_T
    return [scheduled(words[0], T, layers, preset, overrides)]


def whole(word: str, name: str) -> int:
    """Return the word as a whole number. Raises BadInput where it is not one."""
    try:
        return int(word)
    except ValueError:
        raise BadInput(f"{name} = {word!r} is not a whole number: give W D [S], such as 64 8 512, "
                       f"or SCHEDULE [S]") from None


def is_run(text: str, out: Path) -> bool:
    """Return whether a word means a trained run. A name of both a schedule and an arm means the
    schedule; NAME.s0 means the run."""
    from experiments.weights.saved import known_runs
    path = Path(text)
    inside = (path.exists()
              and {"losses", "checkpoints"} & {parent.name for parent in path.resolve().parents})
    return bool(inside) or text in known_runs(out) or re.search(r"\.s\d+$", text) is not None
