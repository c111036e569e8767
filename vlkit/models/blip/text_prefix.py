"""Score many image-text pairs in passes of bounded memory.

The first self-attention of the text encoder sees no image. What it gives (the text prefix) is computed once for each
text and reused for all images that the text is compared with, where it fits in memory.

Shapes: ``B`` images, ``P`` image tokens, ``Dv`` image width, ``U`` texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.models.med import TextPrefix
from vlkit.models.packing import TextBatch

# Tokens of a pass: (enough, most). On a CPU (ViT-B and a third of it, float32 and bfloat16) the time of a pair is the
# same to 3 % from 1,000 to 8,000; with 500 it is 7 to 25 % longer, and from 15,000 on activations leave the caches. The
# lower end is used, since the activations of a pass are most of the memory of an evaluation.
_CPU_TOKENS, _GPU_TOKENS = (2048, 3072), (16384, 65536)
# Bytes of the keys and values of the images of a pass, on a CPU and at most on a GPU.
_CPU_BYTES, _GPU_BYTES = 2**28, 2**31


@dataclass(frozen=True)
class PassLimits:
    """Size of one pass through the text encoder.

    Args:
        enough: tokens from which on no further image is added to a pass.
        most: largest number of tokens; a single text may have more.
        bytes: bound on the keys and values of the images of a pass, and on all text prefixes.
    """

    enough: int
    most: int
    bytes: int

    @classmethod
    def of(cls, device: torch.device) -> PassLimits:
        """Return the limits for ``device``, given its free memory."""
        if device.type != "cuda":
            return cls(*_CPU_TOKENS, _CPU_BYTES)
        return cls(*_GPU_TOKENS, min(_GPU_BYTES, torch.cuda.mem_get_info(device)[0] // 4))


def split_evenly(order: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Split ``order`` (indices into ``lengths``) into the fewest runs of about equally many tokens, ``most`` each; the
    text that reaches a run's share still belongs to it."""
    if not len(order):
        return []
    totals = np.cumsum(lengths[order])
    runs = -(-int(totals[-1]) // most)
    run_of = (totals - 1) * runs // totals[-1]
    return np.split(order, np.flatnonzero(np.diff(run_of)) + 1)


class PairScorer:
    """Compute matching logits of images with subsets of ``U`` texts.

    The keys and values of an image are projected once for all of its texts. The texts of an image are sorted by length,
    since self-attention pads to the longest text of a pass. Images with few texts share a pass with images that have
    about as many, since cross-attention pads to the image with the most.

    Args:
        model: has ``tokenize``, ``begin_match``, ``text_encoder``, ``match`` and ``med_config``.
        texts: U texts.
    """

    def __init__(self, model: Any, texts: Sequence[str]):
        self.model = model
        packed = model.tokenize(texts)
        lengths = np.asarray(packed.lengths, np.int64)
        order = np.argsort(lengths, kind="stable")
        self._rank_by_length, self._lengths = np.argsort(order), lengths[order]
        self._texts = self._with_prefixes(packed.select(order))

    def _with_prefixes(self, texts: TextBatch) -> TextBatch | TextPrefix:
        """Return the prefixes of ``texts``; or ``texts`` if the prefixes would take too much memory."""
        limits = PassLimits.of(texts.ids.device)
        if not len(texts) or 4 * len(texts.ids) * self.model.med_config.hidden_size > limits.bytes:
            return texts
        parts = split_evenly(np.arange(len(texts)), self._lengths, limits.most)
        return TextPrefix(texts, torch.cat([self.model.begin_match(texts.select(part)).hidden for part in parts]))

    def passes(self, image_embeds: Tensor, text_index: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Score each image with its own texts.

        Args:
            image_embeds: [B, P, Dv].
            text_index: for each image the indices of its texts, 0 <= index < U; may be empty.

        Yields:
            For each pass the positions [n] of its pairs in the concatenation of ``text_index``, and their logits [n] on
            the model's device.
        """
        limits = PassLimits.of(image_embeds.device)
        texts = [self._rank_by_length[each] for each in text_index]
        all_texts, starts = np.concatenate(texts), np.cumsum([0, *map(len, texts)])
        for group in self._image_groups(texts, limits, self._state_bytes(image_embeds)):
            pairs = np.concatenate([starts[image] + np.argsort(texts[image]) for image in group])
            image_index = np.repeat(np.arange(len(group)), [len(texts[image]) for image in group])
            states = self.model.text_encoder.project_images(image_embeds[group])
            for part in split_evenly(np.arange(len(pairs)), self._lengths[all_texts[pairs]], limits.most):
                logits = self.model.match(self._texts.select(all_texts[pairs[part]]), states, image_index[part])
                yield pairs[part], logits[:, 1]

    def _image_groups(
        self, texts: Sequence[np.ndarray], limits: PassLimits, bytes_per_image: int
    ) -> Iterator[list[int]]:
        """Yield the images of each pass, those with the fewest tokens first; an image with more tokens than a pass
        takes is alone."""
        tokens = np.array([self._lengths[each].sum() for each in texts], np.int64)
        most_images = max(limits.bytes // bytes_per_image, 1)
        group: list[int] = []
        total = 0
        for image in np.argsort(tokens, kind="stable").tolist():
            if not tokens[image]:
                continue
            full = total >= limits.enough or total + tokens[image] > limits.most or len(group) == most_images
            if group and full:
                yield group
                group, total = [], 0
            group.append(image)
            total += int(tokens[image])
        if group:
            yield group

    def _state_bytes(self, image_embeds: Tensor) -> int:
        """Return the bytes of one image's keys and values in all layers."""
        med = self.model.med_config
        return 2 * med.num_hidden_layers * image_embeds.shape[1] * med.hidden_size * image_embeds.element_size()
