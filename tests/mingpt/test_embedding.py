"""Token embeddings, plain or scaled."""

import pytest
import torch

from mingpt.model import GPT
from mingpt.utils import BadInput


def model_of(**changes):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": "gpt-nano", "vocab_size": 11, "block_size": 8, **changes})
    model = GPT(config)
    model.init_weights(0)
    return model.eval()


@pytest.mark.parametrize("given, scale", [("sqrt", 48 ** 0.5), (3, 3.0), (0.5, 0.5)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_scale_multiplies_what_the_layers_read_and_not_the_head(given, scale, tied):
    plain, scaled = model_of(tie_weights=tied), model_of(tie_weights=tied, embd_scale=given)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), scaled.parameters(),
                                                 strict=True))
    plain.transformer.wte.register_forward_hook(lambda table, args, x: x * scale)
    idx = torch.arange(8)[None]
    assert torch.equal(plain(idx)[0], scaled(idx)[0])
    assert scaled.lm_head.weight.is_set_to(scaled.transformer.wte.weight) == tied


@pytest.mark.parametrize("given", [0, -1, "root", True])
def test_a_scale_without_meaning_is_refused(given):
    with pytest.raises(BadInput, match="model.embd_scale"):
        model_of(embd_scale=given)
