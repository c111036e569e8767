"""Features of images and texts: tokens, pooled, and projected to the space that both share (paper, section 3.1).

``extract_features`` is LAVIS's call and gives all tokens. ``embed_images`` and ``embed_texts`` give one vector for each
image or text, for search. ``image_feats`` and ``text_feats``, which every head with projections has, are their last
step: from tokens, and from packed token ids.

Shapes: ``B`` images or videos, ``N`` texts, ``L`` longest text, ``P`` image tokens, ``F`` frames, ``S`` pixels,
``Dv`` image width, ``D`` text width, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.bounds import Tokens, Width
from vlkit.models.blip.aligned import BlipAligned, check_choice
from vlkit.models.blip.base import Samples, frames_of
from vlkit.models.med import MedConfig
from vlkit.models.packing import Segments
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS

MODES = ("multimodal", "image", "text")


@dataclass
class BlipFeatures:
    """What :meth:`BlipFeatureExtractor.extract_features` gives; None for what its mode does not compute.

    Args:
        image_embeds: [B, P, Dv] image tokens, [CLS] first.
        image_embeds_proj: [B, P, E] the same, projected, unit length.
        text_embeds: [N, L, D] text tokens, [CLS] first, 0 behind the end of a text.
        text_embeds_proj: [N, L, E] the same, projected, unit length, 0 behind the end of a text.
        multimodal_embeds: [N, L, D] text tokens that have seen their image, [ENC] first, 0 behind the end of a text.
        text_mask: [N, L] bool, True where there is a token.
    """

    image_embeds: Tensor | None = None
    image_embeds_proj: Tensor | None = None
    text_embeds: Tensor | None = None
    text_embeds_proj: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    text_mask: Tensor | None = None


@MODELS.register("blip_feature_extractor")
class BlipFeatureExtractor(BlipAligned):
    """Encodes images, texts, and texts that see an image.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features; None: no projections, as in files of the original's ``BLIP_Base``.
        max_words: longest text in tokens; None: as many as the text transformer takes.
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

    def forward(self, samples: Samples, mode: str = "multimodal") -> BlipFeatures:
        """:meth:`extract_features` with gradients."""
        check_choice("mode", mode, MODES)
        if mode == "image":
            embeds = self.image_embeds(samples)
            return BlipFeatures(image_embeds=embeds, image_embeds_proj=self._projected(self.vision_proj, embeds))
        texts = self.texts_of(samples)
        segments = Segments(texts.lengths, texts.ids.device)
        if mode == "text":
            hidden = self.text_encoder(texts)
            projected = self._projected(self.text_proj, hidden)
            return BlipFeatures(
                text_embeds=_padded(hidden, segments),
                text_embeds_proj=None if projected is None else _padded(projected, segments),
                text_mask=segments.valid,
            )
        embeds = self.image_embeds(samples)
        states = self.text_encoder.project_images(embeds)
        hidden = self.text_encoder(texts.with_first(self.tokenizer.enc_id), states)
        return BlipFeatures(image_embeds=embeds, multimodal_embeds=_padded(hidden, segments), text_mask=segments.valid)

    @torch.no_grad()
    def extract_features(self, samples: Samples, mode: str = "multimodal") -> BlipFeatures:
        """Features of all tokens; the same call as in LAVIS.

        Args:
            samples: ``image`` (or ``video``) and ``text_input``; for "image" and "text" only what is encoded.
            mode: "multimodal" (text i sees image i), "image" or "text".
        """
        return self(samples, mode)

    @torch.no_grad()
    def embed_images(self, image: Tensor, project: bool = True, batch_size: int = 64) -> Tensor:
        """One vector for each image, or for each video as the mean over its frames.

        Args:
            image: [B, 3, S, S], or videos [B, F, 3, S, S].
            project: to the space shared with texts; otherwise what [CLS] holds.
            batch_size: images or videos encoded at once.

        Returns:
            [B, E] unit length, float32; or [B, Dv].
        """
        key = "video" if image.ndim == 5 else "image"
        found = []
        for part in image.split(batch_size):
            samples = {key: part}
            embeds, frames = self.image_embeds(samples), frames_of(samples)
            if project:
                found.append(self.image_feats(embeds, frames))
            else:
                found.append(embeds.unflatten(1, (frames, -1))[:, :, 0].mean(1))
        return torch.cat(found)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str] | str, project: bool = True, batch_size: int = 256) -> Tensor:
        """One vector for each text.

        Args:
            texts: N texts, or one.
            project: to the space shared with images; otherwise what [CLS] holds.
            batch_size: texts encoded at once.

        Returns:
            [N, E] unit length, float32; or [N, D].
        """
        tokens = self.tokenize([texts] if isinstance(texts, str) else texts)
        found: list[Tensor] = []
        for start in range(0, len(tokens), batch_size):
            part = tokens.select(range(start, min(start + batch_size, len(tokens))))
            found.append(self.text_feats(part) if project else self.text_encoder(part, first_only=True))
        return torch.cat(found)

    def _projected(self, projection: nn.Module | None, embeds: Tensor) -> Tensor | None:
        return None if projection is None else F.normalize(projection(embeds).float(), dim=-1)


def _padded(x: Tensor, segments: Segments) -> Tensor:
    """[T, D] packed -> [N, L, D], 0 behind the end of a text."""
    padded = segments.pad(x)
    return padded if segments.uniform else padded.masked_fill(~segments.valid[:, :, None], 0)
