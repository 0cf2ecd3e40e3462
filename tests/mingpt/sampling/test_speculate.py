"""Speculative decoding writes what the model alone would write: the same tokens if greedy,
otherwise the same distribution."""

import contextlib
import io
import itertools
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from mingpt.model import GPT
from mingpt.sampling.generate import distribution
from mingpt.sampling.speculate import Count, HeadDraft, ModelDraft, accepted, leftover, speculate
from mingpt.utils import BadInput


def model_of(seed=0, scale=0.3, **changes):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 2, "n_embd": 16,
                            "vocab_size": 11,
                            "block_size": 32, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
                            "attn_pdrop": 0.0, **changes})
    with contextlib.redirect_stdout(io.StringIO()):
        model = GPT(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn_like(p))
    return model.eval()


def like(model, seed, scale):
    """A copy of a model that mostly agrees with it."""
    torch.manual_seed(seed)
    twin = GPT(model.config.__class__(**model.config.to_dict() | {"model_type": None})).eval()
    twin.load_state_dict({k: p + scale * torch.randn_like(p)
                          for k, p in model.state_dict().items()})
    return twin


PROMPT = torch.tensor([[3, 1, 4, 1, 5]])
TARGETS = {"learned": {}, "rope, windows": {"position": "rope", "schedule": "f 5",
                                            "attention": "gqa"},
           "windows alone": {"position": "rope", "schedule": "4*"}, "experts": {"mlp": "moe"},
           "alibi": {
           "position": "alibi", "schedule": "6/3*"}, "documents": {"document_end": 7}}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("most", [1, 4, 7])
def test_greedy_text_is_the_models_own_whatever_drafts(name, most):
    model = model_of(**TARGETS[name])
    drafts = {"another": model_of(seed=5, n_layer=1), "much the same": like(model, 1, 0.02),
              "itself": model,
              "a shorter one": model_of(block_size=16)}
    drafts = {who: ModelDraft(drafter, most) for who, drafter in drafts.items()}
    for tokens in (1, 2, 20, 40):              # the last is longer than block_size
        expected = model.generate(PROMPT, tokens)
        for who, draft in drafts.items():
            text, count = speculate(model, PROMPT, tokens, draft)
            assert torch.equal(text, expected), (who, tokens)
            assert count.accepted <= count.drafted
            if who == "itself" and tokens == 20:
                assert count.acceptance == 1 and count.passes == -(-19 // (most + 1)), (
                    "one token is the prompt's"
                )


@pytest.mark.parametrize("changes", [{}, {"schedule": "3*", "position": "rope"}], ids=str)
def test_a_models_future_heads_draft_for_it(changes):
    model = model_of(n_future=4, **changes)
    text, count = speculate(model, PROMPT, 20, HeadDraft(model))
    assert torch.equal(text, model.generate(PROMPT, 20))
    assert count.drafted > 0
    # the state at the last token read, from which the model itself chose the next one
    expected = model.hidden(text[:, :6])[0, -1]
    drawn, chances = HeadDraft(model).draft(text[:, :7], expected, 3,
                                            lambda logits: logits.softmax(-1))
    heads = [model.lm_head(head(expected[None])).softmax(-1)[0] for head in model.future]
    torch.testing.assert_close(chances, torch.stack(heads))
    assert drawn.shape == (3,)


def outcomes(model, prompt, tokens, choice):
    """{continuation: the probability that the model gives it}, for all continuations."""
    found = {}
    for words in itertools.product(range(model.config.vocab_size), repeat=tokens):
        row, chance = prompt[0].tolist(), 1.0
        for word in words:
            chance *= choice(model(torch.tensor([row]))[0][:, -1])[0, word].item()
            row.append(word)
        found[words] = chance
    return found


@pytest.mark.parametrize("kind", ["model", "heads"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 2}], ids=str)
@torch.no_grad()
def test_sampled_text_has_the_models_own_distribution(kind, options):
    changes = {"vocab_size": 3, "block_size": 8, "n_layer": 1, "n_embd": 8, "n_future": 3}
    model, other = model_of(1, 0.8, **changes), model_of(2, 0.8, **changes)
    draft = ModelDraft(other, 2) if kind == "model" else HeadDraft(model)
    prompt, n = torch.tensor([[0, 2]]), 600
    exact = outcomes(model, prompt, 3, lambda logits: distribution(logits, **options))
    theirs = outcomes(other, prompt, 3, lambda logits: distribution(logits, **options))
    torch.manual_seed(0)
    texts = [speculate(model, prompt, 3, draft, do_sample=True, **options) for _ in range(n)]
    drawn = Counter(tuple(text[0, 2:].tolist()) for text, _ in texts)
    rate = sum(count.accepted for _, count in texts) / sum(count.drafted for _, count in texts)
    assert 0.03 < rate < 0.95, "drafts are kept and refused"
    assert set(drawn) <= {words for words, chance in exact.items() if chance > 0}
    assert fits(drawn, exact, n) > 1e-3
    assert fits(drawn, theirs, n) < 1e-6, "the test would notice another distribution"


def fits(drawn, chances, n):
    """The p-value of a chi-square test. Rare outcomes are counted as one."""
    often = [words for words, chance in chances.items() if chance * n >= 5]
    seen = [drawn[words] for words in often] + [n - sum(drawn[words] for words in often)]
    wanted = [chances[words] * n for words in often]
    wanted += [max(n - sum(wanted), 1e-9)]
    if wanted[-1] < 1:
        if seen[-1] > 5:
            return 0.0
        seen, wanted = seen[:-1], wanted[:-1]
    return chisquare(seen, [w * sum(seen) / sum(wanted) for w in wanted]).pvalue


def test_one_token_is_distributed_exactly_as_wanted():
    """Sum over all drafts. A draft is kept with probability min(1, wanted / chance), and otherwise
    replaced by a draw from what is left over."""
    torch.manual_seed(0)
    for _ in range(50):
        wanted, chances = (torch.rand(6).pow(4) * (torch.rand(6) < 0.7) + torch.eye(6)[k] * 0.1
                           for k in (0, 1))
        wanted, chances = wanted / wanted.sum(), chances / chances.sum()
        keep = torch.where(chances > 0, (wanted / chances.clamp(min=1e-9)).clamp(max=1), 0)
        result = chances * keep + (chances * (1 - keep)).sum() * leftover(wanted, chances)
        torch.testing.assert_close(result, wanted)


def test_what_is_kept_are_the_first_ones_before_a_refusal():
    sure = torch.eye(4)
    assert accepted(torch.tensor([0, 1, 2]), sure[[0, 1, 2]],
                    sure[[0, 1, 2, 3]]).tolist() == [0, 1, 2, 3]
    assert accepted(torch.tensor([0, 1, 2]), sure[[0, 1, 2]], sure[[0, 3, 2, 1]]).tolist() == [0, 3]
    assert accepted(torch.tensor([0, 1, 2]), sure[[0, 1, 2]], sure[[2, 1, 2, 1]]).tolist() == [2]
    assert accepted(torch.tensor([], dtype=torch.long), sure[:0], sure[[2]]).tolist() == [2]


def test_counts_say_what_drafting_brought():
    assert Count(10, 40, 30).acceptance == 0.75
    assert Count(10, 40, 30).tokens_per_pass == 4
    assert Count().acceptance == Count().tokens_per_pass == 0


def test_what_cannot_be_drafted_is_refused():
    model = model_of()
    with pytest.raises(BadInput, match="both need the same tokenizer"):
        speculate(model, PROMPT, 3, ModelDraft(model_of(vocab_size=12)))
    with pytest.raises(BadInput, match="one row at a time, not 2"):
        speculate(model, PROMPT.repeat(2, 1), 3, ModelDraft(model))
    with pytest.raises(BadInput, match="model.n_future=1"):
        HeadDraft(model)
    ahead = model_of()
    ahead.not_causal = "it reads ahead"
    for bad in (lambda: ModelDraft(ahead),
                lambda: speculate(ahead, PROMPT, 3, ModelDraft(model))):
        with pytest.raises(BadInput, match="it reads ahead: this model cannot use a key/value"):
            bad()
