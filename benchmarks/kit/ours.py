"""
Our side of a comparison: the step of `Trainer` itself, for any arm, on the tokens of the peers.
"""

from __future__ import annotations

from typing import Any

from benchmarks.kit.cases import Case
from benchmarks.kit.peers import BETAS, CLIP, DECAY, LEARNING_RATE, batches, built
from benchmarks.kit.turns import Built
from experiments.declare.arms import combine
from experiments.train.process import resident_mb

LLAMA = ("all_modifications",)

# side of a square matrix product; a larger one reaches no more FLOP/s
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}


def build(case: Case, device: str = "cpu", tied: bool = False, arm: str | None = None,
          compiled: bool = False, settings: dict[str, Any] | None = None) -> Built:
    """Build our training step at one size.

    `arm` is an arm of the catalogue; without one, the arms of the case's family are used.
    `settings` are further dotted settings.
    """
    from mingpt.trainer import Trainer
    idle = resident_mb()
    trainer = started(Trainer, case, device, _changes(case, tied, arm, compiled) | (settings or {}))
    data = trainer.batches()

    def run():
        trainer.step(data)
        return trainer.loss
    about = built(run, idle, device)
    about.about |= {"flops": trainer.model.flops_per_token() * case.tokens,
                    "parameters": sum(p.numel() for p in trainer.model.parameters())}
    return about


def _changes(case: Case, tied: bool, arm: str | None, compiled: bool) -> dict[str, Any]:
    """The dotted settings that differ from minGPT's defaults."""
    arms = [arm] if arm else list(LLAMA) if case.family == "llama" else []
    return combine(arms)[1] | {"model.tie_weights": tied, "trainer.compile": compiled}


def model_of(case: Case, changes: dict[str, Any]):
    """Build a GPT of this size without dropout."""
    from mingpt.model import GPT
    config = GPT.get_default_config()
    config.merge_from_dict(dict(model_type=None, n_layer=case.n_layer, n_head=case.n_head,
                                n_embd=case.n_embd, vocab_size=case.vocab_size,
                                block_size=case.block_size, embd_pdrop=0.0, resid_pdrop=0.0,
                                attn_pdrop=0.0, **_section(changes, "model")))
    return GPT(config)


def _section(changes: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value
            for key, value in changes.items() if key.startswith(f"{name}.")}


def started(trainer_class: type, case: Case, device: str, changes: dict[str, Any]):
    """Return a trainer that `run` has prepared up to its first step.

    It has the batches and the optimizer settings of the peers.
    """
    class Ready(trainer_class):
        def batches(self):
            return batches(case, device)

    def stop(trainer):
        trainer.stop = True
    config = trainer_class.get_default_config()
    config.merge_from_dict(dict(device=device, learning_rate=LEARNING_RATE, betas=BETAS,
                                weight_decay=DECAY, grad_norm_clip=CLIP,
                                batch_size=case.batch_size, max_iters=10_000)
                           | _section(changes, "trainer"))
    trainer = Ready(config, model_of(case, changes), None)
    trainer.set_callback("on_train_start", stop)
    trainer.run()
    return trainer


def gemm(device: str = "cpu"):
    """Build a side that computes one square matrix product, in the dtype that training uses."""
    import torch

    size, dtype = GEMM_SIZE[device], torch.float32 if device == "cpu" else torch.bfloat16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return Built(lambda: torch.mm(a, b, out=out), {"flops": 2 * size**3}, wait)
