"""Weights and texts as both sides take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def share_weights(module: M, other: nn.Module) -> M:
    """``module`` with the weights of ``other``, which has the same names.

    What is trained shares its memory, with gradients of its own, and is tied where the other's is; it stays as it is
    when the other is converted to another type. Buffers and frozen parameters (momentum encoders) are copies.
    """
    made: dict[int, Tensor] = {}
    state, trained = {}, set()
    for name, tensor in other.state_dict(keep_vars=True).items():
        if tensor.requires_grad:
            trained.add(name)
        if id(tensor) not in made:
            made[id(tensor)] = _taken(tensor)
        state[name] = made[id(tensor)]
    module.load_state_dict(state, assign=True)
    for name, parameter in module.named_parameters():  # loading has made all of them trainable
        parameter.requires_grad_(name in trained)
    return module


def _taken(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return tensor.detach().clone()
    data = tensor.detach()
    return nn.Parameter(data if tensor.requires_grad else data.clone(), tensor.requires_grad)


def pad_texts(texts: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask [N, L], 0 at padding.

    Args:
        texts: token ids of each text.
        length: L, to which longer texts are cut.
    """
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        kept = torch.tensor(list(text[:length]))
        ids[row, : len(kept)], mask[row, : len(kept)] = kept, 1
    return ids, mask
