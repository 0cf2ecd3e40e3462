"""
The default model and trainer behave as Karpathy's minGPT.

They are compared with figures made with minGPT (tests/golden/mingpt.json). If the environment
variable MINGPT names a folder with a copy of minGPT, they are also compared with that copy, and its
own scripts are run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mingpt.attention.heads import CausalSelfAttention
from mingpt.bpe import get_encoder
from mingpt.model import GPT, Block, NewGELU
from mingpt.utils import CfgNode
from tests.golden.figures import figures, nano, printed

REPO = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MINGPT = os.environ.get("MINGPT")
needs_mingpt = pytest.mark.skipif(not MINGPT, reason="MINGPT=path/to/minGPT is not set")

STATED = json.loads((GOLDEN / "mingpt.json").read_text())


@pytest.fixture(scope="module")
def ours():
    return json.loads(json.dumps(figures()))   # through JSON, which turns tuples into lists


def test_25_losses_agree_with_mingpt_to_1e_5(ours):
    assert len(ours["losses"]) == 25
    assert ours["losses"] == pytest.approx(STATED["losses"], abs=1e-5)
    assert ours["losses"][-1] < ours["losses"][0] - 0.5   # the model learns


@pytest.mark.parametrize("figure", ["printed", "groups", "shapes", "samples", "too long",
                                    "no vocabulary", "size twice", "another model", "overrides"])
def test_what_a_user_of_mingpt_sees_is_the_same(ours, figure):
    assert ours[figure] == STATED[figure]


def test_initial_weights_are_drawn_in_mingpts_order(ours):
    assert list(ours["initial"]) == list(STATED["initial"])
    for name, numbers in STATED["initial"].items():
        assert ours["initial"][name] == pytest.approx(numbers, rel=1e-4, abs=1e-4), name
    assert ours["first draw after"] == STATED["first draw after"]


@pytest.mark.parametrize("section", ["model defaults", "trainer defaults"])
def test_default_settings_begin_with_mingpts(ours, section):
    assert list(ours[section].items())[:len(STATED[section])] == list(STATED[section].items())


def test_a_checkpoint_of_mingpt_loads_and_its_mask_buffers_are_ignored():
    _, source = printed(GPT, nano())
    saved = source.state_dict()
    assert list(saved) == list(STATED["shapes"])
    for layer in range(3):   # these come from minGPT's register_buffer("bias", tril)
        saved[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    before = list(saved)
    _, model = printed(GPT, nano())
    model.load_state_dict(saved)   # strict
    assert list(saved) == before, "the caller's dict was changed"
    idx = torch.arange(8).unsqueeze(0)
    assert torch.equal(model(idx)[0], source(idx)[0])


def test_a_weight_that_no_module_has_still_fails_to_load():
    _, model = printed(GPT, nano())
    with pytest.raises(RuntimeError, match="attn.stray"):
        model.load_state_dict({**model.state_dict(), "transformer.h.0.attn.stray": torch.ones(1)})


# the settings that minGPT's parts read
MINGPTS_OWN = CfgNode(n_embd=12, n_head=3, block_size=5, attn_pdrop=0.1, resid_pdrop=0.1)


@pytest.mark.parametrize("config", [None, MINGPTS_OWN], ids=["ours", "its settings alone"])
def test_the_public_parts_can_be_built_by_themselves(config):
    if config is None:
        config = GPT.get_default_config()
        config.n_embd, config.n_head, config.block_size = 12, 3, 5
    before = config.to_dict()
    x = torch.randn(2, 5, 12)
    for part in (CausalSelfAttention, Block):
        assert part(config).eval()(x).shape == x.shape
    assert config.to_dict() == before


def test_new_gelu_is_the_tanh_formula():
    wide = torch.linspace(-6, 6, 1000)
    formula = 0.5 * wide * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide ** 3)))
    torch.testing.assert_close(NewGELU()(wide), formula, atol=1e-6, rtol=0)


# --------------------------------------------------------------------------------------------------
# programs written for minGPT: one of ours, and minGPT's own where there is a copy


def run(script, *args, cwd, library=REPO, timeout=280):
    """Run a program in `cwd` with the `mingpt` of `library`, and return what it printed."""
    done = subprocess.run([sys.executable, str(script), *args], cwd=cwd, text=True,
                          capture_output=True, timeout=timeout,
                          env={**os.environ, "PYTHONPATH": str(library)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def losses_of(text):
    return [float(line.split()[-1]) for line in text.splitlines() if "train loss" in line]


@pytest.mark.parametrize("changes", [(), ("--model.position=rope", "--model.mlp=swiglu")],
                         ids=["default", "two slots"])
def test_a_program_written_for_mingpt_runs_and_takes_slots_from_its_command_line(tmp_path, changes):
    text = run(GOLDEN / "program.py", "--trainer.max_iters=21",
               "--trainer.num_workers=0", *changes, cwd=tmp_path)
    losses = losses_of(text)
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert "running on device" in text
    assert json.loads((tmp_path / "out/config.json").read_text())["trainer"]["max_iters"] == 21
    saved = torch.load(tmp_path / "out/model.pt")
    assert ("transformer.wpe.weight" in saved) is (changes == ())


@needs_mingpt
def test_the_golden_figures_are_mingpts(tmp_path):
    live = json.loads(run(GOLDEN / "figures.py", cwd=tmp_path,
                          library=MINGPT).partition("\n}")[0] + "}")
    assert live["losses"] == pytest.approx(STATED["losses"], abs=1e-6)
    assert {k: v for k, v in live.items() if k not in ("losses", "initial")} == {
        k: v for k, v in STATED.items() if k not in ("losses", "initial")}


@needs_mingpt
def test_mingpts_adder_runs_unmodified_with_the_same_losses(tmp_path):
    adder = Path(MINGPT) / "projects/adder/adder.py"
    args = ["--trainer.max_iters=31", "--trainer.num_workers=0", "--data.ndigit=1",
            *(f"--model.{part}_pdrop=0.0" for part in ("embd", "resid", "attn"))]
    ours, theirs = (losses_of(run(adder, *args, cwd=tmp_path, library=library))
                    for library in (REPO, MINGPT))
    assert len(ours) == 4
    assert ours == pytest.approx(theirs, abs=2e-5)   # the losses are printed with five decimals
    run(adder, *args, "--model.position=rope", "--model.mlp=swiglu", cwd=tmp_path)


@needs_mingpt
def test_mingpts_import_of_gpt2_runs_unmodified(tmp_path):
    """It runs on a GPT-2 of the real size with random weights in ./gpt2, and with a tokenizer from
    this package's vocabulary."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(tmp_path / "gpt2")
    encoder = get_encoder()
    merges = "".join(f"{a} {b}\n" for a, b in sorted(encoder.bpe_ranks, key=encoder.bpe_ranks.get))
    (tmp_path / "vocab.json").write_text(json.dumps(encoder.encoder), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    tokenizer = transformers.GPT2Tokenizer(str(tmp_path / "vocab.json"),
                                           str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path / "gpt2")
    text = run(Path(MINGPT) / "tests/test_huggingface_import.py", cwd=tmp_path)
    assert "number of parameters: 124.44M" in text
    assert text.rstrip().endswith("OK")


@needs_mingpt
def test_mingpts_chargpt_runs_unmodified(tmp_path):
    (tmp_path / "input.txt").write_text("O God, O God! how weary, stale, flat and unprofitable\n"
                                        * 20)
    args = ["--trainer.max_iters=2", "--trainer.num_workers=0", "--model.model_type=gpt-nano",
            "--data.block_size=32",
            "--trainer.batch_size=4"]
    text = run(Path(MINGPT) / "projects/chargpt/chargpt.py", *args, cwd=tmp_path)
    assert "O God, O God!" in text
    assert "saving model" in text
