"""
The FLOPs per token that a model states are what torch counts in its forward and training step.

The model does not count a score that the pattern masks, because this work is not needed. The dense
backend computes it all the same, and torch counts all T×T scores. So the model's scores are
multiplied here by T² over the number of the pattern's pairs. Members without pairs of tokens (msla,
msla_published) are compared without this factor.

torch does not count addmm_, with which the loss of each head adds up the gradient of the
unembedding. These FLOPs are added here.
"""

import contextlib
import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.train.bench import SDPA_ON_CPU
from mingpt.attention.heads import ATTENTIONS
from mingpt.mlps import MLPS
from mingpt.model import GPT, product_flops

T, V = 96, 64
PATTERNS = ["full", "16*", "16/2*", "b16x1*", "f 16"]
PAIRS = [name for name in ATTENTIONS if not name.startswith("msla")]
ARMS = [*({"attention": name, "schedule": pattern} for name in PAIRS for pattern in PATTERNS),
        *({"attention": name, "position": "rope", "norm": "rmsnorm"} for name in PAIRS),
        {"attention": "mla", "v_head_dim": 24}, {"attention": "mla", "v_head_dim": 4,
                                                 "q_lora_rank": 8},
        {"attention": "mha", "head_dim": 8}, {"attention": "msla"},
        {"attention": "msla", "position": "alibi"},
        {"attention": "msla", "msla_latents": 16}, {"attention": "msla_published"},
        *({"mlp": name, "tie_weights": tied} for name in MLPS for tied in (False, True)),
        {"mlp": "moe", "n_experts": 8, "experts_per_token": 3}, {"n_future": 4},
        {"n_future": 2, "mlp": "moe"},
        {"block": "parallel"}]


def model_of(**changes):
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 2, 4, 48
    config.vocab_size, config.block_size = V, T
    config.merge_from_dict({"backend": "auto" if "msla" in changes.get("attention", "")
                            else "dense", **changes})
    with contextlib.redirect_stdout(io.StringIO()):
        return GPT(config)


def counted(run):
    with FlopCounterMode(display=False, custom_mapping=SDPA_ON_CPU) as counter:
        run()
    return counter.get_total_flops()


def computed_scores(model):
    """FLOPs per token of all scores, including masked ones."""
    return sum(block.attn.score_flops(T) * (1 if "msla" in model.config.attention
                                            else T * T / pattern.count(T))
               for block, pattern in zip(model.transformer.h, model.schedule, strict=True))


@pytest.mark.parametrize("changes", ARMS, ids=str)
def test_a_models_flops_are_torchs_own_count_of_its_forward(changes):
    model, idx = model_of(**changes).eval(), torch.randint(V, (2, T))
    said = product_flops(model) - product_flops(model.future) + computed_scores(model)
    assert said * idx.numel() == pytest.approx(counted(lambda: model(idx)), rel=0.01)


@pytest.mark.parametrize("changes", ARMS, ids=str)
def test_a_models_flops_are_torchs_own_count_of_a_training_step(changes):
    model, idx = model_of(**changes).train(), torch.randint(V, (2, T))
    heads = 1 + len(model.future)
    masked = computed_scores(model) - sum(block.attn.score_flops(T)
                                          for block in model.transformer.h)
    said = model.flops_per_token() + 3 * masked - heads * 2 * V * model.config.n_embd
    assert said * idx.numel() == pytest.approx(counted(lambda: model.loss(idx, idx).backward()),
                                               rel=0.01)
