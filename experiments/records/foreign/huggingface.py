"""
Hugging Face's `trainer_state.json`: its `log_history` has one object per log point, with `loss` at
training steps and `eval_loss` at evaluations.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from experiments.records.foreign.log import MAX_JSON, Log, Row, number, rows_to_log
from mingpt.utils import BadInput

NAME = "Hugging Face Trainer"
CLAIM = re.compile(r'"log_history"\s*:')
NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm",
         "num_input_tokens_seen": "tokens"}
EVALUATION = re.compile(r"eval_(?:\w{1,80}_)?loss")


def claims(head: str) -> bool:
    """Return whether a file that begins like this is such a file."""
    return head.lstrip().startswith("{") and CLAIM.search(head) is not None


def read(path: Path) -> list[Log]:
    """Return the run of a trainer_state.json. Raises BadInput where it cannot be read."""
    if path.stat().st_size > MAX_JSON:
        raise BadInput(f"{path}: larger than {MAX_JSON >> 20} MiB, so it is not read")
    try:
        state = json.loads(path.read_bytes())
        history = [each for each in state["log_history"] if isinstance(each, dict)]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a readable trainer_state.json ({error})") from None
    names = {key for each in history for key in each if EVALUATION.fullmatch(key)}
    if len(names) > 1 and "eval_loss" not in names:
        raise BadInput(f"{path}: it has several validation losses ({', '.join(sorted(names))}): "
                       "export the one to judge as a CSV")
    column = "eval_loss" if "eval_loss" in names else next(iter(names), None)
    total = number(state.get("max_steps"))
    log = rows_to_log(path, NAME, filter(None, (_row(each, column) for each in history)),
                      total=int(total) if 0 < total < 2**53 else None)
    return [log] if log else []


def _row(entry: dict[str, Any], column: str | None) -> Row | None:
    if "step" not in entry:
        return None
    names = NAMES | ({column: "val_loss"} if column else {})
    cells = {name: number(entry[key]) for key, name in names.items() if key in entry}
    return {"iteration": number(entry["step"])} | cells if cells else None
