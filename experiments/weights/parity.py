"""
Measure whether a model computes the same here and in Hugging Face's transformers. A random model of
each family is imported and exported again. Every parameter is moved away from its initial value, so
that a parameter which is not carried over shows in the logits.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mingpt.model import GPT, load
from mingpt.pretrained.write import save
from mingpt.utils import BadInput

VOCAB, LENGTH, PROMPT = 61, 32, 8
LONGEST = 256    # positions at which two models are compared, at most
_SHAPE = dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
              intermediate_size=40, max_position_embeddings=LENGTH)
_OPENAI = dict(vocab_size=VOCAB, n_embd=24, n_layer=3, n_head=4, n_positions=LENGTH)
_NEO = dict(vocab_size=VOCAB, hidden_size=24, num_layers=3, num_heads=4,
            max_position_embeddings=LENGTH)
_RMS = dict(_SHAPE, rms_norm_eps=1e-5)
_LATENT = dict(_RMS, num_key_value_heads=4, kv_lora_rank=12, qk_nope_head_dim=6,
               qk_rope_head_dim=4, v_head_dim=10, first_k_dense_replace=3)
_MIXED = dict(use_sliding_window=True, sliding_window=5,
              layer_types=["sliding_attention", "full_attention", "sliding_attention"])

# {case: (family, config.json)}. The cases cover what a family's configurations can change in the
# numbers that a model computes.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", dict(_OPENAI)),
    "gpt2 untied, relu2": ("gpt2", dict(_OPENAI, tie_word_embeddings=False,
                                        activation_function="relu2", n_inner=56)),
    "llama": ("llama", dict(_RMS)),
    "llama gqa, all biases": ("llama", dict(_RMS, num_key_value_heads=2, attention_bias=True,
                                            mlp_bias=True)),
    "llama wide heads, tied": ("llama", dict(_RMS, head_dim=8, attention_bias=True,
                                             tie_word_embeddings=True)),
    "mistral window": ("mistral", dict(_RMS, num_key_value_heads=2, sliding_window=5)),
    "mistral full, geglu": ("mistral", dict(_RMS, num_key_value_heads=4, sliding_window=None,
                                            hidden_act="gelu_pytorch_tanh")),
    "qwen2": ("qwen2", dict(_RMS, num_key_value_heads=2)),
    "qwen2 layer_types": ("qwen2", dict(_RMS, num_key_value_heads=1, **_MIXED)),
    "qwen2 max_window_layers": ("qwen2", dict(_RMS, num_key_value_heads=4, use_sliding_window=True,
                                              sliding_window=5, max_window_layers=1)),
    "qwen3": ("qwen3", dict(_RMS, num_key_value_heads=2, head_dim=8)),
    "qwen3 layer_types, biases": ("qwen3", dict(_RMS, num_key_value_heads=2, head_dim=8,
                                                attention_bias=True, **_MIXED)),
    "smollm3 layer_types, biases": ("smollm3", dict(_RMS, num_key_value_heads=2,
                                                    attention_bias=True, mlp_bias=True,
                                                    no_rope_layers=[1, 1, 0], **_MIXED)),
    "starcoder2 window": ("starcoder2", dict(_SHAPE, num_key_value_heads=2, sliding_window=5)),
    "starcoder2 no biases": ("starcoder2", dict(_SHAPE, num_key_value_heads=4, use_bias=False)),
    "stablelm": ("stablelm", dict(_SHAPE, num_key_value_heads=2, partial_rotary_factor=0.67)),
    "stablelm parallel, qkv bias": ("stablelm", dict(_SHAPE, num_key_value_heads=4,
                                                     use_qkv_bias=True, use_parallel_residual=True,
                                                     partial_rotary_factor=0.34)),
    "gpt_neo local": ("gpt_neo", dict(_NEO, window_size=5,
                                      attention_types=[[["global", "local", "local"], 1]])),
    "gpt_neox parallel": ("gpt_neox", dict(_SHAPE, rotary_pct=0.67)),
    "deepseek_v2": ("deepseek_v2", dict(_LATENT, q_lora_rank=None)),
    "deepseek_v2 all biases": ("deepseek_v2", dict(_LATENT, q_lora_rank=8, attention_bias=True,
                                                   mlp_bias=True)),
    "deepseek_v3": ("deepseek_v3", dict(_LATENT, q_lora_rank=8, attention_bias=True)),
    "gpt_neox sequential, tanh": ("gpt_neox", dict(_SHAPE, use_parallel_residual=False,
                                                   rotary_pct=1.0, hidden_act="gelu_fast")),
}


@dataclass(frozen=True)
class Parity:
    """The largest difference between our logits and theirs, for the imported and for the exported
    model, and whether greedy decoding gives the same tokens."""
    case: str
    family: str
    imported: float
    exported: float
    greedy: bool


def tables() -> list[Parity]:
    """Measure every case."""
    return [parity(case) for case in CASES]


def parity(case: str) -> Parity:
    """Import one random model, export it again, and compare both times."""
    with tempfile.TemporaryDirectory() as work:
        theirs = random_model(case)
        theirs.save_pretrained(Path(work) / "theirs")
        ours = load(Path(work) / "theirs")
        save(ours, Path(work) / "again", CASES[case][0])
        again = open_theirs(Path(work) / "again")
        same = (torch.equal(greedy(ours), greedy_theirs(theirs))
                and torch.equal(greedy(ours), greedy_theirs(again)))
        return Parity(case, CASES[case][0], difference(ours, theirs), difference(ours, again), same)


def random_model(case: str, seed: int = 0):
    """One of transformers' models, with no parameter at exactly zero or one."""
    auto = _transformers()
    kind, settings = CASES[case]
    torch.manual_seed(seed)
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    model = auto.AutoModelForCausalLM.from_config(auto.AutoConfig.for_model(kind, **settings,
                                                                            **tokens))
    return perturbed(model)


@torch.no_grad()
def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """The model in eval mode, with noise added to every parameter."""
    for p in model.parameters():
        p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def open_theirs(folder: Path):
    """The model that a user of transformers opens from a folder, in eval mode."""
    return _transformers().AutoModelForCausalLM.from_pretrained(folder).eval()


def tokens(rows: int = 3, length: int = LENGTH, vocab: int = VOCAB) -> torch.Tensor:
    """Random tokens (rows, length), the same at every call."""
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(ours: GPT, theirs: Any) -> float:
    """The largest difference of a logit between two models, for random tokens."""
    idx = tokens(vocab=ours.config.vocab_size, length=min(ours.block_size, LONGEST))
    return float((ours(idx)[0] - theirs(idx).logits).abs().max())


def greedy(ours: GPT) -> torch.Tensor:
    """Greedy continuations by our model: (3, PROMPT) tokens → (3, LENGTH)."""
    return ours.generate(tokens()[:, :PROMPT], LENGTH - PROMPT)


def greedy_theirs(theirs: Any) -> torch.Tensor:
    """The same by their model, with its own loop and its own cache."""
    prompt = tokens()[:, :PROMPT]
    return theirs.generate(prompt, attention_mask=torch.ones_like(prompt),
                           max_new_tokens=LENGTH - PROMPT, do_sample=False, pad_token_id=0)


def _transformers():
    try:
        import transformers
    except ImportError:
        raise BadInput("the comparison needs transformers, which is not installed: pip install "
                       "'.[hub]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
