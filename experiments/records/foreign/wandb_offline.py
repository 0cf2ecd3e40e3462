"""
The history of a W&B run that was logged offline (`run-ID.wandb`). Only the package wandb can read
it; without it the file is refused, with the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from experiments.records.foreign.log import MAX_BYTES, Log, number, rows_to_log
from experiments.records.foreign.tables import known
from mingpt.utils import BadInput

NAME = "W&B offline"
MAGIC = b":W&B"


def claims_bytes(head: bytes) -> bool:
    """Return whether a file that begins like this is such a file."""
    return head.startswith(MAGIC)


def read(path: Path) -> list[Log]:
    """Return the run of an offline history. Raises BadInput where wandb cannot be imported."""
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is not read")
    rows = list(_history(path))
    names = known(dict.fromkeys(key for row in rows for key in row))
    if "iteration" not in names:
        return []
    log = rows_to_log(path, NAME, ({column: number(row[name]) for column, name in names.items()
                                    if name in row}
                                   for row in rows if names["iteration"] in row))
    return [log] if log else []


def _history(path: Path) -> Iterator[dict]:
    try:
        from wandb.proto import wandb_internal_pb2
        from wandb.sdk.internal.datastore import DataStore
    except ImportError:
        raise BadInput(f"{path}: only the package wandb reads this file: pip install wandb, or "
                       "export the chart as CSV (or the history as JSONL) and judge that") from None
    store = DataStore()
    try:
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                       for item in record.history.item}
    except Exception as error:      # the format is wandb's own, and so are its exceptions
        raise BadInput(f"{path}: wandb cannot read it ({error})") from None
