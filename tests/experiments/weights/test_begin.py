"""A run can begin with another model's weights. What fits is taken, what differs is made from it,
and the record says so."""

import contextlib
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import experiments.weights.begin as begin_module
from experiments.corpus import open_corpus
from experiments.declare.spec import make_spec
from experiments.records.record import read_record, trainable_line, write_record
from experiments.train import predict
from experiments.train.run import Run
from experiments.weights.begin import OWN, source_settings
from experiments.weights.saved import find_run, load_run
from lab import main as lab_main
from mingpt.model import GPT, load
from mingpt.pretrained.families import FAMILIES
from mingpt.pretrained.read import read, read_settings
from mingpt.pretrained.upcycle import freeze_except, upcycle
from mingpt.pretrained.weights import Heads
from mingpt.pretrained.write import save
from mingpt.utils import BadInput

transformers = pytest.importorskip("transformers")

LAB = Path(__file__).resolve().parents[3] / "lab.py"
HEADS = Heads(4, 4, 6)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with a random GPT-2, made by transformers, for the byte tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=257, n_positions=80, n_embd=24, n_layer=2, n_head=4, bos_token_id=256,
        eos_token_id=256))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    texts = (f"{n}: " + " ".join(rng.choices(["red", "green", "blue"], k=40)) for n in range(100))
    (folder / "words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n"
                                                for text in texts))
    return folder / "words.jsonl"


def spec_of(data, *overrides, **options):
    return make_spec(preset="nano", data=[str(data)], overrides=[
        "--trainer.max_iters=6", "--trainer.device=cpu", "--data.val_tokens=512",
        "--run.eval_every=3",
        f"--data.cache={data.parent / 'cache'}", *overrides], **options)


def trained(out, data, *overrides, **options):
    """Train a run and return its record."""
    spec = spec_of(data, *overrides, **options)
    run = Run(spec, 0, out, open_corpus(spec.settings.data))
    assert run.execute() == 0
    return read_record(run.files.json)


def ours_like(folder, **changes):
    """A fresh model of ours with the shape of a source."""
    settings = {**GPT.get_default_config().to_dict(), **read_settings(folder)[2], "block_size": 64,
                **changes}
    with contextlib.redirect_stdout(io.StringIO()):
        config = GPT.get_default_config()
        config.merge_from_dict(settings)
        return GPT(config).eval()


def test_a_run_begins_with_the_sources_shape_and_loss(gpt2, data, tmp_path):
    record = trained(tmp_path, data, f"--run.init={gpt2}")
    assert record["config"]["model"]["n_embd"] == 24
    assert record["config"]["model"]["block_size"] == 64     # the preset's value; the source has 80
    assert record["init"]["taken"]["new"] == record["init"]["taken"]["dropped"] == []
    assert record["init"]["taken"]["parameters"] == record["model"]["parameters"]
    assert record["audit"]["checks"]["imported weights compute what their source computes"] is True
    assert "initial weights have the declared scale" not in record["audit"]["checks"]
    first = (tmp_path / "losses" / "baseline.s0.csv").read_text().splitlines()[1].split(",")[2]
    theirs = transformers.GPT2LMHeadModel.from_pretrained(gpt2).eval()
    spec = spec_of(data)
    val = open_corpus(spec.settings.data).validation(64, 512)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(val.x)).logits
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1),
                                             torch.from_numpy(val.y).flatten(), ignore_index=-1)
    assert float(first) == pytest.approx(want.item(), abs=1e-5)


def test_heads_of_keys_and_values_are_pooled_by_their_mean_or_the_first(gpt2):
    state = read(gpt2)[2]
    for attention, kv in (("gqa", 2), ("mqa", 1)):
        for pooling, pool in (("mean", lambda heads: sum(heads) / len(heads)),
                              ("first", lambda heads: heads[0])):
            model = ours_like(gpt2, attention=attention,
                              n_kv_head=kv if attention == "gqa" else None)
            taken = upcycle(model, state, HEADS, pooling)
            source = state["transformer.h.1.attn.c_attn.weight"]
            got = model.transformer.h[1].attn.c_attn.weight
            assert torch.equal(got[:24], source[:24])                         # queries unchanged
            for part in (0, 1):                                               # keys, values
                theirs = source[24 * (part + 1):24 * (part + 2)].split(6)     # one part per head
                for n, head in enumerate(got[24 + part * 6 * kv:][:6 * kv].split(6)):
                    group = theirs[n * (4 // kv):(n + 1) * (4 // kv)]
                    assert torch.allclose(head, pool(group), atol=1e-7)
            assert (
                taken.made["transformer.h.*.attn.c_attn.weight"]
                == f"4 → {kv} heads of keys and values ({pooling})"
            )
            assert taken.new == taken.dropped == set()


def test_pooling_heads_that_are_equal_changes_nothing(gpt2):
    state = dict(read(gpt2)[2])
    for name in [n for n in state if "c_attn" in n]:
        q, k, v = HEADS.split(state[name])
        k, v = (torch.cat([head for pair in t.split(12) for head in (pair[:6], pair[:6])])
                for t in (k, v))
        state[name] = torch.cat((q, k, v))
    whole, grouped = ours_like(gpt2), ours_like(gpt2, attention="gqa", n_kv_head=2)
    upcycle(whole, state, HEADS)
    upcycle(grouped, state, HEADS)
    idx = torch.randint(257, (2, 64))
    assert torch.allclose(whole(idx)[0], grouped(idx)[0], atol=1e-5)
    back = ours_like(gpt2)
    # repeating the shared heads gives the same function
    upcycle(back, dict(grouped.named_parameters()), Heads(4, 2, 6))
    assert torch.allclose(whole(idx)[0], back(idx)[0], atol=1e-5)


def test_mla_of_full_rank_computes_the_same_and_of_a_lower_one_nearly(gpt2):
    state, idx = read(gpt2)[2], torch.randint(257, (2, 64),
                                              generator=torch.Generator().manual_seed(2))
    state = {name: t * 0.1 if name.endswith("c_attn.bias") else t for name, t in state.items()}
    whole, off = ours_like(gpt2), {}
    upcycle(whole, state, HEADS)
    for rank in (6, 12, 18, 24, 30):
        model = ours_like(gpt2, attention="mla", kv_lora_rank=rank)
        taken = upcycle(model, state, HEADS)
        off[rank] = (model(idx)[0] - whole(idx)[0]).abs().mean().item()
        assert taken.new == taken.dropped == set()
    assert off[24] < 1e-4 and off[30] < 1e-4      # what remains comes from the eps of the two norms
    assert off[6] > off[12] > off[18] > 100 * off[24]
    assert taken.made["transformer.h.*.attn.kv_b_proj.weight"].endswith("rank 24 holds 100.0% of "
                                                                        "keys and values")


def test_mla_from_a_model_that_turns_keeps_its_own_turning_part(tmp_path, data):
    trained(tmp_path, data, "--model.n_head=4", "--model.n_embd=24", flags=["rope", "rmsnorm"])
    folder = find_run("rope_rmsnorm.s0", tmp_path).checkpoint
    record = trained(tmp_path / "mla", data, f"--run.init={folder}", "--model.attention=mla",
                     "--model.bias=false")
    assert "transformer.h.*.attn.kv_a_proj.weight" in record["init"]["taken"]["made"]
    assert record["config"]["model"]["position"] == "rope"
    with pytest.raises(BadInput, match="q_lora_rank"):
        trained(tmp_path / "no", data, f"--run.init={folder}", "--model.attention=mla",
                "--model.q_lora_rank=8")


def test_the_published_msla_has_the_sources_projections_under_its_own_names(gpt2):
    state, model = read(gpt2)[2], ours_like(gpt2, attention="msla_published")
    taken = upcycle(model, state, HEADS)
    q, k, v = HEADS.split(state["transformer.h.1.attn.c_attn.weight"])
    msla = model.transformer.h[1].attn.msla
    for part, weight in ((msla.q_proj, q), (msla.k_proj, k), (msla.v_proj, v)):
        assert torch.equal(part.weight, weight)
    assert torch.equal(msla.v_proj.bias, HEADS.split(state["transformer.h.1.attn.c_attn.bias"])[2])
    assert taken.new == {f"transformer.h.*.attn.msla.{name}" for name in (
        "out_proj.weight", "out_proj.bias", "latents.weight")}
    assert "transformer.h.*.attn.c_proj.weight" in taken.kept and taken.dropped == set()


def test_msla_takes_queries_keys_and_values_as_they_are(gpt2):
    model = ours_like(gpt2, attention="msla")
    taken = upcycle(model, read(gpt2)[2], HEADS)
    assert taken.new == {"transformer.h.*.attn.latents.weight"} and taken.dropped == set()


def test_study_004s_count_of_trained_parameters_at_its_size():
    spec = make_spec(preset="msla", overrides=[
        "--run.init=gpt2", "--model.attention=msla_published", "--model.msla_latents=256",
        "--model.msla_topk=16",
        "--run.freeze_except=attn"])
    config = GPT.get_default_config()
    config.merge_from_dict({**spec.settings.model.to_dict(), "vocab_size": 50257})
    with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
        model = GPT(config)
    freeze_except(model, spec.settings.run.freeze_except)
    counted = {"trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
               "parameters": sum(p.numel() for p in model.parameters())}
    assert trainable_line(counted) == "trainable 30,707,712 of 133,886,208 (22.94 %)"
    freeze_except(model, "attn,attn.c_proj")  # GPT-2's own output projection, if it is named
    assert sum(p.numel()
               for p in model.parameters() if p.requires_grad) == 30_707_712 + 12 * 768 * 769


def test_what_has_no_place_and_what_is_new_are_told(gpt2, data, tmp_path):
    record = trained(tmp_path, data, f"--run.init={gpt2}", flags=["rope", "swiglu", "rmsnorm"])
    taken = record["init"]["taken"]
    assert "transformer.wpe.weight" in taken["dropped"]
    assert "transformer.h.*.mlp.c_gate.weight" in taken["new"]
    assert "transformer.h.*.ln_1.weight" in taken["kept"]
    assert record["changes"] == {"model.mlp": ["gelu", "swiglu"],
                                 "model.position": ["learned", "rope"],
                                 "model.norm": ["layernorm", "rmsnorm"]}
    assert record["config"]["model"]["mlp_hidden"] is None     # the default of SwiGLU, not GPT-2's


def test_a_run_of_ours_is_a_source_too(data, tmp_path):
    first = trained(tmp_path, data, flags=["rope"])
    folder = find_run("rope.s0", tmp_path).checkpoint
    again = trained(tmp_path / "again", data, f"--run.init={folder}")
    assert again["config"]["model"]["position"] == "rope"
    rows = (tmp_path / "again" / "losses" / "baseline.s0.csv").read_text().splitlines()
    assert float(rows[1].split(",")[2]) == pytest.approx(first["result"]["val_loss"], abs=1e-6)


def test_only_what_is_named_is_trained_held_and_changed(gpt2, data, tmp_path):
    record = trained(tmp_path, data, f"--run.init={gpt2}", "--run.freeze_except=attn, ln_f",
                     arm="frozen")
    assert record["audit"]["passed"]
    model, _, _ = load_run(find_run("frozen.s0", tmp_path), "cpu")
    before = load(gpt2, block_size=64)
    changed = {name for (name, p), q in zip(model.named_parameters(), before.parameters(),
                                            strict=True)
               if not torch.equal(p, q)}
    assert changed == {name for name, _ in model.named_parameters() if ".attn." in name
                       or ".ln_f." in name}
    assert record["model"]["trainable"] == sum(
        p.numel() for name, p in model.named_parameters() if name in changed)
    assert record["model"]["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("patterns, message", [("atn", "did you mean 'attn'"),
                                               ("", "nothing would be trained"),
                                               ("attn,c_foo", "no parameter is named 'c_foo'")])
def test_a_pattern_that_names_nothing_is_refused(gpt2, patterns, message):
    with pytest.raises(BadInput, match=message):
        freeze_except(ours_like(gpt2), patterns)


@pytest.mark.parametrize("pattern, names", [("h.0", "transformer.h.0."),
                                            ("mlp.c_fc", ".mlp.c_fc."), ("ln_?", ".ln_"),
                                            ("*.bias", ".bias")])
def test_patterns_name_words_of_dotted_names(gpt2, pattern, names):
    model = ours_like(gpt2)
    freeze_except(model, pattern)
    for name, p in model.named_parameters():
        assert p.requires_grad == (names in f"{name}."), name


@pytest.mark.parametrize("overrides, message", [
    (["--model.n_layer=3"], "model.n_layer is 2, not 3"),
    (["--model.n_embd=48"], "model.n_embd is 24, not 48"),
    (["--data.tokenizer=gpt2"], "data.tokenizer. is 257, not 50257"),
    (["--model.block_size=128"], "80 positions"),
    (["--model.n_head=3"], "4 heads of size 6, but the model has 3 of size 8"),
    (["--run.init_heads=mode"], "known: mean, first"),
    (["--run.init=7"], "in quotes")])
def test_a_source_of_another_size_is_refused(gpt2, data, tmp_path, overrides, message):
    with pytest.raises(BadInput, match=message):
        trained(tmp_path, data, f"--run.init={gpt2}", *overrides)


def test_a_record_from_before_a_setting_existed_is_of_the_same_settings(data, tmp_path):
    trained(tmp_path, data)
    files = find_run("baseline.s0", tmp_path)
    record = read_record(files.json)
    for key in ("init", "init_heads", "freeze_except"):
        del record["config"]["run"][key]
    del record["config"]["data"]["length"], record["init"]
    write_record(files.json, record)
    before = files.csv.stat().st_mtime_ns
    spec = spec_of(data)
    assert Run(spec, 0, tmp_path, open_corpus(spec.settings.data)).execute() == 0
    assert files.csv.stat().st_mtime_ns == before


def test_rows_may_be_shorter_than_the_block(data, tmp_path):
    record = trained(tmp_path, data, "--data.length=16")
    assert record["result"]["tokens"] == 6 * 8 * 16
    whole = trained(tmp_path / "whole", data)
    assert record["model"]["parameters"] == whole["model"]["parameters"]
    assert record["model"]["flops_per_token"] < whole["model"]["flops_per_token"]


def test_gpt2s_sizes_are_known_without_the_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = source_settings("gpt2-xl")
    theirs = {**transformers.GPT2Config().to_dict(), "n_layer": 48, "n_head": 25, "n_embd": 1600}
    ours = GPT.get_default_config().to_dict()
    for entry in FAMILIES["gpt2"].entries:
        entry.read(theirs, ours)
    ours |= {"mlp_hidden": None, "schedule": "full", "bias": True}
    assert settings == {key: value for key, value in ours.items() if key not in OWN}
    assert settings["tie_weights"] is True


def test_the_dry_run_says_what_would_be_taken_and_trained(gpt2, tmp_path):
    words = ["--init", str(gpt2), "--attention", "gqa", "--freeze-except", "attn", "--preset",
             "nano", "--dry-run"]
    done = subprocess.run([sys.executable, str(LAB), *words], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("trainable ") and line.endswith(" %)") for line in lines)
    assert any("4 → 2 heads of keys and values (mean)" in line for line in lines)


def test_the_dry_run_reads_the_weights_once_and_audits_no_large_model(gpt2, tmp_path, monkeypatch):
    read, here = [], {"preset": "nano", "overrides": ["--model.attention=gqa",
                                                      "--trainer.device=cpu",
                                                      f"--run.init={gpt2}"]}
    tensors = begin_module.source_tensors
    monkeypatch.setattr(begin_module, "source_tensors",
                        lambda init: read.append(init) or tensors(init))
    plan = predict.preview(make_spec(**here), 0, tmp_path)
    assert read == [str(gpt2)] and plan["audit"]["passed"] is True
    monkeypatch.setattr(predict, "AUDITED", plan["parameters"] - 1)
    monkeypatch.setattr(predict, "TRIAL_FLOPS", 1)     # a step of one row and a step of three
    large = predict.preview(make_spec(**here), 0, tmp_path)
    assert large["audit"]["passed"] is None and "the training begins" in large["audit"][
        "unchecked"][0]
    assert large["predicted_seconds"] > 0 and large["predicted_memory_mb"] > 0
    for key in ("parameters", "parameters_vs_baseline", "flops_vs_baseline", "init", "trainable"):
        assert large[key] == plan[key]


def test_a_name_that_is_nearly_a_size_of_gpt2_is_answered_with_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match="'gpt2-lage' is not a local folder.*mean 'gpt2-large'"):
        source_settings("gpt2-lage")


def test_the_study_runs_from_a_folder_at_nano_size(data, tmp_path):
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 2, "n_head": 12, "n_embd": 48,
                            "vocab_size": 257,
                            "block_size": 64, "tie_weights": True})
    with contextlib.redirect_stdout(io.StringIO()):
        save(GPT(config), tmp_path / "source")
    for arm in ("gqa4", "mla", "msla64", "msla_published"):
        words = ["--study", "upcycle", "--arm", arm, "--preset", "nano", "--init",
                 str(tmp_path / "source"), "--data", str(data), "--max-iters", "2",
                 "--data.length=32", "--device", "cpu", "--out", str(tmp_path)]
        assert lab_main(words) == 0
        record = read_record(tmp_path / "losses" / "upcycle" / f"{arm}.s0.json")
        assert (
            record["init"]["taken"]["kept"]
            and record["model"]["trainable"] < record["model"]["parameters"] / 2
        )
        assert record["audit"]["passed"] == (arm != "msla_published")


@pytest.mark.parametrize("resume", ["auto", "restart"])
def test_a_run_never_overwrites_the_one_that_it_begins_with(data, tmp_path, resume):
    record = trained(tmp_path, data)
    files = find_run(record["arm"], tmp_path)
    before = {path.name: path.read_bytes() for path in files.checkpoint.iterdir()}
    spec = spec_of(data, f"--run.init={files.checkpoint}", "--trainer.max_iters=2")
    with pytest.raises(BadInput, match="its own checkpoint|this run's own"):
        Run(spec, 0, tmp_path, open_corpus(spec.settings.data)).execute(resume)
    assert {path.name: path.read_bytes() for path in files.checkpoint.iterdir()} == before
