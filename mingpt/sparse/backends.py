"""
Attention backends: ways to compute softmax(QKᵀ/√hs)V over the keys that a pattern lets a query see.
`config.backend` names the one to use. All backends give the values and gradients of the dense mask,
up to rounding. They differ in time, in memory and in which cases they support.

    q (B, nh, T, hs), k and v (B, nkv, T, hs), where nkv divides nh → (B, nh, T, hs)
    slopes (nh,)           slope · (i − j) is subtracted from the scores, as in ALiBi
    allowed (B, 1, T, T)   false hides a key that the pattern shows, as a document mask does
    dropout_p              the share of attention weights that is dropped
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mingpt.patterns.kinds import Pattern
from mingpt.sparse.banded import banded_attention, parts_of, supports
from mingpt.sparse.flex import flex, flex_fits
from mingpt.sparse.tiles import processor
from mingpt.utils import BadInput, CfgNode


def same_document(idx: Tensor, end_of_text: int, start: int = 0) -> Tensor:
    """The document mask of tokens (B, T): (B, 1, T − start, T), true where query and key stand in
    the same document. Its rows are the queries from `start` on. The last token of a document is
    its end-of-text token."""
    ends = (idx == end_of_text).long()
    document = ends.cumsum(-1) - ends  # (B, T): an end-of-text token belongs to what it ends
    return (document[:, start:, None] == document[:, None, :]).unsqueeze(1)  # (B, 1, T − start, T)


class Backend:
    """One layer's attention over its pattern. `biased` says whether calls will pass slopes. The
    constructor raises BadInput for a case that the backend does not support."""

    def __init__(self, pattern: Pattern, config: CfgNode, biased: bool = False):
        self.pattern = pattern
        reason = self.lacks(pattern, config, biased)
        if reason:
            raise BadInput(f"--model.backend={config.backend} {reason}: use auto or dense")

    def lacks(self, pattern: Pattern, config: CfgNode, biased: bool) -> str | None:
        """Why the backend does not support this case, or None if it does. The words continue
        "--model.backend=NAME …"."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        """(B, nh, T, hs): attention over this layer's pattern. The arguments are explained at the
        top of this file."""
        return self.attend(self.pattern, q, k, v, slopes, allowed, dropout_p)

    @staticmethod
    def attend(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None,
               allowed: Tensor | None, dropout_p: float) -> Tensor:
        """(B, nh, T, hs): what a call computes, for the pattern given here."""
        raise NotImplementedError


class Dense(Backend):
    """The reference backend. It computes every score, then a boolean mask hides those outside the
    pattern. It supports every case, but sparsity saves it no work."""

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        T = q.size(-2)
        seen = mask_of(pattern, T, q.device)
        if allowed is not None:
            seen = seen & allowed
        return masked(q, k, v, seen, slopes, dropout_p)


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, slopes: Tensor | None,
           dropout_p: float) -> Tensor:
    """(B, nh, T, hs): attention over the keys where seen, (T, T) or (B, 1, T, T), is true."""
    if slopes is not None:
        bias = slopes[:, None, None] * _offset(q.size(-2), q.device)     # (nh, T, T)
        # with four dimensions, torch's fused kernel takes it; with three, it would keep all weights
        seen = bias.to(q.dtype)[None].masked_fill(~seen, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout_p,
                                          enable_gqa=shared(q, k))


@lru_cache(maxsize=4)
def _offset(T: int, device: torch.device) -> Tensor:
    """(T, T): j − i for query i and key j."""
    with torch.inference_mode(False):
        place = torch.arange(T, device=device)
        return place - place[:, None]


def mask_of(pattern: Pattern, T: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where a key is seen.

    It is a corner of the cached mask whose size is the next power of two. So sampling, where T
    grows by one per token, builds few masks. A pattern depends only on i and j, so the corner of a
    larger mask is the mask of the shorter text.
    """
    return _mask(pattern, 1 << (T - 1).bit_length(), device)[:T, :T]


@lru_cache(maxsize=64)
def _mask(pattern: Pattern, T: int, device: torch.device) -> Tensor:
    # Without this, a mask that is first made while sampling could not be used in training.
    with torch.inference_mode(False):
        return pattern.mask(T, device)


def shared(q: Tensor, k: Tensor) -> bool:
    """Whether several query heads share one key and value head."""
    return q.size(1) != k.size(1)


class Flash(Backend):
    """torch's fused causal kernel, which keeps nothing of size T×T. It supports only layers that
    see all keys."""

    def lacks(self, pattern, config, biased):
        if not pattern.is_full(config.block_size):
            return f"sees all keys, not pattern {str(pattern)!r}"
        return ("cannot add the bias that model.position asks for" if biased
                else _no_documents(config))

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("flash", slopes=slopes, allowed=allowed)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True,
                                              enable_gqa=shared(q, k))


class Banded(Backend):
    """Computes little more than the pairs seen, in plain PyTorch, on any device. See banded.py."""

    def lacks(self, pattern, config, biased):
        return (_no_documents(config) if supports(pattern)
                else f"has no form for pattern {str(pattern)!r}")

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("banded", allowed=allowed)
        return _untraced()(q, k, v, pattern, dropout_p=dropout_p, bias_slopes=slopes)


@lru_cache(maxsize=1)
def _untraced() -> Callable:
    """banded_attention, hidden from torch.compile, which cannot trace its views of raw memory. The
    import behind torch.compiler.disable is large, so it happens on the first call."""
    return torch.compiler.disable(banded_attention)


class Flex(Backend):
    """torch's FlexAttention: a kernel compiled for the pattern, which skips blocks without a seen
    pair. It is made for CUDA; on a CPU it has no backward. Not measured yet: no GPU was at
    hand."""

    def lacks(self, pattern, config, biased):
        return (f"cannot drop attention weights, as model.attn_pdrop={config.attn_pdrop} asks"
                if config.attn_pdrop else _no_documents(config))

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("flex", allowed=allowed, dropout_p=dropout_p or None)
        return flex(q, k, v, pattern, slopes)


class Auto(Backend):
    """Picks the fastest of the other backends for each call. See `fastest`."""

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        T, case = q.size(-2), BackendCase(slopes is not None, dropout_p > 0, q.is_cuda,
                                          flex_fits(q), processor())
        name = "dense" if allowed is not None else fastest(pattern, T, case)
        return BACKENDS[name].attend(pattern, q, k, v, slopes, allowed, dropout_p)


class BackendCase(NamedTuple):
    """What decides how fast a backend is, besides the pattern and T."""
    biased: bool = False    # slopes are given
    drops: bool = False     # attention weights are dropped
    cuda: bool = False      # the tensors are on a CUDA device
    flex: bool = False      # the flex kernel supports these tensors
    processor: tuple[str, int] = ("", 1)    # what `processor()` returns


# Banded was measured against a dense mask, forward and backward, with one thread, for shapes
# (B, nh, T, hs) from (8, 3, 64, 16) to (1, 6, 2048, 64). Banded is faster, by 4 % or (mostly) far
# more, if the share of the causal triangle that is seen is at most the number in this table. The
# second column is for patterns of one part, the third for patterns of two parts, a window and far
# links. {(instructions, threads): table}; None is for all others, and was measured with AVX2.
# `python -m benchmarks.attention --tune` prints the table of a machine.
BANDED_ON_CPU = {
    None: (             # least T   one part       two parts
                       (512,       1.0,           1.0),
                       (256,       0.75,          0.45),
                       (128,       0.55,          0.0)),
    ("AVX512", 1): (   (512,       1.0,           1.0),
                       (256,       0.75,          0.65),
                       (128,       0.75,          0.0)),
    ("AVX512", 2): (   (1024,      0.75,          1.0),
                       (512,       0.75,          0.55),
                       (256,       0.65,          0.0),
                       (128,       0.55,          0.0)),
}
# With dropout, torch's CPU kernel keeps all T×T weights. From this T on, banded took 1/1.7 to 1/4
# of the kernel's time, even if no key is hidden.
BANDED_IF_WEIGHTS_ARE_KEPT = 256


@lru_cache(maxsize=4096)
def fastest(pattern: Pattern, T: int, case: BackendCase) -> str:
    """The name of the backend that `auto` uses for T positions.

    On a CPU the choice is measured. On CUDA it is a guess so far: flash if no key is hidden, flex
    if it supports the case, otherwise the backend that moves the least memory.
    """
    unmasked = pattern.is_full(T) and not case.biased
    parts, share = len(parts_of(pattern, T)), 1 - pattern.sparsity(T)
    if unmasked and (case.cuda or not case.drops):
        return "flash"
    if case.cuda:
        return ("flex" if case.flex and not case.drops else
                "banded" if parts and T >= 1024 and share <= 0.5 else "dense")
    if case.drops and parts and T >= BANDED_IF_WEIGHTS_ARE_KEPT:
        return "banded"
    for least, one, several in BANDED_ON_CPU.get(case.processor, BANDED_ON_CPU[None]):
        if parts and least <= T:
            return "banded" if share <= (one if parts == 1 else several) else "dense"
    return "flash" if unmasked else "dense"


def make_backend(pattern: Pattern, config: CfgNode, biased: bool) -> Backend:
    """The backend that the config names, for one layer. Raises BadInput if that backend does not
    support the case."""
    return BACKENDS[config.backend](pattern, config, biased)


def _no_documents(config: CfgNode) -> str | None:
    return (None if config.document_end is None
            else "cannot apply a document mask, as data.document_mask asks")


def _refuse(backend: str, **given: object) -> None:
    """Raise BadInput if a call passes an argument that the backend does not support and that was
    not known when the backend was built."""
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--model.backend={backend} takes no {name}: use auto or dense")


BACKENDS: dict[str, type[Backend]] = {"auto": Auto, "dense": Dense, "flash": Flash,
                                      "banded": Banded, "flex": Flex}
