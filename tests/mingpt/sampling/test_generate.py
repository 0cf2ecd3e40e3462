"""Sampling: greedy is argmax, and every cut keeps exactly the tokens of its definition."""

import pytest
import torch

from mingpt.model import GPT
from mingpt.sampling.generate import distribution
from mingpt.sampling.speculate import ModelDraft, speculate
from mingpt.utils import BadInput


@pytest.fixture
def model():
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 2, 2, 16
    config.vocab_size, config.block_size = 13, 6
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


START = torch.tensor([[1, 2, 3], [7, 7, 7]])


def test_greedy_is_argmax_over_the_last_block_of_tokens(model):
    by_hand = START
    for _ in range(8):   # longer than block_size, which is 6
        logits, _ = model(by_hand[:, -6:])
        by_hand = torch.cat((by_hand, logits[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(model.generate(START, 8), by_hand)
    assert len(set(by_hand.flatten().tolist())) > 3   # the text is not constant


def test_a_prompt_longer_than_the_block_is_kept_and_read_from_its_end(model):
    long = torch.cat((torch.zeros(2, 9, dtype=torch.long), START, START), 1)
    out = model.generate(long, 2)
    assert torch.equal(out[:, :15], long)
    assert torch.equal(out[:, 15:], model.generate(torch.cat((START, START), 1), 2)[:, 6:])


def test_nothing_new_is_the_prompt_itself(model):
    assert torch.equal(model.generate(START, 0), START)


def test_drawing_follows_the_seed(model):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(model.generate(START, 20, do_sample=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_draws_follow_the_distribution(model):
    probabilities = distribution(model(START[:1])[0][:, -1], temperature=0.7, top_k=5)[0]
    torch.manual_seed(0)
    drawn = model.generate(START[:1].expand(20_000, 3), 1, temperature=0.7, do_sample=True,
                           top_k=5)[:, -1]
    shares = torch.bincount(drawn, minlength=13) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)   # four standard errors
    assert not shares[probabilities == 0].any()


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_the_callers_business(model, training):
    model.train(training)
    out = model.generate(START, 3, do_sample=True)
    assert model.training is training
    assert not out.requires_grad


LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.2, 0.2, 0.2, 0.2, 0.2]]))


def kept(**cut):
    return [row.nonzero().flatten().tolist() for row in distribution(LOGITS, **cut)]


def test_top_k_keeps_the_k_most_likely():
    assert kept(top_k=2)[0] == [1, 3]
    assert kept(top_k=1)[0] == [1]
    assert kept(top_k=99) == kept() == [[0, 1, 2, 3, 4]] * 2   # more tokens than there are
    torch.testing.assert_close(distribution(LOGITS, top_k=2)[0, [1, 3]],
                               torch.tensor([4 / 7, 3 / 7]))


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert kept(top_p=0.39)[0] == [1]
    assert kept(top_p=0.41)[0] == [1, 3]
    assert kept(top_p=0.69)[0] == [1, 3]
    assert kept(top_p=0.84)[0] == [1, 3, 4]
    assert kept(top_p=1.0)[0] == [0, 1, 2, 3, 4]
    assert kept(top_p=1e-9)[0] == [1]                           # at least one token is kept
    assert [len(row) for row in kept(top_p=0.5)] == [2, 3]      # each row has its own cut
    assert distribution(LOGITS, top_p=0.5).sum(-1).allclose(torch.ones(2))


def test_both_cuts_keep_what_both_keep():
    assert kept(top_k=3, top_p=0.5)[0] == [1, 3]
    assert kept(top_k=2, top_p=0.99)[0] == [1, 3]


def test_temperature_is_a_power_of_the_probabilities():
    cold = distribution(LOGITS, temperature=0.5)[0]
    want = LOGITS[0].exp() ** 2
    torch.testing.assert_close(cold, want / want.sum())
    assert distribution(LOGITS, temperature=1e-3)[0].argmax() == 1
    assert distribution(LOGITS, temperature=1e-3)[0].max() > 0.999
    torch.testing.assert_close(distribution(LOGITS, temperature=1e6), torch.full((2, 5), 0.2))


def test_the_logits_are_left_as_they_were():
    before = LOGITS.clone()
    distribution(LOGITS, temperature=2.0, top_k=2, top_p=0.5)
    assert torch.equal(LOGITS, before)


@pytest.mark.parametrize("wrong, named", [
    ({"temperature": 0.0}, "temperature=0.0"), ({"temperature": float("nan")}, "temperature=nan"),
    ({"top_k": 0}, "top_k=0"), ({"top_p": 0.0}, "top_p=0.0"), ({"top_p": 1.5}, "top_p=1.5")])
def test_what_nothing_can_be_drawn_from_is_refused_and_greedy_does_not_care(model, wrong, named):
    with pytest.raises(BadInput, match=named):
        model.generate(START, 2, do_sample=True, **wrong)
    with pytest.raises(BadInput, match=named):
        speculate(model, START[:1], 2, ModelDraft(model), do_sample=True, **wrong)
    assert torch.equal(model.generate(START, 2, **wrong), model.generate(START, 2))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused_where_a_token_would_be_drawn(number):
    logits = LOGITS.clone()
    logits[1, 2] = number
    with pytest.raises(BadInput, match="logits are not finite"):
        distribution(logits)
    hidden = LOGITS.clone()
    hidden[:, 0] = -torch.inf       # a token that can never come is none of these
    assert (distribution(hidden)[:, 0] == 0).all()
