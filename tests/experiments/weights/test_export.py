"""A trained run is exported as a folder that transformers opens, with the same logits, tokens and
ids."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.corpus import open_corpus
from experiments.corpus.tokenizers import get_tokenizer
from experiments.declare.spec import make_spec
from experiments.train.run import Run
from experiments.weights.export import export_run
from experiments.weights.hf_tokenizer import same_ids, write_tokenizer
from experiments.weights.saved import find_run, load_run
from mingpt.pretrained import write
from mingpt.utils import BadInput

transformers = pytest.importorskip("transformers")

LAB = Path(__file__).resolve().parents[3] / "lab.py"
ARMS = {"baseline": ((), []), "all": (("all_modifications",), []), "rope": (("rope",), []),
        "mixed": (("rope", "swiglu", "rmsnorm"), ["--model.schedule=f 8 f", "--model.bias=false"]),
        "neo": ((), ["--model.schedule=f 8 f"]), "alibi": ((), ["--model.position=alibi"])}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder with one short run per arm above."""
    folder, rng = tmp_path_factory.mktemp("runs"), random.Random(0)
    data = folder / "words.jsonl"
    texts = (f"{n}: " + " ".join(rng.choices(["red", "green", "blue"], k=40)) for n in range(100))
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, (flags, changes) in ARMS.items():
        spec = make_spec(preset="nano", flags=flags, data=[str(data)], arm=name, overrides=[
            "--trainer.max_iters=12", "--trainer.device=cpu", "--data.val_tokens=512",
            f"--data.cache={folder / 'cache'}", *changes])
        assert Run(spec, 0, folder, open_corpus(spec.settings.data)).execute() == 0
    return folder


@pytest.mark.parametrize("arm, family", [("baseline", "gpt2"), ("all", "llama"),
                                         ("rope", "starcoder2"),
                                         ("mixed", "smollm3"), ("neo", "gpt_neo")])
def test_a_trained_run_is_opened_with_its_logits_tokens_and_ids(out, tmp_path, arm, family):
    files = find_run(arm, out)
    result = export_run(files, tmp_path / "run")
    assert result["family"] == family
    assert result["largest_difference"] <= 1e-5
    assert result["same_ids"] is True
    ours, ids, _ = load_run(files, "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    prompt = torch.tensor([ids.encode("12: red ").tolist()])
    got = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20,
                          do_sample=False)
    assert torch.equal(got, ours.generate(prompt, 20)[:, :got.size(1)])
    assert theirs.config.eos_token_id == ids.eot


def test_a_run_without_a_counterpart_leaves_nothing_behind(out, tmp_path):
    with pytest.raises(BadInput, match="gpt2 lacks model.position='alibi'"):
        export_run(find_run("alibi", out), tmp_path / "new" / "folders" / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(out, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        export_run(find_run("baseline", out), tmp_path / "file" / "run")


def test_what_is_there_already_is_not_written_over(out, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="already exists"):
        export_run(find_run("baseline", out), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_that_opens_as_another_model_is_an_error(out, tmp_path, monkeypatch):
    convert = write.convert

    def wrong(*args):
        family, config, tensors = convert(*args)
        return family, config, {name: t * 1.01 for name, t in tensors.items()}
    monkeypatch.setattr(write, "convert", wrong)
    with pytest.raises(RuntimeError, match="differs by"):
        export_run(find_run("baseline", out), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpt2", "byte"])
def test_the_tokenizer_gives_the_same_ids_for_real_text(name, tmp_path):
    ours = get_tokenizer(name)
    write_tokenizer(ours, tmp_path, 128)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = Path(__file__).read_text(encoding="utf-8") + "".join(map(chr, range(0x20, 0x3000, 7)))
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert theirs.decode(ours.encode(text).tolist()) == text
    assert (len(theirs), theirs.eos_token_id) == (ours.vocab_size, ours.eot)


def test_a_splitting_that_is_not_ours_is_noticed(tmp_path):
    write_tokenizer(get_tokenizer("gpt2"), tmp_path, 128)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert same_ids(get_tokenizer("gpt2"), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    # '<|endoftext|>' is no longer read as text
    assert not same_ids(get_tokenizer("gpt2"), tmp_path)


def test_an_encoding_without_a_counterpart_is_named(tmp_path):
    tokenizer = get_tokenizer("byte")
    other = type(tokenizer)()
    other.name = "o200k_base"
    with pytest.raises(BadInput, match="data.tokenizer='o200k_base'"):
        write_tokenizer(other, tmp_path, 128)


def test_the_command_says_what_it_wrote_and_how_close_it_is(out, tmp_path):
    done = lab("export", "rope.s0", "--to", "hf", str(tmp_path / "run"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "Starcoder2ForCausalLM" in done.stdout
    assert "the largest difference of a logit is" in done.stdout
    assert lab("export", "rope.s0").returncode == 2
    refused = lab("export", "alibi.s0", "--to", "hf", str(tmp_path / "no"), "--out", str(out))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: no exact counterpart")


def lab(*words):
    return subprocess.run([sys.executable, str(LAB), *words], capture_output=True, text=True)
