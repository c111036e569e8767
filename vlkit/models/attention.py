"""Attention, with the kernel that is fastest for the device and the shapes.

Shapes: ``N`` sequences, ``H`` heads, ``L`` queries, ``S`` keys, ``d`` width of a head.
"""

from __future__ import annotations

from typing import Literal

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
    """Compute softmax attention, scaled by ``1 / sqrt(d)``.

    Args:
        query: [N, H, L, d].
        key: [N, H, S, d].
        value: [N, H, S, d].
        mask: bool, broadcastable to [N, H, L, S]; False keys are not attended to. Not with ``causal``.
        causal: the queries are at the last positions of the keys: query i attends to keys 0..S-L+i.
        dropout: probability of dropping an attention weight; pass 0 outside of training.

    Returns:
        [N, H, L, d].
    """
    way = _fastest(query, dropout)
    if way == "plain":
        return _attend_plainly(query, key, value, mask, causal, dropout)
    if way == "parts":
        return _attend_in_parts(query, key, value, mask, causal)
    if causal and query.shape[-2] != key.shape[-2]:  # the kernel's own counts from the first key
        mask, causal = _causal_mask(query, key), False
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)


# Up to this number of queries, the set-up of the fused kernel dominates on a CPU.
_FEW_QUERIES = 16


def _fastest(query: Tensor, dropout: float) -> Literal["fused", "plain", "parts"]:
    """Return the fastest way, on a CPU as measured with torch 2.15 on Zen 4.

    In fp32 it is the fused kernel. In bf16 that reaches a third of the speed of matrix products, and in its backward
    pass a tenth of that; there, and for the few queries of a decoding step, products over contiguous keys are faster.
    """
    if query.device.type != "cpu":
        return "fused"
    if torch.is_grad_enabled() or dropout:
        return "plain" if query.dtype == torch.bfloat16 else "fused"
    return "parts" if query.dtype == torch.bfloat16 or query.shape[-2] <= _FEW_QUERIES else "fused"


# Size of the scores of one part, which then stay in the cache.
_PART_BYTES = 2**22
# In bf16 a product of 577 rows is slower than one of 608: rows are padded to a multiple of this, if few are added.
_ROWS, _MOST_ADDED = 32, 1 / 16


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Compute attention without gradient, a few heads at a time."""
    (count, heads, queries, width), keys = query.shape, key.shape[-2]
    if causal:
        mask = _causal_mask(query, key)
    if mask is not None:
        hidden = (~mask).expand(count, heads, *mask.shape[-2:]).flatten(0, 1)
    rows = -(-queries // _ROWS) * _ROWS
    if query.dtype == torch.bfloat16 and queries < rows <= queries * (1 + _MOST_ADDED):
        query = F.pad(query, (0, 0, 0, rows - queries))
    else:
        rows = queries
    query, key, value = (x.reshape(-1, x.shape[2], width) for x in (query, key, value))
    step = max(_PART_BYTES // (rows * keys * query.dtype.itemsize), 1)
    step += step % 2  # an even number of heads: threads share them
    total = count * heads
    out = query.new_empty(query.shape)
    scores = query.new_empty(min(step, total), rows, keys)
    for start in range(0, total, step):
        part = slice(start, start + step)
        # The few queries of a decoding step are one part: slices would take as long as the products.
        whole = (query, key, value, out, scores)
        q, k, v, to, own = whole if step >= total else (*(x[part] for x in whole[:4]), scores[: total - start])
        torch.baddbmm(own, q, k.transpose(1, 2), beta=0, alpha=width**-0.5, out=own)
        if mask is not None:
            own[:, :queries].masked_fill_(hidden[part], torch.finfo(own.dtype).min)
        torch.softmax(own, -1, out=own)
        torch.bmm(own, v, out=to)
    return (out if rows == queries else out[:, :queries]).view(count, heads, queries, width)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Compute attention with gradient or dropout."""
    if causal:
        mask = _causal_mask(query, key)
    # Autocast would compute the softmax in fp32 and keep that for the backward pass; the kernel itself adds up in fp32.
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        return weights @ value


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[-2], key.shape[-2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril_(keys - queries)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Map [N, L, D] to [N, H, L, d], a view."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Map [N, H, L, d] to [N, L, D]."""
    return x.transpose(-3, -2).flatten(-2)
