"""The one place that chooses how attention is computed.

Shapes: ``N`` sequences, ``H`` heads, ``L`` queries, ``S`` keys, ``d`` width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, scaled by ``1 / sqrt(d)``.

    Args:
        query: [N, H, L, d].
        key: [N, H, S, d].
        value: [N, H, S, d].
        mask: bool, broadcastable to [N, H, L, S]; False places are not attended to. Not together with ``causal``.
        causal: the queries are the last of the keys' places: query i attends to keys 0..S-L+i.
        dropout: probability of dropping an attention weight; pass 0 outside of training.

    Returns:
        [N, H, L, d].
    """
    if _plain_is_faster(query):
        return _attend_plainly(query, key, value, mask, causal, dropout)
    if causal and query.shape[-2] != key.shape[-2]:  # the kernel's own counts from the first key
        mask, causal = _causal_mask(query, key), False
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)


# Up to so many queries a CPU spends the time of the fused kernel on its set-up.
_FEW_QUERIES = 16


def _plain_is_faster(query: Tensor) -> bool:
    """On CPU (torch 2.15): the backward pass of the fused kernel is about ten times slower in bf16 than in fp32, and
    for the few queries of a decoding step two matrix products over contiguous keys take half its time or less."""
    if query.device.type != "cpu":
        return False
    if torch.is_grad_enabled():
        return query.dtype == torch.bfloat16
    return query.shape[-2] <= _FEW_QUERIES


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        mask = _causal_mask(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[-2], key.shape[-2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril_(keys - queries)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, L, D] -> [N, H, L, d], a view."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """[N, H, L, d] -> [N, L, D]."""
    return x.transpose(-3, -2).flatten(-2)
