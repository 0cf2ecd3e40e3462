"""
The model under audit, and what every check needs of it: what it declares, the lengths of text to
use, the inputs of its parts, and weights at which no connection vanishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mingpt.model import GPT
from mingpt.patterns.kinds import Full, Pattern
from mingpt.utils import CfgNode as CN

LONG = 128              # positions at which full layers are checked
CHUNK_TOKENS = 2048     # tokens per forward, so that the audit does not set a run's peak memory
QUERIES = 32            # queries checked per layer, at most; fewer where they cost more than FLOPS
FLOPS = 1.2e10          # per check of all layers: half a second of a laptop
FEWEST_QUERIES = 6      # queries checked per layer, at least
WIDE = 512              # channels from which more than one thread pays off
Call = tuple[tuple, dict]    # the arguments of a module's call


class Finding(Exception):
    """A claim fails and the check cannot continue. The message says what was seen."""


class Calls(dict):
    """{module: the arguments of its call}. Looking up a module that was never called raises a
    Finding that names it."""

    def __init__(self, names: dict[nn.Module, str]):
        super().__init__()
        self.names = names

    def __missing__(self, module: nn.Module) -> Call:
        raise Finding(f"{self.names.get(module, type(module).__name__)} is never called")


class Subject:
    """A model in eval mode, what it declares, and the tools to examine it. See `audit` for the
    arguments."""

    def __init__(self, model: GPT, trainer: CN, batches: Any, fresh: bool,
                 reference: Callable | None, freeze_except: str | None = None):
        self.freeze_except = freeze_except
        self.model, self.trainer, self.batches, self.fresh, self.reference = (
            model, trainer, batches, fresh, reference)
        self.config, self.device = model.config, model.lm_head.weight.device
        self.generator = torch.Generator().manual_seed(0)
        self.names = {name for name, _ in model.named_parameters()}     # before any forward
        self.blocks = list(model.transformer.h)
        self.patterns = declared_patterns(model)
        self.document_end = getattr(model, "document_end", None)
        self.vocab_size, block_size = self.config.vocab_size, model.block_size
        known = [getattr(batches, "eot", None), self.document_end,
                 getattr(self.config, "published_padding", None), self.vocab_size - 1]
        self.eot = next(token for token in known if token is not None)
        self.long = telling_length(self.patterns, block_size)
        # odd, so that it is not a multiple of the usual sizes
        self.short = max(1, self.long * 5 // 8 | 1) if self.long > 2 else self.long

    # -- what is drawn -----------------------------------------------------------------------------

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same on every device."""
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def tokens(self, rows: int, T: int) -> Tensor:
        """Random tokens (rows, T), none of which ends a document."""
        idx = torch.randint(max(1, self.vocab_size - 1), (rows, T), generator=self.generator)
        return (idx + (idx >= self.eot)).clamp(max=self.vocab_size - 1).to(self.device)

    def padded(self, T: int) -> tuple[Tensor, int]:
        """(tokens (1, T), the place where padding begins). The row holds a document, its end,
        another document, then padding, which consists of end tokens."""
        idx, real = self.tokens(1, T), max(1, T * 5 // 8)
        idx[:, T // 4] = self.eot
        idx[:, real:] = self.eot
        return idx, real

    # -- what is declared --------------------------------------------------------------------------

    def declared(self, layer: int, idx: Tensor) -> Tensor:
        """The keys that each query of a layer must see in one row of tokens (1, T), as (T, T) bool
        on the CPU."""
        T = idx.size(1)
        seen = self.patterns[layer].mask(T)
        if self.document_end is not None:
            row, document, documents = idx[0].tolist(), 0, []
            for token in row:
                documents.append(document)
                # an end token belongs to the document that it ends
                document += token == self.document_end
            documents = torch.tensor(documents)
            seen = seen & (documents[:, None] == documents)
        return seen

    def queries(self, layer: int, T: int, most: int = QUERIES) -> list[int]:
        """The queries to check: the first and last, those where the pattern stops growing, and some
        random ones; all queries of a short text."""
        keys = self.patterns[layer].keys_per_query(T)
        stop = next((i for i in range(1, T) if keys[i] <= keys[i - 1]), 0)
        wanted = [T - 1, stop, stop - 1, stop + 1, 1, 0, T // 2]
        wanted += torch.randperm(T, generator=self.generator).tolist()
        return sorted(list(dict.fromkeys(i for i in wanted if 0 <= i < T))[
            :self.affordable(T, most)])

    def affordable(self, T: int, most: int) -> int:
        """How many queries to check in each layer."""
        width = self.config.n_embd
        flops = len(self.blocks) * T * (24 * width**2 + 12 * T * width)      # per query, roughly
        return min(T, most, max(FEWEST_QUERIES, int(FLOPS / flops)))

    # -- what is seen of the parts -----------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, nn.Module]:
        """The blocks and their parts, under readable names: 'layer 2', "layer 2's attn", …"""
        named = {f"layer {l}": block for l, block in enumerate(self.blocks)}
        for l, block in enumerate(self.blocks):
            named |= {f"layer {l}'s {name}": child for name, child in block.named_children()}
        return named

    @torch.no_grad()
    def calls(self, idx: Tensor) -> Calls:
        """The arguments of each part's call in a forward of idx (B, T). Looking up a part that is
        never called raises a Finding that names it."""
        seen = Calls({part: name for name, part in self.parts.items()})

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            seen[module] = (args, kwargs)
        handles = [part.register_forward_pre_hook(note, with_kwargs=True)
                   for part in self.parts.values()]
        try:
            with head_at(self.model, torch.zeros(len(idx), dtype=torch.long)):
                self.model(idx)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def declared_patterns(model: GPT) -> list[Pattern]:
    """The pattern of each layer: from the model's schedule, else from its attention, else full."""
    schedule = getattr(model, "schedule", None)
    if schedule is not None:
        return list(schedule)
    return [getattr(block.attn, "pattern", None) or Full() for block in model.transformer.h]


def telling_length(patterns: list[Pattern], block_size: int) -> int:
    """The shortest length of 128, 256, … at which every pattern has at least half the sparsity that
    it has at block_size; block_size where that is shorter."""
    T = LONG
    while block_size > T and any(p.sparsity(T) < p.sparsity(block_size) / 2 for p in set(patterns)):
        T *= 2
    return min(T, block_size)


@contextlib.contextmanager
def head_at(model: GPT, positions: Tensor) -> Iterator[None]:
    """Within the context, the model computes logits at one position per row only, (B, 1, vocab).
    With a large vocabulary, logits at all positions would be most of a forward's cost."""
    def pick(head: nn.Module, args: tuple) -> tuple:
        return (args[0][torch.arange(len(positions)), positions].unsqueeze(1),)
    handle = model.lm_head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Restore the module's parameters afterwards, bit for bit."""
    before = [(p, p.detach().clone()) for p in module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)


@contextlib.contextmanager
def threads_for(model: GPT) -> Iterator[None]:
    """Use one thread for a narrow model. With so little work, threads wait for each other longer
    than they compute, and many times longer on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if model.config.n_embd < WIDE else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def redrawn(model: GPT) -> Iterator[None]:
    """Within the context, the model has random weights at which every connection shows.

    Embeddings and the products of matrices have unit scale, so scores vary by about 1, and branches
    are as large as the residual stream that they join. With initial weights, the effect of a path
    through twelve layers can be too small for float32, and a weight of zero hides all that comes
    before it.
    """
    generator = torch.Generator().manual_seed(1)
    tables = ({m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
              - {model.lm_head.weight})
    with kept(model):
        with torch.no_grad():
            for p in model.parameters():
                noise = torch.randn(p.shape, generator=generator).to(p)
                if p.dim() < 2:
                    p.add_(noise / 8)       # a norm's gains stay near 1
                else:
                    p.copy_(noise if p in tables else noise / p.size(-1) ** 0.5)
        yield


@contextlib.contextmanager
def shaken(module: nn.Module, subject: Subject) -> Iterator[None]:
    """Within the context, every parameter of the module has noise of a third of its own size added
    to it."""
    with kept(module):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(subject.noise(*p.shape) * (p.square().mean().sqrt() / 3))
        yield
