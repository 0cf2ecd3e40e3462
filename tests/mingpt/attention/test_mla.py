"""Multi-head latent attention: DeepSeek's own code in transformers is the reference; and the
compressed cache."""


import pytest
import torch

from mingpt.attention.mla import MultiHeadLatentAttention
from mingpt.sampling.cache import Cache, advance
from mingpt.utils import BadInput
from tests.helpers.models import config_of, gpt_of, perturbed

V, T, C = 23, 16, 32
SIZES = {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10}


SHAPE = {"n_head": 4, "n_embd": C, "vocab_size": V, "block_size": T, "attention": "mla"}


def gpt(**changes):
    return gpt_of(0.2, **{**SHAPE, **changes}).eval()


# -- DeepSeek's ------------------------------------------------------------------------------------

def deepseek(version, q_lora_rank, bias):
    """Return (their attention with all parameters perturbed, a function from x to its output)."""
    pytest.importorskip(f"transformers.models.deepseek_{version}")
    import transformers
    name = f"Deepseek{version.upper()}"
    config = getattr(transformers, f"{name}Config")(
        hidden_size=C, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=q_lora_rank,
        attention_bias=bias, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4,
        v_head_dim=10, max_position_embeddings=T, attn_implementation="eager", num_hidden_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    module = getattr(transformers.models, f"deepseek_{version}")
    modeling = getattr(module, f"modeling_deepseek_{version}")
    attention = perturbed(getattr(modeling, f"{name}Attention")(config, 0).eval(), 0.2)
    rotary = getattr(modeling, f"{name}RotaryEmbedding")(config)
    hidden = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)[None, None]

    def run(x):
        positions = rotary(x, torch.arange(T).unsqueeze(0))
        return attention(x, attention_mask=hidden, position_embeddings=positions)[0]
    return attention, run


def copied(theirs, ours):
    """Load their weights into ours. They rotate the pairs (2i, 2i + 1); ours are (i, i + 2)."""
    names = {"q_a_layernorm": "q_a_norm", "kv_a_proj_with_mqa": "kv_a_proj",
             "kv_a_layernorm": "kv_a_norm",
             "o_proj": "c_proj"}
    split = torch.tensor([0, 2, 1, 3])
    state = {}
    for name, weight in theirs.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if module in ("q_proj", "q_b_proj"):
            heads = weight.unflatten(0, (4, 10))
            weight = torch.cat((heads[:, :6], heads[:, 6:][:, split]), 1).flatten(0, 1)
        if module == "kv_a_proj_with_mqa":
            weight = torch.cat((weight[:12], weight[12:][split]))
        state[f"{names.get(module, module)}.{kind}"] = weight
    ours.load_state_dict(state)      # strict: every weight must have a counterpart
    return ours


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("q_lora_rank", [None, 8])
@pytest.mark.parametrize("version", ["v2", "v3"])
@torch.no_grad()
def test_it_is_deepseeks_to_1e_5(version, q_lora_rank, bias):
    torch.manual_seed(0)
    theirs, run = deepseek(version, q_lora_rank, bias)
    config = config_of(**SHAPE, position="rope", q_lora_rank=q_lora_rank, bias=bias, **SIZES)
    ours = copied(theirs, MultiHeadLatentAttention(config).eval())
    x = torch.randn(2, T, C)
    want, got = run(x), ours(x)
    assert want.abs().mean() > 0.1
    assert (got - want).abs().max() < 1e-5
    ours.kv_a_norm.eps *= 1e4  # the comparison notices a wrong eps
    assert (ours(x) - want).abs().max() > 1e-4


# -- by itself -------------------------------------------------------------------------------------

CASES = [{}, {"position": "rope"}, {"position": "rope", **SIZES},
         {"position": "rope", "q_lora_rank": 8, **SIZES},
         {"position": "alibi"}, {"position": "none", "attn_scale": 0.3},
         {"position": "rope", "nope_layers": "1"},
         {"position": "rope", "schedule": "5 f", "rope_local_base": 50.0, **SIZES},
         {"position": "rope", "schedule": "4/3 s5", "attn_scale": 0.3},
         {"document_end": 7, "schedule": "b4x1*"}]


@pytest.mark.parametrize("changes", CASES, ids=str)
@torch.no_grad()
def test_the_absorbed_form_over_the_cache_is_the_expanded_one(changes):
    model = gpt(**changes)
    idx = torch.randint(V, (2, T))
    cache = Cache(model, 2, slack=2)
    got = torch.cat([advance(model, piece, cache) for piece
                     in idx.split([3, 1, 1, 3, 1, 2, 1, 1, 3], 1)], 1)
    torch.testing.assert_close(got, model(idx)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("heads", [2, 8])
def test_the_cache_holds_one_latent_and_one_turned_key_a_token_for_all_heads(heads):
    model = gpt(position="rope", n_head=heads, **SIZES)
    cache = Cache(model, 2)
    advance(model, torch.zeros(2, 3, dtype=torch.long), cache)
    for layer in cache.layers:
        assert [memory.shape for memory in layer.memory] == [(2, 1, T, 12 + 4)]


def test_sizes_left_out_have_the_papers_proportions():
    layer = gpt(position="rope").transformer.h[0].attn                            # heads of 8
    assert (layer.rank, layer.nope, layer.rope, layer.v_size) == (32, 8, 4, 8)
    assert gpt().transformer.h[0].attn.rope == 0  # nothing is rotated
    wide = gpt(head_dim=20, position="rope").transformer.h[0].attn
    assert (wide.rank, wide.nope, wide.rope, wide.v_size) == (80, 20, 10, 20)


@pytest.mark.parametrize("backend", ["dense", "banded", "flash"])
@pytest.mark.parametrize("changes", [{"position": "rope", **SIZES},
                                     {"position": "rope", "schedule": "5*", **SIZES}],
                         ids=["full", "window"])
def test_every_backend_agrees_in_values_and_gradients(backend, changes):
    if backend == "flash" and "schedule" in changes:
        with pytest.raises(BadInput, match="sees all keys"):
            gpt(backend=backend, **changes)
        return
    idx = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))
    gradients = []
    for name in ("dense", backend):
        model = gpt(backend=name, **changes)
        model(idx, idx.roll(-1, 1))[1].backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_its_scores_cost_what_its_sizes_say():
    layer = gpt(position="rope", **SIZES).transformer.h[0].attn
    assert layer.score_flops(T) == 2 * 4 * (6 + 4 + 10) * (T + 1) / 2


@pytest.mark.parametrize("changes, hint", [({"qk_norm": True}, "norms its latents"),
                                           ({"kv_lora_rank": 0}, "from 1"),
                                           ({"q_lora_rank": 2.5}, "from 1"),
                                           ({"v_head_dim": True}, "from 1"),
                                           ({"position": "rope", "qk_rope_head_dim": 3},
                                            "must be even")], ids=str)
def test_what_has_no_meaning_is_refused(changes, hint):
    with pytest.raises(BadInput, match=hint):
        gpt(**changes)
