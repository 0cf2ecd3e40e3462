"""
softmax(QKᵀ/√hs)V over the keys that a query may see.
"""

import torch
from torch.nn import functional as F


def same_document(idx: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """(B, T) tokens → (B, 1, T, T), true where query and key stand in one document; its last token is its EOT."""
    ends = (idx == end_of_text).long()
    document = ends.cumsum(-1) - ends                       # the EOT belongs to the document it ends
    return (document[:, :, None] == document[:, None, :]).unsqueeze(1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, bias: torch.Tensor | None = None,
           allowed: torch.Tensor | None = None, dropout_p: float = 0.0) -> torch.Tensor:
    """Causal attention. q, k, v (B, nh, T, hs) → (B, nh, T, hs).

    bias (nh, T, T) is added to the scores; where allowed (B, 1, T, T) is false a key is not seen. With neither,
    torch's fused causal kernel runs and nothing of size T×T is kept.
    """
    if bias is None and allowed is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True)
    T = q.size(-2)
    seen = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
    if allowed is not None:
        seen = seen & allowed
    mask = seen if bias is None else bias.to(q.dtype).masked_fill(~seen, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
