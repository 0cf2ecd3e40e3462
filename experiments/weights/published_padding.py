"""
Study 000's fault with padding, repeated so that the study lms_repair can measure it.

The setting `model.published_padding` is the token that padding is read as; None is a model without
the fault. The fault has two parts. In a row with padding, the sign of the padding mask is flipped,
so text sees the padding after it and no text. And padding counts in the loss of training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.records.codefiles import blaming
from mingpt.model import GPT
from mingpt.sparse.backends import Dense, mask_of, masked
from mingpt.utils import IGNORE_INDEX, BadInput
from mingpt.utils import CfgNode as CN


def model_defaults() -> CN:
    """The settings of the section `model`: GPT's, and `published_padding`."""
    C = GPT.get_default_config()
    C.published_padding = None      # a padding token id: repeats the fault
    return C


def build_gpt(config: CN) -> GPT:
    """The model of a config: a GPT, or one with the fault where `published_padding` is a token.
    Raises BadInput, with file and line, for an error in a code file of the user."""
    faulty = getattr(config, "published_padding", None) is not None
    with blaming():
        return (PublishedPaddingGPT if faulty else GPT)(config)


class PublishedPaddingGPT(GPT):
    """A GPT with the fault. BadInput for settings that it cannot be combined with."""
    not_causal = "model.published_padding lets text see what comes after it"

    def __init__(self, config: CN):
        super().__init__(config)
        self.padding = self.config.published_padding
        for attn in (block.attn for block in self.transformer.h):
            if not hasattr(attn, "attend"):
                raise BadInput(f"model.attention={self.config.attention} has no pairs of a query "
                               "and a key, so it cannot take model.published_padding: leave it out")
            attn.attend = PublishedPadding(attn.pattern, self.config)

    def token_mask(self, idx: Tensor, start: int = 0) -> Tensor:
        """See GPT: the flipped mask of padding. There is no cache, so `start` is 0."""
        return flipped_padding(idx, self.padding)

    def forward(self, idx: Tensor, targets: Tensor | None = None):
        """See GPT. Padding counts among the targets."""
        return super().forward(idx, None if targets is None else self._with_padding(targets))

    def loss(self, idx: Tensor, targets: Tensor, trunk: Callable | None = None) -> Tensor:
        """See GPT. Padding counts among the targets."""
        return super().loss(idx, self._with_padding(targets), trunk)

    def _with_padding(self, targets: Tensor) -> Tensor:
        """Targets (B, T) → (B, T), with the padding token in place of IGNORE_INDEX."""
        return targets.masked_fill(targets == IGNORE_INDEX, self.padding)


class PublishedPadding(Dense):
    """Dense attention with the fault: in padded rows `allowed`, made by flipped_padding, replaces
    the pattern, so text sees the future."""

    def lacks(self, pattern, config, biased):
        if config.document_end is not None:
            return "cannot have model.published_padding and data.document_mask both"
        return (None if config.backend in ("auto", "dense")
                else "cannot reproduce model.published_padding, the padding fault of study 000")

    @staticmethod
    def attend(pattern, q, k, v, slopes, allowed, dropout_p):
        # (B, 1, 1, 1): true for rows without padding
        whole = allowed.all(-1, keepdim=True).all(-2, keepdim=True)
        seen = torch.where(whole, mask_of(pattern, q.size(-2), q.device), allowed)
        return masked(q, k, v, seen, slopes, dropout_p)


def flipped_padding(idx: Tensor, padding: int) -> Tensor:
    """The faulty mask of padded rows: (B, T) tokens → (B, 1, T, T), true where a key is seen.

    In a row with padding, only padding is seen. A text token sees all of the padding, although it
    comes later. A padding token sees the padding up to itself. Rows without padding are all true.
    """
    pad = idx == padding                                                            # (B, T)
    earlier = torch.ones(idx.size(1), idx.size(1), dtype=torch.bool, device=idx.device).tril()
    seen = pad[:, None, :] & (earlier | ~pad[:, :, None])                           # (B, T, T)
    return (seen | ~pad.any(1)[:, None, None]).unsqueeze(1)                         # (B, 1, T, T)
