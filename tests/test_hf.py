"""GPT-2's weights in this project's model give the logits that they give in Hugging Face's."""

import pytest
import torch

from mingpt import hf
from mingpt.model import GPT

transformers = pytest.importorskip("transformers")


@pytest.fixture
def theirs():
    """A small GPT-2 of which no weight is zero or one, so that a bias or gain left behind is seen."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3,
                                     bos_token_id=60, eos_token_id=60, pad_token_id=60)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def ours_like(theirs, **changes):
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 2, 3, 24
    config.vocab_size, config.block_size = 61, 16
    config.merge_from_dict(changes)
    return GPT(config).eval()


def idx():
    return torch.randint(60, (3, 16), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(ours, theirs):
    return (ours(idx())[0] - theirs(idx()).logits).abs().max().item()


def test_logits_agree_to_1e_5_and_greedy_tokens_exactly(theirs):
    ours = ours_like(theirs)
    hf.copy_gpt2(ours, theirs.state_dict())
    assert difference(ours, theirs) <= 1e-5
    start = idx()[:, :4]
    assert torch.equal(ours.generate(start, 12), theirs.generate(start, max_new_tokens=12, do_sample=False))


@pytest.mark.parametrize("forgotten", ["attn.c_proj.weight", "attn.c_attn.bias", "attn.c_proj.bias", "mlp.c_fc.bias",
                                       "mlp.c_proj.bias", "ln_1.weight", "ln_2.bias", "ln_f.weight", "wpe.weight"])
def test_the_comparison_notices_a_forgotten_step(theirs, monkeypatch, forgotten):
    state = theirs.state_dict()
    if forgotten in hf.TRANSPOSED:   # square: the shapes alone would not tell
        monkeypatch.setattr(hf, "TRANSPOSED", tuple(name for name in hf.TRANSPOSED if name != forgotten))
    else:
        state = {k: torch.zeros_like(v) if k.endswith(forgotten) else v for k, v in state.items()}
    ours = ours_like(theirs)
    hf.copy_gpt2(ours, state)
    assert difference(ours, theirs) > 1e-3


def test_the_causal_masks_of_older_checkpoints_are_ignored(theirs):
    state = theirs.state_dict()
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    state["transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    ours = ours_like(theirs)
    hf.copy_gpt2(ours, state)
    assert difference(ours, theirs) <= 1e-5


def test_a_weight_without_a_counterpart_is_named(theirs):
    state = theirs.state_dict()
    missing = "transformer.h.1.mlp.c_fc.bias"
    with pytest.raises(AssertionError, match=missing):
        hf.copy_gpt2(ours_like(theirs), {k: v for k, v in state.items() if k != missing})
    with pytest.raises(AssertionError, match="transformer.wpe.weight"):
        hf.copy_gpt2(ours_like(theirs, block_size=8), state)


def test_from_pretrained_reads_a_local_folder(theirs, tmp_path, monkeypatch):
    theirs.config.layer_norm_epsilon = 1e-3
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.eps = 1e-3
    theirs.save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    ours = GPT.from_pretrained("gpt2").eval()
    assert difference(ours, theirs) <= 1e-5
    assert ours.block_size == 16


def test_an_imported_gpt2_agrees_in_small_logits_too(tmp_path, monkeypatch):
    """As minGPT's own test asks: torch.allclose, whose 1e-5 is relative. Fresh weights give logits around zero."""
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=999, n_positions=64, n_embd=192, n_layer=4, n_head=3, bos_token_id=0, eos_token_id=0)).eval()
    theirs.save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    text = torch.randint(999, (4, 64), generator=torch.Generator().manual_seed(1))
    ours, want = GPT.from_pretrained("gpt2").eval()(text)[0], theirs(text).logits
    assert want.abs().min() < 1e-5
    assert torch.allclose(ours, want)


def test_a_model_that_is_no_gpt2_is_refused():
    with pytest.raises(AssertionError):
        GPT.from_pretrained("bert-base-uncased")
