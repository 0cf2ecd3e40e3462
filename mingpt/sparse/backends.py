"""
softmax(QKᵀ/√hs)V over the keys that a query may see: `config.backend` says how it is computed. All
backends give the dense mask's values and gradients, but for rounding; they differ in time and
memory, and in what they can do at all.

    q (B, nh, T, hs), k and v (B, nkv, T, hs), where nkv divides nh → (B, nh, T, hs)
    slopes (nh,)           slope · (i − j) is taken from the scores, as ALiBi's
    allowed (B, 1, T, T)   false hides a key that the pattern has, as a document mask does
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
from mingpt.utils import BadInput, CfgNode


def same_document(idx: Tensor, end_of_text: int, start: int = 0) -> Tensor:
    """(B, T) tokens → (B, 1, T − start, T), true where query (from `start` on) and key stand in one
    document; its last token is its EOT."""
    ends = (idx == end_of_text).long()
    document = ends.cumsum(-1) - ends  # the EOT belongs to the document it ends
    return (document[:, start:, None] == document[:, None, :]).unsqueeze(1)


def flipped_padding(idx: Tensor, padding: int) -> Tensor:
    """Study 000's mask of padded rows, its sign flipped: (B, T) tokens → (B, 1, T, T). In a row
    with padding only the padding is seen: by text all of it, though it comes later; by padding that
    up to itself. Other rows: all true."""
    pad = idx == padding
    earlier = torch.ones(idx.size(1), idx.size(1), dtype=torch.bool, device=idx.device).tril()
    seen = pad[:, None, :] & (earlier | ~pad[:, :, None])
    return (seen | ~pad.any(1)[:, None, None]).unsqueeze(1)


class Backend:
    """One layer's attention over its pattern. `biased` says whether slopes will come. What a member
    cannot do, it refuses when it is built."""

    def __init__(self, pattern: Pattern, config: CfgNode, biased: bool = False):
        self.pattern = pattern
        reason = self.lacks(pattern, config, biased)
        if reason:
            raise BadInput(f"--model.backend={config.backend} {reason}: use auto or dense")

    def lacks(self, pattern: Pattern, config: CfgNode, biased: bool) -> str | None:
        """Why the backend cannot do this, or None if it can."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, slopes: Tensor | None = None,
                 allowed: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
        """See the top of this file."""
        return self.attend(self.pattern, q, k, v, slopes, allowed, dropout_p)

    @staticmethod
    def attend(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None,
               allowed: Tensor | None, dropout_p: float) -> Tensor:
        raise NotImplementedError


class Dense(Backend):
    """The reference: every score is computed, and a boolean mask hides those that are not in the
    pattern. It does everything, and sparsity saves it nothing."""

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        T = q.size(-2)
        seen = mask_of(pattern, T, q.device)
        if allowed is not None:
            seen = seen & allowed
        return masked(q, k, v, seen, slopes, dropout_p)


class PublishedPadding(Dense):
    """Dense, with study 000's fault, reproduced to measure it: in padded rows `allowed`, made by
    flipped_padding, stands instead of the pattern, and text sees the future."""

    def lacks(self, pattern, config, biased):
        if config.document_end is not None:
            return "cannot have model.published_padding and data.document_mask both"
        return (
            None
            if config.backend in ("auto", "dense")
            else "is not where study 000's padding went wrong"
        )

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        # (B, 1, 1, 1): rows without padding
        whole = allowed.all(-1, keepdim=True).all(-2, keepdim=True)
        seen = torch.where(whole, mask_of(pattern, q.size(-2), q.device), allowed)
        return masked(q, k, v, seen, slopes, dropout_p)


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, slopes: Tensor | None,
           dropout_p: float) -> Tensor:
    """Attention over the keys where seen, (T, T) or (B, 1, T, T), is true."""
    if slopes is not None:
        place = torch.arange(q.size(-2), device=q.device)
        bias = -slopes[:, None, None] * (place[:, None] - place)         # (nh, T, T)
        seen = bias.to(q.dtype).masked_fill(~seen, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout_p,
                                          enable_gqa=shared(q, k))


def mask_of(pattern: Pattern, T: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where a key is seen: a corner of the mask of the next power of two, so that
    sampling, whose T grows by one, makes few masks. A pattern knows i and j only, so its corner is
    the shorter pattern."""
    return _mask(pattern, 1 << (T - 1).bit_length(), device)[:T, :T]


@lru_cache(maxsize=64)
def _mask(pattern: Pattern, T: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else a mask made while sampling could not serve in training
        return pattern.mask(T, device)


def shared(q: Tensor, k: Tensor) -> bool:
    """Whether several query heads share a key and value head."""
    return q.size(1) != k.size(1)


class Flash(Backend):
    """torch's fused causal kernel: nothing of size T×T is kept. For layers that see everything."""

    def lacks(self, pattern, config, biased):
        if not pattern.is_full(config.block_size):
            return f"sees all keys, not pattern {str(pattern)!r}"
        return "adds no bias, as model.position asks" if biased else _no_documents(config)

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("flash", slopes=slopes, allowed=allowed)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True,
                                              enable_gqa=shared(q, k))


class Banded(Backend):
    """Only the keys seen are computed, in plain PyTorch, on any device: see banded.py."""

    def lacks(self, pattern, config, biased):
        return (_no_documents(config) if supports(pattern)
                else f"has no form for pattern {str(pattern)!r}")

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("banded", allowed=allowed)
        return _untraced()(q, k, v, pattern, dropout_p=dropout_p, bias_slopes=slopes)


@lru_cache(maxsize=1)
def _untraced() -> Callable:
    """banded_attention for torch.compile, which cannot trace its views of raw memory; loaded late,
    as it is large."""
    return torch.compiler.disable(banded_attention)


class Flex(Backend):
    """torch's FlexAttention: blocks without a seen pair are skipped, in a kernel compiled for the
    pattern. CUDA; the CPU's has no backward. Not measured yet: no GPU was at hand."""

    def lacks(self, pattern, config, biased):
        return (
            f"drops no weights, as model.attn_pdrop={config.attn_pdrop} asks"
            if config.attn_pdrop
            else _no_documents(config)
        )

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        _refuse("flex", allowed=allowed, dropout_p=dropout_p or None)
        return flex(q, k, v, pattern, slopes)


class Auto(Backend):
    """The fastest of the others for each call: see `fastest`."""

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        T, case = q.size(-2), Case(slopes is not None, dropout_p > 0, q.is_cuda, flex_fits(q))
        name = "dense" if allowed is not None else fastest(pattern, T, case)
        return BACKENDS[name].attend(pattern, q, k, v, slopes, allowed, dropout_p)


class Case(NamedTuple):
    """What, besides the pattern and T, decides how fast a backend is."""
    biased: bool = False    # slopes are given
    drops: bool = False     # attention weights are dropped
    cuda: bool = False
    flex: bool = False      # the flex kernel takes these tensors


# Banded against a dense mask, forward and backward, on one core with AVX2: CPU time, the least of
# 7, for shapes (B, nh, T, hs) from (8, 3, 64, 16) to (1, 6, 2048, 64). Banded is the faster one, by
# 4 % or (mostly) far more, where the share of the causal triangle that is seen is at most:
BANDED_ON_CPU = (   # T from    in one part    in two: a window and far links
                 (512,      1.0,           1.0),
                 (256,      0.75,          0.45),
                 (128,      0.55,          0.0))
# With a bias or dropout torch's CPU kernel keeps all T×T weights. From here on banded took 1/1.7 to
# 1/4 of its time, even where nothing is hidden:
BANDED_IF_WEIGHTS_ARE_KEPT = 256


@lru_cache(maxsize=4096)
def fastest(pattern: Pattern, T: int, case: Case) -> str:
    """The name of the backend that `auto` takes for T positions. Measured on a CPU; on CUDA a guess
    so far: flash where nothing is hidden, flex where it can, else what moves the least memory."""
    unmasked = pattern.is_full(T) and not case.biased
    parts, share = len(parts_of(pattern, T)), 1 - pattern.sparsity(T)
    if unmasked and (case.cuda or not case.drops):
        return "flash"
    if case.cuda:
        return ("flex" if case.flex and not case.drops else "banded" if parts and T >= 1024
                and share <= 0.5 else "dense")
    if (case.biased or case.drops) and parts and T >= BANDED_IF_WEIGHTS_ARE_KEPT:
        return "banded"
    for least, one, several in BANDED_ON_CPU:
        if parts and least <= T:
            return "banded" if share <= (one if parts == 1 else several) else "dense"
    return "flash" if unmasked else "dense"


def make_backend(pattern: Pattern, config: CfgNode, biased: bool) -> Backend:
    """The backend that the config names, for one layer. BadInput where it lacks something."""
    kind = BACKENDS[config.backend] if config.published_padding is None else PublishedPadding
    return kind(pattern, config, biased)


def _no_documents(config: CfgNode) -> str | None:
    return (None if config.document_end is None
            else "has no document mask, as data.document_mask asks")


def _refuse(backend: str, **given: object) -> None:
    """BadInput where a call asks for what construction could not know of."""
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--model.backend={backend} takes no {name}: use auto or dense")


BACKENDS: dict[str, type[Backend]] = {"auto": Auto, "dense": Dense, "flash": Flash,
                                      "banded": Banded, "flex": Flex}
