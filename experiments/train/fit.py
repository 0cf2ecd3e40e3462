"""
Whether a run fits into the memory that is left, and what else would.
"""

from __future__ import annotations

import contextlib

import torch

from experiments.corpus.tokenizers import get_tokenizer
from experiments.train.account import hosts
from experiments.train.process import MB, available_mb
from experiments.weights.published_padding import build_gpt
from mingpt.parallel.check import PARALLEL
from mingpt.parallel.processes import Processes
from mingpt.trainer import find_device
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

# bytes of a trained parameter: value, gradient and AdamW's two moments in float32, and with
# several processes the gradient that they exchange
TRAINED, EXCHANGED, FROZEN = 16, 4, 4
SPARE = 0.95    # the share of what is left that the processes may fill


class Room:
    """The memory in MB that is left for `sharing` processes, before they take any: on a GPU that of
    one process's device, elsewhere that of this host."""

    def __init__(self, settings: CN, processes: Processes):
        device = find_device(settings.trainer.device)
        self.settings, self.count = settings, processes.count
        self.sharing = 1 if device != "cpu" else max(hosts(processes)["hosts"].values())
        # what this process holds already is not among what is left
        self.left = SPARE * min(processes.gather(available_mb(device)))
        # of one process
        self.state = (state_mb(settings) / self.count if processes.sharded
                      else state_mb(settings, self.count))

    def check(self, predicted: float | None = None) -> None:
        """Raise BadInput where the processes do not fit, with what would fit. `predicted` is the
        memory in MB of all of them; without it, only weights, gradients and optimizer count."""
        each = self.state if predicted is None else predicted / self.count
        needed = each * self.sharing
        if needed <= self.left:
            return
        options = [text for text, mb in self._options(each, predicted is not None)
                   if mb * self.sharing <= self.left]
        what = f"{self.sharing} processes need" if self.sharing > 1 else "the run needs"
        raise BadInput(
            f"{what} about {needed:,.0f} MB of memory, and {self.left:,.0f} MB are left: "
            + ("try " + ", or ".join(options) if options else
               "neither sharded weights (fsdp), accumulation nor fewer processes would fit; use a "
               "smaller model"))

    def _options(self, each: float, measured: bool) -> list[tuple[str, float]]:
        """(what to type, MB per process) of what may fit where `each` does not."""
        trainer, found = self.settings.trainer, []
        beside = max(0.0, each - self.state)    # activations and the rest
        if measured:
            parts = next((k for k in (2, 4, 8, 16, 32) if trainer.batch_size % k == 0
                          and (self.state + beside / k) * self.sharing <= self.left), None)
            if parts:
                found.append((f"--trainer.batch_size={trainer.batch_size // parts} "
                              f"--trainer.accumulation_steps={trainer.accumulation_steps * parts}",
                              self.state + beside / parts))
        if "fsdp" in PARALLEL and self.count > 1 and trainer.parallel != "fsdp":
            found.append(("--trainer.parallel=fsdp --trainer.reduce=all_reduce",
                          self.state / self.count + beside))
        fewer = int(self.left // each)
        if 0 < fewer < self.sharing:
            found.append((f"--processes {1 << (fewer.bit_length() - 1)}",
                          each * fewer / self.sharing))
        return found


def state_mb(settings: CN, processes: int = 1) -> float:
    """The MB of the weights, gradients and optimizer state of one of several processes. Nothing is
    allocated."""
    config = CN(**settings.model.to_dict())
    config.vocab_size = get_tokenizer(settings.data.tokenizer).vocab_size
    with torch.device("meta"), contextlib.redirect_stdout(None):
        parameters = list(build_gpt(config).parameters())
    each = FROZEN if settings.run.freeze_except else TRAINED + EXCHANGED * (processes > 1)
    return sum(p.numel() for p in parameters) * each / MB
