"""Image-text matching (paper, section 3.2): classify whether a text matches an image, and their similarity.

Shapes: ``B`` images, ``N`` texts, ``E`` projection.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlkit.models.arguments import check_choice, check_whole, checked_keywords
from vlkit.models.blip.base import frames_of
from vlkit.models.blip.contrastive import BlipAligned
from vlkit.models.blip.samples import Samples
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, Width

HEADS = ("itm", "itc")
FIRST_TOKENS = ("enc", "cls")


@MODELS.register("blip_image_text_matching")
class BlipImageTextMatching(BlipAligned):
    """Score image-text pairs.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features.
        max_words: longest text in tokens.
        first_token: input of the matching head: "enc", [ENC] as in training; or "cls", as in the original's class of
            this name, whose logits therefore differ from the trained ones.
    """

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        embed_dim: Width = 256,
        max_words: Tokens = 35,
        first_token: str = "enc",
    ):
        check_choice("first_token", first_token, FIRST_TOKENS)
        super().__init__(vit, med, tokenizer, max_words, embed_dim)
        if first_token == "cls":
            self.match_token = self.tokenizer.cls_id

    @checked_keywords
    def forward(self, samples: Samples, match_head: str = "itm", batch_size: int | None = None) -> Tensor:
        """Score ``samples`` (``image``, ``text_input``) with one of the two heads: LAVIS's call.

        Args:
            samples: B images (or videos) and N texts; for "itm" a string is compared with all images.
            match_head: "itm" compares text i with image i (with N a multiple of B: with the image of its group) by
                cross-attention; "itc" compares every image with every text by their features.
            batch_size: images encoded at once; None: a tensor is one batch, a list is taken 32 at a time.

        Returns:
            "itm": logits [N, 2], class 1 matches. "itc": cosine similarities [B, N].
        """
        check_choice("match_head", match_head, HEADS)
        if match_head == "itc":
            batches = self.batches(samples, batch_size, "every")
            feats = [self.image_feats(self.image_embeds(some), frames_of(some)) for some in batches]
            return torch.cat(feats) @ self.text_feats(batches.all_texts()).T
        batches = self.batches(samples, batch_size, "grouped")
        project = self.text_encoder.project_images
        return torch.cat([self.match(self.texts_of(some), project(self.image_embeds(some))) for some in batches])

    @checked_keywords
    @torch.no_grad()
    def score(
        self, samples: Samples, match_head: str = "itm", pairs_at_once: int = 1024, batch_size: int | None = None
    ) -> Tensor:
        """Score every image with every text; an image's keys and values are projected once for all texts.

        Args:
            samples: ``image`` (or ``video``), B of them, and ``text_input``, N texts for any N.
            match_head: "itm" or "itc".
            pairs_at_once: bound on the memory of one pass, in image-text pairs.
            batch_size: as for :meth:`forward`.

        Returns:
            [B, N] float32: probability of a match, 0..1, for "itm"; cosine similarity for "itc".
        """
        check_choice("match_head", match_head, HEADS)
        check_whole("pairs_at_once", pairs_at_once, 1)
        if match_head == "itc":
            return self(samples, "itc", batch_size)
        batches = self.batches(samples, batch_size, "every")
        texts = batches.all_texts()
        # Self-attention pads to the longest text of a pass.
        order = np.argsort(texts.lengths, kind="stable")
        texts = texts.select(order)
        prefixes = self.begin_match(texts) if batches.count > 1 and len(texts) <= pairs_at_once else texts
        parts = np.split(np.arange(len(texts)), range(pairs_at_once, len(texts), pairs_at_once))
        rows = []
        for some in batches:
            for embeds in self.image_embeds(some).split(max(pairs_at_once // len(texts), 1)):
                states, count = self.text_encoder.project_images(embeds), len(embeds)
                logits = [
                    self.match(prefixes.select(np.tile(part, count)), states, np.repeat(np.arange(count), len(part)))
                    for part in parts
                ]
                rows.append(torch.cat([x.float().softmax(-1)[:, 1].unflatten(0, (count, -1)) for x in logits], 1))
        return torch.cat(rows)[:, torch.from_numpy(np.argsort(order))]
