"""The loss computed without holding all logits, compared with its definition over the logits."""

import pytest
import torch
from torch.nn import functional as F

from mingpt import losses
from mingpt.losses import cross_entropy, head_loss, soft_cap, token_losses
from mingpt.model import GPT
from mingpt.trainer import loss_of
from mingpt.utils import IGNORE_INDEX

V, C = 50, 8
CASES = [(cap, z, ignored) for cap in (None, 5.0) for z in (0.0, 1e-2) for ignored in (0, 3, 600)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(losses, "AT_ONCE_CPU", 64 * V * 4)   # 600 rows make ten chunks of 60


def example(ignored=0, dtype=torch.float64, rows=(2, 300)):
    draw = torch.Generator().manual_seed(ignored)
    x, weight = (torch.randn(*rows, C, generator=draw, dtype=dtype),
                 torch.randn(V, C, generator=draw, dtype=dtype))
    targets = torch.randint(0, V, rows, generator=draw)
    targets.view(-1)[torch.randperm(targets.numel(), generator=draw)[:ignored]] = IGNORE_INDEX
    return x.requires_grad_(), weight.requires_grad_(), targets


def over_logits(x, weight, targets, cap=None, z_loss=0.0):
    return cross_entropy(soft_cap(x @ weight.T, cap), targets, z_loss)


@pytest.mark.parametrize(("cap", "z", "ignored"), CASES)
def test_without_logits_the_loss_and_its_gradients_are_the_same(cap, z, ignored):
    x, weight, targets = example(ignored)
    expected, loss = over_logits(x, weight, targets, cap, z), head_loss(x, weight, targets, cap, z)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    assert bool(loss.isnan()) == (ignored == 600)
    wanted = torch.autograd.grad(expected, (x, weight))
    for made, right in zip(torch.autograd.grad(loss, (x, weight)), wanted, strict=True):
        # Without any target, F.cross_entropy's own gradient is zero too; that of the z-loss is 0/0.
        torch.testing.assert_close(made, right.nan_to_num() if ignored == 600 else right)


def test_in_float32_it_is_pytorchs_to_a_millionth():
    x, weight, targets = example(ignored=7, dtype=torch.float32)
    expected = F.cross_entropy((x @ weight.T).view(-1, V), targets.view(-1),
                               ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(head_loss(x, weight, targets), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("cap", "z"), [(None, 0.0), (4.0, 0.01)])
def test_gradcheck(cap, z):
    x, weight, targets = example(ignored=1, rows=(1, 5))
    assert torch.autograd.gradcheck(lambda x, w: head_loss(x, w, targets, cap, z), (x, weight))


def test_a_scaled_loss_has_scaled_gradients():
    x, weight, targets = example()
    whole = torch.autograd.grad(head_loss(x, weight, targets), (x, weight))
    quarter = torch.autograd.grad(head_loss(x, weight, targets) / 4, (x, weight))
    torch.testing.assert_close([4 * g for g in quarter], list(whole))


def test_no_gradient_is_made_where_none_is_asked_for(monkeypatch):
    x, weight, targets = example(ignored=3)
    expected = head_loss(x, weight, targets)
    monkeypatch.setattr(losses._HeadLoss, "forward", None)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(x, weight, targets), expected.detach())
    torch.testing.assert_close(head_loss(x.detach(), weight.detach(), targets), expected.detach())


def test_only_one_chunk_of_logits_exists_at_a_time(monkeypatch):
    sizes, real = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (sizes.append(real(*a, **k)), sizes[-1])[1])
    x, weight, targets = example()
    head_loss(x, weight, targets).backward()
    logits = [made for made in sizes if made.size(-1) == V]
    assert [len(made) for made in logits] == 10 * [60]
    assert len({made.data_ptr() for made in logits}) == 1


def test_under_autocast_products_are_bf16_and_the_softmax_is_not():
    x, weight, targets = example(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, loss = over_logits(x, weight, targets), head_loss(x, weight, targets)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-2, atol=1e-2)
    assert loss.dtype == torch.float32
    wanted = torch.autograd.grad(expected, (x, weight))
    for made, right in zip(torch.autograd.grad(loss, (x, weight)), wanted, strict=True):
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, right, rtol=0.05, atol=0.02 * float(right.abs().max()))


def test_nats_of_every_target_are_the_definitions():
    x, weight, targets = example(ignored=9)
    flat = (x @ weight.T).view(-1, V)
    expected = F.cross_entropy(flat, targets.view(-1), ignore_index=IGNORE_INDEX, reduction="none")
    made = token_losses(x, weight, targets)
    torch.testing.assert_close(made, expected.view(2, 300).float())
    assert (made[targets == IGNORE_INDEX] == 0).all()


def model(**settings):
    config = GPT.get_default_config()
    config.merge_from_dict(dict(model_type="gpt-nano", vocab_size=V, block_size=16, **settings))
    torch.manual_seed(0)
    return GPT(config)


@pytest.mark.parametrize("settings", [{}, {"tie_weights": True},
                                      {"logit_softcap": 3.0, "z_loss": 1e-3},
                                      {"embd_pdrop": 0.0, "bias": False}])
def test_a_models_loss_is_its_forwards(settings):
    gpt, (_, _, targets) = model(**settings), example(ignored=3, rows=(4, 16))
    idx = targets.clamp(min=0)
    for training in (True, False):
        gpt.train(training)
        torch.manual_seed(1)
        expected = gpt(idx, targets)[1]
        torch.manual_seed(1)
        loss = gpt.loss(idx, targets)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        for name, made, right in zip(dict(gpt.named_parameters()),
                                     torch.autograd.grad(loss, list(gpt.parameters())),
                                     torch.autograd.grad(expected, list(gpt.parameters())),
                                     strict=True):
            torch.testing.assert_close(made, right, msg=lambda text, name=name: f"{name}: {text}")


def test_the_z_loss_is_for_training_only():
    gpt, (_, _, targets) = model(z_loss=1.0), example(rows=(4, 16))
    assert gpt.train().loss(targets, targets) > gpt.eval().loss(targets, targets) + 1


def test_a_subclass_with_a_forward_of_its_own_is_trained_on_that():
    class Other(GPT):
        def forward(self, idx, targets=None):
            return None, torch.tensor(7.0)

    config = model().config
    config.model_type = None
    assert loss_of(Other(config))(None, None) == 7.0
    plain = model()
    assert loss_of(plain) == plain.loss


def test_of_no_tokens_the_mean_is_nan_and_the_gradient_nothing_as_in_pytorch():
    x, weight, targets = example(rows=(0, 7))
    loss = head_loss(x, weight, targets)
    assert loss.isnan()
    assert F.cross_entropy((x @ weight.T).view(-1, V), targets.view(-1)).isnan()
    dx, dweight = torch.autograd.grad(loss, (x, weight))
    assert dx.shape == x.shape
    assert not dweight.any()
    with torch.no_grad():
        assert head_loss(x, weight, targets).isnan()
    assert token_losses(x, weight, targets).shape == (0, 7)
