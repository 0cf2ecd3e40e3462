"""
The model under audit and what every check needs of it: what it declares, at which lengths of text
it is looked at, its parts' inputs, and weights at which nothing that is connected vanishes.
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

LONG = 128              # positions at which a full layer is looked at
CHUNK_TOKENS = 2048     # at once: the audit must not be what a run's peak memory is
QUERIES = 32            # at which a layer is looked at, where they are not so dear that the FLOPs
FLOPS = 1.2e10          # of one look at all layers, half a second of a laptop, suffice for fewer
FEWEST_QUERIES = 6
WIDE = 512              # channels, from which more than one thread is worth it
Call = tuple[tuple, dict]    # the arguments of a module's call


class Finding(Exception):
    """What was seen instead of what a claim says, found where a check cannot go on."""


class Calls(dict):
    """{module: its call's arguments}; asking for a module that was never called is a finding with
    its name."""

    def __init__(self, names: dict[nn.Module, str]):
        super().__init__()
        self.names = names

    def __missing__(self, module: nn.Module) -> Call:
        raise Finding(f"{self.names.get(module, type(module).__name__)} is never called")


class Subject:
    """A model in eval mode, what it declares, and the means to look at it. See `audit` for the
    arguments."""

    def __init__(self, model: GPT, trainer: CN, batches: Any, fresh: bool,
                 reference: Callable | None, freeze_except: str | None = None):
        self.freeze_except = freeze_except
        self.model, self.trainer, self.batches, self.fresh, self.reference = (
            model,
            trainer,
            batches,
            fresh,
            reference,
        )
        self.config, self.device = model.config, model.lm_head.weight.device
        self.generator = torch.Generator().manual_seed(0)
        self.blocks = list(model.transformer.h)
        self.patterns = declared_patterns(model)
        self.document_end = getattr(model, "document_end", None)
        self.vocab_size, block_size = self.config.vocab_size, model.block_size
        known = [getattr(batches, "eot", None), self.document_end,
                 getattr(self.config, "published_padding", None), self.vocab_size - 1]
        self.eot = next(token for token in known if token is not None)
        self.long = telling_length(self.patterns, block_size)
        # odd: a multiple of nothing
        self.short = max(1, self.long * 5 // 8 | 1) if self.long > 2 else self.long

    # -- what is drawn -----------------------------------------------------------------------------

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same on every device."""
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def tokens(self, rows: int, T: int) -> Tensor:
        """(rows, T) random tokens, none of which ends a document."""
        idx = torch.randint(max(1, self.vocab_size - 1), (rows, T), generator=self.generator)
        return (idx + (idx >= self.eot)).clamp(max=self.vocab_size - 1).to(self.device)

    def padded(self, T: int) -> tuple[Tensor, int]:
        """(1, T) tokens: a document, its end, another, then padding, which reads as ends; and where
        that begins."""
        idx, real = self.tokens(1, T), max(1, T * 5 // 8)
        idx[:, T // 4] = self.eot
        idx[:, real:] = self.eot
        return idx, real

    # -- what is declared --------------------------------------------------------------------------

    def declared(self, layer: int, idx: Tensor) -> Tensor:
        """(T, T) bool on the CPU: the keys that each query of a layer is to see in one row of
        tokens (1, T)."""
        T = idx.size(1)
        seen = self.patterns[layer].mask(T)
        if self.document_end is not None:
            row, document, documents = idx[0].tolist(), 0, []
            for token in row:
                documents.append(document)
                # an end belongs to the document that it ends
                document += token == self.document_end
            documents = torch.tensor(documents)
            seen = seen & (documents[:, None] == documents)
        return seen

    def queries(self, layer: int, T: int, most: int = QUERIES) -> list[int]:
        """The queries to look at: the first and last, those about which the pattern stops growing,
        and some at random; all of a short text."""
        keys = self.patterns[layer].keys_per_query(T)
        stop = next((i for i in range(1, T) if keys[i] <= keys[i - 1]), 0)
        wanted = [T - 1, stop, stop - 1, stop + 1, 1, 0, T // 2]
        wanted += torch.randperm(T, generator=self.generator).tolist()
        return sorted(list(dict.fromkeys(i for i in wanted if 0 <= i < T))[:self.affordable(T,
                                                                                            most)])

    def affordable(self, T: int, most: int) -> int:
        """How many queries to look at in each layer, at most."""
        width = self.config.n_embd
        flops = len(self.blocks) * T * (24 * width**2 + 12 * T * width)      # of one query, about
        return min(T, most, max(FEWEST_QUERIES, int(FLOPS / flops)))

    # -- what is seen of the parts -----------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, nn.Module]:
        """Blocks and what they are made of, by the names that a reader knows: 'layer 2', "layer 2's
        attn", …"""
        named = {f"layer {l}": block for l, block in enumerate(self.blocks)}
        for l, block in enumerate(self.blocks):
            named |= {f"layer {l}'s {name}": child for name, child in block.named_children()}
        return named

    @torch.no_grad()
    def calls(self, idx: Tensor) -> Calls:
        """How each part is called in a forward of idx (B, T). A part that is never called is not in
        it, and asking for it raises a Finding that names it."""
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
    """Each layer's pattern: the model's schedule, else what its attention carries; full where
    nothing is declared."""
    schedule = getattr(model, "schedule", None)
    if schedule is not None:
        return list(schedule)
    return [getattr(block.attn, "pattern", None) or Full() for block in model.transformer.h]


def telling_length(patterns: list[Pattern], block_size: int) -> int:
    """The shortest of 128, 256, … at which every pattern leaves out half the share that it does at
    block_size."""
    T = LONG
    while block_size > T and any(p.sparsity(T) < p.sparsity(block_size) / 2 for p in set(patterns)):
        T *= 2
    return min(T, block_size)


@contextlib.contextmanager
def head_at(model: GPT, positions: Tensor) -> Iterator[None]:
    """The logits at one position of each row alone, (B, 1, vocab): a large vocabulary's are most of
    a forward."""
    def pick(head: nn.Module, args: tuple) -> tuple:
        return (args[0][torch.arange(len(positions)), positions].unsqueeze(1),)
    handle = model.lm_head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """The parameters are afterwards, bit for bit, what they were."""
    before = [(p, p.detach().clone()) for p in module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)


@contextlib.contextmanager
def threads_for(model: GPT) -> Iterator[None]:
    """One thread for a narrow model: at this much work, threads wait for each other longer than
    they work, and on busy cores many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if model.config.n_embd < WIDE else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def redrawn(model: GPT) -> Iterator[None]:
    """Weights at which what is connected shows: tables and products of unit scale, so that scores
    vary by about 1 and branches are as large as the stream they join. At initialisation a path
    through twelve layers can be below what float32 holds, and what begins at zero hides all that is
    behind it."""
    generator = torch.Generator().manual_seed(1)
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)} - {
        model.lm_head.weight
    }
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
    """Every parameter of a module moved by a third of its own size."""
    with kept(module):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(subject.noise(*p.shape) * (p.square().mean().sqrt() / 3))
        yield
