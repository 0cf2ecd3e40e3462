"""
The audit of a run, or that of an earlier run of the same arm where a second one would ask the same
questions of the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.audit import audit
from experiments.records import codefiles
from experiments.records.record import RunFiles, at, read_record
from experiments.train.seeded import SeededTrainer
from experiments.weights.begin import audit_options
from mingpt.utils import BadInput, CfgNode

# What must be equal for one run's audit to hold for another. The seed may differ: it changes the
# numbers that the audit works with, and none of the code.
SAME = (("arm",), ("study",), ("config_hash",), ("code",), ("data", "hash"),
        *(("environment", key) for key in ("python", "torch", "numpy", "platform", "cpu",
                                           "device")))


def audited(record: Mapping[str, Any], files: RunFiles, trainer: SeededTrainer,
            settings: CfgNode) -> dict[str, Any]:
    """The audit for a run's record: that of another seed of the same arm, whose name is then under
    `carried_from`; else a new one."""
    return carried(record, files) or audit(trainer.model, settings.trainer, trainer.train_dataset,
                                           **audit_options(settings))


def carried(record: Mapping[str, Any], files: RunFiles) -> dict[str, Any] | None:
    """The passed audit of another seed of this arm, if its record says that everything in SAME was
    equal. Code that is not a clean commit may have changed since, so its audit is never carried."""
    if at(record, "code", "commit") is None or at(record, "code", "dirty") is not False:
        return None
    for path in sorted(files.json.parent.glob(f"{files.arm}.s*.json")):
        try:
            other = read_record(path)
        except BadInput:
            continue   # whoever uses that record says what is wrong with it
        if (path != files.json and at(other, "audit", "passed") is True
                and codefiles.named(other) == codefiles.named(record)
                and all(at(other, *key) == at(record, *key) for key in SAME)):
            return {"carried_from": path.stem, **other["audit"]}
    return None
