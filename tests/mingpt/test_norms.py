"""Norms: they equal torch's own, and all have the same eps."""

import pytest
import torch
from torch.nn import functional as F

from mingpt.model import GPT
from mingpt.norms import _RMS, NORMS
from tests.helpers.models import gpt_of

SHIPPED = ("layernorm", "rmsnorm")


def norm_of(name, dim=32, **changes):
    config = GPT.get_default_config()
    config.merge_from_dict(changes)
    norm = NORMS[name](dim, config)
    with torch.no_grad():
        for p in norm.parameters():
            p.add_(torch.randn_like(p))
    return norm


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])   # at 1e-3 eps is ten times the mean square
def test_rmsnorm_is_torchs_in_value_and_gradient(scale):
    norm = norm_of("rmsnorm")
    x = (scale * torch.randn(4, 7, 32)).requires_grad_()
    y = scale * torch.randn(4, 7, 32)
    results = [norm(x), F.rms_norm(x, (32,), norm.weight, eps=1e-5)]
    gradients = [torch.autograd.grad((r * y).sum(), (x, norm.weight)) for r in results]
    torch.testing.assert_close(*results)
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4 * max(1, scale), rtol=1e-4)


def test_rmsnorms_eps_is_layernorms():
    assert {norm_of(name).eps for name in SHIPPED} == {1e-5}
    assert {norm_of(name, norm_eps=1e-3).eps for name in SHIPPED} == {1e-3}


def test_rmsnorm_is_layernorm_without_the_mean():
    x = torch.randn(5, 32)
    x = x - x.mean(-1, keepdim=True)
    outputs = []
    for name in SHIPPED:
        norm = NORMS[name](32, GPT.get_default_config())
        outputs.append(norm(x))
        assert norm(x + 1).allclose(norm(x), atol=1e-5) is (name == "layernorm")
    torch.testing.assert_close(*outputs)


def test_rmsnorm_keeps_small_terms_in_half_precision():
    x = torch.full((1, 4096), 0.01).bfloat16()
    x[0, 0] = 8.0
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    got = NORMS["rmsnorm"](4096, GPT.get_default_config())(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), exact, atol=0, rtol=2 ** -8)


def tiny(**changes):
    return gpt_of(**changes).eval()


def test_without_bias_no_parameter_is_a_bias():
    assert any(name.endswith("bias") for name, _ in tiny().named_parameters())
    for name, p in tiny(bias=False).named_parameters():
        assert not name.endswith("bias")
        assert p.dim() == 2 or "ln_" in name


def test_qk_norm_makes_attention_blind_to_the_length_of_queries():
    idx = torch.arange(8).unsqueeze(0)
    for qk_norm in (False, True):
        model = tiny(qk_norm=qk_norm, norm_eps=1e-12)
        model.init_weights(0)
        with torch.no_grad():
            c_attn = model.transformer.h[0].attn.c_attn
            c_attn.weight[:32].mul_(30)
            before = model(idx)[0]
            c_attn.weight[:32].mul_(7)   # queries and keys, not values
            moved = (model(idx)[0] - before).abs().max()
        assert (moved < 1e-5) == qk_norm


def test_the_soft_cap_bounds_the_logits_and_leaves_small_ones():
    idx = torch.arange(8).unsqueeze(0)
    plain, capped = tiny(), tiny(logit_softcap=3.0)
    capped.load_state_dict(plain.state_dict())
    torch.testing.assert_close(capped(idx)[0], 3 * torch.tanh(plain(idx)[0] / 3))
    with torch.no_grad():
        for model in (plain, capped):
            model.lm_head.weight.mul_(1000)
    assert plain(idx)[0].abs().max() > 10
    assert capped(idx)[0].abs().max() <= 3.0


def test_rmsnorms_gradient_is_its_derivative():
    norm = norm_of("rmsnorm", dim=5).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    # double precision throughout: the float() in forward would round
    assert torch.autograd.gradcheck(lambda x, w: _RMS.apply(x, w, 1e-2), (x, norm.weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rmsnorms_gradients_have_its_parameters_type(dtype):
    norm, x = norm_of("rmsnorm").to(dtype), torch.randn(3, 32, dtype=dtype, requires_grad=True)
    norm(x).square().sum().backward()
    assert x.grad.dtype == norm.weight.grad.dtype == dtype
    exact = torch.autograd.grad(F.rms_norm(x, (32,), norm.weight, 1e-5).square().sum(),
                                (x, norm.weight))
    for got, want in zip((x.grad, norm.weight.grad), exact, strict=True):
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
