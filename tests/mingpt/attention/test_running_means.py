"""Running means, by chunks and token by token, equal a loop over all pairs."""

import pytest
import torch

from mingpt.attention.running_means import CHUNK, running_means

B, HEADS, L, HS = 2, 3, 5, 4
SLOPES = (None, (0.5, 0.01, 3.0))


def drawn(T, dtype=torch.float64, sharpness=3.0):
    torch.manual_seed(T)
    read = torch.rand(B, HEADS, T, L, dtype=dtype)
    write = (sharpness * torch.randn(B, HEADS, T, L, dtype=dtype)).softmax(-1) + 1e-6
    return [x.requires_grad_() for x in (read, write, torch.randn(B, HEADS, T, HS, dtype=dtype))]


def slow(read, write, v, slopes=None):
    """The reference: a loop over queries that writes out what each sees of every latent."""
    y = []
    for i in range(v.size(-2)):
        weights = write[:, :, :i + 1]
        if slopes is not None:
            age = torch.arange(i, -1, -1, dtype=v.dtype)
            weights = weights * (-slopes.to(v)[:, None] * age).exp()[..., None]
        held = weights.mT @ v[:, :, :i + 1] / weights.sum(2)[..., None]             # (B, nh, L, hs)
        y.append((read[:, :, i, None] @ held).squeeze(-2))
    return torch.stack(y, 2)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
@pytest.mark.parametrize("T", [1, 7, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 5])
def test_chunks_give_what_a_loop_over_the_queries_gives_and_its_gradients(T, slopes):
    slopes = None if slopes is None else torch.tensor(slopes)
    inputs = drawn(T)
    got, want = running_means(*inputs, slopes), slow(*inputs, slopes)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    upstream = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, upstream),
                    torch.autograd.grad(want, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
@pytest.mark.parametrize("sharpness", [1.0, 100.0])     # at 100 most latents hold almost nothing
def test_float32_loses_no_digits_over_a_long_text(sharpness, slopes):
    slopes = None if slopes is None else torch.tensor(slopes)
    inputs = drawn(20 * CHUNK, sharpness=sharpness)
    want = running_means(*inputs, slopes)
    got = running_means(*(x.float() for x in inputs), slopes)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, atol=3e-5, rtol=1e-4)


def test_half_precision_is_computed_in_float32():
    inputs = [x.bfloat16() for x in drawn(2 * CHUNK)]
    got = running_means(*inputs)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), running_means(*(x.float() for x in inputs)), atol=0.02,
                               rtol=0.02)


def test_no_token_counts_before_its_place():
    inputs = [x.detach() for x in drawn(2 * CHUNK + 3)]
    before = running_means(*inputs)
    for place in (0, CHUNK - 1, CHUNK, 2 * CHUNK + 2):
        edited = [x.clone() for x in inputs]
        for x in edited:
            x[:, :, place] += 1
        moved = (running_means(*edited) - before).abs().amax((0, 1, 3)) > 0
        assert not moved[:place].any()
        assert moved[place:].all()
