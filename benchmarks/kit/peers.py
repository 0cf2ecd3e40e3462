"""
The peers: other libraries that our step is compared with.

Each runs its own model code and trains as its users do. Each builder runs in its own process,
imports its library there, and returns one training step: forward, loss, backward, clipping and
optimizer, with dropout off. minGPT and nanoGPT are not packages, so they are imported from the path
of a copy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kit.cases import Case
from benchmarks.kit.turns import Built
from experiments.train.process import resident_mb
from mingpt.utils import BadInput

LEARNING_RATE, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
BATCHES = 4     # different batches, used in a cycle


@dataclass(frozen=True)
class Peer:
    """A peer.

    `source` is a package, or the option that gives the path of a copy. `tied` says whether its head
    is its token embedding; ours is then tied too. `trains` says how its users train it.
    """
    builder: str
    source: str
    families: tuple[str, ...]
    tied: bool
    trains: str
    compiled: bool = False


PEERS = {
    "minGPT": Peer("mingpt", "--mingpt", ("gpt2",), False,
                   "its configure_optimizers: AdamW, a loop over tensors"),
    "nanoGPT": Peer("nanogpt", "--nanogpt", ("gpt2",), True,
                    "its configure_optimizers: AdamW, fused on CUDA only"),
    "nanoGPT compiled": Peer("nanogpt", "--nanogpt", ("gpt2",), True,
                             "the same, torch.compile as train.py does", True),
    "transformers": Peer("transformers", "transformers", ("gpt2",), True,
                         "sdpa; Trainer's default: fused AdamW"),
    "x-transformers": Peer("x_transformers", "x_transformers", ("gpt2",), False,
                           "attn_flash; its train_enwik8.py's Adam"),
    "litgpt": Peer("litgpt", "litgpt", ("gpt2", "llama"), False,
                   "as `litgpt pretrain`, not compiled: chunked loss; AdamW, fused on CUDA only"),
    "transformers Llama": Peer("transformers", "transformers", ("llama",), False,
                               "sdpa; Trainer's default: fused AdamW"),
}


def absent(peer: Peer, copies: dict[str, str | None]) -> str | None:
    """Why a peer cannot be measured here; None if it can.

    BadInput for a path that does not contain the expected file.
    """
    if peer.source.startswith("--"):
        path, needed = copies.get(peer.source), {
            "--mingpt": "mingpt/model.py", "--nanogpt": "model.py"}[peer.source]
        if not path:
            return f"no copy given: {peer.source} PATH"
        if not (Path(path) / needed).is_file():
            raise BadInput(f"{peer.source} {path}: no {needed} there; give the folder of a "
                           f"checkout that has this file")
    elif importlib.util.find_spec(peer.source) is None:
        return f"{peer.source} is not installed: make bench installs it"
    if peer.compiled and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler, and there is no g++ or clang++"
    return None


def build(peer: str, case: Case, device: str = "cpu", path: str | None = None) -> Built:
    """Build the training step of a peer at one size. This is the builder of every side but ours."""
    import torch
    model, optimizer, loss_of, idle = load(peer, case, device, path)
    if PEERS[peer].compiled:
        loss_of = torch.compile(model)
    return built(step(model, optimizer, loss_of, batches(case, device), device), idle, device)


def load(peer: str, case: Case, device: str, path: str | None) -> tuple:
    """Build a peer: (model, optimizer, loss_of, MB that the process held after all imports).

    loss_of(x, y) returns (what the peer's training loop keeps, loss).
    """
    import torch  # noqa: F401  imported before memory is measured
    make, source = globals()[f"_{PEERS[peer].builder}"], PEERS[peer].source
    if source.startswith("--"):
        module, idle = _from_copy(source, path), resident_mb()
        return *make(case, device, module), idle
    importlib.import_module(source)
    idle = resident_mb()
    return *make(case, device), idle


def batches(case: Case, device: str) -> Iterator[tuple]:
    """Yield (x, y) endlessly: random tokens, the same for all sides. y is x one position later."""
    import torch
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(case.vocab_size, (BATCHES, case.batch_size, case.block_size + 1),
                           generator=generator)
    return itertools.cycle([(t[:, :-1].contiguous().to(device), t[:, 1:].contiguous().to(device))
                            for t in tokens])


def step(model, optimizer, loss_of: Callable, data: Iterator, device: str) -> Callable[[], Any]:
    """Return a function that takes one step of the usual training loop and returns the loss."""
    import torch
    model.train()
    kept = None

    def run():
        nonlocal kept  # like the variable of a real loop, it holds the logits until the next step
        x, y = next(data)
        with autocast(device):
            kept, loss = loss_of(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()
    return run


def autocast(device: str) -> contextlib.AbstractContextManager:
    """Autocast to bfloat16 on a GPU; stay in float32 on a CPU. Ours does the same."""
    import torch
    return torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()


def built(run: Callable, idle: float, device: str) -> Built:
    """Take a first step, and return the side with that step's loss and seconds.

    The seconds include compilation. `idle` is the memory in MB held before the model was built. On
    a GPU the side also knows how to wait for the device and how to read its peak memory.
    """
    import torch
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    begun = time.perf_counter()
    about = {"loss": float(run()), "first_seconds": time.perf_counter() - begun, "idle_mb": idle}
    if device != "cuda":
        return Built(run, about)
    return Built(run, about | {"idle_mb": 0.0}, torch.cuda.synchronize, device)


def _from_copy(option: str, path: str):
    """Import the model.py of a copy as a module.

    minGPT's package has the same name as ours, so ours is removed from sys.modules during the
    import and put back afterwards.
    """
    if option == "--nanogpt":
        spec = importlib.util.spec_from_file_location("nanogpt_model", Path(path) / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    ours = {name: sys.modules.pop(name) for name in list(sys.modules)
            if name.split(".")[0] == "mingpt"}
    sys.path.insert(0, str(Path(path).resolve()))
    try:
        return importlib.import_module("mingpt.model")
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] == "mingpt"]:
            del sys.modules[name]
        sys.modules.update(ours)


# -- builders: (case, device, the module of a copy) → (model, optimizer, loss_of) ------------------

def _mingpt(case: Case, device: str, module):
    config = module.GPT.get_default_config()
    config.model_type = None
    config.n_layer, config.n_head, config.n_embd = case.n_layer, case.n_head, case.n_embd
    config.vocab_size, config.block_size = case.vocab_size, case.block_size
    config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = 0.0
    model = module.GPT(config).to(device)
    training = module.CN(weight_decay=DECAY, learning_rate=LEARNING_RATE, betas=BETAS)
    return model, model.configure_optimizers(training), model


def _nanogpt(case: Case, device: str, module):
    config = module.GPTConfig(block_size=case.block_size, vocab_size=case.vocab_size,
                              n_layer=case.n_layer, n_head=case.n_head, n_embd=case.n_embd,
                              dropout=0.0, bias=True)
    model = module.GPT(config).to(device)
    return model, model.configure_optimizers(DECAY, LEARNING_RATE, BETAS, device), model


def _transformers(case: Case, device: str):
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    shape = dict(vocab_size=case.vocab_size, use_cache=False, attn_implementation="sdpa",
                 bos_token_id=None, eos_token_id=None)
    if case.family == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            n_layer=case.n_layer, n_head=case.n_head, n_embd=case.n_embd,
            n_positions=case.block_size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **shape))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            num_hidden_layers=case.n_layer, num_attention_heads=case.n_head,
            hidden_size=case.n_embd, intermediate_size=case.hidden,
            max_position_embeddings=case.block_size, **shape))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=DECAY,
                                  fused=True)
    return model, optimizer, lambda x, y: (None, model(x, labels=y, shift_labels=y).loss)


def _x_transformers(case: Case, device: str):
    import torch
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper
    layers = Decoder(dim=case.n_embd, depth=case.n_layer, heads=case.n_head,
                     attn_dim_head=case.n_embd // case.n_head, attn_flash=True)
    # The wrapper also computes the logits of the last token, and drops them. With x alone it does
    # as much work as the others.
    model = AutoregressiveWrapper(TransformerWrapper(
        num_tokens=case.vocab_size, max_seq_len=case.block_size, attn_layers=layers)).to(device)
    return (model, torch.optim.Adam(model.parameters(), LEARNING_RATE, BETAS),
            lambda x, y: (None, model(x)))


def _litgpt(case: Case, device: str):
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy
    shape = dict(n_layer=case.n_layer, n_head=case.n_head, n_embd=case.n_embd,
                 block_size=case.block_size, vocab_size=case.vocab_size,
                 padded_vocab_size=case.vocab_size, parallel_residual=False)
    if case.family == "llama":
        shape |= dict(norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
                      intermediate_size=case.hidden, bias=False, rotary_percentage=1.0)
    model = GPT(Config(**shape)).to(device)
    model.apply(model._init_weights)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=DECAY,
                                  fused=device == "cuda")

    def loss_of(x, y):
        logits = model(x)
        return logits, chunked_cross_entropy(logits, y)
    return model, optimizer, loss_of
