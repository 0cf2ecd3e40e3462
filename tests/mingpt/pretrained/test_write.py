"""A model computes the same here and in transformers, in both directions. What cannot be converted
is named."""

import contextlib
import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.weights import parity
from experiments.weights.parity import (
    CASES,
    difference,
    greedy,
    greedy_theirs,
    open_theirs,
    perturbed,
    random_model,
)
from mingpt.model import GPT, load
from mingpt.pretrained.families import FAMILIES
from mingpt.pretrained.files import INDEX, WEIGHTS
from mingpt.pretrained.weights import Heads
from mingpt.pretrained.write import convert, save
from mingpt.utils import BadInput

transformers = pytest.importorskip("transformers")

CLOSE, FAR = 1e-5, 1e-4      # CLOSE: equal up to rounding; FAR: more than any rounding
LLAMA = dict(position="rope", norm="rmsnorm", mlp="swiglu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(case): (their random model, the folder in which it is saved). Each is made once."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = random_model(case), tmp_path_factory.mktemp("theirs")
            made[case][0].save_pretrained(made[case][1])
        return made[case]
    return get


def ours_with(seed=0, **changes):
    """A model of ours in which no parameter is zero or one."""
    config = GPT.get_default_config()
    config.model_type, config.n_layer, config.n_head, config.n_embd = None, 3, 4, 24
    config.vocab_size, config.block_size = parity.VOCAB, parity.LENGTH
    config.merge_from_dict(changes)
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return perturbed(GPT(config))


# -- both ways -------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES)
def test_every_family_gives_the_same_logits_and_greedy_tokens_in_and_out(case):
    seen = parity.parity(case)
    assert seen.imported <= CLOSE
    assert seen.exported <= CLOSE
    assert seen.greedy


def test_every_family_has_a_case():
    assert {kind for kind, _ in CASES.values()} == set(FAMILIES)


# {arm: the family as which it is exported}
ARMS = {
    "gpt2": [{}, {"tie_weights": True}, {"bias": False}, {"position": "none"}, {"mlp": "relu2"},
             {"mlp": "gelu_erf"},
             {"attention": "gqa", "n_kv_head": 2}, {"attn_scale": 0.3}, {"schedule": "32*"},
             {"embd_scale": "sqrt"}, {"n_future": 3}, {"attn_out_bias": False}],
    "llama": [LLAMA, {**LLAMA, "bias": False}, {**LLAMA, "bias": False, "qkv_bias": True,
                                                "attn_out_bias": True},
              {**LLAMA, "attention": "mqa", "rope_base": 5e5},
              {**LLAMA, "mlp": "geglu", "head_dim": 8}],
    "mistral": [{**LLAMA, "bias": False, "schedule": "5*", "attention": "gqa", "n_kv_head": 2}],
    "qwen2": [{**LLAMA, "bias": False, "schedule": "f 5 f"},
              {**LLAMA, "bias": False, "qkv_bias": True, "schedule": "5*"}],
    "qwen3": [{**LLAMA, "bias": False, "qk_norm": True},
              {**LLAMA, "bias": False, "qk_norm": True, "schedule": "5 5 f"},
              {**LLAMA, "bias": False, "qk_norm": True, "attn_scale": 1.0}],
    "smollm3": [{**LLAMA, "schedule": "f 5 f"}, {**LLAMA, "nope_layers": "0,2"},
                {**LLAMA, "position": "none"}],
    "starcoder2": [{"position": "rope"}, {"position": "rope", "attention": "gqa", "n_kv_head": 2,
                                          "schedule": "5*"},
                   {"position": "rope", "bias": False}, {"position": "rope", "mlp": "relu2"}],
    "stablelm": [{"position": "rope", "mlp": "swiglu", "bias": False},
                 {"position": "rope", "mlp": "swiglu", "bias": False, "qkv_bias": True,
                  "rope_fraction": 0.34}],
    "gpt_neo": [{"schedule": "f 5 f", "qkv_bias": False}, {"schedule": "5*", "bias": False}],
    "deepseek_v2": [{**LLAMA, "attention": "mla"}, {**LLAMA, "attention": "mla", "q_lora_rank": 8,
                                                    "attn_scale": 0.3}],
    "gpt_neox": [{"position": "rope", "rope_fraction": 0.67},
                 {"position": "rope", "block": "parallel", "parallel_norms": 2}],
}


@pytest.mark.parametrize("family, changes", [(family, changes) for family, arms in ARMS.items()
                                             for changes in arms],
                         ids=str)
def test_an_arm_goes_out_as_the_family_that_computes_the_same(family, changes, tmp_path):
    ours = ours_with(**changes)
    assert save(ours, tmp_path).name == family
    theirs = open_theirs(tmp_path)
    assert type(theirs).__name__ == FAMILIES[family].architecture
    assert difference(ours, theirs) <= CLOSE
    assert torch.equal(greedy(ours), greedy_theirs(theirs))


def test_a_trained_biased_model_goes_out_as_gpt_neo_by_moving_what_has_no_place(tmp_path):
    """GPT-Neo has no biases of q, k and v. Biases of trained size fit into those of the norm and of
    the output."""
    ours = ours_with(schedule="f 5 f")
    with torch.no_grad():
        for block in ours.transformer.h:
            block.attn.c_attn.bias.mul_(0.1)
    assert save(ours, tmp_path).name == "gpt_neo"
    assert difference(ours, open_theirs(tmp_path)) <= CLOSE
    with torch.no_grad():
        w_q = ours.transformer.h[1].attn.c_attn.weight[:24]
        # The matrix is singular, but the biases of the two rows differ: no bias in front gives both
        w_q[0].copy_(w_q[1])
    with pytest.raises(BadInput, match=r"model\.bias=True \(of attn\.c_attn\)"):
        convert(ours, "gpt_neo")


# -- the comparison notices what it should ---------------------------------------------------------

@pytest.mark.parametrize("case", [case for case, (_, config) in CASES.items()
                                  if config.get("sliding_window") or "window_size" in config])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_window_off_by_one_breaks_parity(folder, case, change):
    theirs, path = folder(case)
    schedule = load(path).config.schedule
    assert difference(load(path, schedule=schedule.replace("5", str(5 + change))), theirs) > FAR


@pytest.mark.parametrize("case", CASES)
def test_ten_times_the_eps_breaks_parity(folder, case):
    theirs, path = folder(case)
    assert difference(load(path, norm_eps=10 * load(path).config.norm_eps), theirs) > 3 * CLOSE


@pytest.mark.parametrize("case", CASES)
def test_a_norm_or_bias_left_behind_breaks_parity(folder, case):
    theirs, path = folder(case)
    begun = load(path)
    kinds = {name.rpartition(".h.")[2][2:] for name, p in begun.named_parameters() if p.dim() == 1
             and p.any()}
    assert len(kinds) >= 2
    for kind in kinds:
        ours = load(path)
        with torch.no_grad():
            for name, p in ours.named_parameters():
                if name.endswith(kind) and p.dim() == 1:
                    p.fill_(1.0 if kind.endswith("weight") else 0.0)
        assert difference(ours, theirs) > FAR, kind


@pytest.mark.parametrize("case", [case for case, (kind, _) in CASES.items()
                                  if kind not in ("gpt2", "gpt_neo")
                                  and "deepseek" not in kind])
def test_the_other_rotary_layout_breaks_parity(folder, case):
    """GPT-J and the first Llama rotate neighbours; ours and all of these rotate halves."""
    theirs, path = folder(case)
    ours = load(path)
    with torch.no_grad():
        for block in ours.transformer.h:
            attn = block.attn
            heads = Heads(attn.n_head, attn.n_kv_head, attn.head_dim)
            for part in heads.split(attn.c_attn.weight)[:2]:
                part.copy_(part.unflatten(0, (-1, attn.head_dim // 2,
                                              2)).transpose(1, 2).flatten(0, 2))
    assert difference(ours, theirs) > FAR


@pytest.mark.parametrize("case, forgotten", [(case, layout) for case, layout in (
    ("gpt2", "Transposed"), ("gpt2", "TransposedQKV"), ("gpt_neo local", "UnscaledQKV"),
    ("gpt_neox parallel", "QKVByHead"), ("deepseek_v2", "PairedQueries"),
    ("deepseek_v3", "PairedKey"))])
def test_an_arrangement_left_as_it_was_breaks_parity(folder, case, forgotten, monkeypatch):
    from mingpt.pretrained import weights as hf_weights
    plain = {"UnscaledQKV": hf_weights.SplitQKV}.get(forgotten, hf_weights.Plain)
    monkeypatch.setattr(getattr(hf_weights, forgotten), "to_ours", staticmethod(plain.to_ours))
    theirs, path = folder(case)
    try:
        wrong = difference(load(path), theirs)
    except BadInput as error:     # for c_attn and c_fc the shapes show it
        assert "size mismatch" in str(error)
    else:
        assert wrong > FAR


# -- what has no counterpart -----------------------------------------------------------------------

@pytest.mark.parametrize("changes, named", [
    ({"attention": "msla"}, "model.attention='msla'"), ({"attention": "mla"},
                                                        "model.attention='mla'"),
    ({"position": "alibi"}, "model.position='alibi'"), ({"logit_softcap": 30.0},
                                                        "model.logit_softcap=30.0"),
    ({**LLAMA, "mlp": "relu2"}, "model.mlp='relu2'"), ({"mlp": "swiglu"}, "model.mlp='swiglu'"),
    ({"schedule": "5/2*"}, "model.schedule='5/2*'"), ({**LLAMA, "bias": False,
                                                       "schedule": "f 5 6"}, "model.schedule="),
    ({"schedule": "f 5 b4x1", "qkv_bias": False}, "model.schedule="),
    ({"block": "sandwich"}, "model.block='sandwich'"),
    ({"embd_scale": 2.0, "tie_weights": True}, "model.embd_scale=2.0"),
    ({"norm": "rmsnorm"}, "model.norm='rmsnorm'"), ({"qk_norm": True}, "model.qk_norm=True"),
    ({"document_end": 60}, "data.document_mask=60"),
    ({"position": "rope", "mlp": "swiglu"},
     "stablelm lacks model.bias=True (of attn.c_proj, mlp.c_fc"),
    ({**LLAMA, "schedule": "f 5 f", "rope_local_base": 100.0}, "model.rope_local_base=100.0"),
], ids=str)
def test_a_setting_without_a_counterpart_is_named(changes, named):
    with pytest.raises(BadInput, match="no exact counterpart") as refusal:
        convert(ours_with(**changes))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_family_that_was_asked_for_is_not_replaced_by_another():
    with pytest.raises(BadInput, match=r"gpt2 lacks model\.position='rope'$"):
        convert(ours_with(position="rope"), "gpt2")
    with pytest.raises(BadInput, match="did you mean 'mistral'"):
        convert(ours_with(), "mistrall")


def edited(path, tmp_path, change):
    """Copy a saved model, and let `change` edit its config.json and its tensors in place."""
    config, tensors = json.loads((path / "config.json").read_text()), load_file(path / WEIGHTS)
    change(config, tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / WEIGHTS)
    return tmp_path


@pytest.mark.parametrize("case, key, value, named", [
    ("llama", "hidden_act", "quick_gelu", "hidden_act='quick_gelu'"),
    ("llama", "rope_scaling", {"rope_type": "yarn", "factor": 2.0}, "rope_type='yarn'"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx=True"),
    ("stablelm", "qk_layernorm", True, "qk_layernorm=True"),
    ("qwen2", "model_type", "qwen9", "no family 'qwen9'"),
    ("qwen2 layer_types", "layer_types", ["chunked_attention"] * 3, "layer_types"),
    ("gpt_neox parallel", "use_parallel_residual", "both", "use_parallel_residual='both'")])
def test_a_configuration_without_a_counterpart_is_refused(folder, tmp_path, case, key, value,
                                                          named):
    def change(config, tensors):
        config.pop("rope_parameters", None)
        config[key] = value
    with pytest.raises(BadInput) as refusal:
        load(edited(folder(case)[1], tmp_path, change))
    assert named in str(refusal.value)


@pytest.mark.parametrize("case", ["gpt2", "llama", "mistral window"])
def test_a_key_of_a_wrong_kind_is_one_line_or_harmless(folder, tmp_path, case):
    path = folder(case)[1]
    keys, refused = json.loads((path / "config.json").read_text()), set()
    for key in keys:
        for value in ("x", [1], -1, 0, None, {}, 2.5, True):
            copy = edited(path, tmp_path,
                          lambda config, tensors, new={key: value}: config.update(new))
            try:
                load(copy)
            except BadInput as refusal:
                assert "\n" not in str(refusal)
                refused.add(key)
    assert len(refused & {"n_embd", "hidden_size", "n_head", "num_attention_heads", "vocab_size",
                          "model_type"}) == 4


def test_weights_of_another_size_than_the_configuration_says_are_named(folder, tmp_path):
    copy = edited(folder("gpt2")[1], tmp_path, lambda config, tensors: config.update(vocab_size=62))
    with pytest.raises(BadInput, match="size mismatch for transformer.wte.weight"):
        load(copy)


def test_a_tensor_too_few_or_too_many_is_named(folder, tmp_path):
    _, path = folder("gpt2")
    missing = "transformer.h.1.mlp.c_fc.bias"
    with pytest.raises(BadInput, match=missing):
        load(edited(path, tmp_path, lambda config, tensors: tensors.pop(missing)))
    with pytest.raises(BadInput, match="transformer.h.0.extra.weight"):
        extra = {"transformer.h.0.extra.weight": torch.ones(2)}
        load(edited(path, tmp_path, lambda config, tensors: tensors.update(extra)))


# -- files -----------------------------------------------------------------------------------------

def test_masks_of_older_checkpoints_are_no_weights(folder, tmp_path):
    theirs, path = folder("gpt2")
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16),
             "transformer.h.1.attn.masked_bias": torch.ones(1)}
    assert difference(load(edited(path, tmp_path, lambda c, tensors: tensors.update(masks))),
                      theirs) <= CLOSE


def test_weights_in_several_files_and_without_the_trunks_name_are_read(folder, tmp_path):
    theirs, path = folder("gpt2")
    bare = {k.removeprefix("transformer."): t for k, t in load_file(path / WEIGHTS).items()
            if k != "lm_head.weight"}
    parts = [dict(list(bare.items())[::2]), dict(list(bare.items())[1::2])]
    for n, part in enumerate(parts):
        save_file(part, tmp_path / f"part-{n}.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {
        k: f"part-{n}.safetensors" for n, part in enumerate(parts) for k in part}}))
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    assert difference(load(tmp_path), theirs) <= CLOSE


def test_keys_of_earlier_transformers_mean_the_same(folder, tmp_path):
    def change(config, tensors):
        parameters = config.pop("rope_parameters")
        config.update(rope_theta=parameters["rope_theta"],
                      partial_rotary_factor=parameters["partial_rotary_factor"])
    theirs, path = folder("stablelm")
    assert difference(load(edited(path, tmp_path, change)), theirs) <= CLOSE


def test_pickles_are_not_read_and_nothing_is_refused_without_a_reason(folder, tmp_path):
    _, path = folder("gpt2")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with pytest.raises(BadInput, match="no model.safetensors$"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(BadInput, match="pickles"):
        load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(BadInput, match=WEIGHTS):
        load(tmp_path)
    config = json.loads((path / "config.json").read_text())
    for layers in (10_001, 2**63):      # a list of as many entries would be made
        (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": layers}))
        with pytest.raises(BadInput, match=f"config.json: {layers} layers: at most 10,000"):
            load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(BadInput, match="config.json"):
        load(tmp_path)


def test_a_name_that_is_no_folder_is_sought_on_the_hub(monkeypatch):
    import huggingface_hub
    asked = []

    def offline(name, allow_patterns, etag_timeout):
        assert etag_timeout < 5      # the refusal must not take long
        asked.append((name, allow_patterns))
        raise ConnectionError("no network\nat all")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BadInput,
                       match="'a/b' is not a local folder.*ConnectionError: no network") as refusal:
        load("a/b")
    assert "\n" not in str(refusal.value)
    assert asked == [("a/b", ["config.json", "*.safetensors", INDEX])]


def test_offline_it_is_said_that_there_is_no_copy_and_why_the_hub_was_not_asked(monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=r"'a/b' is not a local folder, no copy of it .* cannot be "
                                       r"reached \(HF_HUB_OFFLINE is set\)"):
        load("a/b")


def test_a_model_is_cut_to_fewer_positions(folder):
    for case in ("gpt2", "mistral window"):
        theirs, path = folder(case)
        ours = load(path, block_size=12)
        assert ours.block_size == 12
        assert difference(ours, theirs) <= CLOSE
        with pytest.raises(BadInput, match="32 positions"):
            load(path, block_size=33)


# -- minGPT's door ---------------------------------------------------------------------------------

def test_from_pretrained_reads_a_local_folder(folder, tmp_path, monkeypatch):
    theirs, path = folder("gpt2")
    (tmp_path / "gpt2").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    ours = GPT.from_pretrained("gpt2").eval()
    assert difference(ours, theirs) <= CLOSE
    assert ours.lm_head.weight is not ours.transformer.wte.weight     # minGPT has two tensors


def test_an_imported_gpt2_agrees_in_small_logits_too(tmp_path, monkeypatch):
    """As minGPT's own test asks: torch.allclose, whose 1e-5 is relative. Fresh weights give logits
    around zero."""
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=999, n_positions=64, n_embd=192, n_layer=4, n_head=3, bos_token_id=0,
        eos_token_id=0)).eval()
    theirs.save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    text = torch.randint(999, (4, 64), generator=torch.Generator().manual_seed(1))
    ours, want = GPT.from_pretrained("gpt2").eval()(text)[0], theirs(text).logits
    assert want.abs().min() < 1e-5
    assert torch.allclose(ours, want)


def test_a_model_that_is_no_gpt2_is_refused():
    with pytest.raises(AssertionError):
        GPT.from_pretrained("bert-base-uncased")
