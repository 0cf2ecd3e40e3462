"""Linear has nn.Linear's values, whichever way it computes them."""

import pytest
import torch
from torch import nn

from mingpt.layers import MAX_FEW_ROWS, Linear, divisor, few_rows, scale


@pytest.mark.parametrize("rows", [1, 2, MAX_FEW_ROWS, MAX_FEW_ROWS + 1])
# 13 is prime, so it cannot be split into parts
@pytest.mark.parametrize("out, bias", [(48, True), (48, False), (29 * 17, True), (13, True)])
def test_its_values_are_nn_linears(rows, out, bias):
    ours = Linear(10, out, bias=bias)
    theirs = nn.Linear(10, out, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, rows, 10)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(x[0, 0]), theirs(x[0, 0]), atol=1e-5, rtol=1e-5)
        wide = torch.randn(2, rows, 20)[..., ::2]                # not contiguous
        torch.testing.assert_close(ours(wide), theirs(wide), atol=1e-5, rtol=1e-5)


def test_in_training_it_is_nn_linear_to_the_bit():
    ours, x = Linear(10, 48), torch.randn(3, 10)
    assert torch.equal(ours(x), nn.functional.linear(x, ours.weight, ours.bias))
    ours(x).sum().backward()
    assert ours.weight.grad.abs().sum() > 0


def test_each_part_of_the_outputs_has_its_own_place():
    weight, bias = torch.arange(64.0).view(32, 2), torch.arange(32.0)
    y = few_rows(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), weight, bias)
    assert torch.equal(y, weight.T + bias)


@pytest.mark.parametrize("n, least, parts", [(50257, 16, 29), (2304, 16, 16), (768, 20, 24),
                                             (13, 16, 1), (17, 16, 17),
                                             (2 * 10007, 16, 1)])
def test_the_parts_are_a_divisor_near_what_is_wanted(n, least, parts):
    assert divisor(n, least) == parts


def test_a_scale_multiplies_and_the_factor_one_leaves_the_tensor_itself():
    x = torch.randn(2, 3)
    assert torch.equal(scale(0.3)(x), x * 0.3)
    assert scale(1.0)(x) is x
