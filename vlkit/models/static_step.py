"""One decoding step in fixed shapes: what a CUDA graph can hold.

All texts of an image write into one row of places, K at each step, and a mask tells which places a text sees: those of
its own past. So nothing is copied when beams part and die, and the prompt is held once for each image.

Shapes: ``A`` images, ``K`` open texts of each, ``C`` places of an image (those of the prompt, then K for each step),
``H`` heads, ``d`` width of a head, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from vlkit.models.answer_tree import MaskedSegments, masked_states
from vlkit.models.kv_cache import SelfCache
from vlkit.models.med import ImageKV, TextDecoder

# Attention kernels want rows of masks to begin at multiples of so many.
_ALIGNMENT = 8


@dataclass
class GraphKVCache:
    """Keys and values of the texts of some images.

    Args:
        store: [layers, 2, A, H, C, d].
        visible: [A, K, C] bool, the places that each open text sees.
        prompt_length: tokens of the prompt.
        cells: [K] int64, the places that the next tokens are written to.
    """

    store: Tensor
    visible: Tensor
    prompt_length: int
    cells: Tensor

    @staticmethod
    def places(rows: int, prompt_length: int, max_length: int) -> int:
        """C for ``rows`` open texts an image."""
        count = prompt_length + rows * (max_length - prompt_length)
        return -(-count // _ALIGNMENT) * _ALIGNMENT

    def begin(self, prompt: SelfCache) -> None:
        """Take over what the cache of the first images' prompts holds; all other places are unseen."""
        # Masks hide numbers, but not a NaN of the batch before.
        self.store[:, :, : prompt.rows, :, self.prompt_length :] = 0.0
        for layer, mine in enumerate(self.store):
            for target, source in zip(mine, prompt.filled(layer)):
                target[: prompt.rows, :, : self.prompt_length].copy_(source)
        self.visible.zero_()
        self.visible[:, :, : self.prompt_length] = True

    def follow(self, parents: Tensor, position: Tensor) -> None:
        """Texts go on from what ``parents`` [A, K] see; their next tokens stand at ``position`` [1]."""
        rows = parents.shape[1]
        own = torch.arange(rows, device=parents.device)
        torch.add(self.prompt_length + rows * (position - self.prompt_length), own, out=self.cells)
        seen = self.visible.gather(1, parents[..., None].expand_as(self.visible))
        itself = (own == own[:, None]).expand(len(parents), -1, -1)
        self.visible.copy_(seen.index_copy_(2, self.cells, itself))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write [A, H, K, d] to the current places; gives all places [A, H, C, d]."""
        keys, values = self.store[layer]
        keys.index_copy_(2, self.cells, key.to(keys.dtype))
        values.index_copy_(2, self.cells, value.to(values.dtype))
        return keys, values

    def of_first(self, images: int) -> GraphKVCache:
        """The first images, as views."""
        return GraphKVCache(self.store[:, :, :images], self.visible[:images], self.prompt_length, self.cells)


def tree_logits(decoder: TextDecoder, ids: Tensor, position: Tensor, cache: GraphKVCache, images: ImageKV) -> Tensor:
    """Logits of the tokens that follow.

    Args:
        decoder: in eval mode.
        ids: [A * K] the open texts' last tokens, which join the cache.
        position: [1] where in its text each stands.
        cache: has followed the open texts.
        images: what they look at.

    Returns:
        [A * K, V].
    """
    count = images.count
    texts = (len(ids) // count,) * count
    segments, positions = MaskedSegments(texts, cache.visible), position.expand_as(ids)
    # To a layer a cache is what it appends to.
    appended = cast(SelfCache, cache)
    return decoder.logits(masked_states(decoder.bert, ids, positions, segments, images, cache=appended))
