"""
Every key of config.json is read as transformers reads it, or refused by its name.

Each trial sets one key of one family, in a model of transformers and in the config.json that it
saves. Then transformers and this project both open the folder. Either the logits agree, or we raise
BadInput. Where transformers itself cannot open the folder, there is nothing to compare.

EVERY_KEY=1 in the environment runs all trials (40 seconds). Without it, each family runs a third of
them, and not the same third as the family before it.
"""

import json
import os
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.weights.parity import CASES, difference, open_theirs, perturbed
from mingpt.model import load
from mingpt.pretrained.bookkeeping import BOOKKEEPING
from mingpt.pretrained.families import FAMILIES
from mingpt.pretrained.files import WEIGHTS
from mingpt.utils import BadInput

transformers = pytest.importorskip("transformers")

AGREE = 1e-4
LISTS = {"layer_types": [["sliding_attention", "full_attention"], ["full_attention"] * 2,
                         ["full_attention"] * 3],
         "no_rope_layers": [[0, 1], [0, 0], [1], []],
         "attention_types": [[[["local"], 2]], [[["global", "local"], 1]]],
         "attention_layers": [["local", "local"], ["global", "local"]]}
ACTIVATIONS = ["relu", "gelu", "silu", "gelu_new", "gelu_fast", "quick_gelu", "relu2"]
SPELLED = ("rope_parameters", "rope_scaling")
ROPE = [{}, {"rope_theta": 37.0}, {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0},
        {"rope_theta": 37.0, "partial_rotary_factor": 0.67}, {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "default", "factor": 2.0}, {"type": "default", "rope_theta": 37.0},
        {"full_attention": {"rope_type": "default", "rope_theta": 37.0}}, {"attention_factor": 2.0}]
# keys that change the computation of some family; they are set in every family
ELSEWHERE = {"rope_theta": [37.0], "rotary_emb_base": [37.0], "partial_rotary_factor": [0.5, 0.67],
             "rotary_pct": [0.5],
             "head_dim": [4, 8, None], "sliding_window": [3, None], "use_sliding_window": [True],
             "window_size": [3],
             "max_window_layers": [1], "attention_bias": [True, False], "mlp_bias": [True, False],
             "use_bias": [True],
             "qk_norm": [True], "qk_layernorm": [True], "rope_interleave": [False],
             "is_causal": [False],
             "attn_logit_softcapping": [5.0], "final_logit_softcapping": [5.0],
             "logit_scale": [0.3],
             "logits_scaling": [3.0], "attention_multiplier": [0.5], "residual_multiplier": [0.5],
             "embedding_multiplier": [3.0], "scale_attn_weights": [False], "hidden_act": ["relu"],
             "activation_function": ["relu"], "tie_word_embeddings": [True, False],
             "num_key_value_heads": [1, 2, None],
             "rms_norm_eps": [0.1], "norm_eps": [0.1], "norm_epsilon": [0.1],
             "layer_norm_epsilon": [0.1],
             "num_attention_heads": [2], "num_hidden_layers": [1], "hidden_size": [12],
             "is_decoder": [True],
             "is_encoder_decoder": [True], "chunk_size_feed_forward": [1], "pretraining_tp": [2],
             "pruned_heads": [{"0": [1]}], "no_rope_layers": [[0, 1]],
             "no_rope_layer_interval": [2], **{
                 key: LISTS[key] for key in ("layer_types", "attention_types", "attention_layers")}}


def plain(family):
    """Return (settings of a tiny model of the family, {key of its config class: value})."""
    settings = next({**settings} for kind, settings in CASES.values() if kind == family)
    layers = next(key for key in ("n_layer", "num_layers", "num_hidden_layers") if key in settings)
    settings |= {key: value[:2] for key, value in settings.items() if isinstance(value, list)}
    settings |= {layers: 2, **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))}
    if family == "gpt_neo":
        settings["attention_types"] = [[["global", "local"], 1]]
    if "first_k_dense_replace" in settings:
        settings["first_k_dense_replace"] = 2
    return settings, transformers.AutoConfig.for_model(family, **settings).to_dict()


def others(key, value):
    """Values other than the current one, to try for a key."""
    if key in LISTS:
        return LISTS[key]
    if key in SPELLED:
        return ROPE
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return ACTIVATIONS if "act" in key else ["another"]
    if isinstance(value, int):
        return [value + 2, 2 * value]
    return [value + 0.3] if isinstance(value, float) else [3, True, 0.5]


def trials(family):
    """(key, value) of every trial of the family. The value ... means that the key is left out."""
    settings, keys = plain(family)
    found = [(key, value) for key in keys if key not in BOOKKEEPING
             for value in (*others(key, keys[key]), ...)]
    found += [(key, value) for key in SPELLED for value in ROPE]
    found += [(key, value) for key, values in ELSEWHERE.items() for value in values]
    return [trial for n, trial in enumerate(found) if trial not in found[:n]]


def folder_of(family, key, value, folder):
    """Save a model with this key in `folder`.

    Where transformers makes no model with the key, its weights are those of one without it.
    """
    base = plain(family)[0]
    for settings in (base if value is ... else {**base, key: value}, base):
        try:
            torch.manual_seed(0)
            config = transformers.AutoConfig.for_model(family, **json.loads(json.dumps(settings)))
            perturbed(transformers.AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
            break
        except Exception:    # transformers raises many types of error for a value that it refuses
            continue
    written = json.loads((folder / "config.json").read_text())
    if key not in SPELLED and key in ("rope_theta", "partial_rotary_factor", "rotary_pct",
                                      "rotary_emb_base"):
        written.pop("rope_parameters", None)
    if key == "rope_scaling":
        written.pop("rope_parameters", None)
    if value is ...:
        written.pop(key, None)
    else:
        written[key] = value
    (folder / "config.json").write_text(json.dumps(written))


def outcome(family, key, value, folder):
    """Return 'agree', 'refused' (by us), 'nothing to compare', or the difference of the logits."""
    folder_of(family, key, value, folder)
    try:
        ours = load(folder)
    except BadInput as refusal:
        assert "\n" not in str(refusal)
        return "refused"
    try:
        apart = difference(ours, open_theirs(folder))
    except Exception:    # transformers raises many types of error for a value that it cannot read
        return "nothing to compare"
    return "agree" if apart <= AGREE else apart


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_is_read_as_transformers_reads_it_or_refused(family, tmp_path):
    step = 1 if os.environ.get("EVERY_KEY") else 3
    chosen = trials(family)[list(FAMILIES).index(family) % step::step]
    seen = {f"{key}={value!r}": outcome(family, key, value, tmp_path / str(n))
            for n, (key, value) in zip(count(), chosen, strict=False)}
    assert {trial: o for trial, o in seen.items() if not isinstance(o, str)} == {}
    for word, least in (("agree", 0.2), ("refused", 0.2)):
        assert list(seen.values()).count(word) >= least * len(seen)


@pytest.mark.parametrize("family, key, value", [
    *((family, "rope_parameters", {"rope_theta": 37.0, "partial_rotary_factor": 0.5})
      for family in ("llama", "mistral", "qwen3", "deepseek_v2")),
    ("llama", "attn_logit_softcapping", 5.0), ("llama", "sliding_window", 3),
    ("gpt2", "is_causal", False),
    ("gpt_neox", "rope_theta", 37.0), ("mistral", "layer_types", ["full_attention"] * 2)])
def test_a_key_that_the_family_does_not_have_is_refused_by_name(family, key, value, tmp_path):
    folder_of(family, key, value, tmp_path)
    with pytest.raises(BadInput) as refusal:
        load(tmp_path)
    named = "partial_rotary_factor=0.5" if key == "rope_parameters" else key
    assert named in str(refusal.value)
    assert str(tmp_path / "config.json") in str(refusal.value)


def test_listed_windows_without_a_window_in_use_are_refused(tmp_path):
    """In this case transformers' SmolLM3 applies the window with one attention kernel, and not with
    another."""
    folder_of("smollm3", "layer_types", ["sliding_attention", "full_attention"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {
        "use_sliding_window": False, "sliding_window": 5}))
    with pytest.raises(BadInput, match="layer_types has sliding_attention, but use_sliding_window"):
        load(tmp_path)


def test_a_tied_pair_is_read_from_whichever_is_stored_and_refused_where_the_two_differ(tmp_path):
    folder_of("llama", "tie_word_embeddings", True, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    table = tensors.pop("model.embed_tokens.weight")
    save_file({**tensors, "lm_head.weight": table}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert difference(load(tmp_path), open_theirs(tmp_path)) <= AGREE
    save_file({**tensors, "lm_head.weight": table, "model.embed_tokens.weight": 2 * table},
              tmp_path / WEIGHTS)
    with pytest.raises(BadInput, match=r"embed_tokens\.weight and lm_head\.weight differ"):
        load(tmp_path)


def test_a_flag_about_biases_must_say_what_the_tensors_say(tmp_path):
    folder_of("llama", "attention_bias", True, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_bias": False}))
    with pytest.raises(BadInput,
                       match=r"attention_bias=False, but tensor .*q_proj\.bias' is there"):
        load(tmp_path)
    folder_of("mistral", "sliding_window", 3, tmp_path)
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}
    save_file(load_file(tmp_path / WEIGHTS) | bias, tmp_path / WEIGHTS)
    with pytest.raises(BadInput, match=r"q_proj\.bias' has no counterpart"):
        load(tmp_path)
