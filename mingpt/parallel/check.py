"""
Which numbers of processes can train together, and with which settings.
"""

from __future__ import annotations

from typing import Any

from mingpt.parallel.tree import subtrees
from mingpt.utils import BadInput, did_you_mean

REDUCE = ("tree", "all_reduce")
PARALLEL = ("ddp", "fsdp", "context")
# how a way of sharing adds gradients up where it leaves no choice
ADDED = {"fsdp": "all_reduce", "context": "tree"}


def check_names(trainer: Any) -> None:
    """Raise BadInput where the settings `trainer` name a way of sharing that does not exist."""
    for name, known in (("parallel", PARALLEL), ("reduce", REDUCE)):
        value = getattr(trainer, name)
        if value not in known:
            raise BadInput(f"trainer.{name}={value!r}{did_you_mean(value, known)}")
    if trainer.parallel in ADDED:
        _check_together(trainer)


def _check_together(trainer: Any) -> None:
    """Raise BadInput for settings that cannot work with trainer.parallel=fsdp or context."""
    way, wanted = trainer.parallel, ADDED[trainer.parallel]
    if trainer.reduce != wanted:
        raise BadInput(f"trainer.parallel={way} does not add gradients up by "
                       f"trainer.reduce={trainer.reduce}: give --trainer.reduce={wanted}")
    if trainer.compile:
        raise BadInput(f"trainer.parallel={way} does not work with trainer.compile=true: leave one "
                       f"of them out")
    each = trainer.context_processes if way == "context" else None
    if each is not None and (isinstance(each, bool) or not isinstance(each, int) or each < 1):
        raise BadInput(f"trainer.context_processes={each!r}: give a whole number from 1, or None "
                       f"for all processes")


def check_count(count: int, trainer: Any) -> None:
    """Raise BadInput where `count` processes cannot share the steps that the settings `trainer`
    describe. The message names the numbers that can."""
    check_names(trainer)
    if count < 1:
        raise BadInput(f"{count} processes cannot train: give 1 or more")
    if trainer.parallel == "context" and count > 1:
        return _check_teams(count, trainer)
    leaves, rows = trainer.accumulation_steps, trainer.batch_size * trainer.accumulation_steps
    in_tree = trainer.reduce == "tree"
    shared = subtrees(leaves) if in_tree else leaves
    if shared % count == 0:
        return None
    ways, power = [], count & (count - 1) == 0
    if in_tree and (not power or leaves % count == 0):
        ways.append("--trainer.reduce=all_reduce")
    if rows % count == 0 and leaves % count and (not in_tree or not power
                                                 or count <= subtrees(rows)):
        ways.append(f"--trainer.batch_size={rows // count} --trainer.accumulation_steps={count} "
                    f"for the same {rows:,} rows per step")
    elif leaves % count:
        ways = [f"batches whose rows divide by {count}"]
    fitting = [str(n) for n in range(1, shared + 1) if shared % n == 0]
    raise BadInput(f"{count} processes cannot share a step of {leaves} batch{'es' * (leaves > 1)} "
                   f"(trainer.accumulation_steps) equally: give {', '.join(fitting)} "
                   f"process{'es' * (shared > 1)}, or {' and '.join(ways)}")


def _check_teams(count: int, trainer: Any) -> None:
    """Raise BadInput where `count` processes cannot form teams that split texts, or the teams
    cannot share a step's batches."""
    team = trainer.context_processes or count
    if count % team or team & (team - 1):
        fitting = [str(n) for n in range(1, count + 1) if count % n == 0 and n & (n - 1) == 0]
        raise BadInput(f"trainer.context_processes={team}: {count} processes form teams of "
                       f"{', '.join(fitting)}")
    teams, shared = count // team, subtrees(trainer.accumulation_steps)
    if shared % teams:
        raise BadInput(f"{teams} teams of {team} processes cannot share a step of "
                       f"{trainer.accumulation_steps} batches (trainer.accumulation_steps) "
                       f"equally: give more batches, or a larger trainer.context_processes")
