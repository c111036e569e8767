"""What goes through a text transformer at once, and in which order: passes of bounded memory that waste little.

Shapes: ``B`` images, ``P`` image tokens, ``Dv`` their width, ``U`` texts.
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
from vlkit.tasks.base import EvalContext
from vlkit.tasks.text_prefix import StoredTexts

# Tokens of a pass. On a CPU (ViT-B and a third of it, float32 and bfloat16) the time of a pair is the same to 3 % from
# 1,000 to 8,000; with 500 it is 7 to 25 % more, and from 15,000 on activations leave the caches. So few that sets of
# 100 images already fill a pass: its activations are most of what an evaluation holds.
_CPU_TOKENS, _GPU_TOKENS = (2048, 3072), (16384, 65536)
# Bytes of the keys and values of images that are looked at together, on a CPU and at most on a GPU.
_CPU_BYTES, _GPU_BYTES = 2**28, 2**31


@dataclass(frozen=True)
class Bounds:
    """How much goes through at once.

    Args:
        enough: tokens of a pass that nothing need be added to.
        most: tokens of a pass; a single text may have more.
        bytes: of what is held besides for the texts of a pass.
    """

    enough: int
    most: int
    bytes: int

    @classmethod
    def of(cls, device: torch.device) -> Bounds:
        """Those of ``device``, with the memory that it has now."""
        if device.type != "cuda":
            return cls(*_CPU_TOKENS, _CPU_BYTES)
        return cls(*_GPU_TOKENS, min(_GPU_BYTES, torch.cuda.mem_get_info(device)[0] // 4))


def cut(order: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """``order``, places in ``lengths``, in as few runs of about equally many tokens as stay below ``most`` (a run ends
    with the text that reaches its share)."""
    if not len(order):
        return []
    behind = np.cumsum(lengths[order])
    runs = -(-int(behind[-1]) // most)
    run_of = (behind - 1) * runs // behind[-1]
    return np.split(order, np.flatnonzero(np.diff(run_of)) + 1)


class PairScorer:
    """Matching logits of images with texts.

    An image's keys and values are made once for all of its texts, and what of a text needs no image is computed once
    for all images, where there is room to keep it. An image's texts are taken in order of length, since self-attention
    pads to the longest of a pass; images with few texts go through together with those that have about as many, since
    cross-attention pads to the largest.

    Args:
        model: with ``tokenize``, ``begin_match``, ``text_encoder`` and ``match``.
        texts: U texts.
        context: of the evaluation.
        on_disk: on a CPU, beginnings of more texts than go through at once wait in a file in the run's folder.

    Raises:
        VlkitError: they cannot be written there.

    Attributes:
        lengths: [U] tokens of each text, ascending.
        place: [U] where each text stands among them.
    """

    def __init__(self, model: Any, texts: Sequence[str], context: EvalContext, on_disk: bool = False):
        self.model, self.context = model, context
        packed = model.tokenize(texts)
        lengths = np.asarray(packed.lengths, np.int64)
        order = np.argsort(lengths, kind="stable")
        self.place, self.lengths = np.argsort(order), lengths[order]
        self.texts = self._begin(packed.select(order), on_disk)

    def _begin(self, texts: TextBatch, on_disk: bool) -> TextBatch | TextPrefix | StoredTexts:
        """``texts``, or their beginnings where there is room for them."""
        bounds = Bounds.of(texts.ids.device)
        if on_disk and texts.ids.is_cpu and len(texts.ids) > bounds.most:
            return StoredTexts(texts, self._beginnings(texts, bounds), self.context.output_dir)
        if not len(texts) or 4 * len(texts.ids) * self.model.med_config.hidden_size > bounds.bytes:
            return texts
        return TextPrefix(texts, torch.cat(list(self._beginnings(texts, bounds))))

    def _beginnings(self, texts: TextBatch, bounds: Bounds) -> Iterator[Tensor]:
        for part in cut(np.arange(len(texts)), self.lengths, bounds.most):
            with self.context.autocast():
                hidden = self.model.begin_match(texts.select(part)).hidden
            yield hidden

    def passes(self, embeds: Tensor, wanted: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Score each image with its own texts.

        Args:
            embeds: [B, P, Dv].
            wanted: of each image the texts, 0 <= text < U; may be empty.

        Yields:
            Of each pass places [n] in the concatenation of ``wanted``, and their logits [n] on the model's device.
        """
        bounds = Bounds.of(embeds.device)
        texts = [self.place[each] for each in wanted]
        everything, starts = np.concatenate(texts), np.cumsum([0, *map(len, texts)])
        for group in self._groups(texts, bounds, self._state_bytes(embeds)):
            own = np.concatenate([starts[image] + np.argsort(texts[image]) for image in group])
            image_index = np.repeat(np.arange(len(group)), [len(texts[image]) for image in group])
            with self.context.autocast():
                states = self.model.text_encoder.project_images(embeds[group])
            for part in cut(np.arange(len(own)), self.lengths[everything[own]], bounds.most):
                chosen = self.texts.select(everything[own[part]])
                with self.context.autocast():
                    logits = self.model.match(chosen, states, image_index[part])
                yield own[part], logits[:, 1]

    def _groups(self, texts: Sequence[np.ndarray], bounds: Bounds, image_bytes: int) -> Iterator[list[int]]:
        """Images that go through together, fewest tokens first; one with more than a pass takes is alone."""
        tokens = np.array([self.lengths[each].sum() for each in texts], np.int64)
        images_at_once = max(bounds.bytes // image_bytes, 1)
        group: list[int] = []
        held = 0
        for image in np.argsort(tokens, kind="stable").tolist():
            if not tokens[image]:
                continue
            full = held >= bounds.enough or held + tokens[image] > bounds.most or len(group) == images_at_once
            if group and full:
                yield group
                group, held = [], 0
            group.append(image)
            held += int(tokens[image])
        if group:
            yield group

    def _state_bytes(self, embeds: Tensor) -> int:
        """Of the keys and values of one image in all layers."""
        med = self.model.med_config
        return 2 * med.num_hidden_layers * embeds.shape[1] * med.hidden_size * embeds.element_size()
