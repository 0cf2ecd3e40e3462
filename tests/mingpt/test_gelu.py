"""GELU in parts: torch's values and gradients, and for every size."""

import pytest
import torch
from torch.nn import functional as F

from mingpt import gelu


def test_values_and_gradients_are_those_of_the_formula():
    """Within a few roundings of torch's kernel in float64, from deep in the tails to the middle."""
    x = torch.cat([torch.linspace(-15, 15, gelu.PART), torch.tensor([-1e10, -1e5, 1e5, 1e10])])
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = gelu.gelu(x), F.gelu(exact, approximate="tanh")
    assert y.grad_fn.name().startswith("_GELU")          # not torch's kernel
    slope, = torch.autograd.grad(y.sum(), x)
    exact_slope, = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(y.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slope.double(), exact_slope, atol=3e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3, 7, 5), (64,), (2, 0, 4), (16, 16)])
def test_every_shape_is_cut_into_parts_that_cover_it(shape, monkeypatch):
    monkeypatch.setattr(gelu, "PART", 16)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gelu.gelu(x), F.gelu(x, approximate="tanh"))
    assert torch.autograd.gradcheck(gelu.gelu, x)
    turned = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gelu.gelu(x.T), turned)    # not contiguous
