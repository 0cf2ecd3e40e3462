"""MLPs: what they compute, how wide they are, and what they cost."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mingpt.layers import dropout
from mingpt.mlps import MLPS, hidden_size
from mingpt.model import GPT, Block
from mingpt.trainer import Trainer
from mingpt.utils import BadInput


def config_of(mlp="gelu", n_embd=48, **changes):
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 2, 2, n_embd
    config.vocab_size, config.block_size, config.mlp = 31, 16, mlp
    config.merge_from_dict(changes)
    return config


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def in_millions(mlp, **changes):
    """The number of parameters that a GPT-2 of study 002's shape prints."""
    with torch.device("meta"):
        model = GPT(config_of(mlp, n_layer=12, n_head=12, n_embd=768, vocab_size=50257,
                              block_size=512, **changes))
    return round(parameters(model.transformer) / 1e6, 2)


@pytest.mark.parametrize("mlp", ["swiglu", "geglu"])
@pytest.mark.parametrize("n_embd", [32, 40, 48, 64, 96, 128, 192, 256, 320, 384, 512, 768, 1024,
                                    1600])
def test_a_gated_mlp_has_gelus_parameters_within_1_percent(mlp, n_embd):
    with torch.device("meta"):
        gelu, gated = Block(config_of("gelu", n_embd)), Block(config_of(mlp, n_embd))
    assert parameters(gated) == pytest.approx(parameters(gelu), rel=0.01)


def test_4d_is_study_002s_count():
    assert in_millions("gelu") == 124.05
    assert in_millions("swiglu", mlp_hidden="4d") == 152.40
    assert in_millions("swiglu") == pytest.approx(124.05, rel=0.01)


def test_study_002s_initialisation_can_be_had():
    for scaled, std in ((True, 0.02 / 2), (False, 0.02)):   # two layers: 1/√4
        model = GPT(config_of("swiglu", 96, mlp_scaled_init=scaled))
        assert model.transformer.h[1].mlp.c_proj.weight.std().item() == pytest.approx(std, rel=0.05)


FORMULAS = {
    "gelu": lambda m, x: m.c_proj(F.gelu(m.c_fc(x), approximate="tanh")),
    "relu2": lambda m, x: m.c_proj(m.c_fc(x).clamp(min=0) ** 2),
    "swiglu": lambda m, x: m.c_proj(m.c_gate(x) * torch.sigmoid(m.c_gate(x)) * m.c_fc(x)),
    "geglu": lambda m, x: m.c_proj(F.gelu(m.c_gate(x), approximate="tanh") * m.c_fc(x)),
}


@pytest.mark.parametrize("mlp", FORMULAS)
def test_it_computes_the_papers_formula(mlp):
    part, x = MLPS[mlp](config_of(mlp)).eval(), torch.randn(2, 5, 48)
    torch.testing.assert_close(part(x), FORMULAS[mlp](part, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("wanted, hidden", [(None, 192), (100, 100), ("4d", 192), ("8/3d", 128)])
def test_the_hidden_size_is_a_number_or_a_multiple_of_the_width(wanted, hidden):
    assert hidden_size(config_of(mlp_hidden=wanted), "4d") == hidden
    assert MLPS["gelu"](config_of(mlp_hidden=wanted)).c_fc.out_features == hidden


@pytest.mark.parametrize("wanted", ["5d", "wide", 0, -8, 2.5])
def test_a_hidden_size_without_meaning_is_refused(wanted):
    with pytest.raises(BadInput, match="model.mlp_hidden.*'8/3d'"):
        GPT(config_of(mlp_hidden=wanted))


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("changes", [{}, {"tie_weights": True}, {"position": "rope"}], ids=str)
def test_flops_a_token_are_torchs_own_count(mlp, changes):
    """Only the matrix products are compared. torch counts attention's scores over all pairs, the
    model over the causal half."""
    model = GPT(config_of(mlp, **changes))
    idx = torch.randint(31, (2, 16))
    with FlopCounterMode(display=False) as counter:
        model(idx, idx)[1].backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items()
                   if str(op) in ("aten.mm", "aten.addmm"))
    # 2 layers · (q·k and weights·v) · width 48 · 8.5 keys on average; a multiply and an add each
    scores = 3 * 2 * (2 * 2 * 48 * 17 / 2)
    assert model.flops_per_token() == pytest.approx(products / idx.numel() + scores)
    assert model.flops_per_token(8) < model.flops_per_token()


def test_dropout_of_nothing_is_nothing():
    assert list(dropout(0.0).modules())[0](torch.ones(3)).equal(torch.ones(3))
    assert not isinstance(dropout(0.0), torch.nn.Dropout)
    assert dropout(0.5).p == 0.5


@pytest.mark.parametrize("place", ["embd", "resid", "attn"])
@pytest.mark.parametrize("changes", [{}, {"position": "alibi", "mlp": "swiglu"}], ids=str)
def test_each_dropout_acts_in_training_only(place, changes):
    rates = {f"{other}_pdrop": 0.5 * (other == place) for other in ("embd", "resid", "attn")}
    model, idx = GPT(config_of(**{"mlp": "gelu", **changes, **rates})), torch.randint(31, (1, 16))
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


def test_a_tied_head_is_one_tensor_in_one_group_and_learns():
    model = GPT(config_of(tie_weights=True))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert parameters(GPT(config_of())) - parameters(model) == 31 * 48
    groups = model.configure_optimizers(Trainer.get_default_config()).param_groups
    holding = [g for g in groups if any(p is model.lm_head.weight for p in g["params"])]
    assert len(holding) == 1
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    again = GPT(config_of(tie_weights=True))
    again.load_state_dict(model.state_dict())
    assert again.lm_head.weight is again.transformer.wte.weight
