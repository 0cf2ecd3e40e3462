"""The model: what it does with its config, and where its weights come from."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mingpt.model import GPT, SIZES
from mingpt.utils import BadInput


def config_of(**changes):
    config = GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", 11, 8
    config.merge_from_dict(changes)
    return config


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_a_config_is_left_alone_and_serves_twice():
    config = config_of()
    before = copy.deepcopy(config)
    first, second = GPT(config), GPT(config)
    assert config == before
    assert config.n_layer is None
    assert first.config.n_layer == second.config.n_layer == 3
    first.config.n_layer = 7
    assert second.config.n_layer == 3


def test_the_plain_default_config_is_refused_naming_the_sizes():
    config = GPT.get_default_config()
    config.vocab_size, config.block_size = 11, 8
    with pytest.raises(BadInput) as error:
        GPT(config)
    for size in SIZES:
        assert size in str(error.value)
    assert "n_layer" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size, millions", [("gpt2", 124.44), ("gpt2-medium", 354.82),
                                            ("gpt2-large", 774.03),
                                            ("gpt2-xl", 1557.61)])
def test_the_sizes_are_gpt2s(size, millions):
    with torch.device("meta"):
        model = GPT(config_of(model_type=size, vocab_size=50257, block_size=1024))
    assert round(sum(p.numel() for p in model.transformer.parameters()) / 1e6, 2) == millions


def test_a_model_without_numbers_imports_no_compiler():
    """Commands build such models to count parameters and to check a checkpoint's shapes."""
    code = """if True:
        import sys, torch
        from mingpt.model import GPT, SLOTS
        from mingpt.utils import BadInput
        from tests.helpers.models import config_of
        built = 0
        for slot, members in SLOTS.items():
            for name in members:
                try:
                    with torch.device("meta"):
                        GPT(config_of(**{slot: name}))
                except BadInput:     # it goes only with other members
                    continue
                built += 1
                assert "torch._dynamo" not in sys.modules, (slot, name)
        assert built > 20, built
        with torch.device("meta"):
            torch.nn.Embedding(2, 2)
        assert "torch._dynamo" in sys.modules   # what the import would look like"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_size_may_be_spelled_out():
    torch.manual_seed(0)
    named = GPT(config_of())
    torch.manual_seed(0)
    spelled = GPT(config_of(model_type=None, n_layer=3, n_head=3, n_embd=48))
    assert same(named.state_dict(), spelled.state_dict())


def test_a_config_of_minGPTs_settings_alone_is_enough():
    config = config_of()
    for name in list(vars(config)):
        if name not in ("model_type", "n_layer", "n_head", "n_embd", "vocab_size", "block_size",
                        "embd_pdrop",
                        "resid_pdrop", "attn_pdrop"):
            delattr(config, name)
    assert GPT(config).config.mlp == "gelu"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
                         ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("changes", [{}, {"position": "rope", "mlp": "swiglu",
                                          "tie_weights": True}], ids=str)
def test_a_model_can_be_copied_and_the_copy_is_its_own(copied, changes):
    model = GPT(config_of(**changes)).eval()
    twin = copied(model)
    idx = torch.arange(8).unsqueeze(0)
    assert torch.equal(twin(idx)[0], model(idx)[0])
    assert twin.config == model.config
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert model(idx)[0].abs().max() > 0
    assert (twin.lm_head.weight is twin.transformer.wte.weight) is bool(changes)


def test_targets_of_minus_one_do_not_count():
    model, idx = GPT(config_of()).eval(), torch.arange(8).unsqueeze(0)
    targets = idx.clone()
    targets[:, :5] = -1
    logits, loss = model(idx, targets)
    alone = torch.nn.functional.cross_entropy(logits[0, 5:], targets[0, 5:])
    torch.testing.assert_close(loss, alone)
    assert model(idx)[1] is None


# --------------------------------------------------------------------------------------------------
# where weights come from


def test_statistics_are_means_over_the_parts_that_report_each_name():
    model = GPT(config_of())
    assert model.statistics() == {}
    for block, found in zip(model.transformer.h, ({"a": 1.0, "b": 5.0}, {"a": 2.0}, {}),
                            strict=True):
        block.mlp.statistics = lambda found=found: found
    assert model.statistics() == {"a": 1.5, "b": 5.0}


def test_a_seed_gives_the_same_bits_whatever_was_drawn_before():
    a, b = GPT(config_of()), GPT(config_of())
    torch.manual_seed(9)
    a.init_weights(1)
    after = torch.rand(1)
    b.init_weights(1)
    assert same(a.state_dict(), b.state_dict())
    torch.manual_seed(9)
    assert torch.equal(torch.rand(1), after), "seeded weights leave the global generator alone"


def test_a_seed_undoes_training():
    model, fresh = GPT(config_of()), GPT(config_of())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    model.init_weights(1)
    fresh.init_weights(1)
    assert same(model.state_dict(), fresh.state_dict())


def test_every_seed_and_every_tensor_has_a_draw_of_its_own():
    model = GPT(config_of())
    draws = []
    for seed in (0, 1):
        model.init_weights(seed)
        draws += [p.flatten()[:20].clone() / p.std() for p in model.parameters() if p.dim() == 2]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert not torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("changes", [{"position": "rope"}, {"norm": "rmsnorm"}, {"mlp": "swiglu"},
                                     {"bias": False},
                                     {"tie_weights": True}, {"qk_norm": True}, {"n_layer": 4}],
                                     ids=str)
def test_an_arm_shares_with_the_baseline_every_weight_they_have_in_common(changes):
    base = dict(model_type=None, n_layer=4, n_head=3, n_embd=48)
    models = [GPT(config_of(**base)), GPT(config_of(**{**base, **changes}))]
    for model in models:
        model.init_weights(5)
    ours, theirs = (dict(m.named_parameters()) for m in models)
    common = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    assert len(common) >= 20
    for name in common:
        assert torch.equal(ours[name], theirs[name]), name


def test_without_a_seed_the_global_generator_is_drawn_from():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(GPT(config_of()).state_dict())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])
