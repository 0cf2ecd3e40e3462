"""Study 000's fault with padding is repeated exactly, and a model without the setting has none of
it."""

from functools import partial

import pytest
import torch

from experiments.weights.published_padding import (
    PublishedPaddingGPT,
    build_gpt,
    flipped_padding,
    model_defaults,
)
from mingpt.model import GPT
from mingpt.pretrained.write import convert
from mingpt.sampling.cache import Cache
from mingpt.sampling.speculate import ModelDraft, speculate
from mingpt.utils import BadInput
from tests.helpers.models import config_of, gpt_of

PAD, V = 0, 19
gpt = partial(gpt_of, 0.1, n_head=3, n_embd=48, vocab_size=V, block_size=70)


def padded():
    """Two rows of ten tokens: the first is whole, the second is padded from position 6 on.

    No token of the text is the padding token.
    """
    idx = torch.randint(1, V, (2, 10), generator=torch.Generator().manual_seed(5))
    idx[1, 6:] = PAD
    return idx


def test_a_flipped_padding_mask_shows_text_the_padding_behind_it_alone():
    seen = flipped_padding(padded(), PAD)[:, 0].int()
    assert seen[0].all()
    assert ["".join(".x"[s] for s in row) for row in seen[1].tolist()] == 6 * ["......xxxx"] + [
        "......x...", "......xx..", "......xxx.", "......xxxx"]


def test_published_padding_leaves_whole_rows_alone_and_hides_all_text_of_padded_ones():
    right, wrong = (gpt(schedule="f 7", published_padding=p).eval() for p in (None, PAD))
    idx = padded()
    a, b = right(idx)[0], wrong(idx)[0]
    torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=0)
    assert (a[1] - b[1]).abs().amax(-1).min() > 1e-3
    edited = idx.clone()
    edited[1, 2] = 1 + idx[1, 2] % 18
    moved = (wrong(edited)[0] - b)[1].abs().amax(-1)
    assert moved[2] > 1e-3 and not moved[3:].any(), "no text token sees another"


@pytest.mark.parametrize("n_future", [1, 3])
def test_published_padding_is_learned_as_if_it_were_text(n_future):
    model, idx = gpt(published_padding=PAD, n_future=n_future, block_size=10), padded()
    targets = torch.full_like(idx, -1)
    targets[:, :4] = 5
    every = targets.masked_fill(targets == -1, PAD)
    logits, loss = model(idx, targets)
    if n_future == 1:
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), every.flatten()))
    torch.testing.assert_close(model.loss(idx, targets), loss)
    torch.testing.assert_close(GPT.forward(model, idx, every)[1], loss)


def test_a_token_builds_the_fault_and_none_a_plain_gpt_from_any_config():
    assert list(model_defaults().to_dict())[-1] == "published_padding"
    assert type(gpt(published_padding=PAD)) is PublishedPaddingGPT
    without = {k: v for k, v in config_of().to_dict().items() if k != "published_padding"}
    assert type(gpt()) is type(build_gpt(type(config_of())(**without))) is GPT


@pytest.mark.parametrize("changes, words", [
    ({"backend": "banded"}, "cannot reproduce model.published_padding.*use auto or dense"),
    ({"document_end": 0}, "both"),
    ({"attention": "msla"}, "model.attention=msla has no pairs .*published_padding: leave it out"),
])
def test_what_the_fault_cannot_be_combined_with_is_refused(changes, words):
    with pytest.raises(BadInput, match=words) as error:
        gpt(published_padding=PAD, **changes)
    assert "\n" not in str(error.value)


def test_latent_attention_has_the_fault_too():
    model, idx = gpt(published_padding=PAD, attention="mla").eval(), padded()
    edited = idx.clone()
    edited[1, 2] = 1 + idx[1, 2] % 18
    assert not (model(edited)[0] - model(idx)[0])[1, 3:].any()


def test_a_model_whose_text_sees_the_future_takes_no_cache_and_is_recomputed():
    model, prompt = gpt(published_padding=3).eval(), torch.tensor([[1, 2, 5]])
    for refused in (lambda: Cache(model, 1), lambda: ModelDraft(model),
                    lambda: speculate(model, prompt, 3, ModelDraft(gpt()))):
        with pytest.raises(BadInput, match="published_padding.*cannot use a key/value cache"):
            refused()
    text = prompt
    for _ in range(6):
        text = torch.cat((text, model(text)[0][:, -1:].argmax(-1)), 1)
    assert torch.equal(model.generate(prompt, 6), text)


def test_the_fault_has_no_counterpart_among_hugging_faces_models():
    with pytest.raises(BadInput, match="no exact counterpart.*model.published_padding=0"):
        convert(gpt(published_padding=PAD))
