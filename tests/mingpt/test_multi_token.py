"""Multi-token prediction: what is trained, and that nothing else changes."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mingpt.multi_token import shifted_targets
from mingpt.utils import IGNORE_INDEX, BadInput
from tests.helpers.models import gpt_of

V, T, C = 13, 10, 16


def model_of(**changes):
    model = gpt_of(**{"n_embd": C, "vocab_size": V, "block_size": T, **changes})
    model.init_weights(3)
    return model


def rows(n=3, length=T):
    tokens = torch.randint(V, (n, length + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def by_hand(model, x, y, n):
    """The sum over i < n of the mean of −log p(token i + 1 places ahead), target by target."""
    logits = [model.lm_head(h)
              for h in [model.hidden(x), *(head(model.hidden(x)) for head in model.future)]]
    total = 0.0
    for i in range(n):
        nats = [-F.log_softmax(logits[i][b, t], -1)[y[b, t + i]] for b in range(len(x))
                for t in range(x.size(1))
                if t + i < y.size(1) and y[b, t + i] != IGNORE_INDEX]
        total = total + sum(nats) / len(nats)
    return total


@pytest.mark.parametrize("n", [1, 2, 4])
def test_training_sums_the_nats_of_all_n_and_evaluation_has_the_next_tokens_alone(n):
    model, (x, y) = model_of(n_future=n).train(), rows()
    y = y.clone()
    y[1, 6:] = IGNORE_INDEX
    expected = by_hand(model, x, y, n)
    torch.testing.assert_close(model.loss(x, y), expected)
    torch.testing.assert_close(model(x, y)[1], expected)
    ours = torch.autograd.grad(model.loss(x, y), list(model.parameters()))
    for a, b in zip(ours, torch.autograd.grad(by_hand(model, x, y, n), list(model.parameters())),
                    strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.eval().loss(x, y), by_hand(model, x, y, 1))


def test_the_later_tokens_may_weigh_less():
    model, (x, y) = model_of(n_future=3, future_weight=0.1).train(), rows()
    one, three = by_hand(model, x, y, 1), by_hand(model, x, y, 3)
    torch.testing.assert_close(model.loss(x, y), one + 0.1 * (three - one))


def test_the_next_tokens_path_is_the_model_without_the_heads():
    plain, model, (x, y) = model_of(), model_of(n_future=3), rows()
    assert [k for k in model.state_dict()
            if not k.startswith("future.")] == list(plain.state_dict())
    for name, p in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], p), name
    assert torch.equal(model.eval()(x)[0], plain.eval()(x)[0])
    assert torch.equal(model.token_losses(x, y), plain.token_losses(x, y))
    assert not torch.equal(model.future[0].mlp.c_fc.weight, model.future[1].mlp.c_fc.weight)


def test_a_head_learns_its_token_and_not_the_next():
    # the targets depend on the tokens alone, not on positions
    model = model_of(n_future=3, position="none").train()
    tokens = torch.randint(V, (400, T), generator=torch.Generator().manual_seed(1))
    x, y = tokens, torch.full_like(tokens, IGNORE_INDEX)
    # the target two places later is the token itself, so only the third head can predict it
    y[:, 2:] = tokens[:, :-2]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        part = slice(step % 8 * 50, step % 8 * 50 + 50)
        optimizer.zero_grad()
        model.loss(x[part], y[part]).backward()
        optimizer.step()
    model.eval()
    heads = [F.cross_entropy(model.lm_head(head(model.hidden(x)))[:, :-2].reshape(-1, V),
                             x[:, :-2].reshape(-1))
             for head in model.future]
    assert heads[1] < 0.5 < 1.5 < heads[0], heads


def test_targets_end_with_the_row_and_with_the_document():
    y = torch.tensor([[1, 2, 9, 3, 4, 9, 9, 5]])
    none = IGNORE_INDEX
    assert shifted_targets(y, 1).tolist() == [[2, 9, 3, 4, 9, 9, 5, none]]
    assert shifted_targets(y, 3).tolist() == [[3, 4, 9, 9, 5, none, none, none]]
    assert shifted_targets(y, 9).tolist() == [[none] * 8]
    assert shifted_targets(y, 1, 9).tolist() == [[2, 9, none, 4, 9, none, none, none]]
    assert shifted_targets(y, 2, 9).tolist() == [[9, none, none, 9, none, none, none, none]]


def test_rows_too_short_for_a_head_leave_it_out():
    model, (x, y) = model_of(n_future=4).train(), rows(length=2)
    torch.testing.assert_close(model.loss(x, y), by_hand(model, x, y, 2))
    loss = model.loss(x, y)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("mlp", ["gelu", "moe"])
def test_each_head_costs_its_mlp_and_an_unembedding(mlp):
    model, (x, y) = model_of(n_future=3, mlp=mlp).train(), rows()
    with FlopCounterMode(display=False) as counter:
        model.loss(x, y).backward()
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items()
                  if str(op) in ("aten.mm", "aten.addmm"))
    # the gradient of the unembedding is computed by addmm_, which torch does not count
    counted += 3 * 2 * x.numel() * V * C
    scores = 3 * sum(block.attn.score_flops(T) for block in model.transformer.h)
    assert model.flops_per_token() - scores == pytest.approx(counted / x.numel())


@pytest.mark.parametrize("n", [0, T, "2", True])
def test_a_number_of_tokens_without_meaning_is_refused(n):
    with pytest.raises(BadInput, match="model.n_future"):
        model_of(n_future=n)
