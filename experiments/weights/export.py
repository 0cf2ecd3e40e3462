"""
Export a trained run to a folder that Hugging Face's transformers opens, tokenizer included.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from experiments.corpus.tokenizers import Tokenizer
from experiments.records.record import RunFiles
from experiments.weights.hf_tokenizer import OWN_SPLITTING, same_ids, write_tokenizer
from experiments.weights.saved import load_run
from mingpt.model import GPT
from mingpt.pretrained.write import save
from mingpt.utils import BadInput

# The largest difference of a logit that passes. Trained logits are about 10 in size, and
# transformers computes rotary angles in float32, less precisely than we do.
TOLERANCE = 1e-3


def export_run(files: RunFiles, folder: Path, *, which: str = "model",
               family: str | None = None) -> dict[str, Any]:
    """Write the run's model and tokenizer to a new folder; returns a report as a dict.

    The folder appears complete or not at all. Where transformers is installed, the model that it
    opens is compared with the run's model. BadInput where the model has no counterpart or the
    folder is not empty.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} already exists: give a new folder, or remove this one")
    model, tokenizer, record = load_run(files, "cpu", which)
    made = [parent for parent in folder.parents if not parent.exists()]     # deepest first
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        chosen = save(model, work, family, OWN_SPLITTING, bos_token_id=tokenizer.eot,
                      eos_token_id=tokenizer.eot)
        write_tokenizer(tokenizer, work, model.block_size)
        checked = check(model, tokenizer, work) if importlib.util.find_spec("transformers") else {}
        work.chmod(0o755)
        work.replace(folder)
    except BaseException:
        shutil.rmtree(work)
        for parent in made:
            parent.rmdir()
        raise
    return {"run": files.name, "weights": which, "family": chosen.name,
            "architecture": chosen.architecture, "folder": str(folder),
            "parameters": sum(p.numel() for p in model.parameters()),
            "tokenizer": tokenizer.name, **checked}


def check(model: GPT, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Compare the model with the one that transformers opens: the largest difference of a logit,
    and whether the tokenizer gives the same ids. RuntimeError for a difference above TOLERANCE."""
    from experiments.weights import parity
    off = parity.difference(model, parity.open_theirs(folder))
    if not off <= TOLERANCE:
        raise RuntimeError(f"the model that transformers opens differs by {off:.3g} in a logit, so "
                           f"nothing was written")
    return {"largest_difference": off, "same_ids": same_ids(tokenizer, folder)}
