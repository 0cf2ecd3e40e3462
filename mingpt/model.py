"""
A GPT language model whose parts are slots. The first member of every slot is GPT-2's, so the
default model is minGPT's.

References:
1) GPT-2: https://github.com/openai/gpt-2/blob/master/src/model.py
2) minGPT, whose public interface this keeps: https://github.com/karpathy/minGPT
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from mingpt.attention.heads import ATTENTIONS, CausalSelfAttention
from mingpt.blocks import BLOCKS, Block
from mingpt.config import LAYER, SIZES, check_members, check_slots, slot_defaults
from mingpt.layers import Linear, dropout, token_embedding
from mingpt.losses import cross_entropy, head_loss, soft_cap, token_losses
from mingpt.mlps import MLPS, NewGELU, UnfusedGELU
from mingpt.multi_token import future_heads, future_loss
from mingpt.norms import NORMS
from mingpt.optimizers import OPTIMIZERS
from mingpt.patterns.kinds import Pattern
from mingpt.patterns.schedule import parse_schedule, without_file
from mingpt.positions import POSITIONS
from mingpt.pretrained.read import GPT2_SIZES, read
from mingpt.sampling.cache import Cache
from mingpt.sampling.generate import generate
from mingpt.sparse.backends import BACKENDS, flipped_padding, same_document
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN

__all__ = ["GPT", "SIZES", "SLOTS", "Block", "CausalSelfAttention", "NewGELU", "load"]

SLOTS = {"block": BLOCKS, "attention": ATTENTIONS, "norm": NORMS, "mlp": MLPS,
         "position": POSITIONS}
check_members(SLOTS)


class GPT(nn.Module):
    """GPT language model: tokens in, logits of the next token (and a loss) out."""

    slots = SLOTS
    generate = generate   # sampling: mingpt/sampling/generate.py

    @staticmethod
    def get_default_config() -> CN:
        """minGPT's settings and defaults, then what a layer reads, the slots, their members'
        options, and the rest."""
        C = CN()
        # either model_type or (n_layer, n_head, n_embd) must be given in the config
        C.model_type = "gpt"
        C.n_layer = None
        C.n_head = None
        C.n_embd = None
        # these options must be filled in externally
        C.vocab_size = None
        C.block_size = None
        # dropout hyperparameters
        C.embd_pdrop = 0.1
        C.resid_pdrop = 0.1
        C.attn_pdrop = 0.1
        C.merge_from_dict({**LAYER, **slot_defaults(SLOTS)})
        # one matrix for token embedding and head; GPT-2 ties, minGPT does not
        C.tie_weights = False
        C.embd_scale = None  # what token embeddings are multiplied by; sqrt is √n_embd, as Gemma's
        # c · tanh(logits / c): keeps logits below c. Gemma 2, arXiv 2408.00118
        C.logit_softcap = None
        C.n_future = 1               # tokens that training predicts from each: see future.py
        C.future_weight = 1.0        # of the later ones' nats in the training loss
        C.z_loss = 0.0  # times log²Z, added to the training loss: keeps logits from drifting. PaLM
        return C

    def __init__(self, config: CN):
        super().__init__()
        config = self.config = _resolved(config)
        self.block_size = config.block_size
        self.schedule = parse_schedule(config.schedule, config.n_layer)
        # a model does not change with a file
        config.schedule = without_file(config.schedule, config.n_layer)
        self.transformer = nn.ModuleDict(dict(
            wte=token_embedding(config),
            wpe=POSITIONS[config.position].table(config),
            drop=dropout(config.embd_pdrop),
            h=nn.ModuleList([BLOCKS[config.block](config, layer)
                             for layer in range(config.n_layer)]),
            ln_f=BLOCKS[config.block].final_norm(config),
        ))
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.transformer.wte.weight
        self.future, self.future_weight = future_heads(config), config.future_weight
        self.softcap, self.z_loss, self.document_end = (
            config.logit_softcap,
            config.z_loss,
            config.document_end,
        )
        self.published_padding = config.published_padding
        self.init_weights()
        # the head's parameters are not counted, as in minGPT
        print(f"number of parameters: "
              f"{sum(p.numel() for p in self.transformer.parameters()) / 1e6:.2f}M")

    @torch.no_grad()
    def init_weights(self, seed: int | None = None) -> None:
        """Normal weights of std 0.02, 1/√(2·layers) of that where a projection writes into the
        residual stream.

        Without a seed all are drawn from torch's global generator in minGPT's order. With one,
        every tensor has a generator of its own, keyed by (seed, its name): two models share every
        weight they have in common.
        """
        for module in self.modules():
            # norms, and whatever else a member brings that can set its own parameters
            if hasattr(module, "reset_parameters") and not isinstance(module,
                                                                      nn.Linear | nn.Embedding):
                module.reset_parameters()
        modules = {name: m for name, m in self.named_modules()
                   if isinstance(m, nn.Linear | nn.Embedding)}
        for name, module in modules.items():
            module.weight.normal_(0.0, 0.02, generator=self._generator(seed, name))
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        for name, module in modules.items():
            if getattr(module, "scaled_init", False):
                std = 0.02 / math.sqrt(2 * self.config.n_layer)
                module.weight.normal_(0.0, std, generator=self._generator(seed, name))
        if self.config.tie_weights:   # the embedding's draw, whichever module came last
            self.transformer.wte.weight.normal_(0.0, 0.02,
                                                generator=self._generator(seed, "transformer.wte"))

    def _generator(self, seed: int | None, name: str) -> torch.Generator | None:
        if seed is None:
            return None
        digest = hashlib.sha256(f"{seed}:{name}.weight".encode()).digest()
        return torch.Generator(self.lm_head.weight.device).manual_seed(int.from_bytes(digest[:7],
                                                                                      "big"))

    @classmethod
    def from_pretrained(cls, model_type: str) -> GPT:
        """GPT-2's published weights, from the Hugging Face hub or a local folder of that name."""
        return load_gpt2(cls, model_type)

    def configure_optimizers(self, train_config: CN) -> torch.optim.Optimizer:
        """Two groups: the weights of linear layers decay; biases, norms, embeddings and all else do
        not."""
        decayed = {f"{name}.weight" for name, m in self.named_modules() if isinstance(m, nn.Linear)}
        # a tied head is wte
        trained = sorted((name, p) for name, p in self.named_parameters() if p.requires_grad)
        groups = [
            {"params": [(n, p) for n, p in trained if n in decayed],
             "weight_decay": train_config.weight_decay},
            {"params": [(n, p) for n, p in trained if n not in decayed], "weight_decay": 0.0},
        ]
        return OPTIMIZERS[getattr(train_config, "optimizer", "adamw")](groups, train_config)

    def hidden(self, idx: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """idx (B, T) tokens → (B, T, C), what the head reads. With a cache (cache.py) they stand
        behind its tokens, see them too, and join them."""
        b, t = idx.size()
        assert t <= self.block_size, (f"Cannot forward sequence of length {t}, block size is only "
                                      f"{self.block_size}")
        start = 0 if cache is None else cache.extend(idx)
        x = self.transformer.wte(idx)                                     # (B, T, C)
        if self.transformer.wpe is not None:
            x = x + self.transformer.wpe(torch.arange(start, start + t,
                                                      device=idx.device).unsqueeze(0))
        x = self.transformer.drop(x)
        allowed = self._allowed(idx if cache is None or cache.tokens is None
                                else cache.tokens[:, :start + t], start)
        for layer, block in enumerate(self.transformer.h):
            x = block(x, allowed, None if cache is None else cache.layers[layer])
        return self.transformer.ln_f(x)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None):
        """idx (B, T) tokens, targets (B, T) or None → logits (B, T, vocab) and the mean loss in
        nats (or None)."""
        x = self.hidden(idx)
        logits = soft_cap(self.lm_head(x), self.softcap)
        if targets is None:
            return logits, None
        return logits, cross_entropy(logits, self._counted(targets),
                                     self._z_loss()) + self._added_loss(x, targets)

    def loss(self, idx: torch.Tensor, targets: torch.Tensor,
             trunk: Callable | None = None) -> torch.Tensor:
        """forward's loss, without the logits: faster, in a fraction of the memory. See losses.py.
        `trunk` is `hidden`, compiled."""
        x = (trunk or self.hidden)(idx)
        return self._head_loss(x, self._counted(targets)) + self._added_loss(x, targets)

    def _head_loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return head_loss(x, self.lm_head.weight, targets, self.softcap, self._z_loss())

    def token_losses(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Nats of every target, (B, T) float32; 0 where a target is IGNORE_INDEX."""
        return token_losses(self.hidden(idx), self.lm_head.weight, targets, self.softcap)

    def _z_loss(self) -> float:
        return self.z_loss if self.training else 0.0

    def _added_loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | float:
        """What training adds: the future heads' nats, and what parts ask for in `aux_loss`, as
        experts for balance."""
        if not self.training:
            return 0.0
        later = future_loss(self.future, x, self._counted(targets), self._head_loss,
                            self.document_end)
        asked = sum(m.aux_loss for m in self.modules() if getattr(m, "aux_loss", None) is not None)
        return self.future_weight * later + asked

    def _allowed(self, idx: torch.Tensor, start: int = 0) -> torch.Tensor | None:
        """What these tokens say about which keys are seen by those from `start` on, (B, 1, T −
        start, T); None if nothing."""
        if self.published_padding is not None:
            return flipped_padding(idx, self.published_padding)
        return None if self.document_end is None else same_document(idx, self.document_end, start)

    def _counted(self, targets: torch.Tensor) -> torch.Tensor:
        """The targets; with study 000's fault, padding is one of them."""
        if self.published_padding is None:
            return targets
        return targets.masked_fill(targets == IGNORE_INDEX, self.published_padding)

    def flops_per_token(self, T: int | None = None, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a training step at sequence length T (default: the block): a multiply
        and an add for every weight of a matrix product and for every score that a layer's pattern
        has (`pattern`: as if all layers had that one). The forward counts once and the backward
        twice, or once where a factor needs no gradient."""
        T, layers = T or self.block_size, [block.attn for block in self.transformer.h]
        products = product_flops(self) + len(self.future) * product_flops(self.lm_head)
        scores = sum(attn.score_flops(T, pattern) for attn in layers)
        return 3 * (products + scores) - sum(attn.constant_flops(T) for attn in layers)

    def statistics(self) -> dict[str, float]:
        """What parts count while they train, as experts do whom they drop: the mean over those that
        do, by name."""
        counted = [m.statistics() for m in self.modules() if m is not self
                   and hasattr(m, "statistics")]
        names = dict.fromkeys(name for each in counted for name in each)
        return {name: sum(each[name] for each in counted) / len(counted) for name in names}


def product_flops(module: nn.Module) -> float:
    """FLOPs a token of a forward's matrix products, a multiply and an add for every weight of a
    linear layer. A module that does not use all its weights for every token says so by a method of
    this name."""
    if hasattr(module, "product_flops"):
        return module.product_flops()
    if isinstance(module, nn.Linear):
        return 2 * module.weight.numel()
    return sum(product_flops(child) for child in module.children())


def _resolved(config: CN) -> CN:
    """A copy with the size's name spelled out, absent settings at their defaults, and everything
    checked."""
    filled = GPT.get_default_config()
    filled.merge_from_dict(copy.deepcopy(config.to_dict()))
    assert filled.vocab_size is not None
    assert filled.block_size is not None
    type_given = filled.model_type is not None
    params_given = all([filled.n_layer is not None, filled.n_head is not None,
                        filled.n_embd is not None])
    assert type_given ^ params_given   # exactly one of these (XOR)
    if type_given:
        if filled.model_type not in SIZES:
            raise BadInput(f"no model_type {filled.model_type!r}; known: {', '.join(SIZES)}; "
                           "or give n_layer, n_head and n_embd and set model_type to None")
        filled.merge_from_dict(SIZES[filled.model_type])
    check_slots(filled, {**SLOTS, "backend": BACKENDS}, "model")
    return filled


def load(source: str | Path, block_size: int | None = None, cls: type[GPT] = GPT,
         **settings: Any) -> GPT:
    """The model in a folder or of that name on the hub, in eval mode; its logits are the same.
    `block_size` cuts it to so many positions; other settings (dropout, backend, tie_weights) stand
    instead of the model's."""
    family, config, state = read(source, block_size)
    with contextlib.redirect_stdout(None):
        model = cls(CN(**{**cls.get_default_config().to_dict(), **config, **settings}))
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:])
        raise BadInput(f"{source}: its weights are not of the sizes that its config.json says: "
                       f"{first}") from None
    return model.eval()


def load_gpt2(cls: type[GPT], model_type: str) -> GPT:
    """minGPT's `from_pretrained`, for any model that `load` reads; its logits are the same to the
    last bit but one. Head and embedding are two matrices, as in minGPT."""
    assert model_type in GPT2_SIZES or "/" in model_type or Path(model_type).is_dir()
    model = load(model_type, cls=cls, tie_weights=False)
    if model.config.mlp == "gelu":
        for block in model.transformer.h:
            block.mlp.act = UnfusedGELU()
    return model
