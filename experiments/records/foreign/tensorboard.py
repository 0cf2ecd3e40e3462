"""
TensorBoard's event files, with scalars as `simple_value` or as tensors. The package tensorboard
reads them. All event files of one folder are one run, as TensorBoard itself has it.
"""

from __future__ import annotations

import struct
from pathlib import Path

from experiments.records.foreign.log import MAX_BYTES, Log, Rows, number
from experiments.records.foreign.tables import known
from mingpt.utils import BadInput

NAME = "TensorBoard"
VERSION = b"brain.Event:"       # the first record of every event file


def claims_bytes(head: bytes) -> bool:
    """Return whether a file that begins like this is an event file."""
    if len(head) < 24:
        return False
    length, = struct.unpack("<Q", head[:8])
    return length < 256 and VERSION in head[12:12 + length]


def read(path: Path) -> list[Log]:
    """Return the run of the folder of an event file, once per folder. Raises BadInput where the
    package tensorboard is missing."""
    files = [each for each in sorted(path.parent.iterdir()) if each.is_file()
             and claims_bytes(each.open("rb").read(300))]
    if not files or path != files[0]:
        return []
    curves: dict[str, list[tuple[int, float]]] = {}
    for each in files:
        _gather(each, curves)
    names = known(["step", *curves])
    rows = Rows()
    for column, tag in names.items():
        for step, value in curves.get(tag, ()):
            rows.add({"iteration": step, column: value})
    return [rows.log(path, NAME)] if rows.at else []


def _gather(path: Path, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Add the scalars of one file to {tag: [(step, value)]}."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise BadInput(f"{path}: only the package tensorboard reads this file: pip install "
                       "tensorboard") from None
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is not read")
    try:
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                    array = make_ndarray(value.tensor)
                    curves.setdefault(value.tag, []).append(
                        (event.step, number(array.item() if array.dtype.kind in "fiu" else None)))
    except Exception as error:      # the format is TensorBoard's own, and so are its exceptions
        raise BadInput(f"{path}: tensorboard cannot read it ({error})") from None
