"""
A GPT language model whose parts are slots: each part is chosen by name from a few members (see
config.py). The first member of every slot is GPT-2's, so the default model is minGPT's.

References:
1) GPT-2: https://github.com/openai/gpt-2/blob/master/src/model.py
2) minGPT, whose public interface this keeps: https://github.com/karpathy/minGPT
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator
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
from mingpt.parametrization import PARAMETRIZATIONS, Rule
from mingpt.patterns.kinds import Pattern
from mingpt.patterns.schedule import parse_schedule, without_file
from mingpt.positions import POSITIONS
from mingpt.pretrained.read import GPT2_SIZES, read
from mingpt.sampling.cache import Cache
from mingpt.sampling.generate import generate
from mingpt.sparse.backends import BACKENDS, same_document
from mingpt.utils import BadInput
from mingpt.utils import CfgNode as CN

__all__ = ["GPT", "SIZES", "SLOTS", "Block", "CausalSelfAttention", "NewGELU", "load"]

SLOTS = {"block": BLOCKS, "attention": ATTENTIONS, "norm": NORMS, "mlp": MLPS,
         "position": POSITIONS, "parametrization": PARAMETRIZATIONS}
check_members(SLOTS)


class GPT(nn.Module):
    """A GPT language model: (B, T) tokens → (B, T, vocab) logits of each next token, and a loss.

    B is the batch size, T the sequence length, C = n_embd the width, nh the number of heads and hs
    the size of a head.
    """

    slots = SLOTS
    generate = generate   # samples tokens: see mingpt/sampling/generate.py
    # why a token sees later ones, for a subclass in which it does. Such a model must read the whole
    # text at once, so it can neither use a cache nor split a text over ranks
    not_causal: str | None = None

    @staticmethod
    def get_default_config() -> CN:
        """Return every model setting with its default: minGPT's first, then those that a layer
        reads (config.py), the slots with their members' options, and the rest."""
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
        # True: embedding and head share one matrix. GPT-2 ties them, minGPT does not
        C.tie_weights = False
        C.embd_scale = None     # token embeddings are multiplied by this; "sqrt" is √n_embd (Gemma)
        # logits become c · tanh(logits / c), which stays below c. Gemma 2, arXiv 2408.00118
        C.logit_softcap = None
        C.n_future = 1          # tokens that training predicts per position: see multi_token.py
        C.future_weight = 1.0   # weight in the training loss of the tokens after the next one
        # training adds z_loss · log²Z to the loss, which keeps logits from drifting. PaLM
        C.z_loss = 0.0
        return C

    def __init__(self, config: CN):
        super().__init__()
        config = self.config = _resolved(config)
        # before the layers, whose scores it may scale
        self.parametrization = PARAMETRIZATIONS[config.parametrization](config)
        self.block_size = config.block_size
        self.schedule = parse_schedule(config.schedule, config.n_layer)
        # the config keeps the patterns, not a file's name: the file may change later
        config.schedule = without_file(config.schedule, config.n_layer)
        self.transformer = nn.ModuleDict(dict(
            wte=token_embedding(config),                      # (vocab, C)
            wpe=POSITIONS[config.position].table(config),     # (block_size, C), or None
            drop=dropout(config.embd_pdrop),
            h=nn.ModuleList([BLOCKS[config.block](config, layer)
                             for layer in range(config.n_layer)]),
            ln_f=BLOCKS[config.block].final_norm(config),
        ))
        if not hasattr(self.transformer.h[0], "attn"):
            raise BadInput(f"model.block={config.block} makes no self.attn, which the model asks "
                           f"for its pattern, cost and cache: add one, or derive from Block")
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)   # weight (vocab, C)
        if config.tie_weights:
            self.lm_head.weight = self.transformer.wte.weight
        self.future, self.future_weight = future_heads(config), config.future_weight
        self.softcap, self.z_loss, self.document_end = (
            config.logit_softcap,
            config.z_loss,
            config.document_end,
        )
        self.init_weights()
        # as in minGPT, this count leaves out the head
        print(f"number of parameters: "
              f"{sum(p.numel() for p in self.transformer.parameters()) / 1e6:.2f}M")

    @torch.no_grad()
    def init_weights(self, seed: int | None = None, names: set[str] | None = None) -> None:
        """Draw the weights of linear layers and embeddings from a normal distribution of std 0.02,
        or 0.02/√(2·n_layer) where a projection writes into the residual stream, times what the
        parametrization says. Their biases are 0. Other modules that have `reset_parameters`, such
        as norms, set their own weights.

        Without a seed, all weights come from torch's global generator in minGPT's order. With a
        seed, every tensor has its own generator, made from the seed and the tensor's name: two
        models with the same seed then begin with the same values in every weight that they share.
        With `names`, only the modules of these names get weights.
        """
        chosen = {name: m for name, m in self.named_modules() if names is None or name in names}
        for name, module in chosen.items():
            # norms, and any other part of a member that sets its own parameters
            if hasattr(module, "reset_parameters") and not isinstance(module,
                                                                      nn.Linear | nn.Embedding):
                with _drawing(seed, name):
                    module.reset_parameters()
        # what has no numbers yet, on the meta device, is drawn later, if at all
        modules = {name: m for name, m in chosen.items()
                   if isinstance(m, nn.Linear | nn.Embedding) and not m.weight.is_meta}
        for name, module in modules.items():
            module.weight.normal_(0.0, self._std(name, module, 0.02),
                                  generator=self._generator(seed, name))
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        for name, module in modules.items():
            if getattr(module, "scaled_init", False):
                std = 0.02 / math.sqrt(2 * self.parametrization.writer_depth)
                module.weight.normal_(0.0, self._std(name, module, std),
                                      generator=self._generator(seed, name))
        # the tied matrix gets the embedding's draw, whichever of the two modules was drawn last
        if self.config.tie_weights and "transformer.wte" in modules:
            self.transformer.wte.weight.normal_(0.0, 0.02,
                                                generator=self._generator(seed, "transformer.wte"))

    def _std(self, name: str, module: nn.Module, std: float) -> float:
        """The initial std of a module's weight, which is `std` in the standard parametrization."""
        linear = isinstance(module, nn.Linear)
        return std * self.parametrization.rule(f"{name}.weight", linear).std

    def _generator(self, seed: int | None, name: str) -> torch.Generator | None:
        """The generator of one module's weight; None (torch's global one) without a seed."""
        if seed is None:
            return None
        device = self.get_submodule(name).weight.device
        return torch.Generator(device).manual_seed(_named_seed(seed, name))

    @classmethod
    def from_pretrained(cls, model_type: str) -> GPT:
        """Return a model with published weights, from the Hugging Face hub or from a local folder
        of that name. See load_gpt2."""
        return load_gpt2(cls, model_type)

    def configure_optimizers(self, train_config: CN) -> torch.optim.Optimizer:
        """Return the optimizer that `train_config.optimizer` names, over groups of parameters: the
        weights of linear layers decay; biases, norms and embeddings do not. A group whose
        parametrization asks for it has a `rate`, which multiplies the learning rate."""
        decayed = {f"{name}.weight" for name, m in self.named_modules() if isinstance(m, nn.Linear)}
        optimizer = getattr(train_config, "optimizer", "adamw")
        # the group of the inner matrices first, then the other decayed ones: see muon
        groups: dict[tuple, list] = {(True, self.parametrization.rule("", True, optimizer)): []}
        # a tied head appears once, as transformer.wte, so it does not decay
        for name, p in sorted(self.named_parameters()):
            if p.requires_grad:
                linear = name in decayed
                rule = self.parametrization.rule(name, linear, optimizer)
                groups.setdefault((linear, rule), []).append((name, p))
        groups.setdefault((False, self.parametrization.rule("", False, optimizer)), [])
        return OPTIMIZERS[optimizer]([
            {"params": pairs, "weight_decay": train_config.weight_decay * rule.decay * linear,
             **({} if rule == Rule() else {"rate": rule.rate, "epsilon": rule.epsilon})}
            for (linear, rule), pairs in sorted(groups.items(), key=lambda item: not item[0][0])],
            train_config)

    def hidden(self, idx: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """idx (B, T) tokens → (B, T, C), the activations that the head reads.

        With a cache (sampling/cache.py), idx continues the cached tokens: its tokens attend to
        those and to each other, and are added to the cache.
        """
        b, t = idx.size()
        assert t <= self.block_size, (f"Cannot forward sequence of length {t}, block size is only "
                                      f"{self.block_size}")
        start = 0 if cache is None else cache.extend(idx)
        x = self.transformer.wte(idx)                                     # (B, T, C)
        if self.transformer.wpe is not None:
            x = x + self.transformer.wpe(                                 # (B, T, C) + (1, T, C)
                torch.arange(start, start + t, device=idx.device).unsqueeze(0))
        x = self.transformer.drop(x)
        allowed = self.token_mask(idx if cache is None or cache.tokens is None
                                  else cache.tokens[:, :start + t], start)
        for layer, block in enumerate(self.transformer.h):
            x = block(x, allowed, None if cache is None else cache.layers[layer])   # (B, T, C)
        return self.transformer.ln_f(x)                                   # (B, T, C)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None):
        """idx (B, T) tokens, targets (B, T) or None → logits (B, T, vocab), and the mean loss in
        nats per token, or None without targets."""
        x = self.hidden(idx)                                              # (B, T, C)
        logits = soft_cap(self.lm_head(x), self.softcap)                  # (B, T, vocab)
        if targets is None:
            return logits, None
        return logits, (cross_entropy(logits, targets, self._z_loss())
                        + self._added_loss(x, targets))

    def loss(self, idx: torch.Tensor, targets: torch.Tensor,
             trunk: Callable | None = None) -> torch.Tensor:
        """idx and targets (B, T) → forward's loss, a scalar, computed without holding all logits:
        faster, and in a fraction of the memory (see losses.py). `trunk` replaces `hidden` where it
        is given: the Trainer passes a compiled one."""
        x = (trunk or self.hidden)(idx)                                   # (B, T, C)
        return self._head_loss(x, targets) + self._added_loss(x, targets)

    def _head_loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """x (B, T, C), what the head reads, and targets (B, T) → their mean loss, a scalar."""
        return head_loss(x, self.lm_head.weight, targets, self.softcap, self._z_loss())

    def token_losses(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """idx and targets (B, T) → the nats of every target, (B, T) float32; 0 where a target is
        IGNORE_INDEX. Has no gradient."""
        return token_losses(self.hidden(idx), self.lm_head.weight, targets, self.softcap)

    def _z_loss(self) -> float:
        """The factor of the z-loss: evaluation measures plain cross-entropy, so 0 there."""
        return self.z_loss if self.training else 0.0

    def _added_loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | float:
        """What training adds to the loss: the nats of the future heads, and the `aux_loss` of every
        part that has one (a mixture of experts adds its balance loss there)."""
        if not self.training:
            return 0.0
        later = future_loss(self.future, x, targets, self._head_loss, self.document_end)
        asked = sum(m.aux_loss for m in self.modules()
                    if getattr(m, "aux_loss", None) is not None)
        return self.future_weight * later + asked

    def token_mask(self, idx: torch.Tensor, start: int = 0) -> torch.Tensor | None:
        """idx (B, T) → a mask (B, 1, T − start, T) that depends on the tokens themselves: true
        where a query, from position `start` on, may see a key. None if the tokens hide no key."""
        return None if self.document_end is None else same_document(idx, self.document_end, start)

    def flops_per_token(self, T: int | None = None, pattern: Pattern | None = None) -> float:
        """FLOPs per token of a training step at sequence length T (default: block_size).

        Counts a multiply and an add for every weight of a matrix product, and for every score that
        a layer's pattern has. With `pattern`, counts as if all layers had that pattern. The
        backward of a product of two factors costs one forward for each factor that needs a
        gradient.
        """
        T, layers = T or self.block_size, [block.attn for block in self.transformer.h]
        products = product_flops(self) + len(self.future) * product_flops(self.lm_head)
        # a block that calls its attention more than once has a method of this name, which counts
        scores = sum(getattr(block, "score_flops", block.attn.score_flops)(T, pattern)
                     for block in self.transformer.h)
        return 3 * (products + scores) - sum(attn.constant_flops(T) for attn in layers)

    def statistics(self) -> dict[str, float]:
        """What parts count while they train, such as the choices that experts drop: {name: mean
        over the parts that report this name}; {} if none reports any."""
        reported: dict[str, list[float]] = {}
        for module in self.modules():
            if module is not self and hasattr(module, "statistics"):
                for name, value in module.statistics().items():
                    reported.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in reported.items()}


def _named_seed(seed: int, name: str) -> int:
    """The seed of a module's weight, made from the model's seed and the module's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}.weight".encode()).digest()[:7], "big")


@contextlib.contextmanager
def _drawing(seed: int | None, name: str) -> Iterator[None]:
    """Within the context, torch's global generator of the CPU, on which models are built, is seeded
    for one module; afterwards it is as before. Without a seed it is left alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_named_seed(seed, name))
        yield


def product_flops(module: nn.Module) -> float:
    """FLOPs per token of a module's matrix products in the forward: a multiply and an add for every
    weight of a linear layer. A module that does not use every weight for every token has a method
    of this name, and that method's answer counts."""
    if hasattr(module, "product_flops"):
        return module.product_flops()
    if isinstance(module, nn.Linear):
        return 2 * module.weight.numel()
    return sum(product_flops(child) for child in module.children())


def _resolved(config: CN) -> CN:
    """A checked copy of the config: model_type is replaced by the sizes that it names, and absent
    settings get their defaults. Raises BadInput for an unknown size or member of a slot."""
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
    """Return a published model in eval mode, from a local folder or from the Hugging Face hub. It
    gives the same logits as the original.

    `block_size` limits it to that many positions. Other settings (dropout, backend, tie_weights)
    replace the model's own. Raises BadInput if the weights do not fit config.json.
    """
    family, config, state = read(source, block_size)
    with contextlib.redirect_stdout(None):
        model = cls(CN(**{**cls.get_default_config().to_dict(), **config, **settings}))
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:])
        raise BadInput(f"{source}: its weights do not have the sizes that its config.json gives: "
                       f"{first}") from None
    return model.eval()


def load_gpt2(cls: type[GPT], model_type: str) -> GPT:
    """minGPT's `from_pretrained`, for any model that `load` reads: head and embedding are two
    matrices, as in minGPT. Its logits agree with Hugging Face's to a relative 1e-5, because GELU is
    computed in separate operations, as there."""
    assert model_type in GPT2_SIZES or "/" in model_type or Path(model_type).is_dir()
    model = load(model_type, cls=cls, tie_weights=False)
    if model.config.mlp == "gelu":
        for block in model.transformer.h:
            block.mlp.act = UnfusedGELU()
    return model
