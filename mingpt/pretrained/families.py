"""
The families of Hugging Face models that have a counterpart here. Each is declared once: how the
keys of its config.json map to our settings, and which of its tensors holds which of ours. Import
and export both read these declarations.

To add a family: declare a Family below, add it to FAMILIES, and add a case to
experiments/weights/parity.py, which compares it with transformers' own model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mingpt.pretrained.bookkeeping import BOOKKEEPING, PLAIN
from mingpt.pretrained.keys import (
    Choice,
    DenseEntry,
    Entry,
    HeadDim,
    Hidden,
    Key,
    KeyValueHeads,
    LatentHeads,
    Note,
    Only,
    Ours,
    Theirs,
)
from mingpt.pretrained.rope import NoRopeLayers, Rope
from mingpt.pretrained.weights import (
    Heads,
    PairedKey,
    PairedQueries,
    QKVByHead,
    SplitQKV,
    Tensors,
    Transposed,
    TransposedQKV,
    UnscaledQKV,
    Weight,
    unchanged,
    without_qkv_bias,
)
from mingpt.pretrained.windows import (
    AttentionTypes,
    LayerTypes,
    NoPositionWindows,
    NoWindow,
    OneWindow,
)


@dataclass(frozen=True)
class Family:
    """How one family of Hugging Face models corresponds to our settings and weights.

    `name` is config.json's model_type, `architecture` its class in transformers, and `entries` map
    the keys of config.json to our settings. `outer` and `layer` are the weights outside and inside
    the layers. The names of a layer's tensors begin with `layers`; all names but the head's begin
    with `trunk`. `table` says whether the family has a table of positions (all zeros stand for no
    positions), `grouped` whether it can have fewer key and value heads than query heads. `prepare`
    moves weights that have no place in the family to weights that have one. `biased` is the value
    of the family's bias flags where they are absent. `ignored` are keys that transformers does not
    read for this family.
    """
    name: str
    architecture: str
    entries: tuple[Entry, ...]
    outer: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    trunk: str = "model."
    layers: str = "model.layers.{}."
    table: bool = False
    grouped: bool = True
    prepare: Callable[[Tensors, Heads], Tensors] = unchanged
    biased: bool = False
    ignored: str = ""

    def keys(self) -> set[str]:
        """Every key of config.json that an entry understands, or that changes no logit."""
        flags = {w.bias for w in self.layer if isinstance(w.bias, str)}
        return flags.union(BOOKKEEPING, PLAIN.keys(), self.ignored.split(),
                           *(entry.keys() for entry in self.entries))

    def weights(self, n_layer: int) -> list[Weight]:
        """The weights of all modules: the outer ones, then those of each layer."""
        return [*self.outer, *(w.of_layer(f"transformer.h.{l}.", self.layers.format(l))
                               for l in range(n_layer) for w in self.layer)]


MLP_ACTIVATIONS = (("gelu_new", "gelu"), ("gelu_pytorch_tanh", "gelu"), ("gelu_fast", "gelu"),
                   ("gelu", "gelu_erf"), ("relu2", "relu2"))
GATE_ACTIVATIONS = (("silu", "swiglu"), ("swish", "swiglu"), ("gelu_pytorch_tanh", "geglu"),
                    ("gelu_new", "geglu"))

SHAPE = (Key("vocab_size", "vocab_size"), Key("hidden_size", "n_embd"),
         Key("num_hidden_layers", "n_layer"), Key("num_attention_heads", "n_head"),
         Key("max_position_embeddings", "block_size"))
UNTIED = Key("tie_word_embeddings", "tie_weights", absent=False)
TIED = Key("tie_word_embeddings", "tie_weights", absent=True)
PRE_NORM = Ours(block="pre", qk_norm=False)
# Llama has RMSNorm, rotary positions and a gated MLP. Mistral, Qwen and others each change one
# thing of it.
LLAMA = (*SHAPE, Rope(), Hidden("intermediate_size"), Key("rms_norm_eps", "norm_eps", 1e-6),
         Choice("hidden_act", "mlp", GATE_ACTIVATIONS, "silu"),
         Ours(norm="rmsnorm"), Note(attention_dropout="attn_pdrop"))


def outer(norm_bias: bool = False, trunk: str = "model.",
          names: str = "embed_tokens norm lm_head") -> tuple[Weight, ...]:
    """The embedding, the last norm and the head. `names` are theirs, in this order."""
    embedding, norm, head = names.split()
    return (Weight("transformer.wte", trunk + embedding),
            Weight("transformer.ln_f", trunk + norm, bias=norm_bias), Weight("lm_head", head))


def norms(bias: bool = False) -> tuple[Weight, ...]:
    """The two norms of a layer, under Llama's names."""
    return (Weight("ln_1", "input_layernorm", bias=bias),
            Weight("ln_2", "post_attention_layernorm", bias=bias))


def attention(qkv_bias: bool | str, out_bias: bool | str) -> tuple[Weight, ...]:
    """The projections of attention, under Llama's names."""
    return (Weight("attn.c_attn", "self_attn.q_proj self_attn.k_proj self_attn.v_proj", SplitQKV,
                   qkv_bias),
            Weight("attn.c_proj", "self_attn.o_proj", bias=out_bias))


def gated_mlp(bias: bool | str = False) -> tuple[Weight, ...]:
    """The three matrices of a gated MLP, under Llama's names."""
    return (Weight("mlp.c_gate", "mlp.gate_proj", bias=bias),
            Weight("mlp.c_fc", "mlp.up_proj", bias=bias),
            Weight("mlp.c_proj", "mlp.down_proj", bias=bias))


def openai_trunk(layer: tuple[Weight, ...]) -> dict:
    """The arguments of Family that GPT-2 and GPT-Neo share: names that are also ours."""
    same = [Weight(name, name) for name in ("transformer.wte", "transformer.wpe", "lm_head")]
    return {"trunk": "transformer.", "layers": "transformer.h.{}.", "table": True, "grouped": False,
            "outer": (*same, Weight("transformer.ln_f", "transformer.ln_f", bias=True)),
            "layer": (Weight("ln_1", "ln_1", bias=True), Weight("ln_2", "ln_2", bias=True), *layer)}


# Keys of the heads that choose one of several texts; a language model has no such head.
SUMMARY = ("summary_type summary_use_proj summary_activation summary_proj_to_labels "
           "summary_first_dropout summary_last_dropout")

GPT2 = Family(
    "gpt2", "GPT2LMHeadModel",
    (Key("vocab_size", "vocab_size"), Key("n_embd", "n_embd"), Key("n_layer", "n_layer"),
     Key("n_head", "n_head"), Key("n_positions", "block_size"), Hidden("n_inner", default=4),
     Key("layer_norm_epsilon", "norm_eps", 1e-5),
     Choice("activation_function", "mlp", MLP_ACTIVATIONS, "gelu_new"), TIED, PRE_NORM, NoWindow(),
     Ours(norm="layernorm", position="learned"),
     Note(attn_pdrop="attn_pdrop", embd_pdrop="embd_pdrop", resid_pdrop="resid_pdrop"),
     Theirs(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
            add_cross_attention=False)),
    **openai_trunk((Weight("attn.c_attn", "attn.c_attn", TransposedQKV, True),
                    Weight("attn.c_proj", "attn.c_proj", Transposed, True),
                    Weight("mlp.c_fc", "mlp.c_fc", Transposed, True),
                    Weight("mlp.c_proj", "mlp.c_proj", Transposed, True))),
    ignored=f"n_ctx reorder_and_upcast_attn {SUMMARY}")

GPT_NEO = Family(
    "gpt_neo", "GPTNeoForCausalLM",
    (Key("vocab_size", "vocab_size"), Key("hidden_size", "n_embd"), Key("num_layers", "n_layer"),
     Key("num_heads", "n_head"), Key("max_position_embeddings", "block_size"),
     Hidden("intermediate_size", default=4), Key("layer_norm_epsilon", "norm_eps", 1e-5),
     Choice("activation_function", "mlp", MLP_ACTIVATIONS, "gelu_new"), TIED, PRE_NORM,
     AttentionTypes(), Ours(norm="layernorm", position="learned"),
     Note(attention_dropout="attn_pdrop", embed_dropout="embd_pdrop", resid_dropout="resid_pdrop")),
    **openai_trunk((Weight("attn.c_attn",
                           "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj",
                           UnscaledQKV),
                    Weight("attn.c_proj", "attn.attention.out_proj", bias=True),
                    Weight("mlp.c_fc", "mlp.c_fc", bias=True),
                    Weight("mlp.c_proj", "mlp.c_proj", bias=True))),
    prepare=without_qkv_bias, ignored=SUMMARY)

GPT_NEOX = Family(
    "gpt_neox", "GPTNeoXForCausalLM",
    (*SHAPE, Rope("rotary_emb_base", "rotary_pct", 0.25), Hidden("intermediate_size"),
     Key("layer_norm_eps", "norm_eps", 1e-5), Choice("hidden_act", "mlp", MLP_ACTIVATIONS, "gelu"),
     Choice("use_parallel_residual", "block", ((True, "parallel"), (False, "pre")), True), UNTIED,
     NoWindow(), Ours(norm="layernorm", qk_norm=False, parallel_norms=2),
     Note(attention_dropout="attn_pdrop", hidden_dropout="resid_pdrop")),
    outer(True, "gpt_neox.", "embed_in final_layer_norm embed_out"),
    (*norms(True), Weight("attn.c_attn", "attention.query_key_value", QKVByHead, "attention_bias"),
     Weight("attn.c_proj", "attention.dense", bias="attention_bias"),
     Weight("mlp.c_fc", "mlp.dense_h_to_4h", bias=True),
     Weight("mlp.c_proj", "mlp.dense_4h_to_h", bias=True)),
    "gpt_neox.", "gpt_neox.layers.{}.", grouped=False, biased=True)

LLAMA_ITSELF = Family(
    "llama", "LlamaForCausalLM",
    (*LLAMA, KeyValueHeads(), HeadDim(), UNTIED, PRE_NORM, NoWindow(),
     Only(rope_interleaved=False)), outer(),
    (*norms(), *attention("attention_bias", "attention_bias"), *gated_mlp("mlp_bias")),
    ignored="is_llama_config")

MISTRAL = Family(
    "mistral", "MistralForCausalLM",
    (*LLAMA, KeyValueHeads(absent=8), HeadDim(), UNTIED, PRE_NORM, OneWindow(absent=4096)), outer(),
    (*norms(), *attention(False, False), *gated_mlp()))

QWEN2 = Family(
    "qwen2", "Qwen2ForCausalLM",
    (*LLAMA, KeyValueHeads(absent=32), HeadDim(), UNTIED, PRE_NORM, LayerTypes(),
     Only(use_mrope=False)), outer(),
    (*norms(), *attention(True, False), *gated_mlp()))

QWEN3 = Family(
    "qwen3", "Qwen3ForCausalLM",
    (*LLAMA, KeyValueHeads(absent=32), HeadDim(absent=128), UNTIED,
     Ours(block="pre", qk_norm=True), LayerTypes(), Only(use_mrope=False)), outer(),
    (*norms(), *attention("attention_bias", "attention_bias"), *gated_mlp(),
     Weight("attn.q_norm", "self_attn.q_norm"), Weight("attn.k_norm", "self_attn.k_norm")))

SMOLLM3 = Family(
    "smollm3", "SmolLM3ForCausalLM",
    (*(entry for entry in LLAMA if not isinstance(entry, Rope)), Rope(theta=2_000_000.0),
     KeyValueHeads(absent=4), HeadDim(), TIED, PRE_NORM, NoRopeLayers(), NoPositionWindows()),
    outer(),
    (*norms(), *attention("attention_bias", "attention_bias"), *gated_mlp("mlp_bias")),
    ignored="max_window_layers")

STARCODER2 = Family(
    "starcoder2", "Starcoder2ForCausalLM",
    (*SHAPE, KeyValueHeads(absent=2), Rope(), Hidden("intermediate_size"),
     Key("norm_epsilon", "norm_eps", 1e-5),
     Choice("hidden_act", "mlp", (MLP_ACTIVATIONS[1], *MLP_ACTIVATIONS), "gelu_pytorch_tanh"),
     TIED, PRE_NORM, OneWindow(), Ours(norm="layernorm"),
     Only(norm_type="layer_norm", mlp_type="default", scale_attn_weights=True),
     Note(attention_dropout="attn_pdrop", embedding_dropout="embd_pdrop",
          residual_dropout="resid_pdrop")),
    outer(True), (*norms(True), *attention("use_bias", "use_bias"),
                  Weight("mlp.c_fc", "mlp.c_fc", bias="use_bias"),
                  Weight("mlp.c_proj", "mlp.c_proj", bias="use_bias")),
    biased=True, ignored="activation_function layer_norm_epsilon attention_softmax_in_fp32 "
                         "scale_attention_softmax_in_fp32")

STABLELM = Family(
    "stablelm", "StableLmForCausalLM",
    (*SHAPE, KeyValueHeads(absent=32), Rope(share="partial_rotary_factor", share_absent=0.25),
     Hidden("intermediate_size"),
     Key("layer_norm_eps", "norm_eps", 1e-5),
     Choice("hidden_act", "mlp", GATE_ACTIVATIONS, "silu"), UNTIED, NoWindow(),
     Choice("use_parallel_residual", "block", ((False, "pre"), (True, "parallel")), False),
     Ours(norm="layernorm", qk_norm=False, parallel_norms=1), Theirs(qk_layernorm=False),
     Note(attention_dropout="attn_pdrop", hidden_dropout="resid_pdrop")),
    outer(True), (*norms(True), *attention("use_qkv_bias", False), *gated_mlp()))

LATENT = tuple(Key(name, name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                                            "v_head_dim"))
DEEPSEEK = (*SHAPE, Rope(), Hidden("intermediate_size"), Key("rms_norm_eps", "norm_eps", 1e-6),
            Choice("hidden_act", "mlp", GATE_ACTIVATIONS, "silu"),
            Ours(norm="rmsnorm", attention="mla", block="pre"), *LATENT,
            Key("q_lora_rank", "q_lora_rank", 1536), DenseEntry(), UNTIED, NoWindow(),
            Note(attention_dropout="attn_pdrop"), LatentHeads())
LATENT_WEIGHTS = (
    Weight("attn.q_proj", "self_attn.q_proj", PairedQueries),
    Weight("attn.q_a_norm", "self_attn.q_a_layernorm"),
    Weight("attn.q_a_proj", "self_attn.q_a_proj", bias="attention_bias"),
    Weight("attn.q_b_proj", "self_attn.q_b_proj", PairedQueries),
    Weight("attn.kv_a_norm", "self_attn.kv_a_layernorm"),
    Weight("attn.kv_a_proj", "self_attn.kv_a_proj_with_mqa", PairedKey, "attention_bias"),
    Weight("attn.kv_b_proj", "self_attn.kv_b_proj"),
    Weight("attn.c_proj", "self_attn.o_proj", bias="attention_bias"))

DEEPSEEK_V2 = Family("deepseek_v2", "DeepseekV2ForCausalLM", DEEPSEEK, outer(),
                     (*norms(), *LATENT_WEIGHTS, *gated_mlp("mlp_bias")))
DEEPSEEK_V3 = Family("deepseek_v3", "DeepseekV3ForCausalLM",
                     (*DEEPSEEK, Theirs(rope_interleave=True)), outer(),
                     (*norms(), *LATENT_WEIGHTS, *gated_mlp()))

# Plainest first: export writes the first family that fits.
FAMILIES = {family.name: family for family in (
    GPT2, LLAMA_ITSELF, MISTRAL, QWEN2, QWEN3, STARCODER2, STABLELM, GPT_NEO, GPT_NEOX, SMOLLM3,
    DEEPSEEK_V2, DEEPSEEK_V3)}
