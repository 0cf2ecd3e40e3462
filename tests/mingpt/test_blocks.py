"""Blocks: the places of the norms, checked against torch's own layer and the papers' formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mingpt.blocks import BLOCKS, Block
from mingpt.model import GPT
from mingpt.utils import BadInput

C, HEADS, T = 32, 4, 10


def block_of(member, seed=0, **changes):
    config = GPT.get_default_config()
    config.merge_from_dict({"n_layer": 2, "n_head": HEADS, "n_embd": C, "block_size": T,
                            "vocab_size": 11, "model_type":
                            None, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
                            **changes})
    torch.manual_seed(seed)
    block = BLOCKS[member](config)
    with torch.no_grad():
        for p in block.parameters():   # norms and biases too, so that each has an effect
            p.add_(0.3 * torch.randn_like(p))
    return block.eval()


def torchs(block, norm_first):
    """Return torch's own layer with the weights of the block."""
    layer = nn.TransformerEncoderLayer(C, HEADS, 4 * C, dropout=0.0, batch_first=True,
                                       norm_first=norm_first,
                                       activation=lambda x: F.gelu(x, approximate="tanh"))
    pairs = {layer.self_attn.out_proj: block.attn.c_proj, layer.linear1: block.mlp.c_fc,
             layer.linear2: block.mlp.c_proj, layer.norm1: block.ln_1, layer.norm2: block.ln_2}
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.attn.c_attn.weight)
        layer.self_attn.in_proj_bias.copy_(block.attn.c_attn.bias)
        for theirs, ours in pairs.items():
            theirs.load_state_dict(ours.state_dict())
    # It has no dropout, so train mode is safe. eval mode takes a fused path without the activation.
    return layer.train()


@pytest.mark.parametrize("member, norm_first", [("pre", True), ("post", False)])
def test_pre_and_post_norm_are_torchs_own(member, norm_first):
    block, x = block_of(member), torch.randn(2, T, C)
    theirs = torchs(block, norm_first)(x, nn.Transformer.generate_square_subsequent_mask(T),
                                       is_causal=True)
    torch.testing.assert_close(block(x), theirs, atol=1e-5, rtol=1e-5)
    other = torchs(block, not norm_first)(x, nn.Transformer.generate_square_subsequent_mask(T),
                                          is_causal=True)
    assert not torch.allclose(block(x), other, atol=1e-2), "the comparison tells them apart"


def test_pre_norm_is_the_block_that_was_always_importable():
    from mingpt import model
    assert BLOCKS["pre"] is Block is model.Block
    assert next(iter(BLOCKS)) == "pre"


def test_parallel_adds_both_parts_of_the_same_stream():
    x = torch.randn(2, T, C)
    shared, two = block_of("parallel"), block_of("parallel", parallel_norms=2)
    torch.testing.assert_close(shared(x), x + shared.attn(shared.ln_1(x))
                               + shared.mlp(shared.ln_1(x)))
    torch.testing.assert_close(two(x), x + two.attn(two.ln_1(x)) + two.mlp(two.ln_2(x)))
    assert not hasattr(shared, "ln_2")
    two.load_state_dict(shared.state_dict()
                        | {f"ln_2.{k}": v for k, v in shared.ln_1.state_dict().items()})
    torch.testing.assert_close(two(x), shared(x))   # two equal norms act as one shared norm


def test_a_sandwich_norms_what_is_written_too():
    block, x = block_of("sandwich"), torch.randn(2, T, C)
    y = x + block.ln_1_out(block.attn(block.ln_1(x)))
    torch.testing.assert_close(block(x), y + block.ln_2_out(block.mlp(block.ln_2(y))))
    with torch.no_grad():
        for name in ("ln_1_out", "ln_2_out"):
            getattr(block, name).weight.zero_()
            getattr(block, name).bias.zero_()
    assert torch.equal(block(x), x)   # nothing else is added to the stream


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_only_post_norm_does_without_a_final_norm(norm):
    for member in BLOCKS:
        config = GPT.get_default_config()
        config.merge_from_dict({"model_type": "gpt-nano", "vocab_size": 11, "block_size": T,
                                "block": member,
                                "norm": norm})
        model = GPT(config)
        idx, seen = torch.randint(11, (1, T)), []
        model.lm_head.register_forward_pre_hook(lambda head, args, seen=seen: seen.append(args[0]))
        model.eval()(idx)
        assert seen[0].square().mean(-1).sub(1).abs().max() < 0.1, "the head reads a normed stream"
        assert isinstance(model.transformer.ln_f, nn.Identity) == (member == "post")


@pytest.mark.parametrize("number", [0, 3, "2"])
def test_another_number_of_norms_is_refused(number):
    with pytest.raises(BadInput, match="model.parallel_norms"):
        block_of("parallel", parallel_norms=number)
