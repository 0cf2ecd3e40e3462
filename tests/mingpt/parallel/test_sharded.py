"""Processes that share one copy of the model train it as one does, with less memory each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mingpt.model import GPT
from mingpt.parallel.check import check_count
from mingpt.parallel.sharded import empty_weights, shard
from mingpt.utils import BadInput
from tests.helpers.sharded import ARMS, largest_difference, train_in, trained

pytestmark = pytest.mark.timeout(900)     # several processes import torch, maybe on busy cores

ROOT = Path(__file__).resolve().parents[3]
STEPS = 15     # an expert without tokens shows from the 12th on


@pytest.fixture(scope="module")
def two():
    """{arm: what two processes trained}"""
    return train_in(2, steps=STEPS)


@pytest.fixture(scope="module")
def alone():
    """{arm: what one process trained}"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {arm: trained(arm, steps=STEPS) for arm in ARMS}
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_have_the_losses_of_one(arm, two, alone):
    # where numbers are rounded to bfloat16, differences of 1e-8 grow to 1e-4
    most = 1e-3 if arm in ("muon", "bfloat16") else 1e-5
    assert largest_difference(two[arm], alone[arm]) < most
    assert two[arm]["norm"] == pytest.approx(alone[arm]["norm"], abs=10 * most)
    assert two[arm]["val_loss"] == pytest.approx(alone[arm]["val_loss"], abs=most)
    assert alone[arm]["loss"][-1] < alone[arm]["loss"][0] - 0.05


@pytest.mark.parametrize("arm", ARMS)
def test_weights_that_are_drawn_one_block_at_a_time_are_those_of_one_process(arm, two, alone):
    assert two[arm]["first"] == alone[arm]["first"]


@pytest.mark.parametrize("arm", ARMS)
def test_each_of_two_processes_holds_half_of_parameters_and_optimizer_state(arm, two, alone):
    whole = alone[arm]["bytes"]
    assert max(two[arm]["bytes"]) < 0.52 * whole
    assert sum(two[arm]["bytes"]) >= whole


def small_gpt(**settings) -> GPT:
    config = GPT.get_default_config()
    config.merge_from_dict({"model_type": None, "n_layer": 1, "n_head": 2, "n_embd": 8,
                            "vocab_size": 11, "block_size": 8, **settings})
    return GPT(config)


def test_an_empty_model_has_memory_only_for_what_its_constructor_decides():
    with empty_weights():
        model = small_gpt(tie_weights=True, position="rope")
    assert model.lm_head.weight is model.transformer.wte.weight and model.lm_head.weight.is_meta
    real = {name for name, p in model.named_parameters() if not p.is_meta}
    assert real and all(".ln_" in name for name in real)
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not any(p.is_meta for p in small_gpt().parameters())


@pytest.mark.parametrize("changes, said", [
    ({"reduce": "tree"}, "give --trainer.reduce=all_reduce"),
    ({"compile": True}, "trainer.compile=true"),
    ({"parallel": "fsd"}, "did you mean 'fsdp'?"),
    ({"accumulation_steps": 3}, "1, 3 processes"),
])
def test_what_cannot_work_is_refused(changes, said):
    settings = {"parallel": "fsdp", "reduce": "all_reduce", "compile": False,
                "accumulation_steps": 2, "batch_size": 1, "context_processes": None}
    check_count(2, SimpleNamespace(**settings))
    with pytest.raises(BadInput, match=said):
        check_count(2, SimpleNamespace(**settings | changes))


def test_a_parameter_without_rows_is_refused():
    model = small_gpt()
    model.temperature = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(BadInput, match=r"temperature is a single number: make its shape \(1,\)"):
        shard(model, lambda names: None, mesh=None)


# -- whole runs ------------------------------------------------------------------------------------

RUN = ["-b", "--preset=nano", "--device=cpu", "--model.n_layer=1", "--trainer.batch_size=2",
       "--trainer.accumulation_steps=4", "--model.resid_pdrop=0.1", "--max-iters=40",
       "--run.checkpoint_every=5", "--run.eval_every=20", "--run.rehearsals=1", "--run.threads=1",
       "--run.allow_audit_fail=true", "--data.val_tokens=1024", "--run.keep_best=true",
       "--trainer.parallel=fsdp", "--trainer.reduce=all_reduce"]
WEIGHTS = "checkpoints/baseline.s0/model-000040.safetensors"


def start(out: Path, *arguments: str) -> subprocess.Popen:
    text = out.parent / "text.txt"
    if not text.exists():
        text.write_text("".join(f"{n} red and {n * n % 97} green\n\n" * 20 for n in range(300)))
    return subprocess.Popen(
        [sys.executable, "lab.py", *RUN, "--data", str(text), "--out", str(out), *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "ABLATE_CACHE": str(out.parent / "cache"), "OMP_NUM_THREADS": "1"})


def rows(out: Path) -> list[list[str]]:
    """The columns of a curve up to the norm of the gradient."""
    lines = (out / "losses/baseline.s0.csv").read_text().splitlines()
    return [line.split(",")[:5] for line in lines]


def test_a_run_that_is_stopped_goes_on_with_the_same_bits_or_in_one_process(tmp_path):
    whole, torn, single = (tmp_path / name for name in ("whole", "torn", "single"))
    undisturbed = start(whole, "--processes", "2")
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    run, csv = start(torn, "--processes", "2"), torn / "losses/baseline.s0.csv"
    while not csv.exists() or csv.read_bytes().count(b"\n") < 4:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGUSR1)
    assert run.wait() == 3
    shutil.copytree(torn, single)
    both = [start(torn, "--processes", "2"), start(single)]
    assert [each.wait() for each in both] == [0, 0], both[0].stderr.read() + both[1].stderr.read()
    assert rows(torn) == rows(whole)
    assert (torn / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    for one, other in zip(rows(single)[1:], rows(whole)[1:], strict=True):
        assert float(one[1] or 0) == pytest.approx(float(other[1] or 0), rel=1e-5)
    record = json.loads((torn / "losses/baseline.s0.json").read_text())
    assert record["processes"]["count"] == 2 and len(record["sample"]["text"])
    # the files hold whole tensors under the names of always
    saved = load_file(torn / WEIGHTS)
    assert {name: t.shape for name, t in saved.items()} == {
        name: t.shape for name, t in load_file(single / WEIGHTS).items()}
    scored = subprocess.run([sys.executable, "lab.py", "eval", "baseline", "--out", str(torn),
                             "--json"], cwd=ROOT, capture_output=True, text=True,
                            env={**os.environ, "ABLATE_CACHE": str(tmp_path / "cache")})
    assert scored.returncode == 0, scored.stderr
    assert record["result"]["val_loss"] == pytest.approx(
        json.loads(scored.stdout)[0]["val_loss"], rel=1e-5)
