"""Heads with a text encoder whose features are aligned with the image's: features, similarity, matching.

Shapes: ``B`` images, ``N`` texts, ``P`` image tokens, ``F`` frames, ``Dv`` image width, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.blip.base import BlipBase, pooled_feats
from vlkit.models.med import ImageKV, MedConfig, TextPrefix, TextTransformer
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig


class BlipAligned(BlipBase):
    """Image and text encoder, their projections to one space, and the matching head.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest text in tokens.
        embed_dim: width E of projected features; None: no projections.
        matching: whether there is a matching head.
    """

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str,
        max_words: int,
        embed_dim: int | None,
        matching: bool = True,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        width = self.med_config.hidden_size
        self.text_encoder = TextTransformer(self.med_config, self.image_width)
        self.vision_proj = nn.Linear(self.image_width, embed_dim) if embed_dim is not None else None
        self.text_proj = nn.Linear(width, embed_dim) if embed_dim is not None else None
        self.match_token = self.tokenizer.enc_id  # what the matching head reads
        if matching:
            self.itm_head = nn.Linear(width, 2)

    def image_feats(self, image_embeds: Tensor, frames: int = 1) -> Tensor:
        """[B, P, Dv] -> [B, E], unit length, float32; of videos [B, F*P, Dv] the mean over ``frames`` frames."""
        return pooled_feats(self.needed(self.vision_proj), image_embeds, frames)

    def text_feats(self, texts: TextBatch) -> Tensor:
        """N texts -> [N, E], unit length, float32."""
        projection = self.needed(self.text_proj)
        return F.normalize(projection(self.text_encoder(texts, first_only=True)).float(), dim=-1)

    def needed(self, projection: nn.Module | None) -> nn.Module:
        """``projection``; raises where the model has none."""
        if projection is None:
            raise VlkitError(
                f"this {type(self).__name__} has no projections (embed_dim is null), so it has no projected features. "
                f"Set embed_dim and load weights with vision_proj and text_proj, those of a pre-trained model say."
            )
        return projection

    def begin_match(self, texts: TextBatch) -> TextPrefix:
        """What :meth:`match` needs of ``texts`` whatever the image: for texts that meet several images."""
        return self.text_encoder.begin(texts.with_first(self.match_token))

    def match(
        self,
        texts: TextBatch | TextPrefix,
        states: ImageKV,
        image_index: Sequence[int] | np.ndarray | None = None,
    ) -> Tensor:
        """ITM logits [N, 2] (class 1 matches) of each text with the image that ``image_index`` names for it."""
        if isinstance(texts, TextBatch):
            texts = texts.with_first(self.match_token)
        return self.itm_head(self.text_encoder(texts, states, image_index, first_only=True))
