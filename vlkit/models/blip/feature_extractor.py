"""Features of images and texts: tokens, pooled, and projected to their common space (paper, section 3.1).

``extract_features`` is LAVIS's call and returns all tokens. ``embed_images`` and ``embed_texts`` return one vector for
each image or text, for search.

Shapes: ``B`` images or videos, ``N`` texts, ``L`` longest text, ``P`` image tokens, ``F`` frames, ``S`` pixels,
``Dv`` image width, ``D`` text width, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.models.arguments import check_choice, check_flag, check_whole, checked_keywords, text_list
from vlkit.models.blip.base import frames_of
from vlkit.models.blip.contrastive import BlipAligned
from vlkit.models.blip.samples import LIST_BATCH, Samples
from vlkit.models.med import MedConfig
from vlkit.models.packing import Segments, TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, Width

MODES = ("multimodal", "image", "text")
_TENSOR_BATCH = 64  # images of a tensor that are encoded at once


@dataclass
class BlipFeatures:
    """Result of :meth:`BlipFeatureExtractor.extract_features`; None for features that its mode does not compute.

    Args:
        image_embeds: [B, P, Dv] image tokens, [CLS] first.
        image_embeds_proj: [B, P, E] the same, projected, unit length.
        text_embeds: [N, L, D] text tokens, [CLS] first, 0 after the end of a text.
        text_embeds_proj: [N, L, E] the same, projected, unit length, 0 after the end of a text.
        multimodal_embeds: [N, L, D] text tokens that attended to their image, [ENC] first, 0 after the end of a text.
        text_mask: [N, L] bool, True for tokens, False for padding.
    """

    image_embeds: Tensor | None = None
    image_embeds_proj: Tensor | None = None
    text_embeds: Tensor | None = None
    text_embeds_proj: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    text_mask: Tensor | None = None


@MODELS.register("blip_feature_extractor")
class BlipFeatureExtractor(BlipAligned):
    """Encode images, texts, and texts that attend to an image.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features; None: no projections, as in files of the original's ``BLIP_Base``.
        max_words: longest text in tokens; None: the text transformer's limit.
    """

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        embed_dim: Width | None = 256,
        max_words: Tokens | None = None,
    ):
        words = max_words if max_words is not None else med.max_position_embeddings
        super().__init__(vit, med, tokenizer, words, embed_dim, matching=False)

    @checked_keywords
    def forward(self, samples: Samples, mode: str = "multimodal", batch_size: int | None = None) -> BlipFeatures:
        """:meth:`extract_features` with gradients."""
        check_choice("mode", mode, MODES)
        if mode == "image":
            return _joined([self._of_images(self.image_embeds(some)) for some in self.batches(samples, batch_size)])
        if mode == "text":
            texts = self.texts_of(samples)
            if batch_size is None:
                return self._of_texts(texts)
            check_whole("batch_size", batch_size, 1)
            return _joined([self._of_texts(part) for part in _parts(texts, batch_size)])
        batches = self.batches(samples, batch_size, "grouped")
        return _joined([self._of_both(self.texts_of(some), self.image_embeds(some)) for some in batches])

    def _of_images(self, embeds: Tensor) -> BlipFeatures:
        return BlipFeatures(image_embeds=embeds, image_embeds_proj=self._projected(self.vision_proj, embeds))

    def _of_texts(self, texts: TextBatch) -> BlipFeatures:
        segments = Segments(texts.lengths, texts.ids.device)
        hidden = self.text_encoder(texts)
        projected = self._projected(self.text_proj, hidden)
        return BlipFeatures(
            text_embeds=_padded(hidden, segments),
            text_embeds_proj=None if projected is None else _padded(projected, segments),
            text_mask=segments.valid,
        )

    def _of_both(self, texts: TextBatch, embeds: Tensor) -> BlipFeatures:
        segments = Segments(texts.lengths, texts.ids.device)
        states = self.text_encoder.project_images(embeds)
        hidden = self.text_encoder(texts.with_first(self.tokenizer.enc_id), states)
        return BlipFeatures(image_embeds=embeds, multimodal_embeds=_padded(hidden, segments), text_mask=segments.valid)

    @checked_keywords
    @torch.no_grad()
    def extract_features(
        self, samples: Samples, mode: str = "multimodal", batch_size: int | None = None
    ) -> BlipFeatures:
        """Return features of all tokens: LAVIS's call.

        Args:
            samples: ``image`` (or ``video``) and ``text_input``; for "image" and "text" only what is encoded.
            mode: "multimodal" (text i attends to image i; a single string to all images), "image" or "text".
            batch_size: images (or texts) encoded at once; None: tensors and texts are one batch, a list of pictures is
                taken 32 at a time.
        """
        return self(samples, mode, batch_size)

    @checked_keywords
    @torch.no_grad()
    def embed_images(self, image: Any, project: bool = True, batch_size: int | None = None) -> Tensor:
        """Return one vector for each image, or for each video as the mean over its frames.

        Args:
            image: pictures, or a preprocessed tensor [B, 3, S, S]; or preprocessed videos [B, F, 3, S, S].
            project: to the common space; otherwise the state of [CLS].
            batch_size: images or videos encoded at once; None: 64 of a tensor, 32 of a list.

        Returns:
            [B, E] unit length, float32; or [B, Dv].
        """
        check_flag("project", project)
        tensor = torch.is_tensor(image) and image.is_floating_point()
        key = "video" if tensor and image.ndim == 5 else "image"
        found = []
        size = batch_size if batch_size is not None else _TENSOR_BATCH if tensor else LIST_BATCH
        for samples in self.batches({key: image}, size):
            embeds, frames = self.image_embeds(samples), frames_of(samples)
            if project:
                found.append(self.image_feats(embeds, frames))
            else:
                found.append(embeds.unflatten(1, (frames, -1))[:, :, 0].mean(1))
        return torch.cat(found)

    @checked_keywords
    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str] | str, project: bool = True, batch_size: int = 256) -> Tensor:
        """Return one vector for each text.

        Args:
            texts: N texts, or one.
            project: to the common space; otherwise the state of [CLS].
            batch_size: texts encoded at once.

        Returns:
            [N, E] unit length, float32; or [N, D].
        """
        check_flag("project", project)
        check_whole("batch_size", batch_size, 1)
        parts = _parts(self.tokenize(text_list("texts", texts)), batch_size)
        if project:
            return torch.cat([self.text_feats(part) for part in parts])
        return torch.cat([self.text_encoder(part, first_only=True) for part in parts])

    def _projected(self, projection: nn.Module | None, embeds: Tensor) -> Tensor | None:
        return None if projection is None else F.normalize(projection(embeds).float(), dim=-1)


def _padded(x: Tensor, segments: Segments) -> Tensor:
    """[T, D] packed -> [N, L, D], 0 after the end of a text."""
    padded = segments.pad(x)
    return padded if segments.uniform else padded.masked_fill(~segments.valid[:, :, None], 0)


def _parts(texts: TextBatch, size: int) -> list[TextBatch]:
    return [texts.select(range(at, min(at + size, len(texts)))) for at in range(0, len(texts), size)]


def _joined(parts: Sequence[BlipFeatures]) -> BlipFeatures:
    """Concatenate features, texts padded with 0 to the longest of all."""
    if len(parts) == 1:
        return parts[0]
    found: dict[str, Tensor] = {}
    for name in (field.name for field in fields(BlipFeatures)):
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            continue
        if not name.startswith("image"):
            longest = max(value.shape[1] for value in values)
            values = [_longer(value, longest) for value in values]
        found[name] = torch.cat(values)
    return BlipFeatures(**found)


def _longer(x: Tensor, length: int) -> Tensor:
    """Pad [N, L, ...] with zeros to ``length``."""
    missing = length - x.shape[1]
    return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) if missing else x
