"""
A trained run as a folder that Hugging Face's transformers opens, tokenizer included.
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

# of a logit, which is about 10 when trained: their rotary angles are float32, coarser than ours
TOLERANCE = 1e-3


def export_run(files: RunFiles, folder: Path, *, which: str = "model",
               family: str | None = None) -> dict[str, Any]:
    """Write the run's model and tokenizer to a new folder, all at once or not at all, and compare
    what transformers opens with the run's model where transformers is installed. BadInput where
    there is no counterpart."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists already: give a new folder, or remove it")
    model, tokenizer, record = load_run(files, "cpu", which)
    made = [parent for parent in folder.parents if not parent.exists()]     # the deepest first
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
            "architecture": chosen.architecture,
            "folder": str(folder), "parameters": sum(p.numel() for p in model.parameters()),
            "tokenizer": tokenizer.name, **checked}


def check(model: GPT, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """The largest difference of a logit between the model and what transformers opens, and whether
    its tokenizer gives the same ids."""
    from experiments.weights import parity
    off = parity.difference(model, parity.open_theirs(folder))
    if not off <= TOLERANCE:
        raise RuntimeError(f"what transformers opens differs by {off:.3g} in a logit: not written")
    return {"largest_difference": off, "same_ids": same_ids(tokenizer, folder)}
